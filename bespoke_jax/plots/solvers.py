"""The numbers of a solver: times, factors, and the knots of a scale-time transformation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bespoke_jax.checks import check_type
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.theta import Theta
from bespoke_jax.plots.style import DIFFERENCES, check_names, figure_or_new, hues, in_style, looks_of
from bespoke_jax.solver import Solver, to_table
from bespoke_jax.table import SolverTable

__all__ = ["coefficients", "knots"]

_MOST_WITH_NUMBERS = 10  # calls, up to which the matrix shows its numbers


def coefficients(solver: Solver, figure: Figure | None = None) -> Figure:
    """The numbers of any solver, as its table has them: x_i = a_i x_0 + c_i xi + sum_j b_ij u_j, with u_j at time t_j.

    Panels: the times t, beside equal ones in grey; the factors a of the noise, from the state of the first evaluation on, and
    c of the image where there is one; the matrix b, one row for each state after an evaluation; and the image xi, if it is one
    that can be shown. What corrections add for a class or a guidance scale is not drawn.

    Args:
        solver: a theta, a learned table or a table.
        figure: to draw on; None for a new one.

    Raises:
        TypeError, ValueError: if it is not a solver with a table, or its arrays disagree; for another kind of figure.

    Examples:
        >>> import bespoke_jax as bj
        >>> times, noise, matrix, scale = coefficients(bj.classic.midpoint(4)).axes
        >>> matrix.images[0].get_array().filled(0).tolist()[-1]
        [0.0, 0.5, 0.0, 0.5]
    """
    table = to_table(solver)
    image = _picture(table)
    with in_style():
        widths = [1.0, 1.0, 1.3] + ([0.9] if image is not None else [])
        figure = figure_or_new(figure, 3.2 * sum(widths), 3.2)
        panels = figure.subplots(1, len(widths), width_ratios=widths)
        _draw_times(panels[0], table)
        _draw_noise(panels[1], table)
        _draw_matrix(panels[2], np.asarray(table.b))
        if image is not None:
            panels[3].imshow((np.clip(image, -1, 1) + 1) / 2, cmap="gray", vmin=0, vmax=1)
            panels[3].set(title=r"image $\xi$", xticks=[], yticks=[])
    return figure


def _draw_times(axes: Axes, table: SolverTable) -> None:
    m = table.nfe
    calls, times, look = np.arange(m), np.asarray(table.t), looks_of(["table"])["table"]
    axes.plot(calls, calls / m, color="0.6", linewidth=0.9, linestyle="--", label="equal")
    axes.plot(calls, times, label="$t_j$", **look)
    if table.fields is not None:
        chosen = np.flatnonzero(table.fields)
        axes.plot(chosen, times[chosen], "o", color="white", markeredgecolor=look["color"], label="unconditional")
    axes.set(title="times", xlabel="call $j$", ylabel="$t$  (0 noise, 1 data)", ylim=(-0.03, 1.03))
    axes.legend(fontsize=8)


def _draw_noise(axes: Axes, table: SolverTable) -> None:
    first = 1.0 if table.first is None else float(table.first)
    lines = {"$a_i$ of the noise": np.concatenate([[first], np.asarray(table.a)])}
    if table.c is not None:
        lines[r"$c_i$ of the image $\xi$"] = np.asarray(table.c)
    for label, look in zip(lines, looks_of(["rk2-bespoke", "rk1-bespoke"]).values(), strict=False):
        axes.plot(lines[label], label=label, **look)
    if table.c is not None:
        axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(title="noise" if table.c is None else "noise and image", xlabel="state $i$")
    axes.legend(fontsize=8)


def _draw_matrix(axes: Axes, b: np.ndarray) -> None:
    m = len(b)
    limit = float(np.abs(b).max()) or 1.0
    above = np.triu(np.ones_like(b, dtype=bool), 1)
    shown = axes.imshow(np.ma.masked_where(above, b), cmap=DIFFERENCES, vmin=-limit, vmax=limit, aspect="auto")
    axes.grid(False)
    step = 1 if m <= _MOST_WITH_NUMBERS else -(-m // _MOST_WITH_NUMBERS)
    ticks = np.arange(0, m, step)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(title="$b_{ij}$", xlabel="velocity of call $j$", ylabel="state $i$")
    axes.figure.colorbar(shown, ax=axes)
    for i, j in zip(*np.nonzero(~above), strict=True) if m <= _MOST_WITH_NUMBERS else ():
        colour = "white" if abs(b[i, j]) > 0.6 * limit else "black"
        text = f"{b[i, j]:.2f}".replace("0.", ".", 1)
        axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)


def _picture(table: SolverTable) -> np.ndarray | None:
    """The table's image as [H, W] or [H, W, 3], the mean over classes; None if there is none, or none of this shape."""
    xi = None if table.xi is None else np.asarray(table.xi)
    if xi is not None and xi.ndim == 4:
        xi = xi.mean(axis=0)
    if xi is None or xi.ndim != 3 or xi.shape[-1] not in (1, 3):
        return None
    return xi[..., 0] if xi.shape[-1] == 1 else xi


# (title, the values of the identity at r = 0 and 1)
_KNOTS = {
    "t": (r"$t_i$", (0, 1)),
    "dt": (r"$\dot t_i$", (1, 1)),
    "s": (r"$s_i$", (1, 1)),
    "ds": (r"$\dot s_i$", (0, 0)),
}


def knots(thetas: Mapping[str, Theta | Knots], figure: Figure | None = None) -> Figure:
    """Learned scale-time transformations: times, scales and their derivatives at the knots, over the identity in black.

    Args:
        thetas: name -> a theta of `init_theta("rk1")` or "rk2", or its knots.
        figure: to draw on; None for a new one.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind.

    Examples:
        >>> import bespoke_jax as bj
        >>> knots({"n = 2": bj.init_theta("rk1", 2)}).axes[0].lines[1].get_ydata().tolist()
        [0.0, 0.5, 1.0]
    """
    found = {name: _knots_of(name, theta) for name, theta in check_names("thetas", thetas, "thetas").items()}
    with in_style():
        figure = figure_or_new(figure, 11, 3.1)
        panels = figure.subplots(1, len(_KNOTS))
        for axes, (field, (title, identity)) in zip(panels, _KNOTS.items(), strict=True):
            axes.plot((0, 1), identity, color="black", linewidth=0.7, label="identity")
            for color, (name, each) in zip(hues(len(found)), found.items(), strict=True):
                values = np.asarray(getattr(each, field))
                r = np.arange(len(values)) / len(each.dt)
                axes.plot(r, values, color=color, marker=".", linewidth=1.2, label=name)
            axes.set(title=title, xlabel=r"$r = i/n$")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found) + 1)
    return figure


def _knots_of(name: str, theta: Any) -> Knots:
    check_type(f"thetas[{name!r}]", theta, Theta | Knots, "a theta with knots, or Knots")
    return theta.knots() if isinstance(theta, Theta) else theta
