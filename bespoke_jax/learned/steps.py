"""The steps of a Bespoke solver, eqs. (17) and (19)-(20), and their table.

A Bespoke step is one step of the base solver on the transformed field (16), written in terms of x. `h = 1 / n`; for rk2 the
knots 2i, 2i + 1, 2i + 2 are the paper's i, i + 1/2, i + 1.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Int

from bespoke_jax.checks import check_choice, check_count
from bespoke_jax.learned.knots import Knots
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array

__all__ = ["BASES", "check_base", "rk1_step", "rk2_step", "step", "table_from_knots"]

Velocity: TypeAlias = Callable[[Any, Any], Any]
"""u(t, x) -> array like x."""
State: TypeAlias = Any
"""A state x of any shape, or a vector of coefficients in its place."""
Index: TypeAlias = int | Int[Array, ""]
"""Number of a step; may be traced."""

BASES = {"rk1": 1, "rk2": 2}
"""Base solver -> velocity evaluations per step, which is also knot intervals per step."""


def check_base(base: Any, num_steps: Any) -> int:
    """`num_steps` as a Python integer, if a solver of this base and number of steps exists; else a ValueError."""
    check_choice("base", base, BASES)
    return check_count("num_steps", num_steps)


def rk1_step(knots: Knots, h: float, i: Index, x: State, u: Velocity) -> tuple[jax.Array, State]:
    """RK1-Bespoke, eq. (17): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    c_x = (s[i] + h * ds[i]) / s[i + 1]
    c_u = h * dt[i] * s[i] / s[i + 1]
    return t[i + 1], _like(c_x, x) * x + _like(c_u, x) * u(t[i], x)


def rk2_step(knots: Knots, h: float, i: Index, x: State, u: Velocity) -> tuple[jax.Array, State]:
    """RK2-Bespoke (midpoint), eqs. (19)-(20): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    a, m, b = 2 * i, 2 * i + 1, 2 * i + 2
    # (19)
    z = _like(s[a] + h / 2 * ds[a], x) * x + _like(h / 2 * s[a] * dt[a], x) * u(t[a], x)
    # (20)
    slope = _like(ds[m] / s[m], x) * z + _like(dt[m] * s[m], x) * u(t[m], z / _like(s[m], x))
    return t[b], _like(s[a] / s[b], x) * x + _like(h / s[b], x) * slope


def _like(coefficient, x):
    # The state keeps its dtype, whatever that of the knots.
    return coefficient.astype(x.dtype)


_STEPS = {"rk1": rk1_step, "rk2": rk2_step}


def step(base: str, knots: Knots, h: float, i: Index, x: State, u: Velocity) -> tuple[jax.Array, State]:
    """Step i of the base solver, of size h in r, between these knots: (t_{i+1}, x_{i+1})."""
    return _STEPS[base](knots, h, i, x, u)


def table_from_knots(base: str, knots: Knots, h: float) -> SolverTable:
    """The table of the steps of size `h` between these knots, which may be those of a whole solver or of a single step.

    Each state is a combination of x0 and the velocities so far. With unit vectors in place of x0 and the velocities, the steps
    compute the coefficients of these combinations, which are the rows of the table.
    """
    stages, m = BASES[base], knots.dt.shape[0]
    unit = jnp.eye(m + 1, dtype=knots.t.dtype)  # row 0 stands for x0, row j + 1 for velocity j

    def rows_of_step(x, i):
        asked = []

        def u(t, state):
            asked.append(state)
            return unit[stages * i + len(asked)]

        _, after = step(base, knots, h, i, x, u)
        return after, jnp.stack([*asked[1:], after])  # the first evaluation is at the state before

    # A scan, though the number of steps is known: unrolled, this small program takes seconds to compile.
    _, rows = jax.lax.scan(rows_of_step, unit[0], jnp.arange(m // stages))
    rows = rows.reshape(m, m + 1)
    return SolverTable(knots.t[:-1], rows[:, 0], rows[:, 1:])
