"""The steps of the base solvers of a Bespoke solver, eqs. (17) and (19)-(20), and what follows from them.

A Bespoke step is one step of the base solver on the transformed field (16), written back in x. `h = 1 / n`; for rk2 the
knots 2i, 2i + 1, 2i + 2 are the paper's i, i + 1/2, i + 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_choice, check_count
from bespoke_jax.learned.knots import Knots
from bespoke_jax.table import SolverTable

__all__ = ["BASES", "check_base", "rk1_step", "rk2_step", "step", "table_from_knots"]

BASES = {"rk1": 1, "rk2": 2}
"""Base solver -> velocity evaluations per step, which is also knot intervals per step."""


def check_base(base, num_steps) -> int:
    """Raise ValueError unless a solver of this base and number of steps exists; the number as a Python integer."""
    check_choice("base", base, BASES)
    return check_count("num_steps", num_steps)


def rk1_step(knots: Knots, h: float, i, x, u: Callable):
    """RK1-Bespoke, eq. (17): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    c_x = (s[i] + h * ds[i]) / s[i + 1]
    c_u = h * dt[i] * s[i] / s[i + 1]
    return t[i + 1], _like(c_x, x) * x + _like(c_u, x) * u(t[i], x)


def rk2_step(knots: Knots, h: float, i, x, u: Callable):
    """RK2-Bespoke (midpoint), eqs. (19)-(20): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    a, m, b = 2 * i, 2 * i + 1, 2 * i + 2
    # (19)
    z = _like(s[a] + h / 2 * ds[a], x) * x + _like(h / 2 * s[a] * dt[a], x) * u(t[a], x)
    # (20)
    slope = _like(ds[m] / s[m], x) * z + _like(dt[m] * s[m], x) * u(t[m], z / _like(s[m], x))
    return t[b], _like(s[a] / s[b], x) * x + _like(h / s[b], x) * slope


def _like(coefficient, x):
    # The state keeps its dtype, whatever theta's is.
    return coefficient.astype(x.dtype)


_STEPS = {"rk1": rk1_step, "rk2": rk2_step}


def step(base: str, knots: Knots, h: float, i, x, u: Callable):
    """Step i of the base solver, of size h in r, between these knots: (t_{i+1}, x_{i+1})."""
    return _STEPS[base](knots, h, i, x, u)


def table_from_knots(base: str, knots: Knots, h: float) -> SolverTable:
    """The table of the steps of size `h` between these knots: of a whole solver, or of one of its steps by itself.

    Each state is a combination of x0 and the velocities so far. Stepping with coefficient vectors in place of states, unit
    vectors in place of x0 and the velocities, gives the rows.
    """
    stages, m = BASES[base], knots.dt.shape[0]
    unit = jnp.eye(m + 1, dtype=knots.t.dtype)  # row 0 stands for x0, row j + 1 for velocity j

    def rows_of_step(x, i):
        asked = []

        def u(t, state):
            asked.append(state)
            return unit[stages * i + len(asked)]

        _, after = step(base, knots, h, i, x, u)
        return after, jnp.stack([*asked[1:], after])  # the first is asked at the state before

    # A scan, though the number of steps is known: unrolled, this small program takes seconds to compile.
    _, rows = jax.lax.scan(rows_of_step, unit[0], jnp.arange(m // stages))
    rows = rows.reshape(m, m + 1)
    return SolverTable(knots.t[:-1], rows[:, 0], rows[:, 1:])
