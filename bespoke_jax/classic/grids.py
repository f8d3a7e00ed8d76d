"""Time grids: where the steps of a dedicated solver begin and end."""

import math

import numpy as np

from bespoke_jax.checks import check_choice, check_count, check_numbers
from bespoke_jax.classic.levels import check_scheduler, levels, times_of_snr
from bespoke_jax.schedulers import Scheduler

__all__ = ["GRIDS", "NEED_NO_SCHEDULER", "karras_snr", "time_grid"]


def _uniform(n, scheduler):
    return np.arange(n + 1) / n


def _quadratic(n, scheduler):
    return 1.0 - (np.arange(n, -1, -1) / n) ** 2


def _log_snr(n, scheduler):
    # The VP scheduler begins at snr 1 / 151 and is by custom left at 95, 1e-3 before its end. Wider limits cost accuracy:
    # with few steps, those near clean data are wasted (on the shipped flow 1 to 3 dB at 5 to 8 steps if high is 500).
    low, high = _snr_range(scheduler, 1 / 160, 100.0)
    return times_of_snr(scheduler, np.exp(np.linspace(math.log(low), math.log(high), n + 1)))


def _karras(n, scheduler):
    return times_of_snr(scheduler, karras_snr(n, scheduler))


def _cosine(n, scheduler):
    low, high = (math.atan(end.snr) for end in levels(scheduler, [0.0, 1.0]))
    return times_of_snr(scheduler, np.tan(np.linspace(low, high, n + 1)))


_KINDS = {"uniform": _uniform, "quadratic": _quadratic, "log_snr": _log_snr, "karras": _karras, "cosine": _cosine}
NEED_NO_SCHEDULER = ("uniform", "quadratic")
GRIDS = tuple(_KINDS)
"""The names of the grids."""


def time_grid(grid, num_steps: int, scheduler: Scheduler | None = None) -> np.ndarray:
    """The times between which a solver steps: float64 [num_steps + 1], increasing from exactly 0 to exactly 1.

    Args:
        grid: the times themselves, or a name (i = 0..n, n = num_steps):

            - "uniform": t_i = i / n.
            - "quadratic": t_i = 1 - (1 - i/n)^2, dense at the data, which is what DDIM's and DPM-Solver's code mean by
              the word (their time is 1 - t and they square it).
            - "log_snr": log-SNR in equal steps (Lu et al. 2022, arXiv:2206.00927), from snr 1/160 to 100, drawn in
              to the scheduler's own ends.
            - "karras": (sigma_t / alpha_t)^(1/7) in equal steps (Karras et al. 2022, arXiv:2206.00364, eq. 5), from 80 to
              0.002, drawn in to the scheduler's own ends.
            - "cosine": the angle arctan(alpha_t / sigma_t) in equal steps between the scheduler's own ends: the times at
              which equal steps of the cosine path pass the same signal-to-noise ratios.

            The first point is then t = 0 and the last t = 1, whatever the snr there: no solver stops short of the end.
        num_steps: n, at least 1.
        scheduler: needed by "log_snr", "karras" and "cosine".

    Raises:
        ValueError: if the name is none of these, its scheduler is missing, or the times are not as above.

    Examples:
        >>> import bespoke_jax as bj
        >>> time_grid("quadratic", 4).tolist()
        [0.0, 0.4375, 0.75, 0.9375, 1.0]
        >>> time_grid("log_snr", 4, bj.schedulers.CondOT()).round(3).tolist()
        [0.0, 0.066, 0.442, 0.899, 1.0]
    """
    n = check_count("num_steps", num_steps)
    if not isinstance(grid, str):
        return _explicit(grid, n)
    check_choice("grid", grid, GRIDS)
    if grid not in NEED_NO_SCHEDULER:
        check_scheduler(scheduler, f"the grid {grid!r}")
    t = np.asarray(_KINDS[grid](n, scheduler), np.float64)
    t[0], t[-1] = 0.0, 1.0
    if not np.all(np.diff(t) > 0):
        raise ValueError(f"grid: {grid!r} does not increase with num_steps={n} on this scheduler: {t.tolist()}.")
    return t


def _explicit(grid, n: int) -> np.ndarray:
    try:
        t = check_numbers("grid", grid, ("n + 1",))
    except ValueError:
        wanted = f"one of {sorted(GRIDS)} or {n + 1} times for {n} steps, finite numbers"
        raise ValueError(f"grid: wanted {wanted}, got {grid!r:.200}.") from None
    if len(t) != n + 1:
        raise ValueError(f"grid: wanted {n + 1} times for {n} steps, got {len(t)}.")
    if not (t[0] == 0 and t[-1] == 1 and np.all(np.diff(t) > 0)):
        raise ValueError(f"grid: wanted times that increase from exactly 0 to exactly 1, got {t.tolist()}.")
    return t


def karras_snr(
    n: int, scheduler: Scheduler, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> np.ndarray:
    """n + 1 signal-to-noise ratios 1 / sigma, sigma^(1/rho) in equal steps from sigma_max down to sigma_min (EDM, eq. 5).

    Both ends are drawn in to the scheduler's own.
    """
    low, high = _snr_range(scheduler, 1 / sigma_max, 1 / sigma_min)
    return np.linspace(low ** (-1 / rho), high ** (-1 / rho), n + 1) ** -rho


def _snr_range(scheduler, low: float, high: float) -> tuple[float, float]:
    start, end = levels(scheduler, [0.0, 1.0])
    low, high = max(start.snr, low), min(end.snr, high)
    if not low < high:
        raise ValueError(
            f"scheduler: wanted a signal-to-noise ratio that grows, and through ({low}, {high}) at least in part, got one "
            f"from {start.snr} to {end.snr}."
        )
    return low, high
