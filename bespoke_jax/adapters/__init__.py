"""Thin bridges to other libraries, one module each. A module imports its library when it is first used."""

import importlib

__all__ = ["diffrax", "equinox", "hackable_diffusion", "linen", "nnx", "scheduler"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"bespoke_jax.adapters.{name}")
    raise AttributeError(f"module 'bespoke_jax.adapters' has no attribute {name!r}")
