"""Exponential integrators with stages inside a step: DPM-Solver-2, -3, DPM-Solver++(2S) and EDM's Heun.

Noise prediction X0 and data prediction X1 give two equations for the same flow:

    y = x / alpha,  dy = X0 d(sigma / alpha)       regular at clean data
    y = x / sigma,  dy = X1 d(alpha / sigma)       regular at pure noise

The DPM-Solvers place their stages in log-SNR, which is infinite at either end (snr below 1e-5 or above 1e5). A step with such
an end uses the method's classical Runge-Kutta counterpart (midpoint, or Heun's third-order method with nodes 1/3, 2/3) in the
equation that is regular there, with the same number of stages.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_positive
from bespoke_jax.classic.grids import karras_snr, time_grid
from bespoke_jax.classic.levels import Level, check_scheduler, level_at_snr, levels, times_of_snr
from bespoke_jax.classic.unroll import State, Unrolling, data_step, noise_step
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, GridLike

__all__ = ["dpm_solver_2", "dpm_solver_3", "dpm_solver_pp_2s", "edm_heun"]

_DATA, _NOISE = 0, 1  # indices into the result of `Unrolling.predict`
_STEPS = {_DATA: data_step, _NOISE: noise_step}


def dpm_solver_2(
    nfe: int, scheduler: Scheduler, *, grid: GridLike = "log_snr", dtype: DTypeLike = jnp.float32
) -> SolverTable:
    """DPM-Solver-2, noise prediction (Lu et al. 2022, arXiv:2206.00927, Alg. 1, r_1 = 1/2): order 2, two evaluations a step.

    x_t = alpha_t / alpha_s x_s - sigma_t (e^h - 1) X0(m), with m halfway in log-SNR and x_m by DDIM. An odd `nfe` ends with one
    step of DDIM, as in the authors' code.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        grid: the times between steps, or a name, see `time_grid`: "log_snr" has one interval a step, as in the paper; the others
            have `nfe` intervals, and a step spans as many as it has evaluations, as in the authors' code.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> dpm_solver_2(5, bj.schedulers.VariancePreserving()).nfe
        5
    """
    return _solve("dpm_solver_2", nfe, 2, _NOISE, scheduler, grid, dtype)


def dpm_solver_3(
    nfe: int, scheduler: Scheduler, *, grid: GridLike = "log_snr", dtype: DTypeLike = jnp.float32
) -> SolverTable:
    """DPM-Solver-3, noise prediction (Lu et al. 2022, arXiv:2206.00927, Alg. 2, r = 1/3, 2/3): order 3, three evaluations a step.

    The steps have orders 3, 3, ..., then 2, 1 or 1 or 2, with sum `nfe` ("DPM-Solver-fast" in the authors' code).

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        grid: as for `dpm_solver_2`.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> dpm_solver_3(9, bj.schedulers.VariancePreserving()).nfe  # orders 3, 3, 2, 1
        9
    """
    return _solve("dpm_solver_3", nfe, 3, _NOISE, scheduler, grid, dtype)


def dpm_solver_pp_2s(
    nfe: int, scheduler: Scheduler, *, grid: GridLike = "log_snr", dtype: DTypeLike = jnp.float32
) -> SolverTable:
    """DPM-Solver++(2S), data prediction (Lu et al. 2022, arXiv:2211.01095, Alg. 1, r = 1/2): order 2, two evaluations a step.

    x_t = sigma_t / sigma_s x_s - alpha_t expm1(-h) X1(m), with m halfway in log-SNR and x_m by DDIM. An odd `nfe` ends with one
    step of DDIM.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        grid: as for `dpm_solver_2`.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> dpm_solver_pp_2s(4, bj.schedulers.CondOT()).nfe
        4
    """
    return _solve("dpm_solver_pp_2s", nfe, 2, _DATA, scheduler, grid, dtype)


def _solve(
    name: str, nfe: int, order: int, form: int, scheduler: Scheduler, grid: GridLike, dtype: DTypeLike
) -> SolverTable:
    nfe, scheduler = check_count("nfe", nfe), check_scheduler(scheduler, name)
    orders = _orders(nfe, order)
    if isinstance(grid, str) and grid != "log_snr":
        times = time_grid(grid, nfe, scheduler)[np.cumsum([0, *orders])]
    else:
        times = time_grid(grid, len(orders), scheduler)
    run = Unrolling(nfe)
    x = run.x0
    for (s, t), stages in zip(pairwise(levels(scheduler, times)), orders, strict=True):
        x = _STAGES[stages](run, scheduler, s, t, x, form)
    return run.table(x, dtype)


def _orders(nfe: int, order: int) -> list[int]:
    """The order of each step, which is also its number of evaluations."""
    whole, rest = divmod(nfe, order)
    if order == 3 and rest == 0:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + [rest] * (rest > 0)


def _between(scheduler: Scheduler, s: Level, t: Level, fraction: float, form: int) -> tuple[Level, int]:
    """(level, form): the level at this fraction of the way from s to t in the step's variable, and the prediction to use."""
    if s.log_snr == -math.inf:
        # From pure noise the variable is the snr, or the angle arctan(snr) if the step ends at clean data.
        snr = math.tan(fraction * math.pi / 2) if t.log_snr == math.inf else s.snr + fraction * (t.snr - s.snr)
        return level_at_snr(scheduler, snr), _DATA
    if t.log_snr == math.inf:
        noise = s.noise_to_signal + fraction * (t.noise_to_signal - s.noise_to_signal)
        return level_at_snr(scheduler, 1 / noise), _NOISE
    return level_at_snr(scheduler, math.exp(s.log_snr + fraction * (t.log_snr - s.log_snr))), form


def _first_order(run: Unrolling, scheduler: Scheduler, s: Level, t: Level, x: State, form: int) -> State:
    return data_step(s, t, x, run.predict(s, x)[_DATA])


def _second_order(run: Unrolling, scheduler: Scheduler, s: Level, t: Level, x: State, form: int) -> State:
    # With r_1 = 1/2 the formulas of both papers are one step with the prediction at the middle instead of the start.
    middle, form = _between(scheduler, s, t, 1 / 2, form)
    at_middle = data_step(s, middle, x, run.predict(s, x)[_DATA])
    return _STEPS[form](s, t, x, run.predict(middle, at_middle)[form])


def _third_order(run: Unrolling, scheduler: Scheduler, s: Level, t: Level, x: State, form: int) -> State:
    (first, form), (second, _) = (_between(scheduler, s, t, fraction, form) for fraction in (1 / 3, 2 / 3))
    step = _STEPS[form]
    start = run.predict(s, x)[form]
    at_first = run.predict(first, step(s, first, x, start))[form]
    if not (math.isfinite(s.log_snr) and math.isfinite(t.log_snr)):
        at_second = run.predict(second, step(s, second, x, at_first))[form]
        return step(s, t, x, (start + 3 * at_second) / 4)
    h = t.log_snr - s.log_snr
    x_second = step(s, second, x, start) - second.sigma * 2 * _phi(2 / 3 * h) * (at_first - start)
    at_second = run.predict(second, x_second)[form]
    return step(s, t, x, start) - t.sigma * 3 / 2 * _phi(h) * (at_second - start)


def _phi(h: float) -> float:
    return math.expm1(h) / h - 1


_STAGES: dict[int, Callable[..., State]] = {1: _first_order, 2: _second_order, 3: _third_order}


def edm_heun(
    nfe: int,
    scheduler: Scheduler,
    *,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    grid: GridLike | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SolverTable:
    """EDM's deterministic sampler (Karras et al. 2022, arXiv:2206.00364, Alg. 1): order 2, 2 n - 1 evaluations in n steps.

    The steps are Heun's method on dy = X0 d(sigma / alpha), y = x / alpha, between noise levels sigma / alpha whose (1/rho)-th
    powers decrease in equal steps from sigma_max to sigma_min; a last step by Euler's method leads to the scheduler's end. If the
    scheduler ends at sigma_min or before (as `EDM` does), the n steps lead to its end without that extra level. If it begins at
    snr 0 (`CondOT`), where sigma / alpha is infinite, the first step is Heun's on dy = X1 d(alpha / sigma).

    Args:
        nfe: velocity evaluations. Odd as in the paper, n = (nfe + 1) / 2; even, with Heun's method in the last step too, only if
            sigma_1 > 0.
        scheduler: the flow's.
        rho, sigma_min, sigma_max: of the noise levels, whose ends are limited to the scheduler's range.
        grid: instead of these levels, a name or the n + 1 times between which it steps, see `time_grid`.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> [round(float(t), 3) for t in edm_heun(7, bj.schedulers.CondOT()).t]
        [0.0, 0.093, 0.093, 0.68, 0.68, 0.998, 0.998]
    """
    nfe, scheduler = check_count("nfe", nfe), check_scheduler(scheduler, "edm_heun")
    for name, value in (("rho", rho), ("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        check_positive(name, value)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min: wanted less than sigma_max={sigma_max!r}, got {sigma_min!r}.")
    steps = (nfe + 1) // 2
    end = levels(scheduler, [1.0])[0]
    if nfe % 2 == 0 and end.sigma == 0:
        raise ValueError(f"nfe: wanted an odd number, as sigma_1 = 0 (the last step is Euler's), got {nfe}.")
    if grid is None:
        grid = _karras_times(steps, scheduler, end, rho, sigma_min, sigma_max)
    run = Unrolling(nfe)
    x = run.x0
    points = levels(scheduler, time_grid(grid, steps, scheduler))
    for i, (s, t) in enumerate(pairwise(points)):
        start = run.predict(s, x)
        predicted = data_step(s, t, x, start[_DATA])
        if 2 * i + 1 == nfe:
            return run.table(predicted, dtype)
        form = _DATA if s.log_snr == -math.inf else _NOISE
        x = _STEPS[form](s, t, x, (start[form] + run.predict(t, predicted)[form]) / 2)
    return run.table(x, dtype)


def _karras_times(
    steps: int, scheduler: Scheduler, end: Level, rho: float, sigma_min: float, sigma_max: float
) -> np.ndarray:
    """The times of EDM's noise levels, and then the scheduler's end if that lies beyond sigma_min."""
    if end.noise_to_signal >= sigma_min * (1 - 1e-6):
        times = times_of_snr(scheduler, karras_snr(steps, scheduler, rho, sigma_min, sigma_max))
    elif steps > 1:
        times = np.append(times_of_snr(scheduler, karras_snr(steps - 1, scheduler, rho, sigma_min, sigma_max)), 1.0)
    else:
        times = np.array([0.0, 1.0])
    times[0], times[-1] = 0.0, 1.0
    return times
