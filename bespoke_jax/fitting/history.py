"""What a fit carries, what it has seen, and what it returns."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bespoke_jax.fitting.loss import BY_LOSS, FIGURES
from bespoke_jax.fitting.stages import DEFAULT_STAGES, Stage
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.scores import decibels, has_tails
from bespoke_jax.run.truth import Truth, warn_of_truth, warn_of_useless
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import Array
from bespoke_jax.warn import warn

__all__ = ["FitError", "FitResult", "FitState", "History", "chosen", "init_state", "warn_of_best", "warn_of_tails"]

_WORSE = 3.0  # dB; a fit of a few updates may end a little below a good start


class History(NamedTuple):
    """One row for every look at the held-out paths, the one at the start first; columns are NumPy arrays [records].

    Attributes:
        iteration: int32, updates done; -1 in rows that are not yet written.
        loss: float32, the mean loss of the updates since the last look; NaN at the start.
        rmse: float32, the mean RMSE on the held-out paths.
        mean_log_rmse: float32, the mean of its logarithm over them, which gives the mean PSNR.
        held_out_loss: float32, the last stage's loss on them; NaN unless it decides which solver is best.
        evaluations: int64, velocity evaluations of single samples so far.
    """

    iteration: np.ndarray
    loss: np.ndarray
    rmse: np.ndarray
    mean_log_rmse: np.ndarray
    held_out_loss: np.ndarray
    evaluations: np.ndarray

    @classmethod
    def empty(cls, records: int) -> "History":
        """A history with room for this many rows, none of them written.

        Examples:
            >>> History.empty(2).iteration.tolist()
            [-1, -1]
        """
        loss, rmse, mean_log, held_out = (np.full(records, np.nan, np.float32) for _ in range(4))
        return cls(np.full(records, -1, np.int32), loss, rmse, mean_log, held_out, np.zeros(records, np.int64))

    def with_row(self, row: int, **values: Any) -> "History":
        """A copy with a row written."""
        written = self._replace(**{name: np.array(column) for name, column in self._asdict().items()})
        for name, value in values.items():
            getattr(written, name)[row] = value
        return written

    def record(self, row: int, stage: str, data_range: float) -> dict[str, Any]:
        """A row as a dict: stage, iteration, loss, rmse, psnr, mean_psnr (dB), held_out_loss, evaluations."""
        rmse, mean_log = float(self.rmse[row]), float(self.mean_log_rmse[row])
        return dict(
            stage=stage,
            iteration=int(self.iteration[row]),
            loss=float(self.loss[row]),
            rmse=rmse,
            psnr=float(decibels(rmse, data_range)),
            mean_psnr=float(decibels(np.exp(mean_log), data_range)),
            held_out_loss=float(self.held_out_loss[row]),
            evaluations=int(self.evaluations[row]),
        )

    @property
    def has_begun(self) -> bool:
        """Whether its first row is written."""
        return bool(self.iteration[0] >= 0)


class FitState(NamedTuple):
    """All that a fit carries: a pytree of arrays of fixed shapes, so a checkpoint restores by its shapes.

    Attributes:
        start: index of the start that the fit began from, 0 for the solver that was given.
        theta: the current solver.
        opt_states: one optimiser state per stage.
        best: the best solver on the held-out paths so far.
        best_rmse: its mean RMSE there, also where another figure chose it.
        iteration: updates done, over all stages.
        history: a row for every look so far.
    """

    start: Array
    theta: LearnedSolver
    opt_states: tuple
    best: LearnedSolver
    best_rmse: Array
    iteration: Array
    history: History

    def best_figure(self, figure: str) -> float:
        """The error that the next solver has to fall below to be the best by "psnr", "mean_psnr" or "loss"."""
        if figure == "psnr":
            return float(self.best_rmse)
        column = self.history.held_out_loss if figure == BY_LOSS else self.history.mean_log_rmse
        return float(np.nanmin(column, initial=math.inf))


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        theta: the best solver on the held-out paths, by `Recipe.figure`.
        history: one dict per look at them: stage, iteration, loss, rmse, psnr, mean_psnr, held_out_loss, evaluations.
        cost: velocity evaluations of single samples, true paths included.
        network_calls: the same in network calls: `cost` times `flow.calls_per_evaluation`, which is 2 with `guided`.
        start: name of the start that won, or "given".
        state: the last `FitState`.
        truth: the accuracy of the held-out paths, in dB: a few of their ends against more accurate ones.
        best: the record of `history` that chose `theta`.
        lost: what that choice cost the other of psnr and mean_psnr, in dB: the highest of its values in `history`, minus the one
            in `best`. If the loss chose, what it cost mean_psnr.
    """

    theta: LearnedSolver
    history: list[dict[str, Any]]
    cost: int
    network_calls: int
    start: str
    state: FitState
    truth: Truth
    best: dict[str, Any]
    lost: float


def chosen(history: list[dict[str, Any]], figure: str) -> tuple[dict[str, Any], float]:
    """(the record with the best `figure`, the first if several have it; the dB that the other figure lost by that choice).

    Examples:
        >>> records = [dict(psnr=40.0, mean_psnr=41.0), dict(psnr=38.5, mean_psnr=44.0)]
        >>> chosen(records, "mean_psnr")
        ({'psnr': 38.5, 'mean_psnr': 44.0}, 1.5)
    """
    if figure == BY_LOSS:
        other, best = "mean_psnr", min(history, key=lambda record: np.nan_to_num(record["held_out_loss"], nan=np.inf))
    else:
        (other,) = set(FIGURES) - {figure}
        best = max(history, key=lambda record: record[figure])
    return best, max(record[other] for record in history) - best[other]


def warn_of_best(
    history: list[dict[str, Any]],
    best: dict[str, Any],
    figure: str,
    truth: Truth,
    flow: Flow,
    x1: Float[Array, "B *event"],
) -> None:
    """Warn if the solver that a fit chose is as good as its true paths, of no use, its start, or the worse for a few samples.

    Args:
        history: all records.
        best: the record that was chosen.
        figure: the figure that chose it.
        truth: the accuracy of the held-out paths.
        flow, x1: the flow of their samples, and their true ends.
    """
    in_decibels = "mean_psnr" if figure == BY_LOSS else figure
    warn_of_truth("fit", best[in_decibels], getattr(truth, in_decibels), truth)
    warn_of_useless("fit", flow, x1, best["rmse"], max(best["psnr"], best["mean_psnr"]))
    _warn_of_no_gain(history, best, in_decibels)
    warn_of_tails(best, figure)


def _warn_of_no_gain(history: list[dict[str, Any]], best: dict[str, Any], name: str) -> None:
    """Warn if no update improved on the start in this figure, and the last solver is clearly worse."""
    first, last = history[0], history[-1]
    if best["iteration"] == first["iteration"] and last[name] < first[name] - _WORSE:
        warn(
            f"fit: no update improved on the start, whose {name} is {first[name]:.1f} dB on the held-out paths; after the last "
            f"it was {last[name]:.1f}. The start is returned. Larger batches may help (Stage.batch_size, "
            "or the default recipe in place of frugal), or more paths."
        )


def warn_of_tails(best: dict[str, Any], figure: str) -> None:
    """Warn if a solver that was chosen by its mean PSNR has a mean RMSE that a few held-out samples rule.

    Args:
        best: the record that was chosen.
        figure: the figure that chose it.
    """
    if figure == "mean_psnr" and has_tails(best["psnr"], best["mean_psnr"]):
        warn(
            f"fit: on the held-out paths psnr is {best['psnr']:.1f} dB and mean_psnr {best['mean_psnr']:.1f}: a few samples make "
            "up most of the mean RMSE, and this fit minimises the error of the typical one. If the mean RMSE is your figure, "
            "fit with bespoke_jax.mean_rmse()."
        )


class FitError(FloatingPointError):
    """A loss that is not finite. `state` holds the last good `FitState`; `state.best` is still a usable solver."""

    def __init__(self, message: str, state: FitState):
        super().__init__(message)
        self.state = state


def init_state(solver: LearnedSolver, stages: tuple[Stage, ...] = DEFAULT_STAGES, start: int = 0) -> FitState:
    """The state before the first update; also the target that tells a checkpoint library what shapes to restore.

    Args:
        solver: as for `fit`.
        stages: those of the recipe.
        start: index of the start that `solver` is.
    """
    records = 1 + sum(len(stage.blocks) for stage in stages)
    return FitState(
        start=np.asarray(start, np.int32),
        theta=solver,
        opt_states=tuple(stage.optimizer.init(solver.raw) for stage in stages),
        best=solver,
        best_rmse=np.asarray(np.inf, np.float32),
        iteration=np.asarray(0, np.int32),
        history=History.empty(records),
    )
