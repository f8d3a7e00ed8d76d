"""Solvers whose first call is known beforehand: the analytical first step, for any table (derived; docs/theory.md)."""

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_type
from bespoke_jax.classic.levels import check_scheduler, levels
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array

__all__ = ["affine_velocity", "known_first_call"]


def known_first_call(table: SolverTable, scheduler: Scheduler, xi: Array) -> SolverTable:
    """The table of m evaluations for one of m + 1, with its first velocity, at t = 0, replaced by a formula.

    With independent Gaussian noise the velocity at the noise end is affine (see `affine_velocity`). This is exact for an ideal
    field whose alpha_0 is 0. Real networks depart from it; docs/shipped_flow.md measures by how much.
    Published as the analytical first step, for DDIM and its kin; here for every solver that is a table.

    Args:
        table: of m + 1 >= 2 evaluations, a plain one whose first time is 0.
        scheduler: the flow's.
        xi: E[x1], as for `SolverTable.xi`.

    Raises:
        TypeError: if `table` is not a table.
        ValueError: without a scheduler; if the table has one evaluation, or its first is not that of the noise at time 0.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> table = known_first_call(bj.classic.euler(2), flow.scheduler, jnp.array([1.0, -1.0]))
        >>> table.nfe, bj.solve(flow, table, jnp.zeros(2)).tolist()
        (1, [1.0, -1.0])
    """
    check_type("table", table, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)")
    check_scheduler(scheduler, "a first call that is known")
    t, a, b = (np.asarray(value, np.float64) for value in (table.t, table.a, table.b))
    if len(t) < 2 or t[0] != 0 or table.first is not None or table.c is not None:
        raise ValueError("table: wanted a plain table of two evaluations or more, the first at time 0, got another.")
    of_noise, of_image = affine_velocity(scheduler)
    known = b[:, 0]
    rows = a + known * of_noise
    found = t[1:], rows[1:], b[1:, 1:], rows[0], known * of_image
    arrays = (jax.device_put(np.asarray(value, table.t.dtype)) for value in found)
    return SolverTable(*arrays, xi=jnp.asarray(xi, table.t.dtype))


def affine_velocity(scheduler: Scheduler) -> tuple[float, float]:
    """The factors of x and of E[x1] in the velocity of an ideal field at t = 0.

    There the noise says nothing of the data: E[x1 | x] is the mean of the data, and

        u_0(x) = alphadot_0 E[x1] + sigmadot_0 (x - alpha_0 E[x1]) / sigma_0.

    Raises:
        ValueError: if a slope of the scheduler is infinite there.

    Examples:
        >>> import bespoke_jax as bj
        >>> affine_velocity(bj.schedulers.CondOT())
        (-1.0, 1.0)
    """
    (level,) = levels(scheduler, [0.0])
    of_noise = level.sigma_dot / level.sigma
    of_image = level.alpha_dot - of_noise * level.alpha
    if not np.isfinite(of_noise) or not np.isfinite(of_image):
        raise ValueError(f"scheduler: wanted finite slopes at t=0, got {level.alpha_dot} and {level.sigma_dot}.")
    return float(of_noise), float(of_image)
