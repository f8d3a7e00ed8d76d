"""A trial of the whole launcher: five small solvers for a closed-form mixture of 8 x 8 blobs. Its figures mean nothing.

Cost: about two minutes on 2 CPU cores, mostly compiling.
"""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = "runs/tiny"
    config.flow = dict(name="mixture", image_size=8, num_components=12, std=0.25, seed=0)
    config.solvers = dict(rk1=(4, 8), rk2=(2, 4), table=(4,))
    config.paths.update(num_train=32, num_validation=32, num_test=64)
    config.fit.stage1.num_iterations = 16
    return config
