"""CIFAR-10 (32 x 32 x 3), FM/v-CS: solvers for EDM's denoiser under the cosine scheduler.

Paper: Sec. 4, CIFAR10, row FM/v-CS. FID of rk2-bespoke as published: 2.89 at NFE 10 (n = 5), 2.64 at NFE 20 (n = 10). The
paper trained a velocity on this path; here the velocity is computed from a denoiser. Cost: not measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl
  python -m experiments.train --config=experiments/configs/cifar10_cosine.py --config.flow.path=edm-cifar10-32x32-uncond-vp.pkl

Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.cifar10_edm("cifar10_cosine", "cosine")
