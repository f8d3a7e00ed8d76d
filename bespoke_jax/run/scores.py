"""How close a solver's end points are to the true ones: the RMSE of each sample, and summary figures."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax import metrics
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather
from bespoke_jax.flow.states import weighted
from bespoke_jax.types import Array, Number

__all__ = [
    "Score",
    "decibels",
    "distances",
    "distances_and_size",
    "has_tails",
    "score",
    "size",
    "standard_error",
    "table_of_scores",
    "with_error",
]

_APART = 10.0  # dB
_LEAST = 1e-12  # smallest distance, relative to the scale of the truth: below float32's resolution, and above 0 for logarithms


class Score(NamedTuple):
    """How close a solver's end points are to the true ones.

    Attributes:
        name: the solver's name, "solver/grid" for a dedicated solver.
        psnr: the PSNR of `rmse`, in dB; a few bad samples can dominate it.
        mean_psnr: the mean of the samples' PSNRs, in dB.
        rmse: the mean of the samples' RMSEs.
        geometric_mean: the geometric mean of the samples' RMSEs; its PSNR is `mean_psnr`.
        standard_error: the standard error of `rmse`; NaN for a single sample.
        mean_psnr_standard_error: the standard error of `mean_psnr`, in dB; NaN for a single sample.
    """

    name: str
    psnr: float
    mean_psnr: float
    rmse: float
    geometric_mean: float
    standard_error: float
    mean_psnr_standard_error: float = math.nan

    @property
    def psnr_standard_error(self) -> float:
        """The standard error of `psnr`, in dB, to first order in that of `rmse`."""
        return 20 / math.log(10) * self.standard_error / self.rmse if 0 < self.rmse < math.inf else math.nan


def distances(flow: Flow, x: Float[Array, "B *event"], x1: Float[Array, "B *event"]) -> Float[np.ndarray, "B"]:
    """The RMSE of each sample, in the flow's norm; infinite where x is not finite.

    Args:
        flow: the flow of the samples, which may lie on its devices.
        x: the end points of a solver, [B, *event].
        x1: the true ones.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[0.0, 0.0], std=1.0)
        >>> distances(flow, jnp.array([[1.0, 1.0], [jnp.nan, 0.0]]), jnp.zeros((2, 2))).tolist()
        [1.0, inf]
    """
    return distances_and_size(flow, x, x1)[0]


def distances_and_size(
    flow: Flow, x: Float[Array, "B *event"], x1: Float[Array, "B *event"]
) -> tuple[Float[np.ndarray, "B"], float]:
    """`distances`, and the `size` of x1."""
    weights = flow.error_scale(len(x))
    found, scale = (np.asarray(value) for value in gather(flow, _rmse_and_scale(x, x1, weights)))
    least = _LEAST * max(scale, np.finfo(found.dtype).tiny)
    return np.where(np.isfinite(found), np.maximum(found, least), np.inf), float(scale)


def size(flow: Flow, x: Float[Array, "B *event"]) -> float:
    """The RMS of samples x [B, *event] of the flow, over all their numbers, in the flow's norm.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> size(bj.analytic.gaussian(mean=[0.0, 0.0], std=1.0), jnp.full((3, 2), -2.0))
        2.0
    """
    wide = x.astype(promote(x.dtype, jnp.float32))
    return float(np.sqrt(gather(flow, _mean_square(weighted(wide, flow.error_scale(len(x))), x.ndim))))


def score(name: str, distances: Float[Array, "B"], data_range: float) -> Score:
    """The score of a solver.

    Args:
        name: the solver's name.
        distances: the RMSE of each sample, [B]; NaN counts as infinite.
        data_range: peak of the PSNR.

    Examples:
        >>> score("mine", np.array([0.02, 0.0002]), data_range=2.0).mean_psnr
        60.0
        >>> score("mine", np.array([0.02, np.nan]), data_range=2.0).psnr
        -inf
    """
    distances = np.asarray(distances, np.float64)
    distances = np.where(np.isfinite(distances), distances, np.inf)
    rmse = distances.mean()
    psnr, mean_psnr = (float(np.mean(decibels(d, data_range))) for d in (rmse, distances))
    geometric_mean = np.exp(np.log(np.maximum(distances, _LEAST)).mean())
    of_rmse = of_mean_psnr = math.inf
    if np.isfinite(rmse):
        of_rmse = standard_error(distances)
        of_mean_psnr = standard_error(decibels(np.maximum(distances, _LEAST), data_range))
    return Score(name, psnr, mean_psnr, float(rmse), float(geometric_mean), of_rmse, of_mean_psnr)


def has_tails(psnr: float, mean_psnr: float) -> bool:
    """Whether a few samples make up most of the mean RMSE: its PSNR is 10 dB below the mean PSNR. On the shipped flows it is 3.

    Examples:
        >>> has_tails(psnr=31.0, mean_psnr=42.5)
        True
    """
    return mean_psnr - psnr > _APART


def standard_error(values: Float[np.ndarray, "B"]) -> float:
    """The standard error of the mean of independent values; NaN for a single one.

    Examples:
        >>> standard_error(np.array([1.0, 3.0])), standard_error(np.array([1.0]))
        (1.0, nan)
    """
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def decibels(distances: Number | Float[np.ndarray, "..."], data_range: float) -> Any:
    """PSNRs in dB of RMSEs, 20 log10(data_range / d), in float64; infinite for 0. On the host, as `metrics.psnr` is for JAX.

    Examples:
        >>> decibels(np.array([0.02, 0.0]), data_range=2.0).tolist()
        [40.0, inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return 20 * np.log10(data_range / np.asarray(distances, np.float64))


_ONE_DECIMAL = 0.095  # dB; a standard error that rounds to 0.1 or more


def with_error(value: float, standard_error: float, decimals: int | None = None) -> str:
    """A figure in dB and its standard error, to as many decimals as the error bears: one, or two if it is below 0.1 dB.

    An error that is unknown or rounds to 0 is left out.

    Examples:
        >>> with_error(40.1234, 0.618), with_error(40.1234, 0.041), with_error(40.1234, math.nan)
        ('40.1 ± 0.6', '40.12 ± 0.04', '40.1')
    """
    if decimals is None:
        decimals = 2 if standard_error < _ONE_DECIMAL else 1
    error = f"{standard_error:.{decimals}f}"
    shown = f" ± {error}" if math.isfinite(standard_error) and float(error) else ""
    return f"{value:.{decimals}f}{shown}"


def table_of_scores(rows: Sequence[tuple[str, Score]], corner: str = "") -> list[str]:
    """The lines of a table for the terminal: PSNR and mean PSNR with their standard errors, and the mean RMSE, under a head.

    Args:
        rows: what each row is called, and its score.
        corner: what stands above the names.

    Examples:
        >>> print(*table_of_scores([("mine", score("mine", np.array([0.02, 0.01]), 2.0))]), sep="\\n")
                    PSNR   mean PSNR   RMSE
        mine  42.5 ± 2.9  43.0 ± 3.0  0.015
    """
    pairs = [((of.psnr, of.psnr_standard_error), (of.mean_psnr, of.mean_psnr_standard_error)) for _, of in rows]
    known = [error for pair in pairs for _, error in pair if math.isfinite(error)]
    decimals = 2 if known and max(known) < _ONE_DECIMAL else 1
    cells = [[with_error(*figure, decimals) for figure in pair] for pair in pairs]
    lines = [(corner, "PSNR", "mean PSNR", "RMSE")]
    lines += [(name, *pair, f"{of.rmse:.3g}") for (name, of), pair in zip(rows, cells, strict=True)]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return [
        "  ".join([f"{name:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))])
        for name, *row in lines
    ]


_mean_square = jax.jit(metrics.mean_square, static_argnums=1)


@jax.jit
def _rmse_and_scale(x: jax.Array, x1: jax.Array, weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    x, x1 = (weighted(each.astype(promote(each.dtype, jnp.float32)), weights) for each in (x, x1))
    return metrics.rmse(x, x1, x.ndim - 1), jnp.sqrt(metrics.mean_square(x1, x1.ndim))
