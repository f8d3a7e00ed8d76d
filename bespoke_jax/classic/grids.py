"""Time grids: the times between which a dedicated solver steps."""

import math

import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_count, check_numbers
from bespoke_jax.classic.levels import check_scheduler, levels, times_of_snr
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import GridLike

__all__ = ["GRIDS", "NEED_NO_SCHEDULER", "karras_snr", "time_grid"]


def _uniform(n: int, scheduler) -> np.ndarray:
    return np.arange(n + 1) / n


def _quadratic(n: int, scheduler) -> np.ndarray:
    return 1.0 - (np.arange(n, -1, -1) / n) ** 2


def _log_snr(n: int, scheduler) -> np.ndarray:
    # The VP scheduler begins at snr 1 / 151, and sampling customarily stops at 95, 1e-3 before its end. Wider limits waste steps
    # near clean data (on the shipped flow, a high of 500 costs 1 to 3 dB at 5 to 8 steps).
    low, high = _snr_range(scheduler, 1 / 160, 100.0)
    return times_of_snr(scheduler, np.exp(np.linspace(math.log(low), math.log(high), n + 1)))


def _karras(n: int, scheduler) -> np.ndarray:
    return times_of_snr(scheduler, karras_snr(n, scheduler))


def _cosine(n: int, scheduler) -> np.ndarray:
    low, high = (math.atan(end.snr) for end in levels(scheduler, [0.0, 1.0]))
    return times_of_snr(scheduler, np.tan(np.linspace(low, high, n + 1)))


_KINDS = {"uniform": _uniform, "quadratic": _quadratic, "log_snr": _log_snr, "karras": _karras, "cosine": _cosine}
NEED_NO_SCHEDULER = ("uniform", "quadratic")
GRIDS = tuple(_KINDS)
"""The names of the grids."""


def time_grid(grid: GridLike, num_steps: int, scheduler: Scheduler | None = None) -> Float[np.ndarray, "n"]:
    """The times between which a solver steps, increasing from exactly 0 to exactly 1.

    Args:
        grid: the times themselves, or a name (i = 0..n, n = num_steps):

            - "uniform": t_i = i / n.
            - "quadratic": t_i = 1 - (1 - i/n)^2, dense at the data; the meaning of the word in the code of DDIM and DPM-Solver,
              which square their time 1 - t.
            - "log_snr": equal steps in log-SNR (Lu et al. 2022, arXiv:2206.00927), from snr 1/160 to 100, limited to the
              scheduler's range.
            - "karras": equal steps in (sigma_t / alpha_t)^(1/7) (Karras et al. 2022, arXiv:2206.00364, eq. 5), from 80 to 0.002,
              limited to the scheduler's range.
            - "cosine": equal steps in the angle arctan(alpha_t / sigma_t) over the scheduler's range: the times at which equal
              steps of the cosine path have the same signal-to-noise ratios.

            The first and last points of a named grid are then set to t = 0 and t = 1, whatever the snr there.
        num_steps: n, at least 1.
        scheduler: required by "log_snr", "karras" and "cosine".

    Returns:
        float64 [num_steps + 1].

    Raises:
        ValueError: for another name, if the scheduler is missing, or if given times do not increase from 0 to 1.

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
        raise ValueError(
            f"grid: wanted increasing times, got {t.tolist()} from {grid!r} with num_steps={n} on this scheduler."
        )
    return t


def _explicit(grid: GridLike, n: int) -> np.ndarray:
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
) -> Float[np.ndarray, "n_plus_1"]:
    """n + 1 signal-to-noise ratios 1 / sigma, with sigma^(1/rho) in equal steps from sigma_max down to sigma_min (EDM, eq. 5).

    Both ends are limited to the scheduler's range.

    Raises:
        ValueError: if the scheduler's range does not overlap.
    """
    low, high = _snr_range(scheduler, 1 / sigma_max, 1 / sigma_min)
    return np.linspace(low ** (-1 / rho), high ** (-1 / rho), n + 1) ** -rho


def _snr_range(scheduler, low: float, high: float) -> tuple[float, float]:
    start, end = levels(scheduler, [0.0, 1.0])
    low, high = max(start.snr, low), min(end.snr, high)
    if not low < high:
        raise ValueError(
            f"scheduler: wanted a signal-to-noise ratio that grows and overlaps ({low}, {high}), got one from {start.snr} to "
            f"{end.snr}."
        )
    return low, high
