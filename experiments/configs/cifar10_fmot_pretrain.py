"""FM-OT on CIFAR10: the velocity, under CondOT. See `_cifar10_pretrain.py`."""

from experiments.configs import _cifar10_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _cifar10_pretrain.config("cifar10_fmot_pretrain", scheduler="condot", prediction="velocity")
