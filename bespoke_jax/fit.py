"""Fit a theta to a flow: true paths once, then a few stages of an optimiser, the best on held-out paths returned."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import metrics, stepwise
from bespoke_jax.checks import check_count, check_key
from bespoke_jax.conditions import dealt, of_paths, of_samples
from bespoke_jax.families import LearnedSolver
from bespoke_jax.flow import Flow
from bespoke_jax.ground_truth import ground_truth
from bespoke_jax.losses import LOSSES
from bespoke_jax.paths import Paths
from bespoke_jax.sharding import everywhere, gather
from bespoke_jax.stages import DEFAULT_STAGES, Stage
from bespoke_jax.starts import NUM_START_PATHS, best_start, start_thetas
from bespoke_jax.table import SolverTable, to_table

__all__ = ["FitError", "FitResult", "FitState", "fit", "fit_ladder", "init_state"]


class FitState(NamedTuple):
    """All that a fit carries: a pytree of arrays of fixed shapes, so a checkpoint restores by its shapes.

    Attributes:
        start: number of the start curve, 0 for the theta that was given.
        theta: the current theta.
        opt_states: one optimiser state per stage.
        best: the best theta on the held-out paths so far.
        best_rmse: its mean RMSE there, whatever it was chosen by.
        iteration: updates done, over all stages.
        history: [records, 4] rows (iteration, loss, validation RMSE, validation mean log RMSE); NaN where not yet written.
        evaluations: [records, 2] velocity evaluations so far, in millions and the rest: exact beyond 32 bits.
    """

    start: jax.Array
    theta: LearnedSolver
    opt_states: tuple
    best: LearnedSolver
    best_rmse: jax.Array
    iteration: jax.Array
    history: jax.Array
    evaluations: jax.Array


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        theta: the best theta on the held-out paths.
        history: one dict per validation: stage, iteration, loss, rmse, psnr, mean_psnr, evaluations.
        cost: velocity evaluations of single samples, true paths included.
        network_calls: what they are to the network: `cost` times `flow.calls_per_evaluation`, 2 with `guided`.
        start: name of the start curve that won, or "given".
        state: the last `FitState`.
    """

    theta: LearnedSolver
    history: list[dict[str, Any]]
    cost: int
    network_calls: int
    start: str
    state: FitState


class FitError(FloatingPointError):
    """A loss that is not finite. `state` holds the last good `FitState`; `state.best` is still a usable theta."""

    def __init__(self, message: str, state: FitState):
        super().__init__(message)
        self.state = state


def init_state(theta: LearnedSolver, stages: tuple[Stage, ...] = DEFAULT_STAGES, start: int = 0) -> FitState:
    """The state before the first update; also the target that tells a checkpoint library what shapes to restore."""
    records = 1 + sum(-(-stage.num_iterations // stage.validate_every) for stage in stages)
    return FitState(
        start=np.asarray(start, np.int32),
        theta=theta,
        opt_states=tuple(stage.optimizer.init(theta.raw) for stage in stages),
        best=theta,
        best_rmse=np.asarray(np.inf, np.float32),
        iteration=np.asarray(0, np.int32),
        history=np.full((records, 4), np.nan, np.float32),
        evaluations=np.zeros((records, 2), np.int32),
    )


def fit(
    flow: Flow,
    theta: LearnedSolver,
    key,
    *,
    stages: tuple[Stage, ...] = DEFAULT_STAGES,
    num_paths: int = 128,
    num_validation: int = 64,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    paths: Paths | None = None,
    validation: Paths | None = None,
    reference: SolverTable | None = None,
    choose_start: bool = True,
    num_start_paths: int = NUM_START_PATHS,
    best_by: str = "psnr",
    data_range: float = 2.0,
    state: FitState | None = None,
    callback: Callable[[FitState, dict], None] | None = None,
) -> FitResult:
    """Learn a solver for `flow`: from a theta to a better one of the same base and number of steps.

    Args:
        flow: the pre-trained flow. If it is `given` conditions, they are dealt out to the paths: a solver for all of them.
        theta: the start, e.g. `init_theta("rk2", num_steps=5)`.
        key: one JAX random key: noises of the paths and choice of batches.
        stages: what is minimised, how, for how long; each begins at the best theta so far.
        num_paths, num_validation: true paths to fit to and to hold out, solved here with `rtol` and `atol` ...
        paths, validation: ... unless they are given.
        reference: a solver that takes the place of Dopri5 there, for losses of ends, which need no more: see `frugal`.
        choose_start: also try the starts of `starts.start_thetas` and begin from the best, by the first loss of ends in `stages`.
        num_start_paths: how many of the paths the best starts are compared on.
        best_by: which figure of the held-out paths says what is best: "psnr", that of the mean RMSE, or "mean_psnr", the mean
            over samples, which a few of them do not rule: for few held-out paths.
        data_range: peak of the PSNR, 2 for data in [-1, 1].
        state: continue from here (from a checkpoint of a fit with the same arguments); the result is the same to the bit.
        callback: called as `callback(state, record)` after every validation, e.g. to save or to show progress.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is compiled.
        FitError: if a loss is not finite; carries the last good state.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> result = fit(flow, bj.init_theta("rk1", num_steps=3), jax.random.key(0), stages=(Stage("endpoint", 16),))
        >>> result.history[-1]["rmse"] < 0.1 * result.history[0]["rmse"]
        True
    """
    _check(flow, theta, key, stages, num_paths, num_validation, reference, best_by, state)
    theta, state = gather(flow, (theta, state))  # what a checkpoint library restored is tied to one device
    sets = {_PATHS: (paths, num_paths), _VALIDATION: (validation, num_validation)}
    paths, validation = _solved(flow, key, sets, rtol, atol, reference, stages[0].chunk_size)
    stages = tuple(dataclasses.replace(stage, batch_size=min(stage.batch_size, paths.num_paths)) for stage in stages)
    cost = int(np.sum(paths.evaluations) + np.sum(validation.evaluations))
    starts = start_thetas(flow, theta) if choose_start else {"given": theta}
    if state is None:
        loss = next((stage.loss for stage in stages if stage.is_of_ends), "endpoint")
        name, spent = best_start(flow, starts, paths, loss, num_start_paths) if choose_start else ("given", 0)
        state = init_state(starts[name], stages, list(starts).index(name))
        cost += spent

    records: list[dict[str, Any]] = []

    def look(stage, state, loss, spent):
        """Validate, keep the best, write the record."""
        error = _validation_errors(flow, state.theta, validation, stages[0].chunk_size)
        mean, mean_log, row = np.mean(error, dtype=np.float32), np.mean(np.log(error)), len(records)
        before = state.best_rmse if best_by == "psnr" else np.nanmin(state.history[:row, 3], initial=np.inf)
        better = bool((mean if best_by == "psnr" else mean_log) < before)
        state = state._replace(
            best=state.theta if better else state.best,
            best_rmse=np.asarray(mean) if better else state.best_rmse,
            history=_with_row(state.history, row, (state.iteration, loss, mean, mean_log)),
            evaluations=_with_row(state.evaluations, row, divmod(spent, _MILLION)),
        )
        records.append(_record(stage, state, row, data_range))
        if callback is not None:
            callback(state, records[-1])
        return state

    if np.isnan(state.history[0, 0]):
        state = look("start", state, float("nan"), cost)
    else:
        records.append(_record("start", state, 0, data_range))

    done = 0
    for number, stage in enumerate(stages):
        if int(state.iteration) == done:
            state = state._replace(theta=state.best)
        for first in range(done, done + stage.num_iterations, stage.validate_every):
            count = min(stage.validate_every, done + stage.num_iterations - first)
            if int(state.iteration) >= first + count:  # done before the interruption
                records.append(_record(stage.name, state, len(records), data_range))
                continue
            new_theta, opt_state, losses, spent = stage.update(
                flow, state.theta, state.opt_states[number], paths, key, first, count
            )
            good, there_is_theta = np.isfinite(losses), np.all(np.isfinite(new_theta.raw))
            if not (np.all(good) and there_is_theta):
                last = count if np.all(good) else 1 + np.argmin(good)
                # Levenberg-Marquardt stands still where it found no finite loss.
                where = new_theta if there_is_theta else state.theta
                raise FitError(
                    f"fit: loss {stage.name!r} or its gradient is not finite in iteration {first + last}. "
                    f"{_cause(flow, where, paths, stage.chunk_size)} This error's .state.best is the best theta before.",
                    state,
                )
            opt_states = (*state.opt_states[:number], opt_state, *state.opt_states[number + 1 :])
            iteration = np.asarray(first + count, np.int32)
            state = state._replace(theta=new_theta, opt_states=opt_states, iteration=iteration)
            spent += records[-1]["evaluations"] + validation.num_paths * theta.nfe
            state = look(stage.name, state, np.mean(losses), spent)
        done += stage.num_iterations
    cost = records[-1]["evaluations"]
    return FitResult(state.best, records, cost, cost * flow.calls_per_evaluation, list(starts)[int(state.start)], state)


def fit_ladder(
    flow: Flow,
    thetas: Sequence[LearnedSolver],
    key,
    *,
    num_paths: int = 128,
    num_validation: int = 64,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    paths: Paths | None = None,
    validation: Paths | None = None,
    reference: SolverTable | None = None,
    **options,
) -> list[FitResult]:
    """Learn several solvers of one flow: a ladder of step numbers, say. The true paths and what is compiled serve all of them.

    Every solver ends as the one that `fit` alone gives for it, with the same key.

    Args:
        flow, key, num_paths, num_validation, rtol, atol, paths, validation, reference: as for `fit`.
        thetas: the solvers, of any families.
        options: all else that `fit` takes but `state`.

    Returns:
        The `FitResult` of each. The cost of each has the true paths in it, which were solved once.

    Raises:
        TypeError, ValueError, FitError: as `fit` does; for wrong arguments before any path is solved.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> ladder = [bj.init_theta("rk1", n) for n in (2, 3)]
        >>> results = fit_ladder(flow, ladder, jax.random.key(0), stages=(Stage("endpoint", 2),), num_paths=16)
        >>> [result.theta.nfe for result in results]
        [2, 3]
    """
    stages, best_by = options.get("stages", DEFAULT_STAGES), options.get("best_by", "psnr")
    for theta in thetas:
        _check(flow, theta, key, stages, num_paths, num_validation, reference, best_by, None)
    sets = {_PATHS: (paths, num_paths), _VALIDATION: (validation, num_validation)}
    paths, validation = _solved(flow, key, sets, rtol, atol, reference, stages[0].chunk_size)
    return [fit(flow, theta, key, paths=paths, validation=validation, **options) for theta in thetas]


# What a random number is for: keys are fold_in(key, purpose), then fold_in(., iteration), and never split.
_PATHS, _VALIDATION = 0, 1  # `stages` has 2 and 3
_CONDITIONS = 4


def _solved(flow, key, sets: dict, rtol, atol, reference, chunk_size) -> list[Paths]:
    """The paths of each purpose -> (paths, how many): those at hand, or solved here; whole on each of the flow's devices."""

    def solved(purpose, count):
        x0 = flow.noise(jax.random.fold_in(key, purpose), (count,))
        dealing = jax.random.fold_in(jax.random.fold_in(key, _CONDITIONS), purpose)
        some = dealt(flow, dealing, count)
        if reference is None:
            return ground_truth(some, x0, rtol, atol)
        ends = stepwise.end_points(some, reference, x0, chunk_size)
        return Paths.of_ends(some, x0, ends, reference.nfe)

    return [
        everywhere(flow, solved(purpose, count) if paths is None else paths) for purpose, (paths, count) in sets.items()
    ]


_MILLION = 1_000_000


def _validation_errors(flow, theta, validation, batch_size):
    x0, x1 = (jnp.reshape(x, (-1, *flow.event_shape)) for x in (validation.x0, validation.x1))
    ends = stepwise.end_points(of_paths(flow, validation), theta, x0, batch_size)
    return np.maximum(gather(flow, _errors(ends, x1, len(flow.event_shape))), 1e-12)


_errors = jax.jit(metrics.rmse, static_argnums=2)


def _with_row(array, row, values):
    """A copy with other values in one row."""
    array = np.array(array)
    array[row] = values
    return array


def _cause(flow, theta, paths, batch_size) -> str:
    """What a loss that is not finite comes from, and the remedy: the first time at which `theta` meets no finite velocity, or
    none with finite derivatives."""
    x0 = jnp.reshape(paths.x0, (-1, *flow.event_shape))
    flow, table = of_paths(flow, paths), to_table(theta)
    finite = np.ones((2, theta.nfe), bool)  # velocities, their derivatives
    for part in stepwise.chunks(len(x0), batch_size):
        some = of_samples(flow, part)
        trace = stepwise.run(some, table, x0[part])
        evaluations = zip(table.t, trace.states, trace.velocities, strict=True)
        found = [stepwise.finite(some, *evaluation) for evaluation in evaluations]
        finite &= np.transpose(jax.device_get(gather(flow, found)))
    for what, fine in zip(("velocity", "derivative of the velocity in t or x"), finite, strict=True):
        if not np.all(fine):
            first = int(np.argmin(fine))
            return (
                f"The {what} is not finite at t = {float(table.t[first]):.6g} (evaluation {first} of 0 to {theta.nfe - 1}, in "
                f"the step from knot {first * theta.num_steps // theta.nfe}): check flow(t, x) near that time, and whether it "
                "divides by alpha_t or sigma_t, or has a root or a logarithm at 0."
            )
    return (
        f"The velocity and its derivatives are finite at all {theta.nfe} evaluations of the theta before it, so the "
        "update went too far: lower the learning rate."
    )


def _record(stage, state, row, data_range):
    """A row of the state's history as a dict."""
    iteration, loss, rmse, mean_log = (float(v) for v in state.history[row])
    millions, rest = (int(v) for v in state.evaluations[row])
    return dict(
        stage=stage,
        iteration=int(iteration),
        loss=loss,
        rmse=rmse,
        psnr=float(metrics.psnr(rmse, data_range)),
        mean_psnr=float(metrics.psnr(np.exp(mean_log), data_range)),
        evaluations=_MILLION * millions + rest,
    )


def _check(flow, theta, key, stages, num_paths, num_validation, reference, best_by, state):
    if not isinstance(flow, Flow):
        raise TypeError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    if not isinstance(theta, LearnedSolver):
        raise TypeError(f"theta: wanted what bespoke_jax.init_theta('rk2', 5) gives, got {type(theta).__name__}.")
    check_key(key)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(f"stages: wanted a non-empty tuple of Stage, got {stages!r}.")
    check_count("num_paths", num_paths)
    check_count("num_validation", num_validation)
    if best_by not in ("psnr", "mean_psnr"):
        raise ValueError(f"best_by: wanted 'psnr' or 'mean_psnr', got {best_by!r}.")
    if reference is not None:
        if not isinstance(reference, SolverTable):
            raise TypeError(
                f"reference: wanted a SolverTable such as bj.classic.unipc's, got {type(reference).__name__}."
            )
        if reference.nfe <= theta.nfe:
            raise ValueError(
                f"reference: wanted a much better solver than one of {theta.nfe} evaluations, got one of {reference.nfe}."
            )
        for stage in stages:
            if stage.loss in LOSSES and not stage.is_of_ends:
                raise ValueError(f"reference: it solves ends alone, and the loss {stage.loss!r} needs whole paths.")
    if state is not None:
        there, here = (f"{t.base} with {t.num_steps} steps, {t.num_parameters} learned" for t in (state.theta, theta))
        if there != here:
            raise ValueError(f"state: belongs to {there}; theta is {here}.")
