"""The families of learned solvers by name, and what they have in common.

A learned solver is a pytree with a flat vector `raw` of the numbers that are learned, `with_raw(raw)`, `nfe`, `num_steps`, `base`
(the family's name), `table()`, all its numbers unrolled, and `check(name)`. Fitting knows no more of it.
"""

import jax.numpy as jnp

from bespoke_jax import classic
from bespoke_jax.checks import check_choice, check_count, check_type
from bespoke_jax.learned import theta
from bespoke_jax.learned.curve import LearnedCurve
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.learned.theta import BASES, Theta
from bespoke_jax.learned.times import LearnedTimes
from bespoke_jax.table import SolverTable

__all__ = ["FAMILIES", "LearnedSolver", "check_solver_arrays", "init_theta"]

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
        TypeError: for a dtype that is not floating.
        ValueError: for another base, or `num_steps` that is no positive integer (or 1, for "times").

    Examples:
        >>> [init_theta(base, num_steps=4).num_parameters for base in FAMILIES]
        [15, 31, 17, 3, 11]
    """
    check_choice("base", base, FAMILIES)
    if base == "table":
        return LearnedTable.of(classic.euler(check_count("num_steps", num_steps), dtype))
    if base == "times":
        return LearnedTimes.of("ipndm-4", num_steps, dtype=dtype)
    if base == "curve":
        return LearnedCurve.identity("rk2", num_steps, dtype=dtype)
    return theta.init_theta(base, num_steps, dtype)


def check_solver_arrays(name: str, solver, *, taylor: bool = False):
    """`solver`, if it is one whose arrays agree and, where their numbers are known, describe a solver: what every function that
    takes a solver asks first. Tracers and shapes have shapes and dtypes alone, and those are checked.

    Refused are shapes that disagree, integer or object arrays, NaN and infinity, times outside [0, 1], factors of velocities yet
    to come. Costs some microseconds for numbers that are on the host; the first time for others, their way there.

    Args:
        name: what errors call it.
        solver: a theta, a learned solver or a table.
        taylor: whether a `classic.TaylorSolver` is welcome too.

    Raises:
        TypeError: if it is no solver, or its numbers are not floating arrays.
        ValueError: for anything else; names the field.

    Examples:
        >>> table = classic.euler(3)
        >>> check_solver_arrays("solver", SolverTable(jnp.zeros(4), table.a, table.b))
        Traceback (most recent call last):
        ValueError: solver.a: wanted shape [4], got [3].
    """
    kinds = LearnedSolver | SolverTable | classic.TaylorSolver if taylor else LearnedSolver | SolverTable
    check_type(name, solver, kinds, "a learned solver or a SolverTable")
    solver.check(name)
    return solver
