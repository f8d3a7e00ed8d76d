"""FM/v-CS on CIFAR10: the velocity, under the cosine scheduler. See `_cifar10_pretrain.py`."""

from experiments.configs import _cifar10_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _cifar10_pretrain.config("cifar10_cosine_pretrain", scheduler="cosine", prediction="velocity")
