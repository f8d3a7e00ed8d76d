"""The figures of a report: functions from plain arrays to matplotlib figures, without files, state or a display."""

import functools
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

__all__ = [
    "error_against_iteration",
    "error_against_nfe",
    "image_grid",
    "knots",
    "paths_in_plane",
    "points_in_plane",
    "principal_plane",
    "psnr_of_solvers",
]

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
}
# Base solvers are grey and dashed. Learned ones are coloured by Okabe and Ito's palette, which is legible to the colour-blind.
_LOOK: dict[str, dict[str, Any]] = {
    "rk1": dict(color="0.68", linestyle=":", marker="v"),
    "rk2": dict(color="0.5", linestyle="--", marker="s"),
    "rk4": dict(color="0.3", linestyle="-.", marker="^"),
    "rk1-bespoke": dict(color="#D55E00", marker="v"),
    "rk2-bespoke": dict(color="#0072B2", marker="s"),
    "table": dict(color="#009E73", marker="o"),
}
_UNLISTED: dict[str, Any] = dict(color="black", marker="o")
_BOLD: dict[str, Any] = dict(linewidth=3.0, markersize=7, zorder=3)


def _styled(draw):
    """Draw in this module's style, whatever the caller's is."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def _hues(count):
    """One colour for each number of steps, dark to light."""
    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, count))


@_styled
def error_against_nfe(curves: dict[str, tuple]) -> Figure:
    """RMSE and PSNR against NFE; `curves`: solver -> (nfe, rmse, psnr)."""
    figure = Figure(figsize=(9, 3.6))
    figure.set_layout_engine("constrained", wspace=0.06)
    left, right = figure.subplots(1, 2)
    ticks = sorted({int(n) for nfe, *_ in curves.values() for n in nfe})
    for axes, column, label in ((left, 1, "RMSE"), (right, 2, "PSNR (dB)")):
        for solver, curve in curves.items():
            axes.plot(curve[0], curve[column], label=solver, **_LOOK[solver])
        axes.set(xlabel="NFE", ylabel=label, xticks=ticks)
    left.set_yscale("log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(curves))
    return figure


@_styled
def psnr_of_solvers(learned: dict[str, tuple], dedicated: dict[str, tuple], plain: dict[str, tuple]) -> Figure:
    """PSNR against NFE of three kinds of solvers, each: name -> (nfe, psnr). The learned ones are drawn bold."""
    figure = Figure(figsize=(8.5, 4.6))
    axes = figure.subplots()
    hues = matplotlib.colormaps["tab20b"](np.arange(20))
    for name, line in learned.items():
        axes.plot(*line, label=name, **_UNLISTED | _LOOK.get(name, {}) | _BOLD)
    for i, (name, line) in enumerate(dedicated.items()):
        axes.plot(*line, label=name, color=hues[7 * i % 20], linewidth=1.0, marker=".")
    for name, line in plain.items():
        axes.plot(*line, label=name, color="0.55", linestyle=":", linewidth=1.2, marker="x")
    axes.set_xticks(sorted({n for lines in (learned, dedicated, plain) for nfe, _ in lines.values() for n in nfe}))
    axes.set(xlabel="NFE", ylabel="PSNR (dB)", title="On fresh noise; each dedicated solver with its best grid")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@_styled
def error_against_iteration(panels: dict[str, dict], begins: list[int]) -> Figure:
    """Validation RMSE against iteration; `panels`: solver -> n -> (iteration, rmse); `begins`: where new stages begin."""
    figure = Figure(figsize=(4.6 * len(panels), 3.4))
    for axes, (solver, curves) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for colour, (n, (iteration, rmse)) in zip(_hues(len(curves)), curves.items(), strict=True):
            axes.plot(iteration, rmse, color=colour, label=f"n = {n}", marker="." if len(iteration) < 40 else None)
        for begin in begins:
            axes.axvline(begin, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(title=solver, xlabel="iteration", ylabel="RMSE on held-out paths", yscale="log")
        axes.legend(fontsize=8)
    return figure


@_styled
def knots(base: str, curves: dict[int, tuple]) -> Figure:
    """The learned scale-time transformation; `curves`: n -> (t [N + 1], dt [N], s [N + 1], ds [N])."""
    figure = Figure(figsize=(11, 3.1))
    panels = figure.subplots(1, 4)
    # (title, index among the knots, the base solver's values)
    looks = ((r"$t_i$", 0, (0, 1)), (r"$\dot t_i$", 1, (1, 1)), (r"$s_i$", 2, (1, 1)), (r"$\dot s_i$", 3, (0, 0)))
    for axes, (title, place, identity) in zip(panels, looks, strict=True):
        axes.plot((0, 1), identity, color="black", linewidth=0.7, label="identity")
        for colour, (n, arrays) in zip(_hues(len(curves)), curves.items(), strict=True):
            r = np.arange(len(arrays[place])) / len(arrays[1])
            axes.plot(r, arrays[place], color=colour, marker=".", linewidth=1.2, label=f"n = {n}")
        axes.set(title=title, xlabel=r"$r = i/n$")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves) + 1, fontsize=9)
    figure.suptitle(f"{base}-bespoke", fontsize=11)
    return figure


@_styled
def image_grid(rows: dict[str, np.ndarray]) -> Figure:
    """One row of images for each label; `rows`: label -> [K, H, W, 1 or 3] in [-1, 1], where column k is from noise k."""
    height, width = next(iter(rows.values())).shape[1:3]
    count = max(len(images) for images in rows.values())
    cell = 0.8
    figure = Figure(figsize=(1.45 + cell * count, cell * height / width * len(rows)))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for line, (label, images) in zip(figure.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
        for axes, image in zip(line, (np.clip(images, -1, 1) + 1) / 2, strict=True):
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


_PANELS_IN_A_ROW = 4


@_styled
def points_in_plane(truth: np.ndarray, panels: dict[str, np.ndarray], labels: tuple[str, str]) -> Figure:
    """Samples as points, a panel for each solver: label -> [N, 2], over the true ones, [N, 2], in grey; `labels` of both axes."""
    columns = min(len(panels), _PANELS_IN_A_ROW)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.9 * rows))
    cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (label, points) in zip(cells, panels.items(), strict=False):
        axes.scatter(*truth.T, s=6, color="0.75", linewidths=0)
        axes.scatter(*np.asarray(points).T, s=6, color="#0072B2", linewidths=0, alpha=0.7)
        axes.set(title=label)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(labels[0], fontsize=9)
    figure.supylabel(labels[1], fontsize=9)
    return figure


@_styled
def paths_in_plane(base: str, panels: list[dict[str, np.ndarray]]) -> Figure:
    """Sampling paths in a plane, a panel for each noise: "truth", `base` and `base`-bespoke -> [points, 2]."""
    figure = Figure(figsize=(3.1 * len(panels), 3.3))
    for axes, paths in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for solver, points in paths.items():
            look = (
                dict(color="black", linewidth=2.6, alpha=0.8)
                if solver == "truth"
                else dict(**_LOOK[solver], markersize=4)
            )
            axes.plot(*np.asarray(points).T, label=solver, **look)
        note = dict(textcoords="offset points", fontsize=8, color="0.3")
        axes.annotate("noise", paths["truth"][0], xytext=(0, -14), ha="center", **note)
        axes.annotate("data", paths["truth"][-1], xytext=(8, 0), va="center", **note)
        axes.set(xticks=[], yticks=[], xlabel="first component")
        axes.margins(0.2, 0.15)
    figure.axes[0].set_ylabel("second component")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def principal_plane(points: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """`points` [M, ...] and `others` projected to the plane of the first two principal components of all, each [M, 2]."""
    flat = [np.reshape(x, (len(x), -1)) for x in (points, *others)]
    mean = np.concatenate(flat).mean(axis=0)
    # Every path has the same weight, however many points it has.
    spread = np.concatenate([(x - mean) / len(x) ** 0.5 for x in flat])
    plane = np.linalg.svd(spread, full_matrices=False)[2][:2]
    return [(x - mean) @ plane.T for x in flat]
