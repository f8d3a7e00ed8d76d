"""CIFAR-10 (32 x 32 x 3), EDM: solvers for EDM's denoiser on its own noise levels.

Paper: EDM's CIFAR10 model. FID as published: rk2-bespoke 2.99 at NFE 20 (n = 10), EDM's sampler 3.05 at NFE 35. We could not
verify which of EDM's files that was; here it is the unconditional VP one. Cost: not measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl
  python -m experiments.train --config=experiments/configs/cifar10_edm.py --config.flow.path=edm-cifar10-32x32-uncond-vp.pkl

Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.cifar10_edm("cifar10_edm", "edm")
