"""What others publish: step times found by search or theory, and the tables of differentiable solver search."""

import functools
import importlib.resources
import json

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_numbers
from bespoke_jax.classic.levels import check_scheduler, times_of_snr
from bespoke_jax.classic.unroll import Unrolling
from bespoke_jax.schedulers import Scheduler, ddpm_levels
from bespoke_jax.table import SolverTable

__all__ = ["SEARCHED", "multistep", "sigmas_of_steps", "solver_search", "times_of_sigmas"]


def times_of_sigmas(sigmas, scheduler: Scheduler, num_steps: int | None = None) -> np.ndarray:
    """A published list of noise levels as the `grid` of any dedicated solver: float64 [n + 1] from exactly 0 to exactly 1.

    Such are the lists of Align Your Steps (Sabour et al. 2024, arXiv:2404.14507). A level means the same under every scheduler:
    a list that was found with one serves a flow with another.

    Args:
        sigmas: noise levels sigma / alpha, decreasing; a last one of 0 may be there or not.
        scheduler: the flow's.
        num_steps: n, if not that of the list: the logarithms are interpolated, as the authors of Align Your Steps advise.

    Raises:
        ValueError: if these are no decreasing levels, or two of them are the same time of this scheduler (beyond its ends).

    Examples:
        >>> import bespoke_jax as bj
        >>> times = times_of_sigmas([14.6, 2.7, 1.0, 0.4], bj.schedulers.CondOT())  # t = 1 / (1 + sigma), but for the first
        >>> times.round(3).tolist()
        [0.0, 0.27, 0.5, 0.714, 1.0]
        >>> bj.classic.dpm_solver_pp(4, bj.schedulers.CondOT(), order=2, grid=times).nfe
        4
    """
    check_scheduler(scheduler, "times_of_sigmas")
    sigmas = check_numbers("sigmas", sigmas, ("n",))
    sigmas = sigmas[:-1] if sigmas[-1] == 0 else sigmas
    if len(sigmas) < 1 or not np.all(sigmas > 0) or not np.all(np.diff(sigmas) < 0):
        raise ValueError(f"sigmas: wanted decreasing levels > 0, and perhaps a last 0, got {sigmas.tolist()}.")
    if num_steps is not None:
        places = np.linspace(0, len(sigmas) - 1, check_count("num_steps", num_steps))
        sigmas = np.exp(np.interp(places, np.arange(len(sigmas)), np.log(sigmas)))
    times = np.append(times_of_snr(scheduler, 1 / sigmas), 1.0)
    times[0] = 0.0
    if not np.all(np.diff(times) > 0):
        raise ValueError(
            f"sigmas: {sigmas.tolist()} are the times {times.tolist()} of this scheduler, which must increase."
        )
    return times


def sigmas_of_steps(steps, betas) -> np.ndarray:
    """Noise levels of a list of training steps, for `times_of_sigmas`: float64 [n].

    Args:
        steps: steps of 0..N-1, fractions allowed, decreasing: [999, 850, ...].
        betas: [N] the variances added by the training steps: of DDPM `np.linspace(1e-4, 0.02, 1000)`, of Stable Diffusion
            `np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2`.

    Raises:
        ValueError: if a step is not one of 0..N-1, or a variance not within (0, 1).

    Examples:
        >>> betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        >>> sigmas_of_steps([999, 850, 736], betas).round(3).tolist()  # of Align Your Steps
        [14.615, 6.475, 3.864]
    """
    steps, levels = check_numbers("steps", steps, ("n",)), ddpm_levels(betas)
    if np.any(steps < 0) or np.any(steps > len(levels) - 1):
        raise ValueError(f"steps: wanted steps from 0 to {len(levels) - 1}, got {steps.tolist()}.")
    return np.exp(np.interp(steps, np.arange(len(levels)), np.log(levels)))


def multistep(intervals, coefficients, dtype=jnp.float32) -> SolverTable:
    """A multistep solver on the velocity, as differentiable solver search writes it (Wang et al. 2025, arXiv:2505.21114).

    Step i goes on by d_i from t_i = d_0 + ... + d_{i-1}:  x_{i+1} = x_i + d_i (sum_j c_ij u_j + (1 - sum_j c_ij) u_i), j < i.

    Args:
        intervals: d, [m], positive, of sum 1 within 1e-3 (they are published with four digits; used as they are).
        coefficients: c, [m, m], used below the diagonal.
        dtype: of the table.

    Raises:
        ValueError: for other shapes, numbers that are not finite, or intervals that are none of [0, 1].

    Examples:
        >>> multistep([0.5, 0.5], [[0, 0], [-0.5, 0]]).b.tolist()  # Adams-Bashforth
        [[0.5, 0.0], [0.25, 0.75]]
    """
    d = check_numbers("intervals", intervals, ("m",))
    c = check_numbers("coefficients", coefficients, (len(d), len(d)))
    if not np.all(d > 0) or abs(d.sum() - 1) > 1e-3 or d[:-1].sum() > 1:
        raise ValueError(f"intervals: wanted positive numbers of sum 1, got {d.tolist()} of sum {d.sum():.4f}.")
    run = Unrolling(len(d))
    x, velocities = run.x0, []
    for i, start in enumerate(np.cumsum(d) - d):
        velocities.append(run.velocity(start, x))
        weights = np.append(c[i, :i], 1 - c[i, :i].sum())
        x = x + d[i] * (weights @ np.stack(velocities))
    return run.table(x, dtype)


SEARCHED = (5, 6, 7, 8, 9, 10, 15)
"""The numbers of evaluations of `solver_search`."""


def solver_search(nfe: int, dtype=jnp.float32) -> SolverTable:
    """A solver that Wang et al. (2025, arXiv:2505.21114) found for CondOT flows, by search on a guided flow of 256 x 256 images.

    The numbers are `FM_DATA` in github.com/MCG-NJU/NeuralSolver (MIT licence).

    Args:
        nfe: one of `SEARCHED`.
        dtype: of the table.

    Raises:
        ValueError: for another number.

    Examples:
        >>> [round(float(t), 4) for t in solver_search(5).t]
        [0.0, 0.0521, 0.1996, 0.411, 0.6907]
    """
    if check_count("nfe", nfe) not in SEARCHED:
        raise ValueError(f"nfe: wanted one of {list(SEARCHED)}, got {nfe}.")
    found = _searched()[str(nfe)]
    c = np.zeros((nfe, nfe))
    for i, row in enumerate(found["coefficients"], 1):
        c[i, :i] = row
    return multistep(found["intervals"], c, dtype)


@functools.cache
def _searched() -> dict:
    return json.loads(importlib.resources.files(__package__).joinpath("solver_search.json").read_text())
