"""eps-VP on CIFAR10: the noise, under the variance-preserving scheduler. See `_cifar10_pretrain.py`."""

from experiments.configs import _cifar10_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _cifar10_pretrain.config("cifar10_vp_pretrain", scheduler="vp", prediction="noise")
