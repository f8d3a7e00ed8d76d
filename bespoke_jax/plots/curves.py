"""Error against calls, with its standard error, and error while learning."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, ScalarFormatter

from bespoke_jax.checks import check_choice, check_count, check_number, check_type, items_of
from bespoke_jax.compare import SolverCheck
from bespoke_jax.plots.style import axes_or_new, check_looks, check_names, hues, in_style, looks_of
from bespoke_jax.run.scores import Score

__all__ = ["error_against_calls", "scores_of_checks", "validations"]

_MEASURES = {"psnr": "PSNR (dB)", "mean_psnr": "mean PSNR (dB)", "rmse": "RMSE"}


def error_against_calls(
    scores: Mapping[str, Mapping[int, Any]],
    axes: Axes | None = None,
    *,
    measure: str = "psnr",
    looks: Mapping[str, Mapping[str, Any]] | None = None,
    bands: Collection[str] | None = None,
) -> Axes:
    """The error of solvers against NFE: a line for each, in a band of one standard error to both sides.

    Args:
        scores: solver -> NFE -> its score there: a `compare.Score`, or anything with its fields `rmse`, `psnr`, `mean_psnr` and
            the standard errors. `scores_of_checks` makes them from results of `check_solver`.
        axes: to draw on; None for new ones.
        measure: "psnr" of the mean RMSE, "mean_psnr" of the samples, or "rmse".
        looks: solver -> options of its line, as `Axes.plot` has them, over the usual ones.
        bands: the solvers that have bands; None for all.

    Returns:
        The axes, with a legend.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind.

    Examples:
        >>> from bespoke_jax.run.scores import score
        >>> found = {"mine": {4: score("mine", np.array([0.02, 0.03]), 2.0), 8: score("mine", np.array([0.002, 0.003]), 2.0)}}
        >>> error_against_calls(found).lines[0].get_ydata().round(1).tolist()
        [38.1, 58.1]
    """
    scores = {
        name: check_scores(f"scores[{name!r}]", line) for name, line in check_names("scores", scores, "scores").items()
    }
    check_choice("measure", measure, _MEASURES)
    check_looks("looks", looks)
    named = items_of(bands) if isinstance(bands, Collection) else None
    if bands is not None and (named is None or not all(isinstance(name, str) for name in named)):
        raise TypeError(f"bands: wanted names of solvers, or None, got {bands!r:.80}.")
    with in_style():
        axes = axes_or_new(axes, 5.4, 3.8)
        for name, look in looks_of(scores, looks).items():
            nfes, line = list(scores[name]), list(scores[name].values())
            low, middle, high = np.array([_band(score, measure) for score in line]).T
            axes.plot(nfes, middle, label=name, **look)
            if np.any(high > low) and (named is None or name in named):
                if len(nfes) > 1:
                    axes.fill_between(nfes, low, high, color=look.get("color"), alpha=0.18, linewidth=0)
                else:
                    axes.vlines(nfes, low, high, color=look.get("color"), alpha=0.5)
        axes.set(xlabel="NFE", ylabel=_MEASURES[measure])
        if measure == "rmse":
            axes.set_yscale("log")
        _ticks_at(axes, sorted({nfe for line in scores.values() for nfe in line}))
        axes.legend(fontsize=8)
    return axes


def check_scores(name: str, value: Any) -> dict[int, Any]:
    """`value` as a dict sorted by NFE, if it has a score for each of one or more NFE."""
    check_type(name, value, Mapping, "a dict of scores by NFE")
    if not value:
        raise ValueError(f"{name}: wanted scores by NFE, got none.")
    for nfe, score in value.items():
        check_count(f"{name}, an NFE", nfe)
        if not all(hasattr(score, field) for field in _MEASURES):
            raise TypeError(f"{name}[{nfe}]: wanted a score with rmse, psnr and mean_psnr, got {type(score).__name__}.")
    return {nfe: value[nfe] for nfe in sorted(value)}


def _band(score: Any, measure: str) -> tuple[float, float, float]:
    """(value less its standard error, value, value plus that); NaN, which leaves a gap, for a solver that diverged."""
    value = getattr(score, measure)
    if not math.isfinite(value):
        return math.nan, math.nan, math.nan
    if measure == "mean_psnr":
        error = getattr(score, "mean_psnr_standard_error", 0.0)
        return value - error, value, value + error
    error = getattr(score, "standard_error", 0.0)
    if measure == "rmse":
        return value - error, value, value + error
    # The PSNR of the RMSE plus and minus its standard error, which is below the RMSE for numbers that are positive.
    share = error / score.rmse if score.rmse > 0 else 0.0
    below, above = (-20 * math.log10(1 + sign * share) if share < 1 else 0.0 for sign in (1, -1))
    return value + below, value, value + above


def _ticks_at(axes: Axes, ticks: list[int]) -> None:
    """Ticks at these NFE, on a logarithmic axis where they spread over a decade or so."""
    if ticks[-1] >= 8 * ticks[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())


def scores_of_checks(checks: Iterable[SolverCheck], name: str = "learned") -> dict[str, dict[int, Score]]:
    """Solver -> NFE -> score, for `error_against_calls`, from results of `check_solver` of one flow at several NFE.

    Args:
        checks: the results.
        name: what to call the solvers that were checked.

    Raises:
        TypeError: for anything else in `checks`.
        ValueError: for a name that one of the other lines has.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> solvers = [bj.classic.ipndm(nfe) for nfe in (4, 8)]
        >>> checks = [bj.check_solver(flow, solver, jax.random.key(0), others={}) for solver in solvers]
        >>> {solver: list(line) for solver, line in scores_of_checks(checks, "ipndm").items()}
        {'euler': [4, 8], 'midpoint': [4, 8], 'ipndm': [4, 8]}
    """
    check_type("checks", checks, Iterable, "results of check_solver")
    check_type("name", name, str, "a string")
    lines: dict[str, dict[int, Score]] = {"euler": {}, "midpoint": {}, "best dedicated": {}}
    if name in lines:
        raise ValueError(f"name: wanted another than those of the usual solvers, {', '.join(lines)}, got {name!r}.")
    lines[name] = {}
    for i, check in enumerate(checks):
        check_type(f"checks[{i}]", check, SolverCheck, "a result of check_solver")
        found = check.euler, check.midpoint, check.dedicated, check.solver
        for line, score in zip(lines.values(), found, strict=True):
            if score is not None:
                line[check.nfe] = score
    return {solver: line for solver, line in lines.items() if line}


def validations(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], axes: Axes | None = None, *, begins: Sequence[float] = ()
) -> Axes:
    """The error on held-out paths against the iteration of a fit, a line for each fit.

    Args:
        histories: name -> `FitResult.history`.
        axes: to draw on; None for new ones.
        begins: iterations at which a new stage begins, marked by dotted lines.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind.

    Examples:
        >>> history = [dict(iteration=0, rmse=0.1), dict(iteration=4, rmse=0.02)]
        >>> validations({"table, n = 8": history}).lines[0].get_xydata().tolist()
        [[0.0, 0.1], [4.0, 0.02]]
    """
    histories = check_names("histories", histories, "histories of fits")
    for name, history in histories.items():
        check_type(f"histories[{name!r}]", history, Sequence, "the history of a FitResult")
        for i, record in enumerate(history):
            if not isinstance(record, Mapping) or not {"iteration", "rmse"} <= record.keys():
                raise ValueError(
                    f"histories[{name!r}][{i}]: wanted a record with iteration and rmse, got {record!r:.80}."
                )
    check_type("begins", begins, Sequence, "a list of iterations")
    for begin in begins:
        check_number("begins", begin)
    with in_style():
        axes = axes_or_new(axes, 4.6, 3.4)
        for color, (name, history) in zip(hues(len(histories)), histories.items(), strict=True):
            iterations = [record["iteration"] for record in history]
            errors = [math.nan if record["rmse"] is None else record["rmse"] for record in history]
            axes.plot(iterations, errors, color=color, label=name, marker="." if len(history) < 40 else None)
        for begin in begins:
            axes.axvline(begin, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(xlabel="iteration", ylabel="RMSE on held-out paths", yscale="log")
        axes.legend(fontsize=8)
    return axes
