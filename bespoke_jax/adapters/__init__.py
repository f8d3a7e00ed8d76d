"""Thin bridges to other libraries, one module each: their modules as flows, our solvers in their sampling loops.

A module imports its library when it is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bespoke_jax.adapters import (
        diffrax,
        diffusionlab,
        equinox,
        hackable_diffusion,
        linen,
        nnx,
        scheduler,
        swirl_dynamics,
        torch,
    )

__all__ = [
    "diffrax",
    "diffusionlab",
    "equinox",
    "hackable_diffusion",
    "linen",
    "nnx",
    "scheduler",
    "swirl_dynamics",
    "torch",
]


def __getattr__(name: str):
    """Import an adapter when it is first used."""
    if name in __all__:
        return importlib.import_module(f"bespoke_jax.adapters.{name}")
    raise AttributeError(f"module 'bespoke_jax.adapters' has no attribute {name!r}")
