"""How near a solver ends to the truth: the RMSE of each sample, and the figures made of them."""

from typing import NamedTuple

import jax
import numpy as np

from bespoke_jax import metrics
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather

__all__ = ["Score", "distances", "score", "size"]

_LEAST = 1e-12  # of the scale of the truth: no distance in float32 is less, and 0 has no logarithm


class Score(NamedTuple):
    """How near a solver ends to the truth.

    Attributes:
        name: of the solver, "solver/grid" for a dedicated one.
        psnr: of `rmse`, in dB; a few bad samples can dominate it.
        mean_psnr: the mean of the samples' own PSNR, in dB.
        rmse: the mean of the samples' RMSE.
        geometric_mean: that of the samples' RMSE; its PSNR is `mean_psnr`.
        standard_error: of `rmse`.
    """

    name: str
    psnr: float
    mean_psnr: float
    rmse: float
    geometric_mean: float
    standard_error: float


def distances(flow: Flow, x, x1) -> np.ndarray:
    """The RMSE of each sample x [B, *event] of the flow from the truth x1, [B]; infinite where x is not finite.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[0.0, 0.0], std=1.0)
        >>> distances(flow, jnp.array([[1.0, 1.0], [jnp.nan, 0.0]]), jnp.zeros((2, 2))).tolist()
        [1.0, inf]
    """
    found, scale = (np.asarray(value) for value in gather(flow, _rmse_and_scale(x, x1)))
    found = found if found.dtype in (np.float32, np.float64) else found.astype(np.float32)
    return np.where(np.isfinite(found), np.maximum(found, _LEAST * max(scale, np.finfo(found.dtype).tiny)), np.inf)


def size(flow: Flow, x) -> float:
    """The RMS of samples x [B, *event] of the flow, over all their numbers.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> size(bj.analytic.gaussian(mean=[0.0, 0.0], std=1.0), jnp.full((3, 2), -2.0))
        2.0
    """
    return float(np.sqrt(gather(flow, metrics.mean_square(x, x.ndim))))


def score(name: str, distances, data_range: float) -> Score:
    """The score of a solver from the RMSE of each of its samples, [B]. One that is not finite counts as infinite.

    Examples:
        >>> score("mine", np.array([0.02, 0.0002]), data_range=2.0).mean_psnr
        60.0
        >>> score("mine", np.array([0.02, np.nan]), data_range=2.0).psnr
        -inf
    """
    distances = np.asarray(distances, np.float64)
    distances = np.where(np.isfinite(distances), distances, np.inf)
    rmse = distances.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        psnr, mean_psnr = (float(np.mean(20 * np.log10(data_range / d))) for d in (rmse, distances))
    geometric_mean = np.exp(np.log(np.maximum(distances, _LEAST)).mean())
    spread = distances.std() if np.isfinite(rmse) else np.inf
    return Score(name, psnr, mean_psnr, float(rmse), float(geometric_mean), float(spread / len(distances) ** 0.5))


@jax.jit
def _rmse_and_scale(x, x1):
    return metrics.rmse(x, x1, x.ndim - 1), jax.numpy.sqrt(metrics.mean_square(x1, x1.ndim))
