"""Fit a theta to a flow: true paths once, then a few stages of an optax optimiser, the best on held-out paths returned."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from bespoke_jax import metrics
from bespoke_jax.curvature import linearise
from bespoke_jax.flow import Flow, check_key
from bespoke_jax.ground_truth import Paths, ground_truth
from bespoke_jax.losses import LOSSES
from bespoke_jax.second_order import LevenbergMarquardtState, levenberg_marquardt
from bespoke_jax.solve import solve
from bespoke_jax.starts import best_start, start_thetas
from bespoke_jax.theta import Theta

__all__ = ["DEFAULT_STAGES", "FitError", "FitResult", "FitState", "Stage", "fit", "init_state", "paper_stages"]

_SECOND_ORDER = levenberg_marquardt()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a fit; hashable, so that equal stages share what is compiled.

    Attributes:
        loss: a name in `losses.LOSSES`, or any `loss(flow, theta, paths) -> scalar` (first-order optimisers only).
        num_iterations: updates.
        optimizer: an optax transformation; Levenberg-Marquardt by default.
        batch_size: paths per update: of the gradient, or on which a Levenberg-Marquardt step is judged ...
        curvature_size: ... and those of them from which it is computed.
        validate_every: updates per compiled call, at the end of which the held-out paths are looked at.
        lipschitz: L_tau of `rmse_bound`.
    """

    loss: str | Callable = "endpoint"
    num_iterations: int = 8
    optimizer: optax.GradientTransformation = _SECOND_ORDER
    batch_size: int = 32
    curvature_size: int = 12
    validate_every: int = 1
    lipschitz: float = 1.0

    def __post_init__(self):
        if not callable(self.loss) and self.loss not in LOSSES:
            raise ValueError(f"Stage.loss: wanted one of {sorted(LOSSES)} or a function, got {self.loss!r}.")
        for name in ("num_iterations", "batch_size", "curvature_size", "validate_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"Stage.{name}: wanted an integer >= 1, got {value!r}.")
        if not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise TypeError(f"Stage.optimizer: wanted an optax transformation, got {self.optimizer!r}.")

    def loss_of(self, flow, theta, paths):
        """The loss's value."""
        if callable(self.loss):
            return self.loss(flow, theta, paths)
        return LOSSES[self.loss].function(flow, theta, paths, **self._options)

    def linearise(self, flow, theta, paths):
        """The loss's gradient and Gauss-Newton matrix."""
        if callable(self.loss):
            raise ValueError(
                f"Stage.optimizer: this one needs curvature, which only the losses {sorted(LOSSES)} have; "
                "use a first-order one such as optax.adam(1e-2) with a loss of your own."
            )
        return linearise(self.loss, flow, theta, paths, **self._options)

    @property
    def is_second_order(self) -> bool:
        """Whether the optimiser is Levenberg-Marquardt."""
        return isinstance(self.optimizer.init(jnp.zeros(1)), LevenbergMarquardtState)

    @property
    def _options(self):
        return {"lipschitz": self.lipschitz} if self.loss == "rmse_bound" else {}

    def cost(self, theta: Theta) -> int:
        """Velocity evaluations of one update: forward 1, reverse-mode gradient 2 more, a forward-mode tangent 1.

        What rematerialisation computes a second time is not counted.
        """
        if not self.is_second_order:
            return 3 * self.batch_size * theta.nfe
        per_step = not callable(self.loss) and LOSSES[self.loss].per_step
        tangents = 4 * theta.num_intervals // theta.num_steps + 3 if per_step else theta.num_parameters
        return (self.curvature_size * (1 + tangents) + self.batch_size * (1 + _TRIALS)) * theta.nfe


_TRIALS = 3  # dampings that a Levenberg-Marquardt step tries

DEFAULT_STAGES = (Stage("rmse_bound", 5), Stage("endpoint", 8))
"""The bound brings any start near, robustly and cheaply; the end-point loss gains the last decibels (docs/fitting.md)."""


def paper_stages(num_iterations: int = 1000, learning_rate: float = 2e-3, batch_size: int = 40) -> tuple[Stage, ...]:
    """The paper's recipe: Adam on the RMSE-Bound loss alone (Sec. 2.4, Algorithm 3), on cached paths.

    The paper leaves learning rate, batch and iterations open; these are ours.
    """
    return (Stage("rmse_bound", num_iterations, optax.adam(learning_rate), batch_size, validate_every=25),)


class FitState(NamedTuple):
    """All that a fit carries: a pytree of arrays of fixed shapes, so a checkpoint restores by its shapes.

    Attributes:
        start: number of the start curve, 0 for the theta that was given.
        theta: the current theta.
        opt_states: one optimiser state per stage.
        best: the best theta on the held-out paths so far.
        best_rmse: its mean RMSE there.
        iteration: updates done, over all stages.
        history: [records, 4] rows (iteration, loss, validation RMSE, validation mean log RMSE); NaN where not yet written.
    """

    start: jax.Array
    theta: Theta
    opt_states: tuple
    best: Theta
    best_rmse: jax.Array
    iteration: jax.Array
    history: jax.Array


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        theta: the best theta on the held-out paths.
        history: one dict per validation: stage, iteration, loss, rmse, psnr, mean_psnr, evaluations.
        cost: velocity evaluations of single samples, true paths included.
        start: name of the start curve that won, or "given".
        state: the last `FitState`.
    """

    theta: Theta
    history: list[dict[str, Any]]
    cost: int
    start: str
    state: FitState


class FitError(FloatingPointError):
    """A loss that is not finite. `state` holds the last good `FitState`; `state.best` is still a usable theta."""

    def __init__(self, message: str, state: FitState):
        super().__init__(message)
        self.state = state


def init_state(theta: Theta, stages: tuple[Stage, ...] = DEFAULT_STAGES, start: int = 0) -> FitState:
    """The state before the first update; also the target that tells a checkpoint library what shapes to restore."""
    records = 1 + sum(-(-stage.num_iterations // stage.validate_every) for stage in stages)
    return FitState(
        start=jnp.asarray(start, jnp.int32),
        theta=theta,
        opt_states=tuple(stage.optimizer.init(theta) for stage in stages),
        best=theta,
        best_rmse=jnp.asarray(jnp.inf, jnp.float32),
        iteration=jnp.zeros((), jnp.int32),
        history=jnp.full((records, 4), jnp.nan, jnp.float32),
    )


def fit(
    flow: Flow,
    theta: Theta,
    key,
    *,
    stages: tuple[Stage, ...] = DEFAULT_STAGES,
    num_paths: int = 64,
    num_validation: int = 64,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    paths: Paths | None = None,
    validation: Paths | None = None,
    choose_start: bool = True,
    data_range: float = 2.0,
    state: FitState | None = None,
    callback: Callable[[FitState, dict], None] | None = None,
) -> FitResult:
    """Learn a solver for `flow`: from a theta to a better one of the same base and number of steps.

    Args:
        flow: the pre-trained flow.
        theta: the start, e.g. `init_theta("rk2", num_steps=5)`.
        key: one JAX random key: noises of the paths and choice of batches.
        stages: what is minimised, how, for how long; each begins at the best theta so far.
        num_paths, num_validation: true paths to fit to and to hold out, solved here with `rtol` and `atol` ...
        paths, validation: ... unless they are given.
        choose_start: also try the start curves of `starts.start_curves` and begin from the best.
        data_range: peak of the PSNR, 2 for data in [-1, 1].
        state: continue from here (from a checkpoint of a fit with the same arguments); the result is the same to the bit.
        callback: called as `callback(state, record)` after every validation, e.g. to save or to show progress.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is compiled.
        FitError: if a loss is not finite; carries the last good state.

    Example:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> result = fit(flow, bj.init_theta("rk1", num_steps=3), jax.random.key(0), stages=(Stage("endpoint", 4),))
        >>> result.history[-1]["rmse"] < 0.1 * result.history[0]["rmse"]
        True
    """
    _check(flow, theta, key, stages, num_paths, num_validation, state)
    if paths is None:
        paths = ground_truth(flow, flow.noise(jax.random.fold_in(key, _PATHS), (num_paths,)), rtol, atol)
    if validation is None:
        validation = ground_truth(flow, flow.noise(jax.random.fold_in(key, _VALIDATION), (num_validation,)), rtol, atol)
    stages = tuple(_bounded(stage, paths.num_paths) for stage in stages)
    cost = int(jnp.sum(paths.evaluations)) + int(jnp.sum(validation.evaluations))
    starts = start_thetas(flow, theta) if choose_start else {"given": theta}
    if choose_start:
        few = paths.take(jnp.arange(min(_START_PATHS, paths.num_paths)))
        cost += len(starts) * few.num_paths * theta.nfe
    if state is None:
        name = best_start(flow, starts, few) if choose_start else "given"
        state = init_state(starts[name], stages, list(starts).index(name))

    done, records = 0, []

    def look(stage, state, loss):
        """Validate, keep the best, write the record."""
        error = _validation_errors(flow, state.theta, validation)
        mean, mean_log = float(jnp.mean(error)), float(jnp.mean(jnp.log(error)))
        row = len(records)
        records.append(_record(stage, int(state.iteration), loss, mean, mean_log, data_range, cost))
        better = mean < float(state.best_rmse)
        state = state._replace(
            best=state.theta if better else state.best,
            best_rmse=jnp.asarray(mean, jnp.float32) if better else state.best_rmse,
            history=state.history.at[row].set(jnp.asarray([int(state.iteration), loss, mean, mean_log], jnp.float32)),
        )
        if callback is not None:
            callback(state, records[-1])
        return state

    if int(state.iteration) == 0 and bool(jnp.isnan(state.history[0, 0])):
        state = look("start", state, float("nan"))
    else:
        records.append(_stored(state, 0, "start", data_range, cost))

    for number, stage in enumerate(stages):
        name = stage.loss if isinstance(stage.loss, str) else getattr(stage.loss, "__name__", "loss")
        if int(state.iteration) == done:
            state = state._replace(theta=state.best)
        for first in range(done, done + stage.num_iterations, stage.validate_every):
            count = min(stage.validate_every, done + stage.num_iterations - first)
            cost += count * stage.cost(theta) + validation.num_paths * theta.nfe
            if int(state.iteration) >= first + count:  # done before the interruption
                records.append(_stored(state, len(records), name, data_range, cost))
                continue
            new_theta, opt_state, loss = _iterate(
                stage, count, flow, state.theta, state.opt_states[number], paths, key, jnp.asarray(first, jnp.int32)
            )
            loss = float(loss)
            if not (np.isfinite(loss) and bool(jnp.all(jnp.isfinite(new_theta.raw)))):
                raise FitError(
                    f"fit: loss {name!r} is {loss} at iteration {first + count}. The last good theta is this error's "
                    ".state.best. Lower the learning rate, or check the velocity near t = 0 and t = 1.",
                    state,
                )
            opt_states = (*state.opt_states[:number], opt_state, *state.opt_states[number + 1 :])
            state = state._replace(
                theta=new_theta, opt_states=opt_states, iteration=jnp.asarray(first + count, jnp.int32)
            )
            state = look(name, state, loss)
        done += stage.num_iterations
    return FitResult(state.best, records, cost, list(starts)[int(state.start)], state)


# What a random number is for: keys are fold_in(key, purpose), then fold_in(., iteration), and never split.
_PATHS, _VALIDATION, _BATCHES = 0, 1, 2

_START_PATHS = 16  # paths that start curves are compared on


@functools.partial(jax.jit, static_argnums=(0, 1))
def _iterate(stage, count, flow, theta, opt_state, paths, key, first):
    """`count` updates in one compiled call: (theta, opt_state, mean loss)."""

    def update(carry, iteration):
        theta, opt_state = carry
        fresh = jax.random.fold_in(jax.random.fold_in(key, _BATCHES), iteration)
        order = jax.random.permutation(fresh, paths.num_paths)
        batch, few = paths.take(order[: stage.batch_size]), paths.take(order[: stage.curvature_size])

        def value_fn(theta):
            return stage.loss_of(flow, theta, batch)

        if stage.is_second_order:
            value, unravel = value_fn(theta), ravel_pytree(theta)[1]
            gradient, curvature = stage.linearise(flow, theta, few)
            gradient, extra = unravel(gradient), dict(curvature=curvature)
        else:
            value, gradient = jax.value_and_grad(value_fn)(theta)
            extra = dict(grad=gradient)
        updates, opt_state = optax.with_extra_args_support(stage.optimizer).update(
            gradient, opt_state, theta, value=value, value_fn=value_fn, **extra
        )
        return (optax.apply_updates(theta, updates), opt_state), value

    (theta, opt_state), values = jax.lax.scan(update, (theta, opt_state), first + jnp.arange(count))
    return theta, opt_state, jnp.mean(values)


@jax.jit
def _validation_errors(flow, theta, validation):
    error = metrics.rmse(solve(flow, theta, validation.x0), validation.x1, len(flow.event_shape))
    return jnp.maximum(error, 1e-12).ravel()


def _record(stage, iteration, loss, rmse, mean_log, data_range, cost):
    psnr = metrics.psnr
    return dict(
        stage=stage,
        iteration=iteration,
        loss=loss,
        rmse=rmse,
        psnr=float(psnr(rmse, data_range)),
        mean_psnr=float(psnr(np.exp(mean_log), data_range)),
        evaluations=cost,
    )


def _stored(state, row, stage, data_range, cost):
    iteration, loss, rmse, mean_log = (float(v) for v in state.history[row])
    return _record(stage, int(iteration), loss, rmse, mean_log, data_range, cost)


def _bounded(stage, num_paths):
    batch_size = min(stage.batch_size, num_paths)
    return dataclasses.replace(stage, batch_size=batch_size, curvature_size=min(stage.curvature_size, batch_size))


def _check(flow, theta, key, stages, num_paths, num_validation, state):
    if not isinstance(flow, Flow):
        raise TypeError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    if not isinstance(theta, Theta):
        raise TypeError(f"theta: wanted a Theta such as bespoke_jax.init_theta('rk2', 5), got {type(theta).__name__}.")
    check_key(key)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(f"stages: wanted a non-empty tuple of Stage, got {stages!r}.")
    for name, value in dict(num_paths=num_paths, num_validation=num_validation).items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: wanted an integer >= 1, got {value!r}.")
    if state is not None and (state.theta.base, state.theta.num_steps) != (theta.base, theta.num_steps):
        raise ValueError(
            f"state: belongs to {state.theta.base} with {state.theta.num_steps} steps, "
            f"theta is {theta.base} with {theta.num_steps}."
        )
