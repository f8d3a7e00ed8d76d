"""The families of learned solvers by name, and what they have in common.

A learned solver is a pytree with a flat vector `raw` of the numbers that are learned, `with_raw(raw)`, `nfe`, `num_steps`, `base`
(the family's name) and `table()`, all its numbers unrolled. Fitting knows no more of it.
"""

import jax.numpy as jnp

from bespoke_jax import classic, theta
from bespoke_jax.learned_curve import LearnedCurve
from bespoke_jax.learned_table import LearnedTable
from bespoke_jax.learned_times import LearnedTimes
from bespoke_jax.theta import BASES, Theta, check_base

__all__ = ["FAMILIES", "LearnedSolver", "init_theta"]

FAMILIES = (*BASES, "table", "times", "curve")

LearnedSolver = Theta | LearnedTable | LearnedTimes | LearnedCurve


def init_theta(base: str, num_steps: int, dtype=jnp.float32) -> LearnedSolver:
    """The start of a learned solver.

    "rk1", "rk2": exactly Euler, midpoint with `num_steps` equal steps. "table": a learned table of `num_steps` evaluations
    that is Euler's; `fit` tries every dedicated solver as its reference. `LearnedTable.of` starts from any other table.
    "times": Adams-Bashforth of order 4 on the velocity with `num_steps` >= 2 equal steps, one evaluation each; `LearnedTimes.of`
    has the other solvers whose times can be learned. "curve": midpoint with `num_steps` equal steps, along a curve of degree
    6; `LearnedCurve.identity` has Euler and other degrees.

    Raises:
        ValueError: for another base, or `num_steps` that is no positive integer (or 1, for "times").

    Examples:
        >>> [init_theta(base, num_steps=4).num_parameters for base in FAMILIES]
        [15, 31, 17, 3, 11]
    """
    if base == "table":
        return LearnedTable.of(classic.euler(check_base("rk1", num_steps), dtype))
    if base == "times":
        return LearnedTimes.of("ipndm-4", num_steps, dtype=dtype)
    if base == "curve":
        return LearnedCurve.identity("rk2", num_steps, dtype=dtype)
    if base not in FAMILIES:
        raise ValueError(f"base: wanted one of {sorted(FAMILIES)}, got {base!r}.")
    return theta.init_theta(base, num_steps, dtype)
