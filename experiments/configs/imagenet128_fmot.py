"""ImageNet-128 (128 x 128 x 3), FM-OT: solvers for a flow of your own.

Paper: Sec. 4, ImageNet-128, row FM-OT. FID of rk2-bespoke as published, at NFE 8, 10, 16, 20, 24 (n = 4, 5, 8, 10, 12):
5.28, 3.58, 2.64, 2.45, 2.31; of the true paths 2.30 at NFE 230. Cost: not measured; meant for a GPU. There are fewer
paths than for CIFAR-10, since each keeps three states for each of its steps.

  python -m experiments.train --config=experiments/configs/imagenet128_fmot.py --config.flow.path=FILE.safetensors

The file is written by `bespoke_jax.models.save_flow`: see docs/models.md. Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.own(
        "imagenet128_fmot", "an FM-OT flow of ImageNet-128", num_train=64, num_validation=64, num_test=128
    )
