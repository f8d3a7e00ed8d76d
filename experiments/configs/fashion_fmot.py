"""Five solvers for the shipped Fashion-MNIST flow (28 x 28 x 1, FM-OT), in a few minutes. fashion_fmot_pretrain.py trained it.

Cost: 5 minutes on 2 AMD EPYC cores of a busy shared machine; the first solver, a table of 4, after 2 of them.
Expect: at NFE 8 a PSNR of 33.8 dB for rk2-bespoke and 39.7 for a learned table, against 28.3 for rk2; a table of 4 has 29.7.

fashion_fmot_long.py learns more solvers for longer, and says what each field means.
"""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = "runs/fashion_fmot"
    config.solvers = dict(rk1=(8,), rk2=(4, 5), table=(4, 8))
    config.paths.update(num_train=96, num_validation=32, num_test=128)
    # Updates on 16 paths gain more in their time than half as many on 32. The network gets 16 samples everywhere: compiled once.
    config.fit.stage1.update(num_iterations=20, batch_size=16, chunk_size=16, keep_activations=True, validate_every=4)
    return config
