"""What true paths are worth: no solver can be measured, or learned, better than the truth it is held against."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.flow.flow import Flow
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import finer_ends
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.scores import distances, score, size
from bespoke_jax.table import SolverTable
from bespoke_jax.warn import warn

__all__ = ["NUM_CHECKED", "Truth", "truth_of", "warn_of_other_paths", "warn_of_truth"]

NUM_CHECKED = 16
"""Paths that are solved again."""

_OTHER_PATHS = 0.03  # of the samples' size: no tolerance, but another flow's paths
_ROUNDING = 3e-6  # of the samples' size: paths as good as float32 has them
_ENOUGH = 6.0  # dB from the truth, within which an error is the truth's as much as the solver's


class Truth(NamedTuple):
    """What true paths are worth, against better ones.

    Attributes:
        psnr: in dB, of the mean RMSE; NaN where nobody knows.
        mean_psnr: the mean of the samples' own.
        share: the mean RMSE, as a share of the samples' size (their RMS).
    """

    psnr: float
    mean_psnr: float
    share: float


def truth_of(
    paths: Paths,
    flow: Flow,
    rtol: float = 1e-5,
    atol: float | None = None,
    *,
    better: SolverTable | None = None,
    batch_size: int = NUM_CHECKED,
    data_range: float = 2.0,
) -> tuple[Truth, int]:
    """(what these paths are worth, velocity evaluations spent): a few of them solved again, better, and their ends compared.

    NaN if that cannot be done: from the noises of paths that were made in another way the field may be too stiff for Dopri5.

    Args:
        paths: the paths.
        flow: whose they are.
        rtol, atol: the tolerance they were solved to; a tenth of it is asked for here.
        better: a solver to take instead of that.
        batch_size: how many paths to solve again.
        data_range: peak of the PSNR.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> coarse = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)), rtol=1e-3)
        >>> 40 < truth_of(coarse, flow, rtol=1e-3)[0].mean_psnr < 90
        True
    """
    few = paths.take(jnp.arange(min(paths.num_paths, batch_size)))
    some, x0, x1 = samples(flow, few)
    if better is not None:
        ends, spent = adjoint.end_points(some, better, x0, batch_size), few.num_paths * better.nfe
    else:
        try:
            ends, spent = finer_ends(some, x0, rtol, atol)
        except (FloatingPointError, RuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError):  # no memory, say
                raise
            return Truth(math.nan, math.nan, math.nan), 0
    worth = score("true paths", distances(some, x1, ends), data_range)
    share = worth.rmse / max(size(some, ends), float(np.finfo(np.float32).tiny))
    return Truth(worth.psnr, worth.mean_psnr, share), spent


def warn_of_truth(name: str, psnr: float, worth: float, truth: Truth) -> None:
    """Warn if a solver's PSNR is within 6 dB of what the truth is worth, or if nobody knows that.

    Paths that are as good as float32 allows are not warned of: no tolerance would make them better.
    """
    if math.isnan(worth):
        warn(
            f"{name}: what the true paths are worth could not be found out, since Dopri5 cannot solve them at a tenth of rtol."
        )
    if psnr > worth - _ENOUGH and truth.share > _ROUNDING:
        warn(
            f"{name}: the solver is {psnr:.1f} dB from the true paths, which are {worth:.1f} dB from better ones themselves: the "
            "figure says as much of them as of the solver. Ask for a smaller rtol, or give better paths."
        )


def warn_of_other_paths(name: str, truth: Truth) -> None:
    """Warn if paths that were given end far from where this flow takes their noises."""
    if truth.share > _OTHER_PATHS:
        warn(
            f"{name}: they end {100 * truth.share:.2g} % of the samples' size from where this flow takes their noises. Are they "
            "another flow's, of other conditions or another guidance scale?"
        )
