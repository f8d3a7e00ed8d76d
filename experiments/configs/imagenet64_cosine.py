"""ImageNet-64 (64 x 64 x 3), FM/v-CS: solvers for EDM's class-conditional ADM under the cosine scheduler.

Paper: Sec. 4, ImageNet-64, row FM/v-CS. FID of rk2-bespoke as published, at NFE 8, 10, 16, 20, 24 (n = 4, 5, 8, 10, 12):
2.95, 2.20, 1.79, 1.71, 1.69; of the true paths 1.68 at NFE 176.
One solver for all classes, learned on paths with as many classes as paths (--config.flow.labels=207 for one class). Cost: not
measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-imagenet-64x64-cond-adm.pkl
  python -m experiments.train --config=experiments/configs/imagenet64_cosine.py --config.flow.path=edm-imagenet-64x64-cond-adm.pkl

Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.imagenet64("imagenet64_cosine", "cosine")
