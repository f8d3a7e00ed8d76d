"""Fit a theta to a flow: true paths once, then a few stages of an optimiser, the best on held-out paths returned."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import metrics
from bespoke_jax.checks import check_choice, check_count, check_flag, check_key, check_positive, check_type
from bespoke_jax.fitting.losses import LOSSES
from bespoke_jax.fitting.memory import check_memory
from bespoke_jax.fitting.stages import DEFAULT_STAGES, Stage
from bespoke_jax.fitting.starts import NUM_START_PATHS, best_start, start_thetas
from bespoke_jax.flow.conditions import dealt, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import everywhere, gather
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.probe import EVALUATIONS as PROBE
from bespoke_jax.run.probe import check_velocity
from bespoke_jax.run.scores import distances, size
from bespoke_jax.run.truth import NUM_CHECKED, Truth, truth_of, warn_of_other_paths, warn_of_truth
from bespoke_jax.table import LearnedSolver, SolverTable, check_solver_arrays, to_table

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
        truth: what the held-out paths are worth, in dB: a few of their ends against better ones.
    """

    theta: LearnedSolver
    history: list[dict[str, Any]]
    cost: int
    network_calls: int
    start: str
    state: FitState
    truth: Truth


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
    atol: float | None = None,
    paths: Paths | None = None,
    validation: Paths | None = None,
    reference: SolverTable | None = None,
    checked_by: SolverTable | None = None,
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
        num_paths, num_validation: true paths to fit to and to hold out, solved here with `rtol` and `atol` by `ground_truth`.
            Where all losses are of ends, only ends are kept.
        paths, validation: paths of this flow, in place of those.
        reference: a solver that takes the place of Dopri5 there, for losses of ends, which need no more: see `frugal`.
        checked_by: a still better solver, by which a few held-out ends are checked; None for Dopri5 at a tenth of `rtol`, `atol`.
        choose_start: also try the starts of `starts.start_thetas` and begin from the best, by the first loss of ends in `stages`.
        num_start_paths: how many of the paths the best starts are compared on.
        best_by: which figure of the held-out paths says what is best: "psnr", that of the mean RMSE, or "mean_psnr", the mean
            over samples, which a few of them do not rule: for few held-out paths.
        data_range: peak of the PSNR, 2 for data in [-1, 1].
        state: continue from here (from a checkpoint of a fit with the same arguments); the result is the same to the bit.
        callback: called as `callback(state, record)` after every validation, e.g. to save or to show progress.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is compiled; for paths or a `state` of another
            flow; if a sample's velocity depends on chance or on its batch (a network in training mode).
        FitError: if a loss is not finite, or no theta was finite on the held-out paths; carries the last good state.

    Warns:
        UserWarning: if the solver comes within 6 dB of what the held-out paths are worth; if the velocity's slope at t = 0 is not
            its scheduler's.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> result = fit(flow, bj.init_theta("rk1", num_steps=3), jax.random.key(0), stages=(Stage("endpoint", 16),))
        >>> result.history[-1]["rmse"] < 0.1 * result.history[0]["rmse"]
        True
    """
    given = locals()
    how = _How(**{name: given[name] for name in _How._fields})
    task = _Task(**{name: given[name] for name in _Task._fields})
    _check(flow, (theta,), key, how, task, state, callback)
    return _fit(flow, theta, key, how, _data(flow, key, how, task, theta), state, callback)


class _How(NamedTuple):
    """Arguments of `fit` that say how a solver is learned."""

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    choose_start: bool = True
    num_start_paths: int = NUM_START_PATHS
    best_by: str = "psnr"
    data_range: float = 2.0


class _Task(NamedTuple):
    """Arguments of `fit` that say what it is learned from."""

    num_paths: int
    num_validation: int
    rtol: float
    atol: float | None
    paths: Paths | None
    validation: Paths | None
    reference: SolverTable | None
    checked_by: SolverTable | None


class _Data(NamedTuple):
    """Paths to fit to and to hold out, what the latter are worth, and the velocity evaluations that all of it took."""

    paths: Paths
    validation: Paths
    truth: Truth
    cost: int


def _fit(flow, theta, key, how: _How, data: _Data, state, callback) -> FitResult:
    stages, best_by, data_range = how.stages, how.best_by, how.data_range
    theta, state = gather(flow, (theta, state))  # what a checkpoint library restored is tied to one device
    paths, validation, cost = data.paths, data.validation, data.cost
    stages = tuple(dataclasses.replace(stage, batch_size=min(stage.batch_size, paths.num_paths)) for stage in stages)
    starts = start_thetas(flow, theta) if how.choose_start else {"given": theta}
    if state is None:
        loss = next((stage.loss for stage in stages if stage.is_of_ends), "endpoint")
        name, spent = best_start(flow, starts, paths, loss, how.num_start_paths) if how.choose_start else ("given", 0)
        state = init_state(starts[name], stages, list(starts).index(name))
        cost += spent
    else:
        _check_same_flow(flow, state, validation, stages)

    records: list[dict[str, Any]] = []

    def look(stage, state, loss, spent):
        """Validate, keep the best, write the record."""
        error = _held_out(flow, state.theta, validation, stages[0].chunk_size)
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
                    f"{_cause(flow, where, paths, stage)} This error's .state.best is the best theta before.",
                    state,
                )
            opt_states = (*state.opt_states[:number], opt_state, *state.opt_states[number + 1 :])
            iteration = np.asarray(first + count, np.int32)
            state = state._replace(theta=new_theta, opt_states=opt_states, iteration=iteration)
            spent += records[-1]["evaluations"] + validation.num_paths * theta.nfe
            state = look(stage.name, state, np.mean(losses), spent)
        done += stage.num_iterations
    if not np.isfinite(state.best_rmse):
        raise FitError(
            f"fit: no theta was finite on all {validation.num_paths} held-out paths. "
            f"{_cause(flow, state.theta, validation, stages[0])} This error's .state is the last.",
            state,
        )
    best = max(records, key=lambda record: record[best_by])
    warn_of_truth("fit", best[best_by], getattr(data.truth, best_by), data.truth)
    cost = records[-1]["evaluations"]
    start = list(starts)[int(state.start)]
    return FitResult(state.best, records, cost, cost * flow.calls_per_evaluation, start, state, data.truth)


def fit_ladder(
    flow: Flow,
    thetas: Iterable[LearnedSolver],
    key,
    *,
    num_paths: int = 128,
    num_validation: int = 64,
    rtol: float = 1e-5,
    atol: float | None = None,
    paths: Paths | None = None,
    validation: Paths | None = None,
    reference: SolverTable | None = None,
    checked_by: SolverTable | None = None,
    **options,
) -> list[FitResult]:
    """Learn several solvers of one flow: a ladder of step numbers, say. The true paths and what is compiled serve all of them.

    Every solver ends as the one that `fit` alone gives for it, with the same key.

    Args:
        flow, key, num_paths, num_validation, rtol, atol, paths, validation, reference, checked_by: as for `fit`.
        thetas: the solvers, of any families.
        options: `stages`, `choose_start`, `num_start_paths`, `best_by`, `data_range` and `callback`, as for `fit`.

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
    given = locals()
    if not isinstance(thetas, Iterable):
        raise TypeError(f"thetas: wanted a list of solvers, got {type(thetas).__name__}.")
    thetas, callback = tuple(thetas), options.pop("callback", None)
    if unknown := sorted(set(options) - set(_How._fields)):
        raise TypeError(f"fit_ladder: wanted options among {(*_How._fields, 'callback')}, got {', '.join(unknown)}.")
    how = _How(**options)
    task = _Task(**{name: given[name] for name in _Task._fields})
    _check(flow, thetas, key, how, task, None, callback)
    data = _data(flow, key, how, task, max(thetas, key=lambda theta: theta.nfe))
    return [_fit(flow, theta, key, how, data, None, callback) for theta in thetas]


# What a random number is for: keys are fold_in(key, purpose), then fold_in(., iteration), and never split.
_PATHS, _VALIDATION = 0, 1  # `stages` has 2 and 3
_CONDITIONS = 4


def _data(flow, key, how: _How, task: _Task, theta) -> _Data:
    """The paths that were given, or solved here; whole on each of the flow's devices. `theta` has the most evaluations."""
    stage = how.stages[0]
    ends_only = all(stage.is_of_ends for stage in how.stages)
    new = (task.num_paths if task.paths is None else 0) + (task.num_validation if task.validation is None else 0)
    for each in how.stages:
        largest = min(each.chunk_size, each.batch_size, task.num_paths if task.paths is None else task.paths.num_paths)
        chunk = largest if each.is_second_order and each.is_of_ends else 0
        check_memory(flow, new, ends_only, chunk, theta.nfe, each.probes)
    count = max(2, min(stage.chunk_size, task.num_validation))  # one alone does not tell what depends on its batch
    probed = _dealt(flow, key, _VALIDATION, count)
    check_velocity(probed, flow.noise(jax.random.fold_in(key, _VALIDATION), (count,)))

    def solved(purpose, count):
        some, x0 = _dealt(flow, key, purpose, count), flow.noise(jax.random.fold_in(key, purpose), (count,))
        if task.reference is None:
            return ground_truth(some, x0, task.rtol, task.atol, ends_only=ends_only)
        ends = adjoint.end_points(some, task.reference, x0, stage.chunk_size)
        return Paths.of_ends(some, x0, ends, task.reference.nfe)

    sets = {_PATHS: (task.paths, task.num_paths), _VALIDATION: (task.validation, task.num_validation)}
    paths, validation = (
        everywhere(flow, solved(purpose, count) if paths is None else paths) for purpose, (paths, count) in sets.items()
    )
    checked = min(NUM_CHECKED, stage.chunk_size)
    options = dict(better=task.checked_by, batch_size=checked, data_range=how.data_range)
    truth, spent = truth_of(validation, flow, task.rtol, task.atol, **options)
    for name, given, others in (("paths", task.paths, paths), ("validation", task.validation, validation)):
        if given is not None:
            worth, cost = truth_of(others, flow, task.rtol, task.atol, **options) if name == "paths" else (truth, 0)
            warn_of_other_paths(name, worth)
            spent += cost
    spent += count * PROBE + int(np.sum(paths.evaluations) + np.sum(validation.evaluations))
    return _Data(paths, validation, truth, spent)


def _dealt(flow, key, purpose, count):
    return dealt(flow, jax.random.fold_in(jax.random.fold_in(key, _CONDITIONS), purpose), count)


_MILLION = 1_000_000


def _held_out(flow, theta, validation, batch_size):
    """How far the solver ends from the truth, for each held-out path."""
    some, x0, x1 = samples(flow, validation)
    return distances(flow, adjoint.end_points(some, theta, x0, batch_size), x1)


def _check_same_flow(flow, state, validation, stages):
    """Raise ValueError unless the best theta of a state is as good here as it says: for another flow it is not."""
    if not np.isfinite(state.best_rmse):
        return
    found = np.mean(_held_out(flow, state.best, validation, stages[0].chunk_size), dtype=np.float32)
    rounding = _ROUNDING * size(flow, validation.states[:, -1])
    if not np.allclose(found, state.best_rmse, rtol=_SAME, atol=rounding):
        raise ValueError(
            f"state: wanted one of a fit to the same flow and paths; its best theta has RMSE {float(state.best_rmse):.4g} there, "
            f"and {float(found):.4g} on these held-out paths."
        )


_SAME, _ROUNDING = 0.02, 1e-6  # devices round differently


def _with_row(array, row, values):
    """A copy with other values in one row."""
    array = np.array(array)
    array[row] = values
    return array


def _cause(flow, theta, paths, stage) -> str:
    """What a loss that is not finite comes from, and the remedy: the first time at which `theta` meets no finite velocity, or
    none with finite derivatives."""
    (flow, x0, _), table = samples(flow, paths), to_table(theta)
    finite = np.ones((2, theta.nfe), bool)  # velocities, their derivatives
    for part in adjoint.chunks(len(x0), stage.chunk_size):
        some = of_samples(flow, part)
        trace = adjoint.run(some, table, x0[part])
        evaluations = zip(table.t, trace.states, trace.velocities, strict=True)
        found = [adjoint.finite(some, *evaluation) for evaluation in evaluations]
        finite &= np.transpose(jax.device_get(gather(flow, found)))
    for what, fine in zip(("velocity", "derivative of the velocity in t or x"), finite, strict=True):
        if not np.all(fine):
            first = int(np.argmin(fine))
            return (
                f"The {what} is not finite at t = {float(table.t[first]):.6g} (evaluation {first} of 0 to {theta.nfe - 1}, in "
                f"the step from knot {first * theta.num_steps // theta.nfe}): check flow(t, x) near that time, and whether it "
                "divides by alpha_t or sigma_t, or has a root or a logarithm at 0."
            )
    shorter = "raise the damping, or lower the limit, of Levenberg-Marquardt"
    own = f"it is the loss {stage.name!r} itself that is not finite, or the" if callable(stage.loss) else "the"
    return (
        f"The velocity and its derivatives are finite at all {theta.nfe} evaluations of the theta before it, so {own} "
        f"update went too far: {shorter if stage.is_second_order else 'lower the learning rate'}."
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


def _check(flow, thetas, key, how: _How, task: _Task, state, callback):
    """All that can be known to be wrong before any work."""
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    check_key(key)
    for theta in thetas:
        check_type("theta", theta, LearnedSolver, "what bespoke_jax.init_theta('rk2', 5) gives")
        check_solver_arrays("theta", theta)
    if not thetas:
        raise ValueError("thetas: wanted one solver or more, got none.")
    if not isinstance(how.stages, tuple | list) or not how.stages or not all(isinstance(s, Stage) for s in how.stages):
        raise TypeError(f"stages: wanted a non-empty tuple of Stage, got {how.stages!r}.")
    check_flag("choose_start", how.choose_start)
    check_count("num_start_paths", how.num_start_paths)
    check_choice("best_by", how.best_by, ("psnr", "mean_psnr"))
    check_positive("data_range", how.data_range)
    check_count("num_paths", task.num_paths)
    check_count("num_validation", task.num_validation)
    check_positive("rtol", task.rtol)
    if task.atol is not None:
        check_positive("atol", task.atol)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: wanted a function of (state, record), got {type(callback).__name__}.")
    for name in ("paths", "validation"):
        if (given := getattr(task, name)) is not None:
            _check_paths(name, flow, given)
    _check_reference(thetas, how, task)
    for stage in how.stages:
        for theta in thetas:
            stage.check(theta)
        if task.paths is not None and task.paths.is_of_ends and not stage.is_of_ends and stage.loss in LOSSES:
            raise ValueError(f"paths: the loss {stage.loss!r} needs whole paths, got the ends alone (Paths.of_ends).")
    if state is not None:
        num_starts = len(start_thetas(flow, thetas[0])) if how.choose_start else 1
        _check_state(state, thetas[0], how.stages, num_starts)


def _check_paths(name, flow, paths):
    check_type(name, paths, Paths, "bespoke_jax.Paths, as ground_truth gives them")
    paths.check(name)
    try:
        samples(flow, paths)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('paths: ')}") from None


def _check_reference(thetas, how, task):
    """A reference solves ends alone, and much better than what is learned from it."""
    for name in ("reference", "checked_by"):
        solver = getattr(task, name)
        if solver is None:
            continue
        check_type(name, solver, SolverTable, "a SolverTable such as bj.classic.unipc's")
        check_solver_arrays(name, solver)
    if task.reference is None:
        return
    if task.checked_by is not None and task.checked_by.nfe <= task.reference.nfe:
        raise ValueError(
            f"checked_by: wanted a better solver than the reference of {task.reference.nfe} evaluations, got one of "
            f"{task.checked_by.nfe}."
        )
    for theta in thetas:
        if task.reference.nfe <= theta.nfe:
            raise ValueError(
                f"reference: wanted a much better solver than one of {theta.nfe} evaluations, got one of {task.reference.nfe}."
            )
    for stage in how.stages:
        if stage.loss in LOSSES and not stage.is_of_ends:
            raise ValueError(f"reference: it solves ends alone, and the loss {stage.loss!r} needs whole paths.")


def _check_state(state, theta, stages, num_starts):
    check_type("state", state, FitState, "the FitState of an earlier fit")
    there, here = (f"{t.family} with {t.num_steps} steps, {t.num_parameters} learned" for t in (state.theta, theta))
    if there != here:
        raise ValueError(f"state: belongs to {there}; theta is {here}.")
    if not 0 <= int(state.start) < num_starts:
        raise ValueError(
            f"state: began from start {int(state.start)}, of {num_starts} that there are with these arguments; give the "
            "choose_start it was made with."
        )
    wanted = init_state(theta, stages)
    shapes = [jax.tree.map(jnp.shape, (s.opt_states, s.history, s.evaluations)) for s in (state, wanted)]
    iterations = sum(stage.num_iterations for stage in stages)
    if shapes[0] != shapes[1] or not 0 <= int(state.iteration) <= iterations:
        raise ValueError(
            f"state: belongs to other stages: it has {len(state.opt_states)} optimisers, {len(state.history)} looks and is at "
            f"iteration {int(state.iteration)}; wanted {len(stages)}, {len(wanted.history)} and at most {iterations}."
        )
