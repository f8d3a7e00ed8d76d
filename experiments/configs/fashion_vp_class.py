"""Solvers for the shipped class-conditional Fashion-MNIST flow, eps-VP. See `_fashion_class.py`."""

from experiments.configs import _fashion_class
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _fashion_class.config("fashion_vp_class")
