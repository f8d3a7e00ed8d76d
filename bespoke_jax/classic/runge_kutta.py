"""Tables of explicit Runge-Kutta methods on the velocity itself."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_numbers
from bespoke_jax.classic.grids import time_grid
from bespoke_jax.classic.unroll import Unrolling
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, GridLike, Numbers

__all__ = ["euler", "heun", "midpoint", "rk4", "runge_kutta"]


def runge_kutta(
    nfe: int,
    nodes: Numbers,
    matrix: Numbers,
    weights: Numbers,
    name: str = "runge_kutta",
    dtype: DTypeLike = jnp.float32,
    *,
    grid: GridLike = "uniform",
    scheduler: Scheduler | None = None,
) -> SolverTable:
    """The table of an explicit Runge-Kutta method with Butcher tableau (nodes c, matrix A, weights b).

    Args:
        nfe: velocity evaluations, a positive multiple of the number of stages S.
        nodes: [S], times of the stages within a step, in [0, 1], the first 0.
        matrix: [S, S], strictly lower triangular.
        weights: [S], of sum 1 within 1e-3.
        name: of the method in error messages.
        dtype: of the table.
        grid: a name or the nfe / S + 1 times between which it steps, see `time_grid`.
        scheduler: for grids that need one.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: if `nfe` is no positive multiple of S, the tableau is not that of an explicit method, or the grid is wrong.

    Examples:
        >>> runge_kutta(2, nodes=[0, 0.75], matrix=[[0, 0], [0.75, 0]], weights=[0.25, 0.75], name="mine").b.tolist()
        [[0.75, 0.0], [0.25, 0.75]]
    """
    c = check_numbers("nodes", nodes, ("S",))
    stages = len(c)
    a, b = check_numbers("matrix", matrix, (stages, stages)), check_numbers("weights", weights, (stages,))
    if c[0] != 0 or not np.all((c >= 0) & (c <= 1)):
        raise ValueError(f"nodes: wanted times of a step within [0, 1], the first 0, got {c.tolist()}.")
    if np.any(np.triu(a)):
        raise ValueError(f"matrix: wanted a strictly lower triangular one, for an explicit method, got {a.tolist()}.")
    if abs(b.sum() - 1) > 1e-3:
        raise ValueError(f"weights: wanted a sum of 1, got {b.tolist()} of sum {b.sum():.4f}.")
    if isinstance(nfe, bool) or not isinstance(nfe, int | np.integer) or nfe < 1 or nfe % stages:
        raise ValueError(f"nfe: wanted a positive multiple of {stages} for {name}, got {nfe!r}.")
    times = time_grid(grid, nfe // stages, scheduler)
    run = Unrolling(nfe)
    x = run.x0
    for start, end in pairwise(times):
        h = end - start
        slopes = []
        for node, row in zip(c, a, strict=True):
            stage = x + h * sum(factor * slope for factor, slope in zip(row, slopes, strict=False))
            slopes.append(run.velocity(start + node * h, stage))
        x = x + h * sum(weight * slope for weight, slope in zip(b, slopes, strict=True))
    return run.table(x, dtype)


def euler(
    nfe: int, dtype: DTypeLike = jnp.float32, *, grid: GridLike = "uniform", scheduler: Scheduler | None = None
) -> SolverTable:
    """Euler's method: order 1, one evaluation a step.

    Args:
        nfe: velocity evaluations, at least 1.
        dtype, grid, scheduler: as for `runge_kutta`.

    Examples:
        >>> euler(2, grid="quadratic").b.tolist()
        [[0.75, 0.0], [0.75, 0.25]]
    """
    return runge_kutta(nfe, [0], [[0]], [1], "euler", dtype, grid=grid, scheduler=scheduler)


def midpoint(
    nfe: int, dtype: DTypeLike = jnp.float32, *, grid: GridLike = "uniform", scheduler: Scheduler | None = None
) -> SolverTable:
    """The midpoint method: order 2, two evaluations a step.

    Args:
        nfe: velocity evaluations, even.
        dtype, grid, scheduler: as for `runge_kutta`.

    Examples:
        >>> midpoint(2).t.tolist()
        [0.0, 0.5]
    """
    return runge_kutta(nfe, [0, 0.5], [[0, 0], [0.5, 0]], [0, 1], "midpoint", dtype, grid=grid, scheduler=scheduler)


def heun(
    nfe: int, dtype: DTypeLike = jnp.float32, *, grid: GridLike = "uniform", scheduler: Scheduler | None = None
) -> SolverTable:
    """Heun's method (the explicit trapezium rule) on the velocity: order 2, two evaluations a step. EDM's own is `edm_heun`.

    Args:
        nfe: velocity evaluations, even.
        dtype, grid, scheduler: as for `runge_kutta`.

    Examples:
        >>> heun(2).b.tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    return runge_kutta(nfe, [0, 1], [[0, 0], [1, 0]], [0.5, 0.5], "heun", dtype, grid=grid, scheduler=scheduler)


def rk4(
    nfe: int, dtype: DTypeLike = jnp.float32, *, grid: GridLike = "uniform", scheduler: Scheduler | None = None
) -> SolverTable:
    """The classical Runge-Kutta method: order 4, four evaluations a step.

    Args:
        nfe: velocity evaluations, a multiple of 4.
        dtype, grid, scheduler: as for `runge_kutta`.

    Examples:
        >>> rk4(8).t.tolist()
        [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0]
    """
    matrix = [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]]
    weights = [1 / 6, 1 / 3, 1 / 3, 1 / 6]
    return runge_kutta(nfe, [0, 0.5, 0.5, 1], matrix, weights, "rk4", dtype, grid=grid, scheduler=scheduler)
