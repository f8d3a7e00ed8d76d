"""Five solvers for the shipped Fashion-MNIST flow (28 x 28 x 1, FM-OT), in a few minutes. fashion_fmot_pretrain.py trained it.

Cost: 3.3 minutes on 2 AMD EPYC cores of a shared machine; the first solver, a table of 4, after 1.5 of them.
Expect: at NFE 8 a PSNR of 33.1 dB for rk2-bespoke and 39.8 for a learned table, against 28.2 for rk2; a table of 4 has 29.2.

fashion_fmot_long.py learns more solvers for longer, and says what each field means.
"""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = "runs/fashion_fmot"
    config.solvers = dict(rk1=(8,), rk2=(4, 5), table=(4, 8))
    config.paths.update(num_train=96, num_validation=16, num_test=96, rtol=3e-5, atol=3e-5)
    config.fit.num_start_paths = 8
    # As many updates with a test of each step take a third longer and gain less (docs/fitting.md has the figures). The network
    # gets 16 samples everywhere: compiled once.
    stage = dict(optimizer="lm_untested", num_iterations=16, batch_size=16, chunk_size=16)
    config.fit.stage1.update(stage, keep_activations=True, validate_every=4)
    return config
