"""ImageNet-64 (64 x 64 x 3), FM-OT: solvers for EDM's class-conditional ADM under the CondOT scheduler.

Paper: Sec. 4, ImageNet-64, row FM-OT. FID of rk2-bespoke as published, at NFE 8, 10, 16, 20, 24 (n = 4, 5, 8, 10, 12):
3.10, 2.26, 1.84, 1.77, 1.71; of the true paths 1.68 at NFE 185.
One solver for all classes, learned on paths with as many classes as paths (--config.flow.labels=207 for one class). Cost: not
measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-imagenet-64x64-cond-adm.pkl
  python -m experiments.train --config=experiments/configs/imagenet64_fmot.py --config.flow.path=edm-imagenet-64x64-cond-adm.pkl

Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.imagenet64("imagenet64_fmot", "condot")
