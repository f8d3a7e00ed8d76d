"""The families of learned solvers, by name. A new family is a file of its own and a row here."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp

from bespoke_jax import classic
from bespoke_jax.checks import check_choice, check_count
from bespoke_jax.learned import theta
from bespoke_jax.learned.calls import LearnedCalls
from bespoke_jax.learned.curve import LearnedCurve
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.learned.times import LearnedTimes
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import DTypeLike

__all__ = ["FAMILIES", "init_theta"]

FAMILIES: dict[str, Callable] = {
    "rk1": partial(theta.init_theta, "rk1"),
    "rk2": partial(theta.init_theta, "rk2"),
    "table": lambda n, dtype: LearnedTable.of(classic.euler(check_count("num_steps", n), dtype)),
    "times": lambda n, dtype: LearnedTimes.of("ipndm-4", n, dtype=dtype),
    "curve": lambda n, dtype: LearnedCurve.identity("rk2", n, dtype=dtype),
    "calls": lambda n, dtype: LearnedCalls.euler(n, dtype=dtype),
}
"""Name -> function (num_steps, dtype) -> the solver before it learns. Append new rows: runs' random keys depend on the order."""


def init_theta(base: str, num_steps: int, dtype: DTypeLike = jnp.float32) -> LearnedSolver:
    """A learned solver before it learns.

    - "rk1", "rk2": exactly Euler, midpoint with `num_steps` equal steps.
    - "table": a learned table of `num_steps` evaluations that is Euler's; `fit` tries every dedicated solver as its reference.
      `LearnedTable.of` starts from any other table.
    - "times": Adams-Bashforth of order 4 on the velocity with `num_steps` >= 2 equal steps, one evaluation each;
      `LearnedTimes.of` has the other solvers whose times can be learned.
    - "curve": midpoint with `num_steps` equal steps, along a curve of degree 6; `LearnedCurve.identity` has Euler and other
      degrees.
    - "calls": a learned table of `num_steps` >= 2 single calls of the two networks of a guided flow; `LearnedCalls` has other
      ways to make them.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another base, or `num_steps` that is not a positive integer (or is 1, for "times" and "calls").

    Examples:
        >>> [init_theta(base, num_steps=4).num_parameters for base in FAMILIES]
        [15, 31, 17, 3, 11, 17]
    """
    return FAMILIES[check_choice("base", base, FAMILIES)](num_steps, dtype)
