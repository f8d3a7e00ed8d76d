"""How figures look: sizes, lines and colours, in one place."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bespoke_jax.checks import check_type

__all__ = [
    "DIFFERENCES",
    "POINTS",
    "axes_or_new",
    "check_looks",
    "check_names",
    "figure_or_new",
    "hues",
    "in_style",
    "looks_of",
]

DIFFERENCES = "RdBu_r"
"""The colours of signed numbers: blue below 0, white at 0, red above; the colour-blind tell them apart."""

POINTS = "#0072B2"
"""The colour of samples."""

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
}
# The truth is black. Solvers that nobody learned are grey. Learned ones have the colours of Okabe and Ito, which the
# colour-blind tell apart, without the yellow, and marks of their own for print in black and white.
_EULER: dict[str, Any] = dict(color="0.68", linestyle=":", marker="v")
_MIDPOINT: dict[str, Any] = dict(color="0.5", linestyle="--", marker="s")
_RK4: dict[str, Any] = dict(color="0.3", linestyle="-.", marker="^")
_LOOKS: dict[str, dict[str, Any]] = {
    "truth": dict(color="black", linewidth=2.6, alpha=0.8),
    "rk1": _EULER,
    "euler": _EULER,
    "euler/uniform": _EULER,
    "rk2": _MIDPOINT,
    "midpoint": _MIDPOINT,
    "midpoint/uniform": _MIDPOINT,
    "rk4": _RK4,
    "rk4/uniform": _RK4,
    "best dedicated": dict(color="black", marker="D", linewidth=1.2, linestyle=(0, (4, 2))),
    "rk1-bespoke": dict(color="#D55E00", marker="v"),
    "rk2-bespoke": dict(color="#0072B2", marker="s"),
    "table": dict(color="#009E73", marker="o"),
    "times": dict(color="#CC79A7", marker="P"),
    "curve": dict(color="#E69F00", marker="X"),
    "calls": dict(color="#56B4E9", marker="d"),
}
_OTHERS: list[dict[str, Any]] = [
    dict(color=color, marker=marker)
    for marker, color in zip("oDsP^X", ("#009E73", "#CC79A7", "#0072B2", "#E69F00", "#D55E00", "#56B4E9"), strict=True)
]


_LINES = ("-", "--", "-.", ":")  # where there are more solvers than colours


def in_style() -> AbstractContextManager[None]:
    """A `with` in which matplotlib draws in this library's style, whatever the caller's is: for axes of your own.

    Examples:
        >>> with in_style():
        ...     left, right = Figure(figsize=(9, 4)).subplots(1, 2)
        >>> left.spines["top"].get_visible()
        False
    """
    return matplotlib.rc_context(_STYLE)


def looks_of(names: Iterable[str], given: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The options of each name's line. Names that mean something here always look the same; the others take turns.

    Args:
        names: the solvers.
        given: options that replace or join the usual ones, by name.

    Examples:
        >>> looks_of(["rk2", "mine"], {"mine": dict(linewidth=3)})["mine"]
        {'color': '#009E73', 'marker': 'o', 'linewidth': 3}
    """
    names = list(names)
    taken = {_LOOKS[name]["color"] for name in names if name in _LOOKS}
    free = [look for look in _OTHERS if look["color"] not in taken] or _OTHERS
    unknown = [name for name in names if name not in _LOOKS]
    looks = dict(_LOOKS)
    for i, name in enumerate(unknown):
        turn, place = divmod(i, len(free))
        looks[name] = free[place] | (dict(linestyle=_LINES[turn % len(_LINES)]) if turn else {})
    return {name: looks[name] | dict((given or {}).get(name, {})) for name in names}


def hues(count: int) -> np.ndarray:
    """A colour for each of `count` things in order, dark to light: [count, 4]."""
    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, count))


def axes_or_new(
    axes: Axes | None, width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Axes:
    """`axes`, or those of a new figure, as `figure_or_new` makes it. Within `in_style`."""
    if axes is None:
        return figure_or_new(None, width, height, layout).subplots()
    return check_type("axes", axes, Axes, "matplotlib Axes")


def figure_or_new(
    figure: Figure | None, width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """`figure`, or a new one of this size in inches; a "compressed" layout is for images. Within `in_style`."""
    if figure is None:
        return Figure(figsize=(width, height), layout=layout)
    return check_type("figure", figure, Figure, "a matplotlib Figure")


def check_names(name: str, value: Any, wanted: str) -> dict[str, Any]:
    """`value` as a dict, if it is a mapping with strings for keys that is not empty.

    Args:
        name, value: the argument.
        wanted: what its values are, for the error.

    Raises:
        TypeError, ValueError: otherwise.

    Examples:
        >>> check_names("rows", {}, "images")
        Traceback (most recent call last):
        ValueError: rows: wanted images by name, got none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        got = f"keys {list(value)!r:.100}" if isinstance(value, Mapping) else type(value).__name__
        raise TypeError(f"{name}: wanted a dict of {wanted} by name, got {got}.")
    if not value:
        raise ValueError(f"{name}: wanted {wanted} by name, got none.")
    return dict(value)


def check_looks(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is None, or a dict of options of lines by name."""
    if value is None:
        return
    check_type(name, value, Mapping, "a dict of options of lines by name")
    for key, look in value.items():
        check_type(f"{name}[{key!r}]", look, Mapping, "a dict of options of a line")
