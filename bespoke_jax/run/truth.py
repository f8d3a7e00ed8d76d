"""The accuracy of true paths, which bounds how well a solver can be measured against them, or learned from them."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bespoke_jax.flow.flow import Flow
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import finer_ends
from bespoke_jax.run.paths import Paths
from bespoke_jax.run.scores import distances_and_size, score, size
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, Number
from bespoke_jax.warn import warn

__all__ = ["NUM_CHECKED", "Truth", "truth_of", "warn_of_other_paths", "warn_of_truth", "warn_of_useless"]

NUM_CHECKED = 16
"""The number of paths that are solved again to measure their accuracy."""

# Errors relative to the samples' RMS:
_OTHER_PATHS = 0.03  # more than any sensible tolerance leaves: the paths are another flow's
_ROUNDING = 3e-6  # as small as float32 allows
_ENOUGH = 6.0  # dB; a solver's error this close to the paths' own is theirs as much as the solver's
# A solver whose RMSE is this share of the samples' spread is hardly better than the mean sample, whose share is 1. On the shipped
# flows Euler's method with 4 calls has 0.45 to 1, and 14 to 21 dB. Samples of hardly any spread have a high PSNR.
_USELESS = 0.7
_USELESS_PSNR = 20.0  # dB


class Truth(NamedTuple):
    """The accuracy of true paths: the error of their ends against more accurate ones.

    Attributes:
        psnr: the PSNR of the mean RMSE, in dB; NaN if it could not be measured.
        mean_psnr: the mean of the samples' PSNRs, in dB.
        share: the mean RMSE relative to the samples' RMS.
    """

    psnr: float
    mean_psnr: float
    share: float


def truth_of(
    paths: Paths,
    flow: Flow,
    rtol: Number = 1e-5,
    atol: Number | None = None,
    *,
    better: SolverTable | None = None,
    batch_size: int = NUM_CHECKED,
    data_range: float = 2.0,
) -> tuple[Truth, int]:
    """The accuracy of paths: a few of them are solved again more accurately, and their ends compared.

    Args:
        paths: the paths.
        flow: their flow.
        rtol, atol: the tolerance that they were solved to. They are solved again to a tenth of it.
        better: a solver to use instead.
        batch_size: how many paths to solve again.
        data_range: peak of the PSNR.

    Returns:
        (their accuracy, velocity evaluations spent). The accuracy is NaN if Dopri5 cannot solve them, as paths that were made in
        another way may be too stiff for it.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> coarse = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)), rtol=1e-3)
        >>> 40 < truth_of(coarse, flow, rtol=1e-3)[0].mean_psnr < 90
        True
    """
    some, x0, x1 = next(paths.chunks(flow, batch_size))
    if better is not None:
        ends, spent = adjoint.end_points(some, better, x0, batch_size), len(x0) * better.nfe
    else:
        try:
            ends, spent = finer_ends(some, x0, rtol, atol)
        except (FloatingPointError, RuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError):  # such as a lack of memory
                raise
            return Truth(math.nan, math.nan, math.nan), 0
    apart, scale = distances_and_size(some, x1, ends)
    worth = score("true paths", apart, data_range)
    # Not the score's RMSE, which is in float64: its last digits are not those of the shares reported so far.
    share = float(np.mean(apart)) / max(scale, float(np.finfo(np.float32).tiny))
    return Truth(worth.psnr, worth.mean_psnr, share), spent


def warn_of_truth(name: str, psnr: float, worth: float, truth: Truth) -> None:
    """Warn if a solver's PSNR is within 6 dB of the true paths' own, or if that is unknown.

    There is no warning for paths as accurate as float32 allows, which no tolerance would improve.

    Args:
        name: the function that measured the solver, with which the warning begins.
        psnr, worth: the solver's figure, and the same figure of the true paths, in dB.
        truth: the accuracy of the true paths.
    """
    if math.isnan(worth):
        warn(
            f"{name}: the accuracy of the true paths could not be measured, because Dopri5 cannot solve them to a tenth of rtol."
        )
    if psnr > worth - _ENOUGH and truth.share > _ROUNDING:
        warn(
            f"{name}: the solver is {psnr:.1f} dB from the true paths, which are {worth:.1f} dB from better ones themselves. The "
            "figure measures these paths as much as the solver: ask for a smaller rtol (under `frugal`, a larger budget), or "
            "give better paths."
        )


def warn_of_other_paths(name: str, truth: Truth) -> None:
    """Warn if given paths end far from where this flow takes their noises."""
    if truth.share > _OTHER_PATHS:
        warn(
            f"{name}: wanted paths of this flow, but they end {100 * truth.share:.2g} % of the samples' size from where it takes "
            "their noises. Do they belong to another flow, to other conditions or another guidance scale?"
        )


def warn_of_useless(name: str, flow: Flow, x1: Float[Array, "B *event"], rmse: float, psnr: float) -> None:
    """Warn if a solver is hardly better than to answer every noise with the mean of the samples.

    Args:
        name: the function that measured the solver, with which the warning begins.
        flow: the flow of these samples.
        x1: true ends, [B, *event].
        rmse, psnr: the solver's mean RMSE, and the better of its two figures in dB.
    """
    if len(x1) < 2 or not -math.inf < psnr < _USELESS_PSNR:
        return
    spread = size(flow, x1 - x1.mean(axis=0))
    if rmse > _USELESS * spread:
        warn(
            f"{name}: the solver's RMSE is {rmse:.2g}, and that of the mean sample in place of every sample {spread:.2g}: the "
            "solver is of no use. Give it more evaluations. If 20 do not help, does the time of the velocity run from noise at 0 "
            "to data at 1, with the sign of dx/dt? Under Flow.from_prediction, are `prediction` and `time` those of the network?"
        )
