"""CIFAR-10 (32 x 32 x 3), eps-VP: solvers for the VP model of Song et al. 2021 (arXiv:2011.13456) as EDM re-published it.

Paper: Sec. 4, CIFAR10, row eps-VP. FID of rk2-bespoke as published: 3.31 at NFE 10 (n = 5), 2.75 at NFE 20 (n = 10).
Cost: not measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/baseline/baseline-cifar10-32x32-uncond-vp.pkl
  python -m experiments.train --config=experiments/configs/cifar10_vp.py --config.flow.path=baseline-cifar10-32x32-uncond-vp.pkl

Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.cifar10_edm("cifar10_vp", "vp", "baseline/baseline-cifar10-32x32-uncond-vp.pkl")
