"""CIFAR-10 (32 x 32 x 3), EDM's own model on its own levels.

Paper: EDM's CIFAR10 model. FID as published: rk2-bespoke 2.99 at NFE 20 (n = 10), beside 3.05 of EDM's sampler at NFE 35. Which
of EDM's files that was we could not verify; here it is the unconditional VP one. Cost: not measured; meant for a GPU.

  curl -LO https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl
  python -m experiments.train --config=experiments/configs/cifar10_edm.py --config.flow.path=edm-cifar10-32x32-uncond-vp.pkl

Then as `_paper` says.
"""

from experiments.configs import _paper


def get_config():
    return _paper.cifar10_edm("cifar10_edm", "edm")
