"""Published solvers: step times found by search or theory, and the tables of differentiable solver search."""

import functools
import importlib.resources
import json

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_numbers
from bespoke_jax.classic.levels import check_scheduler, times_of_snr
from bespoke_jax.classic.unroll import Unrolling
from bespoke_jax.schedulers import Scheduler, ddpm_levels
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, Numbers

__all__ = ["SEARCHED", "multistep", "sigmas_of_steps", "solver_search", "times_of_sigmas"]


def times_of_sigmas(
    sigmas: Numbers, scheduler: Scheduler, num_steps: int | None = None
) -> Float[np.ndarray, "n_plus_1"]:
    """A published list of noise levels, such as those of Align Your Steps (Sabour et al. 2024, arXiv:2404.14507), as a time grid.

    A level has the same meaning under every scheduler: a list found with one scheduler serves flows with another.

    Args:
        sigmas: noise levels sigma / alpha, [n], decreasing; a final 0 may be present or not.
        scheduler: the flow's.
        num_steps: n, if it differs from the list's: logarithms are interpolated, as the authors of Align Your Steps advise.

    Returns:
        float64 [n + 1], increasing from exactly 0 to exactly 1: the `grid` of any dedicated solver.

    Raises:
        ValueError: if the levels do not decrease, or this scheduler has the same time for two of them (beyond its ends).

    Examples:
        >>> import bespoke_jax as bj
        >>> times = times_of_sigmas([14.6, 2.7, 1.0, 0.4], bj.schedulers.CondOT())  # t = 1 / (1 + sigma), but for the first
        >>> times.round(3).tolist()
        [0.0, 0.27, 0.5, 0.714, 1.0]
        >>> bj.classic.dpm_solver_pp(4, bj.schedulers.CondOT(), order=2, grid=times).nfe
        4
    """
    check_scheduler(scheduler, "times_of_sigmas")
    noise = check_numbers("sigmas", sigmas, ("n",))
    noise = noise[:-1] if noise[-1] == 0 else noise
    if len(noise) < 1 or not np.all(noise > 0) or not np.all(np.diff(noise) < 0):
        raise ValueError(f"sigmas: wanted decreasing levels > 0, and perhaps a final 0, got {noise.tolist()}.")
    if num_steps is not None:
        places = np.linspace(0, len(noise) - 1, check_count("num_steps", num_steps))
        noise = np.exp(np.interp(places, np.arange(len(noise)), np.log(noise)))
    times = np.append(times_of_snr(scheduler, 1 / noise), 1.0)
    times[0] = 0.0
    if not np.all(np.diff(times) > 0):
        raise ValueError(
            f"sigmas: wanted levels with increasing times under this scheduler, got {noise.tolist()} with the times "
            f"{times.tolist()}."
        )
    return times


def sigmas_of_steps(steps: Numbers, betas: Numbers) -> Float[np.ndarray, "n"]:
    """Noise levels of a list of training steps, for `times_of_sigmas`.

    Args:
        steps: [n] steps from 0 to N - 1, fractions allowed, decreasing: [999, 850, ...].
        betas: [N] the variances added by the training steps: `np.linspace(1e-4, 0.02, 1000)` for DDPM,
            `np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2` for Stable Diffusion.

    Returns:
        float64 [n].

    Raises:
        ValueError: if a step is not within 0..N-1, or a variance not within (0, 1).

    Examples:
        >>> betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        >>> sigmas_of_steps([999, 850, 736], betas).round(3).tolist()  # of Align Your Steps
        [14.615, 6.475, 3.864]
    """
    places, levels = check_numbers("steps", steps, ("n",)), ddpm_levels(betas)
    if np.any(places < 0) or np.any(places > len(levels) - 1):
        raise ValueError(f"steps: wanted steps from 0 to {len(levels) - 1}, got {places.tolist()}.")
    return np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))


def multistep(intervals: Numbers, coefficients: Numbers, dtype: DTypeLike = jnp.float32) -> SolverTable:
    """A multistep solver on the velocity in the form of differentiable solver search (Wang et al. 2025, arXiv:2505.21114).

    Step i goes from t_i = d_0 + ... + d_{i-1} to t_i + d_i:  x_{i+1} = x_i + d_i (sum_j c_ij u_j + (1 - sum_j c_ij) u_i), j < i.

    Args:
        intervals: d, [m], positive, of sum 1 within 1e-3 (published values have four digits; they are not normalised).
        coefficients: c, [m, m], of which the part below the diagonal is used.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for other shapes, numbers that are not finite, or intervals that do not divide [0, 1].

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
"""The numbers of evaluations for which `solver_search` has a solver."""


def solver_search(nfe: int, dtype: DTypeLike = jnp.float32) -> SolverTable:
    """A solver for CondOT flows that Wang et al. (2025, arXiv:2505.21114) found by search on a guided flow of 256 x 256 images.

    The numbers are `FM_DATA` in github.com/MCG-NJU/NeuralSolver (MIT licence).

    Args:
        nfe: one of `SEARCHED`.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
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
def _searched() -> dict[str, dict]:
    return json.loads(importlib.resources.files("bespoke_jax.classic").joinpath("solver_search.json").read_text())
