"""What a loss is to a fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import Solver

__all__ = ["AVERAGES", "BY_LOSS", "FIGURES", "Loss"]

_TINY = 1e-20  # keeps roots and logarithms differentiable at a distance of exactly 0


def _log(distance):
    return jnp.log(distance + _TINY)


def _root(distance):
    """The square root, differentiable at 0."""
    return jnp.sqrt(distance + _TINY)


def _fourth_root(distance):
    """The fourth root, differentiable at 0."""
    return (distance + _TINY) ** 0.25


def _same(distance):
    return distance


AVERAGES = {"log": _log, "fourth_root": _fourth_root, "root": _root, "mean": _same}
"""What a loss applies to squared distances before their mean, by name."""

FIGURES = ("psnr", "mean_psnr")
"""The figures of a solver on held-out paths: the PSNR of its mean RMSE, and the mean of the samples' PSNRs."""

BY_LOSS = "loss"
"""What stands in the place of a figure where the loss itself on held-out paths decides."""


class Loss:
    """A loss as a value. It is hashable and equal by value, so that equal stages share compiled programs.

    Subclasses are frozen dataclasses. A loss of ends also has `between(x, x1)` and `features`, a loss of single steps
    `weights(theta)`.
    """

    name: str
    """What records call it."""
    average: str
    """What is applied to squared distances before their mean: a name in `AVERAGES`."""
    of_ends: bool
    """Whether it compares end points, of a solver of any family; otherwise it compares the steps of rk1 and rk2."""

    @property
    def phi(self) -> Callable:
        """What is applied to squared distances before their mean: `average` as a function."""
        return AVERAGES[self.average]

    def __call__(self, flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
        """The loss, []."""
        raise NotImplementedError
