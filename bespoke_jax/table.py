"""The solver table: every fixed-grid solver as one set of numbers (FORMULAS: Shaul et al. 2024, arXiv:2403.01329, eq. 11)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_array, known
from bespoke_jax.learned.theta import BASES, Knots, Theta

__all__ = ["SolverTable", "check_times", "table_from_knots", "to_table"]


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

    def check(self, name: str) -> None:
        """Raise unless the arrays agree and, where their numbers are known, describe a solver; `name` is what errors call it.

        Times lie within [0, 1], in any order: RK4 repeats them, and learned ones need not increase. This is asked where a table
        is run, written or learned, not where it is made, for batches of tables and gradients are held in this class too.

        Raises:
            TypeError: if a field is no floating array.
            ValueError: for shapes that disagree, NaN, infinity, a time outside [0, 1], or b that is not lower triangular.

        Examples:
            >>> SolverTable(jnp.zeros(3), jnp.ones(3), jnp.zeros((3, 5))).check("solver")
            Traceback (most recent call last):
            ValueError: solver.b: wanted shape [3, 3], got [3, 5].
        """
        m = check_times(f"{name}.t", check_array(f"{name}.t", self.t, ("m",))).shape[0]
        check_array(f"{name}.a", self.a, (m,))
        b = known(check_array(f"{name}.b", self.b, (m, m)))
        if b is not None and np.any(np.triu(b != 0, 1)):
            raise ValueError(
                f"{name}.b: wanted a lower triangular matrix; a state has no velocity that is yet to come."
            )

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.t.shape[-1]

    @property
    def num_parameters(self) -> int:
        """m (m + 5) / 2 - 1: the first time is 0."""
        return self.nfe * (self.nfe + 5) // 2 - 1


def check_times(name: str, t):
    """`t`, if its times lie within [0, 1] where they are `known`."""
    times = known(t)
    if times is not None and not np.all((times >= 0) & (times <= 1)):
        raise ValueError(f"{name}: wanted times within [0, 1], got {times.tolist()}.")
    return t


def to_table(solver) -> SolverTable:
    """The table of a learned solver: the same numbers, unrolled. Exact up to rounding. A table is its own.

    Of a Bespoke solver each state is a combination of x0 and the velocities so far; stepping through (17) or (19)-(20) with
    coefficient vectors in place of states gives the rows.

    Raises:
        TypeError: if it is no solver, or one without a table (`classic.TaylorSolver`).
        ValueError: for arrays that disagree, as `SolverTable.check`.

    Examples:
        >>> import bespoke_jax as bj
        >>> to_table(bj.init_theta("rk2", num_steps=1)).b.tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    if not isinstance(solver, Theta | SolverTable) and not hasattr(solver, "table"):
        raise TypeError(f"solver: wanted a learned solver or a SolverTable, got {type(solver).__name__}.")
    solver.check("solver")
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
