"""Grids of sampled images, and of their differences to the exact samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bespoke_jax import metrics
from bespoke_jax.checks import check_positive
from bespoke_jax.plots.plane import check_alike, check_like
from bespoke_jax.plots.style import DIFFERENCES, axes_or_new, figure_or_new, in_style
from bespoke_jax.types import Array

__all__ = ["check_images", "image_errors", "images", "tiled"]

_CELL = 0.8  # inches of an image


def images(rows: Mapping[str, Float[Array, "K H W C"]], axes: Axes | None = None) -> Axes:
    """Images in a grid, a row for each solver.

    Args:
        rows: solver -> images in [-1, 1], [K, H, W, 1] or [K, H, W, 3], where column k is from the same noise.
        axes: to draw on; None for new ones.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, or arrays that are not images of one size.

    Examples:
        >>> axes = images({"truth": np.ones((3, 8, 8, 1)), "rk2": np.zeros((3, 8, 8, 1))})
        >>> [label.get_text() for label in axes.get_yticklabels()]
        ['truth', 'rk2']
    """
    found = check_images("rows", rows)
    with in_style():
        count, height, width = next(iter(found.values())).shape[:3]
        axes = axes_or_new(axes, _margin(found) + _CELL * count, _CELL * height / width * len(found), "compressed")
        _draw(axes, [(np.clip(x, -1, 1) + 1) / 2 for x in found.values()], cmap="gray", vmin=0, vmax=1)
        axes.set_yticks(_middles(len(found), height), list(found))
    return axes


def image_errors(
    rows: Mapping[str, Float[Array, "K H W C"]],
    truth: Float[Array, "K H W C"],
    figure: Figure | None = None,
    *,
    limit: float | None = None,
) -> Figure:
    """Images in a grid, a row for each solver below the exact samples, and beside each its difference to the exact one.

    All differences have one scale: red where the solver is too bright, blue where it is too dark, white where it is exact. Of
    colours, the mean over the channels is shown. Right of a row stands the PSNR of its mean RMSE.

    Args:
        rows: solver -> images in [-1, 1], [K, H, W, 1] or [K, H, W, 3].
        truth: the exact samples from the same noises, [K, H, W, 1 or 3].
        figure: to draw on; None for a new one.
        limit: the difference of the darkest colours; None for the largest but for one pixel in a hundred.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, or arrays that are not images of one size.

    Examples:
        >>> figure = image_errors({"rk2": np.full((2, 8, 8, 1), 0.5)}, np.full((2, 8, 8, 1), 0.3))
        >>> figure.axes[1].get_yticklabels()[0].get_text()
        '20.0 dB'
    """
    found = check_images("rows", rows)
    true = check_like("truth", truth, next(iter(found.values())))
    differences = [(x - true).mean(axis=-1, keepdims=True) for x in found.values()]
    sizes = np.abs(differences)
    if limit is not None:
        check_positive("limit", limit)
    else:
        limit = float(np.percentile(sizes[np.isfinite(sizes)], 99)) if np.isfinite(sizes).any() else 0.0
        limit = limit or 1.0  # no solver errs
    errors = (np.sqrt(np.square(x - true).mean(axis=(1, 2, 3))).mean() for x in found.values())
    with in_style():
        count, height, width = true.shape[:3]
        num_rows = len(found) + 1
        size = _margin(found) + 1.7 + 2 * _CELL * count, max(_CELL * height / width * num_rows, 1.6)
        figure = figure_or_new(figure, *size, "compressed")
        left, right = figure.subplots(1, 2)
        images({"truth": true} | found, left)
        blank = np.full_like(differences[0], np.nan)
        shown = _draw(right, [blank, *differences], cmap=DIFFERENCES, vmin=-limit, vmax=limit)
        notes = [f"{float(metrics.psnr(error)):.1f} dB" for error in errors]
        right.set_yticks(_middles(num_rows, height)[1:], notes)
        right.yaxis.tick_right()
        right.set_title("solver less truth", y=1 - 0.6 / num_rows, va="center")
        figure.colorbar(shown, ax=right, shrink=0.8, pad=0.02, extend="both")
    return figure


def check_images(name: str, value: Any) -> dict[str, np.ndarray]:
    """`value` as arrays, if it holds images of one size and number: name -> [K, H, W, 1 or 3].

    Raises:
        TypeError, ValueError: otherwise.

    Examples:
        >>> check_images("rows", {"rk2": np.zeros((2, 8, 8))})
        Traceback (most recent call last):
        ValueError: rows['rk2']: wanted images [K, H, W, 1] or [K, H, W, 3], got shape (2, 8, 8).
    """
    found = check_alike(name, value, 1, least=1)
    first = next(iter(found.values()))
    for key, x in found.items():
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(f"{name}[{key!r}]: wanted images [K, H, W, 1] or [K, H, W, 3], got shape {x.shape}.")
        if len(x) != len(first):
            raise ValueError(f"{name}[{key!r}]: wanted {len(first)} images as in the other rows, got {len(x)}.")
    return {key: x.astype(np.float64) for key, x in found.items()}


def tiled(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of images, each [K, H, W, C], as one image: [R H + gaps, K W + gaps], and an axis of colours if there are three.

    Gaps are NaN, or white where there are three colours.
    """
    count, height, width, colours = rows[0].shape
    gap = _gap(height)
    whole = np.full((len(rows), height + gap, count, width + gap, colours), np.nan if colours == 1 else 1.0)
    whole[:, :height, :, :width] = np.stack(rows).transpose(0, 2, 1, 3, 4)
    whole = whole.reshape(len(rows) * (height + gap), count * (width + gap), colours)[:-gap, :-gap]
    return whole[..., 0] if colours == 1 else whole


def _margin(rows: Mapping[str, Any]) -> float:
    """Inches for the names of the rows."""
    return 0.2 + 0.08 * max(len(name) for name in rows)


def _gap(height: int) -> int:
    return max(1, height // 16)


def _middles(num_rows: int, height: int) -> list[float]:
    """Where the middle of each row is, in pixels."""
    return [row * (height + _gap(height)) + (height - 1) / 2 for row in range(num_rows)]


def _draw(axes: Axes, rows: list[np.ndarray], **options: Any) -> Any:
    shown = axes.imshow(tiled(rows), **options)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    return shown
