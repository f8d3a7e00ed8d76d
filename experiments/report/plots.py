"""The figures of the launchers, each of `bespoke_jax.plots`: which solvers stand in which panel, and under which name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bespoke_jax as bj
from experiments.learning.measure import Row

__all__ = ["error_against_iteration", "error_against_nfe", "image_grid", "paths", "psnr_of_solvers"]


def error_against_nfe(lines: Mapping[str, Mapping[int, Row]]) -> Figure:
    """PSNR of the mean RMSE, and mean PSNR, against NFE; `lines`: solver -> NFE -> row."""
    figure, panels = _figure(2, (4.5, 4.0))
    for axes, measure in zip(panels, ("psnr", "mean_psnr"), strict=True):
        bj.plots.error_against_calls(lines, axes, measure=measure)
    _one_legend(figure, loc="outside upper center", ncols=min(len(lines), 4))
    return figure


def psnr_of_solvers(
    learned: Mapping[str, Mapping[int, Row]],
    dedicated: Mapping[str, Mapping[int, Row]],
    plain: Mapping[str, Mapping[int, Row]],
) -> Figure:
    """PSNR against NFE of three kinds of solvers: solver -> NFE -> row. The learned ones are bold and have bands."""
    looks: dict[str, dict[str, Any]] = {name: dict(linewidth=3.0, markersize=7, zorder=3) for name in learned}
    looks |= {name: dict(linewidth=1.0, markersize=3) for name in dedicated}
    figure, (axes,) = _figure(1, (8.5, 4.6))
    bj.plots.error_against_calls({**learned, **dedicated, **plain}, axes, looks=looks, bands=learned)
    axes.set_title("On fresh noise; each dedicated solver with its best grid")
    _one_legend(figure, loc="outside right upper", fontsize=8)
    return figure


def error_against_iteration(panels: Mapping[str, Mapping[str, list[dict[str, Any]]]], begins: list[int]) -> Figure:
    """Validation RMSE against iteration; `panels`: solver -> name of its size -> history; `begins`: where stages begin."""
    figure, cells = _figure(len(panels), (4.6, 3.4), sharey=True)
    for axes, (solver, histories) in zip(cells, panels.items(), strict=True):
        bj.plots.validations(histories, axes, begins=begins)
        axes.set_title(solver)
        axes.label_outer()
    return figure


def image_grid(rows: Mapping[str, np.ndarray]) -> Figure:
    """A row of images for each label; `rows`: label -> [K, H, W, 1 or 3] in [-1, 1]."""
    figure = bj.plots.images(rows).figure
    assert isinstance(figure, Figure)
    return figure


def paths(states: Mapping[str, np.ndarray]) -> Figure:
    """Sampling paths, a panel for each noise; `states`: solver -> [points, noises, *event]."""
    figure, panels = _figure(next(iter(states.values())).shape[1], (3.1, 3.3))
    for i, axes in enumerate(panels):
        bj.plots.paths({solver: x[:, i : i + 1] for solver, x in states.items()}, axes)
        axes.set(xticks=[], yticks=[])
        if i:
            axes.set_ylabel("")
    _one_legend(figure, loc="outside upper center", ncols=len(states))
    return figure


def _figure(count: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of this size in inches side by side, and the panels."""
    with bj.plots.in_style():
        figure = Figure(figsize=(count * size[0], size[1]))
        return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def _one_legend(figure: Figure, **options: Any) -> None:
    """One legend for all panels in place of their own."""
    for axes in figure.axes:
        if legend := axes.get_legend():
            legend.remove()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, **options)
