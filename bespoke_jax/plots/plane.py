"""Paths and samples in a plane: the first two principal components, or the flow's own plane if it has two dimensions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bespoke_jax.checks import check_numeric
from bespoke_jax.plots.style import POINTS, axes_or_new, check_names, figure_or_new, in_style, looks_of
from bespoke_jax.types import Array

__all__ = ["check_alike", "check_like", "in_plane", "labels", "limits", "paths", "points", "principal_plane"]

_PANELS_IN_A_ROW = 4
_PANEL = 2.9  # inches


def paths(states: Mapping[str, Float[Array, "_ B *event"]], axes: Axes | None = None) -> Axes:
    """Sampling paths in a plane: a line for each solver and sample, with a mark at each state.

    For events of two numbers it is their plane, for larger ones that of the first two principal components of all states.

    Args:
        states: solver -> states of the same B samples, [points, B, *event], as `solve(..., return_path=True)` and `Paths.at`
            return them; "truth" is drawn in black and without marks.
        axes: to draw on; None for new ones.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, events that differ, or events of one number.

    Examples:
        >>> import jax, jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> x0 = flow.noise(jax.random.key(0), (3,))
        >>> true = bj.ground_truth(flow, x0).at(jnp.linspace(0, 1, 33))
        >>> euler = bj.solve(flow, bj.classic.euler(4), x0, return_path=True)
        >>> [len(line.get_xdata()) for line in paths({"truth": true, "euler": euler}).lines]
        [33, 33, 33, 5, 5, 5]
    """
    states = check_alike("states", states, 2)
    flat = in_plane(2, *states.values())
    event_shape = next(iter(states.values())).shape[2:]
    with in_style():
        axes = axes_or_new(axes, 4.6, 4.2)
        for look, (name, lines) in zip(looks_of(states).values(), zip(states, flat, strict=True), strict=True):
            options: dict[str, Any] = dict(markersize=4) | look
            for i, line in enumerate(np.moveaxis(lines, 1, 0)):
                axes.plot(*line.T, label=name if i == 0 else None, **options)
        first = flat[0]
        if first.shape[1] == 1:
            _note(axes, first[:, 0], np.concatenate([x.reshape(-1, 2) for x in flat])[:, 1])
        else:
            axes.scatter(*first[0].T, s=60, facecolors="none", edgecolors="black", linewidths=0.8, label="noise")
        axes.set(**labels(event_shape))
        axes.margins(0.15)
        if math.prod(event_shape) == 2:
            axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=8)
    return axes


def _note(axes: Axes, path: Float[np.ndarray, "points 2"], heights: Float[np.ndarray, "M"]) -> None:
    """Write at the ends of a path what they are: above it in the upper half of the picture, below it in the lower one.

    Args:
        axes: to write on.
        path: from noise to data.
        heights: second coordinates of all points in the picture.
    """
    heights = np.nan_to_num(heights)
    middle = (heights.min() + heights.max()) / 2
    for text, end in (("noise", path[0]), ("data", path[-1])):
        place: dict[str, Any] = dict(xytext=(0, 8), va="bottom") if end[1] > middle else dict(xytext=(0, -8), va="top")
        axes.annotate(text, end, textcoords="offset points", ha="center", fontsize=8, color="0.3", **place)


def points(
    ends: Mapping[str, Float[Array, "N *event"]],
    truth: Float[Array, "N *event"],
    figure: Figure | None = None,
) -> Figure:
    """Samples as points, a panel for each solver, over the true ends in grey.

    Events of two numbers are drawn in their plane, larger ones in that of their first two principal components. Of events of one
    number, the true end from the same noise is drawn across and the solver's up; a sample without error lies on the diagonal.

    Args:
        ends: solver -> samples, [N, *event].
        truth: true ends, [N, *event].
        figure: to draw on; None for a new one.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, or events that differ.

    Examples:
        >>> figure = points({"euler": np.array([[1.0, 2.0]])}, np.array([[1.1, 2.0]]))
        >>> figure.axes[0].collections[1].get_offsets().tolist()
        [[1.0, 2.0]]
    """
    found = check_alike("ends", ends, 1, least=1)
    true = check_like("truth", truth, next(iter(found.values())))
    if math.prod(true.shape[1:]) > 1:
        plane = in_plane(1, true, *found.values())
    else:
        plane = [np.stack([true.ravel(), x.ravel()], axis=1) for x in (true, *found.values())]
    with in_style():
        columns = min(len(found), _PANELS_IN_A_ROW)
        rows = -(-len(found) // columns)
        xlim, ylim = limits(*plane)
        height = _PANEL * (ylim[1] - ylim[0]) / (xlim[1] - xlim[0]) + 0.4
        figure = figure_or_new(figure, _PANEL * columns, min(height, 2 * _PANEL) * rows + 0.3, "compressed")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, name, each in zip(panels, found, plane[1:], strict=False):
            axes.scatter(*plane[0].T, s=6, color="0.72", linewidths=0, label="exact")
            axes.scatter(*each.T, s=6, color=POINTS, linewidths=0, alpha=0.7, label="solver")
            axes.set(title=name, aspect="equal", xlim=xlim, ylim=ylim)
        panels[0].legend(loc="upper right", fontsize=7, markerscale=1.5)
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        names = labels(true.shape[1:])
        figure.supxlabel(names["xlabel"], fontsize=9)
        figure.supylabel(names["ylabel"], fontsize=9)
    return figure


def principal_plane(
    points: Float[Array, "M *event"], *others: Float[Array, "_ *event"]
) -> list[Float[np.ndarray, "_ 2"]]:
    """Points projected to the plane of the first two principal components of all of them.

    Every array has the same weight, however many points it has. The signs are such that each component's largest factor is
    positive.

    Args:
        points: [M, *event].
        others: further arrays of such points.

    Returns:
        For each array its points in the plane, [M, 2].

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, events that differ, or events of one number.

    Examples:
        >>> principal_plane(np.array([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]]))[0].round(6).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    named = {"points": points} | {str(i): x for i, x in enumerate(others)}
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in check_alike("points", named, 1).values()]
    known = [x[np.isfinite(x).all(axis=1)] for x in flat]  # a solver that diverged has no say
    known = [x for x in known if len(x)]
    if not known:
        raise ValueError("points: wanted at least one whose numbers are finite, got none.")
    mean = np.mean([x.mean(axis=0) for x in known], axis=0)
    spread = np.concatenate([(x - mean) / len(x) ** 0.5 for x in known])
    plane = np.linalg.svd(spread, full_matrices=False)[2][:2]
    if len(plane) < 2:  # a single point spans no plane
        plane = np.concatenate([plane, np.zeros_like(plane)])
    largest = np.take_along_axis(plane, np.abs(plane).argmax(axis=1)[:, None], axis=1)
    plane = plane * np.where(largest < 0, -1.0, 1.0)
    return [np.where(np.isfinite(x), x - mean, np.nan) @ plane.T for x in flat]


def in_plane(batch_ndim: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays [*batch, *event] in a plane, [*batch, 2]: the events' own if they have two numbers, else the principal one."""
    batches = [x.shape[:batch_ndim] for x in arrays]
    flat = [x.reshape(math.prod(batch), -1) for x, batch in zip(arrays, batches, strict=True)]
    flat = flat if flat[0].shape[1] == 2 else principal_plane(*flat)
    return [np.where(np.isfinite(x), x, np.nan).reshape(*batch, 2) for x, batch in zip(flat, batches, strict=True)]


def limits(*points: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """(xlim, ylim) around points [*batch, 2], with a margin; neither is much longer than the other."""
    everything = np.concatenate([x.reshape(-1, 2) for x in points])
    everything = everything[np.isfinite(everything).all(axis=1)]
    low, high = (everything.min(axis=0), everything.max(axis=0)) if len(everything) else (np.zeros(2), np.ones(2))
    length = high - low
    length = 1.12 * np.maximum(length, length.max() / 3 or 1.0)
    start = (low + high - length) / 2
    xlim, ylim = ((float(a), float(a + b)) for a, b in zip(start, length, strict=True))
    return xlim, ylim


def labels(event_shape: tuple[int, ...]) -> dict[str, str]:
    """What the axes of the plane of these events are called."""
    size = math.prod(event_shape)
    if size == 1:
        return dict(xlabel="true end", ylabel="end")
    kind = "coordinate" if size == 2 else "component"
    return dict(xlabel=f"first {kind}", ylabel=f"second {kind}")


def check_alike(name: str, value: Any, batch_ndim: int, least: int = 2) -> dict[str, np.ndarray]:
    """`value` as arrays by name, if these are [*batch, *event] with the same events, of `least` numbers or more.

    Args:
        name, value: the argument.
        batch_ndim: how many axes come before those of the event; all but the first have to be alike too.
        least: how many numbers an event has at least.

    Raises:
        TypeError, ValueError: otherwise.

    Examples:
        >>> check_alike("states", {"euler": np.zeros((5, 3, 1))}, 2)
        Traceback (most recent call last):
        ValueError: states: wanted events of 2 numbers or more, got shape (1,).
    """
    arrays = {}
    for key, x in check_names(name, value, "arrays").items():
        shape, dtype = check_numeric(f"{name}[{key!r}]", x)
        if len(shape) < batch_ndim or 0 in shape or np.issubdtype(dtype, np.complexfloating):
            axes = "[points, B, *event]" if batch_ndim == 2 else "[N, *event]"
            raise ValueError(f"{name}[{key!r}]: wanted real numbers {axes}, got {dtype} of shape {shape}.")
        arrays[key] = np.asarray(x)
        first = next(iter(arrays.values()))
        if shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name}[{key!r}]: wanted the last axes of the others, {first.shape[1:]}, got {shape[1:]}."
            )
    event_shape = first.shape[batch_ndim:]
    if math.prod(event_shape) < least:
        raise ValueError(f"{name}: wanted events of {least} numbers or more, got shape {event_shape}.")
    return arrays


def check_like(name: str, value: Any, other: np.ndarray) -> np.ndarray:
    """`value` as an array, if it has the shape of `other`. Raises TypeError or ValueError otherwise."""
    shape, _ = check_numeric(name, value)
    if shape != other.shape:
        raise ValueError(f"{name}: wanted the shape of the samples, {other.shape}, got {shape}.")
    return np.asarray(value)
