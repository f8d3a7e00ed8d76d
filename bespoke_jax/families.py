"""The families of learned solvers by name, and what they have in common.

A learned solver is a pytree with a flat vector `raw` of the numbers that are learned, `with_raw(raw)`, `nfe`, `num_steps`, `base`
(the family's name) and `table()`, all its numbers unrolled. Fitting knows no more of it.
"""

import jax.numpy as jnp

from bespoke_jax import classic, theta
from bespoke_jax.learned_table import LearnedTable
from bespoke_jax.theta import BASES, Theta, check_solver

__all__ = ["FAMILIES", "LearnedSolver", "init_theta"]

FAMILIES = (*BASES, "table")

LearnedSolver = Theta | LearnedTable


def init_theta(base: str, num_steps: int, dtype=jnp.float32) -> LearnedSolver:
    """The start of a learned solver.

    "rk1", "rk2": exactly Euler, midpoint with `num_steps` equal steps. "table": a learned table of `num_steps` evaluations
    that is Euler's; `fit` tries every dedicated solver as its reference. `LearnedTable.of` starts from any other table.

    Raises:
        ValueError: for another base, or `num_steps` that is no positive integer.

    Example:
        >>> [init_theta(base, num_steps=4).num_parameters for base in ("rk1", "rk2", "table")]
        [15, 31, 17]
    """
    if base == "table":
        return LearnedTable.of(classic.euler(check_solver("rk1", num_steps), dtype))
    if base not in FAMILIES:
        raise ValueError(f"base: wanted one of {sorted(FAMILIES)}, got {base!r}.")
    return theta.init_theta(base, num_steps, dtype)
