"""A solve as an animation."""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bespoke_jax.checks import check_positive
from bespoke_jax.plots.pictures import tiled
from bespoke_jax.plots.plane import check_alike, in_plane, labels, limits
from bespoke_jax.plots.style import POINTS, figure_or_new, in_style
from bespoke_jax.types import Array

__all__ = ["animation"]

_FRAMES_A_SECOND = 12
_REST = 0.35  # of the time, the last states stand still
_MOST_WITH_TRAILS = 64  # samples
_PANEL = 2.8  # inches

Update: TypeAlias = Callable[[float], None]
"""Shows the states at a place from 0 to `points` - 1, which may lie between two of them."""


def animation(
    states: Mapping[str, Float[Array, "_ B *event"]], figure: Figure | None = None, *, seconds: float = 4.0
) -> FuncAnimation:
    """A film of solves of the same noises, a panel for each solver: images in a grid, other events as points in a plane.

    All solvers begin and end together. Points move straight from state to state in the plane of `paths`; few of them draw
    their path behind them, with a mark at each state. Images stay until the next state. The true ends, if there is a "truth"
    among the solvers, are grey in the panels of the others.

    Args:
        states: solver -> states, [points, B, *event], as `solve(..., return_path=True)` and `Paths.at` return them. Events of
            shape [H, W, 1] or [H, W, 3] are images in [-1, 1].
        figure: to draw on; None for a new one.
        seconds: how long it takes; for the last third of it, it rests at the ends.

    Returns:
        The animation, to be kept until it is written or shown: `film.save("solve.gif", writer="pillow")` writes it, and in a
        notebook `HTML(film.to_jshtml())` shows it.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, events that differ, or fewer than two points.

    Examples:
        >>> import jax, tempfile, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> states = bj.solve(flow, bj.classic.heun(4), flow.noise(jax.random.key(0), (20,)), return_path=True)
        >>> film = animation({"heun": states}, seconds=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film.save(f"{folder}/solve.gif", writer="pillow")
    """
    found = check_alike("states", states, 2)
    for name, x in found.items():
        if len(x) < 2:
            raise ValueError(f"states[{name!r}]: wanted two points or more, got {len(x)}.")
    num_moving = max(2, round(check_positive("seconds", seconds) * _FRAMES_A_SECOND * (1 - _REST)))
    places = [*np.linspace(0, 1, num_moving), *[1.0] * round(num_moving * _REST / (1 - _REST))]
    (width, height), draw = _film_of_images(found) if _are_images(found) else _film_of_points(found)
    with in_style():
        figure = figure_or_new(figure, width * len(found), height, "compressed")
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        updates = [draw(axes, name) for axes, name in zip(panels, found, strict=True)]

    def show(place):
        for axes, update, (name, x) in zip(panels, updates, found.items(), strict=True):
            update(place * (len(x) - 1))
            axes.set_title(name if name == "truth" else f"{name}, step {int(place * (len(x) - 1))} of {len(x) - 1}")
        return ()

    show(0.0)
    return FuncAnimation(figure, show, frames=places, interval=1000 / _FRAMES_A_SECOND, init_func=lambda: show(0.0))


def _are_images(states: dict[str, np.ndarray]) -> bool:
    _, _, *event_shape = next(iter(states.values())).shape
    return len(event_shape) == 3 and event_shape[-1] in (1, 3)


def _film_of_images(states: dict[str, np.ndarray]) -> tuple[tuple[float, float], Callable[[Axes, str], Update]]:
    """((width, height) of a panel in inches, `draw(axes, name)` -> its `Update`)."""
    _, count, height, width, _ = next(iter(states.values())).shape
    columns = math.ceil((count * height / width) ** 0.5)

    def picture(name, place):
        images = (np.clip(states[name][int(place)], -1, 1) + 1) / 2
        blank = np.ones((-count % columns, *images.shape[1:]))
        return tiled(list(np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])))

    def draw(axes, name):
        shown = axes.imshow(picture(name, 0), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        return lambda place: shown.set_data(picture(name, place))

    rows = -(-count // columns)
    return (_PANEL, _PANEL * rows * height / (columns * width) + 0.3), draw


def _film_of_points(states: dict[str, np.ndarray]) -> tuple[tuple[float, float], Callable[[Axes, str], Update]]:
    """As `_film_of_images`."""
    plane = dict(zip(states, in_plane(2, *states.values()), strict=True))
    xlim, ylim = limits(*plane.values())
    names = labels(next(iter(states.values())).shape[2:])

    def draw(axes, name):
        found = plane[name]
        axes.set(xlim=xlim, ylim=ylim, aspect="equal", xlabel=names["xlabel"])
        if name == next(iter(plane)):
            axes.set_ylabel(names["ylabel"])
        else:
            axes.tick_params(labelleft=False)
        if "truth" in plane and name != "truth":
            axes.scatter(*plane["truth"][-1].T, s=14, color="0.78", linewidths=0)
        few = found.shape[1] <= _MOST_WITH_TRAILS
        mark = dict(marker=".", markersize=4) if len(found) <= _MOST_WITH_TRAILS // 2 else {}
        trails = [axes.plot([], [], color="0.6", linewidth=0.8, **mark)[0] for _ in range(found.shape[1] * few)]
        shown = axes.scatter(*found[0].T, s=12, color=POINTS, linewidths=0, zorder=3)

        def update(place):
            i, part = int(place), place % 1
            now = found[i] if part == 0 else (1 - part) * found[i] + part * found[i + 1]
            shown.set_offsets(now)
            for k, trail in enumerate(trails):
                trail.set_data(*np.concatenate([found[: i + 1, k], now[k : k + 1]]).T)

        return update

    height = _PANEL * (ylim[1] - ylim[0]) / (xlim[1] - xlim[0]) + 0.8
    return (_PANEL, height), draw
