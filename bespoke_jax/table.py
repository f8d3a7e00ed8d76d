"""The solver table: every fixed-grid solver as one set of numbers (FORMULAS: Shaul et al. 2024, arXiv:2403.01329, eq. 11)."""

import dataclasses

import jax
import jax.numpy as jnp

from bespoke_jax.theta import BASES, Knots, Theta

__all__ = ["SolverTable", "table_from_knots", "to_table"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolverTable:
    """m velocity evaluations: x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_{t_j}(x_j), i = 0..m-1.

    Attributes:
        t: [m] times of the evaluations.
        a: [m] factors of the noise.
        b: [m, m] factors of the velocities, lower triangular.

    Examples:
        >>> import bespoke_jax as bj
        >>> bj.classic.euler(2).b.tolist()
        [[0.5, 0.0], [0.5, 0.5]]
    """

    t: jax.Array
    a: jax.Array
    b: jax.Array

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.t.shape[-1]

    @property
    def num_parameters(self) -> int:
        """m (m + 5) / 2 - 1: the first time is 0."""
        return self.nfe * (self.nfe + 5) // 2 - 1


def to_table(solver) -> SolverTable:
    """The table of a learned solver: the same numbers, unrolled. Exact up to rounding. A table is its own.

    Of a Bespoke solver each state is a combination of x0 and the velocities so far; stepping through (17) or (19)-(20) with
    coefficient vectors in place of states gives the rows.

    Examples:
        >>> import bespoke_jax as bj
        >>> to_table(bj.init_theta("rk2", num_steps=1)).b.tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    if isinstance(solver, Theta):
        return table_from_knots(solver.base, solver.knots(), 1.0 / solver.num_steps)
    return solver if isinstance(solver, SolverTable) else solver.table()


def table_from_knots(base: str, knots: Knots, h: float) -> SolverTable:
    """The table of the steps of size `h` between these knots: of a whole solver, or of one of its steps by itself."""
    t, dt, s, ds = knots
    stages = BASES[base]
    m = dt.shape[0]
    unit = jnp.eye(m + 1, dtype=t.dtype)  # row 0 stands for x0, row j + 1 for velocity j

    # A scan, though all is known: unrolled, this small program takes seconds to compile.
    def rk1(x, i):
        x = (s[i] + h * ds[i]) / s[i + 1] * x + h * dt[i] * s[i] / s[i + 1] * unit[i + 1]
        return x, x[None]

    def rk2(x, i):
        a, c, e = 2 * i, 2 * i + 1, 2 * i + 2
        z = (s[a] + h / 2 * ds[a]) * x + h / 2 * s[a] * dt[a] * unit[a + 1]
        x = s[a] / s[e] * x + h / s[e] * (ds[c] / s[c] * z + dt[c] * s[c] * unit[c + 1])
        return x, jnp.stack([z / s[c], x])

    _, rows = jax.lax.scan({"rk1": rk1, "rk2": rk2}[base], unit[0], jnp.arange(m // stages))
    rows = rows.reshape(m, m + 1)
    return SolverTable(t[:-1], rows[:, 0], rows[:, 1:])
