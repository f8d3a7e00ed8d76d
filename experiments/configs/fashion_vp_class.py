"""Solvers for the class-conditional Fashion-MNIST flow that is shipped, eps-VP. See `_fashion_class.py`."""

from experiments.configs import _fashion_class


def get_config():
    return _fashion_class.config("fashion_vp_class")
