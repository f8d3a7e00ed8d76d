"""Fit a solver to a flow: solve true paths once, run a few stages of an optimiser, return the best solver on held-out paths."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import items_of
from bespoke_jax.fitting.blame import cause_of
from bespoke_jax.fitting.data import Data, prepare
from bespoke_jax.fitting.doors import check_fit, check_recipe, check_start, check_state
from bespoke_jax.fitting.gauss_newton import values_of_ends
from bespoke_jax.fitting.history import FitError, FitResult, FitState, History, chosen, init_state, warn_of_best
from bespoke_jax.fitting.loss import BY_LOSS
from bespoke_jax.fitting.progress import say_of, told
from bespoke_jax.fitting.recipes import Recipe
from bespoke_jax.fitting.stages import Stage
from bespoke_jax.fitting.starts import Block, choose, start_groups
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.scores import distances, size
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import KeyArray

__all__ = ["fit", "fit_ladder", "fit_on"]

_DEFAULT = Recipe()


def fit(
    flow: Flow,
    solver: LearnedSolver,
    key: KeyArray,
    recipe: Recipe = _DEFAULT,
    *,
    paths: Paths | None = None,
    validation: Paths | None = None,
    state: FitState | None = None,
    callback: Callable[[FitState, dict], None] | None = None,
) -> FitResult:
    """Learn a solver for `flow`, beginning from a given one of the same family and number of steps.

    Args:
        flow: the pre-trained flow. The conditions of a `given` flow are dealt out to the paths: one solver for all of them.
        solver: the solver to begin from, e.g. `init_theta("rk2", num_steps=5)`.
        key: one JAX random key, for the paths' noise and the choice of batches.
        recipe: how to learn: `Recipe(...)`, `paper(...)`, `frugal(budget)` or `mean_rmse()`.
        paths, validation: true paths of this flow to fit to and to hold out; by default solved here, as the recipe says. If all
            losses are of ends, only the ends are kept.
        state: a state to continue from, of a fit with the same arguments; the result is bit-identical to an uninterrupted fit's.
        callback: called as `callback(state, record)` after every look at the held-out paths, to save; or a `progress_bar()`.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is compiled; for paths that do not fit the
            flow; for a `state` of another fit; if a sample's velocity depends on chance or on its batch (training mode).
        FitError: if a loss is not finite, or no solver was finite on the held-out paths; carries the last state.

    Warns:
        UserWarning: if the solver comes within 6 dB of the accuracy of the held-out paths, or that accuracy is unknown; if given
            paths end far from where the flow takes their noises; if the velocity's slope at t = 0 is not its scheduler's; if
            the solver was chosen by its mean PSNR and a few samples rule its mean RMSE (psnr and mean_psnr 10 dB apart); if it
            is hardly better than the mean of the samples in place of each of them.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> recipe = bj.Recipe(stages=(bj.Stage("endpoint", 16),))
        >>> result = fit(flow, bj.init_theta("rk1", num_steps=3), jax.random.key(0), recipe)
        >>> result.history[-1]["rmse"] < 0.1 * result.history[0]["rmse"]
        True
    """
    check_fit(flow, (solver,), key, recipe, paths, validation, callback)
    recipe = recipe.resolve(flow, solver)
    check_recipe(flow, recipe, (solver,), paths)
    data = partial(prepare, flow, key, recipe, solver, paths, validation, say_of(callback))
    return fit_on(flow, solver, key, recipe, data, state, callback)


def fit_ladder(
    flow: Flow,
    solvers: Iterable[LearnedSolver],
    key: KeyArray,
    recipe: Recipe = _DEFAULT,
    *,
    paths: Paths | None = None,
    validation: Paths | None = None,
    callback: Callable[[FitState, dict], None] | None = None,
) -> list[FitResult]:
    """Learn several solvers for one flow, for example one per number of steps. They share true paths and compiled programs.

    Each result is the one that `fit` returns for that solver alone, with the same key.

    Args:
        flow, key, recipe, paths, validation, callback: as for `fit`; a recipe with a budget is for a single solver.
        solvers: learned solvers of any families.

    Returns:
        The `FitResult` of each. The cost of each includes the true paths, which are solved once.

    Raises:
        TypeError, ValueError, FitError: as `fit` does; for wrong arguments before any path is solved.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> ladder = [bj.init_theta("rk1", n) for n in (2, 3)]
        >>> recipe = bj.Recipe(stages=(bj.Stage("endpoint", 2),), num_paths=16)
        >>> [result.theta.nfe for result in fit_ladder(flow, ladder, jax.random.key(0), recipe)]
        [2, 3]
    """
    if (found := items_of(solvers)) is None:
        raise TypeError(f"solvers: wanted a list of solvers, got {type(solvers).__name__}.")
    solvers = tuple(found)
    check_fit(flow, solvers, key, recipe, paths, validation, callback)
    if recipe.budget is not None:
        raise ValueError(f"recipe: wanted one without a budget, got {recipe.budget}; call fit for each solver.")
    check_recipe(flow, recipe, solvers, paths)
    largest = max(solvers, key=lambda solver: solver.nfe)
    # Once, within the first fit, so that its progress bar shows what is going on.
    data = cache(partial(prepare, flow, key, recipe, largest, paths, validation, say_of(callback)))
    return [fit_on(flow, solver, key, recipe, data, None, callback) for solver in solvers]


def fit_on(
    flow: Flow,
    solver: LearnedSolver,
    key: KeyArray,
    recipe: Recipe,
    prepared: Callable[[], Data],
    state: FitState | None = None,
    callback: Callable[[FitState, dict], None] | None = None,
) -> FitResult:
    """`fit` with checked arguments, a resolved recipe, and data that several fits can share.

    Args:
        flow, solver, key, recipe, state, callback: as for `fit`.
        prepared: gives the data, from `data.prepare`; called once, after the state is checked.
    """
    solver = gather(flow, solver.suited(flow))
    if state is not None:
        check_state(state, solver, recipe)
    with told(callback, solver, recipe.stages, state):
        return _fit_on(flow, solver, key, recipe, prepared(), state, callback)


def _fit_on(flow, solver, key, recipe: Recipe, data: Data, state: FitState | None, callback) -> FitResult:
    solver, spent = solver.with_samples(*samples(flow, data.paths), recipe.stages[0].chunk_size)
    groups = start_groups(flow, solver) if recipe.choose_start else [{"given": solver}]
    names = [name for group in groups for name in group]
    most, cost = data.paths.num_paths, data.cost + spent
    stages = tuple(dataclasses.replace(s, batch_size=min(s.batch_size, most)) for s in recipe.stages)
    blocks: list[Block] = []
    if state is None:
        start = choose(flow, groups, data.paths, stages, key, recipe.num_start_paths, say_of(callback))
        state, blocks = init_state(start.theta, stages, names.index(start.name)), start.blocks
        cost += start.evaluations
    else:
        check_start(state, len(names))
        state = _placed(flow, state)
        _check_same_flow(flow, state, data.validation, stages)
    watch = _Watch(flow, data.validation, recipe, stages[0].chunk_size, callback, [])
    state = watch.begin(state, cost)
    done = 0
    for number, stage in enumerate(stages):
        state = _run_stage(flow, number, stage, done, state, data, key, watch, [] if number else blocks)
        done += stage.num_iterations
    if not np.isfinite(state.best_rmse):
        raise FitError(
            f"fit: no theta was finite on all {data.validation.num_paths} held-out paths. "
            f"{cause_of(flow, state.theta, data.validation, stages[0])} This error's .state is the last state.",
            state,
        )
    best, lost = chosen(watch.records, recipe.figure)
    some, _, x1 = samples(flow, data.validation)
    warn_of_best(watch.records, best, recipe.figure, data.truth, some, x1)
    cost, start, calls = watch.records[-1]["evaluations"], names[int(state.start)], flow.calls_per_evaluation
    return FitResult(state.best, watch.records, cost, calls * cost, start, state, data.truth, best, lost)


def _placed(flow, state: FitState) -> FitState:
    """The state on the flow's devices; a checkpoint library may restore its arrays to a single device, or as NumPy's."""
    history, arrays = state.history, state._replace(history=History.empty(0))  # the history has 64-bit integers
    placed = gather(flow, arrays)
    theta, best = (jax.tree.map(jnp.asarray, solver) for solver in (placed.theta, placed.best))
    return placed._replace(theta=theta, best=best, history=history)


class _Watch(NamedTuple):
    """Looks at the held-out paths: measures the solver, keeps the best one, writes the history, calls back."""

    flow: Flow
    validation: Paths
    recipe: Recipe
    batch_size: int
    callback: Callable[[FitState, dict], None] | None
    records: list[dict[str, Any]]

    def begin(self, state: FitState, cost: int) -> FitState:
        """The state after the first look, which a resumed fit does not repeat."""
        if not state.history.has_begun:
            return self.look("start", state, float("nan"), cost)
        self.recall("start", state)
        return state

    def look(self, stage: str, state: FitState, loss: float, evaluations: int) -> FitState:
        """The state after a look."""
        loss_of_ends: Any = self.recipe.stages[-1].loss if self.recipe.figure == BY_LOSS else None
        error, held_out = _held_out(self.flow, state.theta, self.validation, self.batch_size, loss_of_ends)
        mean, mean_log = np.mean(error, dtype=np.float32), np.mean(np.log(error))
        errors = {"psnr": mean, "mean_psnr": mean_log, BY_LOSS: held_out}
        better = bool(errors[self.recipe.figure] < state.best_figure(self.recipe.figure))
        row = dict(iteration=state.iteration, loss=loss, rmse=mean, mean_log_rmse=mean_log, held_out_loss=held_out)
        state = state._replace(
            best=state.theta if better else state.best,
            best_rmse=np.asarray(mean) if better else state.best_rmse,
            history=state.history.with_row(len(self.records), evaluations=evaluations, **row),
        )
        self.recall(stage, state)
        if self.callback is not None:
            self.callback(state, self.records[-1])
        return state

    def recall(self, stage: str, state: FitState) -> None:
        """Append the next record, read from the state's history."""
        self.records.append(state.history.record(len(self.records), stage, self.recipe.data_range))


def _run_stage(
    flow, number: int, stage: Stage, done: int, state: FitState, data: Data, key, watch: _Watch, blocks: list[Block]
) -> FitState:
    """The state after a stage that follows `done` iterations; updates in the state, or in `blocks`, are not repeated."""
    if int(state.iteration) == done:
        state = state._replace(theta=state.best)
    directions = None if number or not watch.recipe.choose_start else state.theta.first_directions(flow)
    for first in range(done, done + stage.num_iterations, stage.validate_every):
        count = min(stage.validate_every, done + stage.num_iterations - first)
        if int(state.iteration) >= first + count:  # done before the interruption
            watch.recall(stage.name, state)
            continue
        (block, *blocks) = blocks or [
            Block(*stage.update(flow, state.theta, state.opt_states[number], data.paths, key, first, count, directions))
        ]
        solver, opt_state, losses, spent = block
        _check_finite(flow, stage, state, solver, losses, first, data.paths)
        state = state._replace(
            theta=solver,
            opt_states=(*state.opt_states[:number], opt_state, *state.opt_states[number + 1 :]),
            iteration=np.asarray(first + count, np.int32),
        )
        spent += watch.records[-1]["evaluations"] + int(data.validation.num_paths * solver.evaluations(flow))
        state = watch.look(stage.name, state, float(np.mean(losses)), spent)
    return state


def _check_finite(flow, stage, state, solver, losses, first, paths):
    """Raise FitError, with the cause and the last good state, unless the losses and the solver are finite."""
    good, there_is_solver = np.isfinite(losses), np.all(np.isfinite(solver.raw))
    if np.all(good) and there_is_solver:
        return
    last = len(losses) if np.all(good) else 1 + np.argmin(good)
    # Levenberg-Marquardt makes no step where it finds no finite loss.
    where = solver if there_is_solver else state.theta
    raise FitError(
        f"fit: loss {stage.name!r} or its gradient is not finite in iteration {first + last}. "
        f"{cause_of(flow, where, paths, stage)} This error's .state.best is the best theta so far.",
        state,
    )


def _held_out(flow, solver, validation, batch_size, loss=None) -> tuple[np.ndarray, float]:
    """(RMSE of the solver's end point on each held-out path, a loss of ends on them; NaN without one)."""
    errors, values = [], []
    for some, x0, x1 in validation.chunks(flow, batch_size):
        ends = solver.end(some, x0)
        errors.append(distances(some, ends, x1))
        values.append(np.full(1, np.nan) if loss is None else values_of_ends(loss, some, ends, x1))
    return np.concatenate(errors), float(np.mean(np.concatenate(values)))


def _check_same_flow(flow, state, validation, stages):
    """Raise ValueError unless the state's best solver has the recorded error here; for another flow it would not."""
    if not np.isfinite(state.best_rmse):
        return
    found = np.mean(_held_out(flow, state.best, validation, stages[0].chunk_size)[0], dtype=np.float32)
    some, _, x1 = samples(flow, validation)
    rounding = _ROUNDING * size(some, x1)
    if not np.allclose(found, state.best_rmse, rtol=_SAME, atol=rounding):
        raise ValueError(
            f"state: wanted one of a fit to this flow and these paths, got one whose best theta had RMSE "
            f"{float(state.best_rmse):.4g} in its fit, but has {float(found):.4g} here."
        )


_SAME, _ROUNDING = 0.02, 1e-6  # devices round differently
