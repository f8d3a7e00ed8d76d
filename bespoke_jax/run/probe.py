"""A check of the velocity before any work: is it a function that a solver can be learned for?

A network in training mode (dropout, batch statistics), a reversed time or a forgotten sign give wrong results without an error,
because a fit learns whatever field it is given. A few velocities of one batch reveal them all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.metrics import mean_square
from bespoke_jax.schedulers import Scheduler, SchedulerValues
from bespoke_jax.types import Array, Scalar
from bespoke_jax.warn import warn

__all__ = ["EVALUATIONS", "check_velocity"]

EVALUATIONS = 5
"""Velocity evaluations of each sample that `check_velocity` makes."""

_APART = 1e-2  # relative RMS difference of equal velocities: above rounding, in bfloat16 too
# Tolerated error of the slope at t = 0, relative to the slope, or to 1 if that is larger. Training errors stay below it, and so
# does noise that was paired with data in training.
_SLOPE_OFF = 1.0
_PREDICTION_OFF = 0.5  # tolerated error of the slope of a network's prediction; a wrong sign is an error of 2

_WANTED = "velocity: wanted a function of t, the sample and the parameters alone, got one that"
_REMEDY = (
    "Is the network in training mode (dropout, batch statistics)? Use model.eval() before nnx.split, deterministic=True or "
    "use_running_average=True in Flax linen, eqx.nn.inference_mode in Equinox."
)


def check_velocity(flow: Flow, x0: Float[Array, "B *event"]) -> None:
    """Refuse a velocity that depends on chance or on the rest of the batch; warn if its slope in x at t = 0 looks wrong.

    Args:
        flow: the velocity field; a `given` flow has as many conditions as there are noises.
        x0: noises, [B, *event_shape].

    Raises:
        ValueError: if the same input gives two velocities, if the velocity of a sample changes with the rest of its batch, or if
            evaluating the velocity changes a module.

    Warns:
        UserWarning: if the flow has a scheduler and no source of its own, and the slope of its velocity in x at t = 0 is not the
            scheduler's. There x is pure noise, independent of the data, so
            u_0(x) = alphadot_0 E[x1] + sigmadot_0 / sigma_0 (x - alpha_0 E[x1]).

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda params, t, x: jnp.mean(x, axis=0) - x, None, event_shape=(2,))
        >>> check_velocity(flow, jax.random.normal(jax.random.key(0), (4, 2)))
        Traceback (most recent call last):
        ValueError: velocity: wanted a function of t, the sample and the parameters alone, got one that depends on the other
        samples of its batch, by 50 % of its size. Is ...
    """
    x0 = spread(flow, x0)
    middle = np.asarray(0.5, promote(x0.dtype, jnp.float32))
    scheduler = flow.gaussian_scheduler
    x = x0 if scheduler is None else _scaled(x0, *_level(scheduler, middle))
    try:
        velocity = kernels.velocity(flow, middle, x)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # flax.nnx: a call that changes its module
            raise
        raise ValueError(f"{_WANTED} changes a module while it is evaluated ({error}). {_REMEDY}") from error
    again = kernels.velocity(flow, middle, x)
    _compare(flow, _rms(velocity, again), "changes from one call to the next with the same input")
    if len(x) > 1:
        order = np.roll(np.arange(len(x)), 1)
        kept = max(1, len(x) // 2)
        other = kernels.velocity(of_samples(flow, order), middle, spread(flow, _others(x, order, kept)))
        found = _rms_of_rows(velocity, order[:kept], other)
        _compare(flow, found, "depends on the other samples of its batch")
    if scheduler is not None:
        _check_slope(flow, x0, scheduler)


def _compare(flow: Flow, found: tuple[jax.Array, jax.Array], what: str) -> None:
    distance, size = (float(value) for value in gather(flow, found))
    if distance > _APART * size:  # False for NaN, which other checks report
        raise ValueError(f"{_WANTED} {what}, by {100 * distance / size:.2g} % of its size. {_REMEDY}")


def _check_slope(flow: Flow, x0: Array, scheduler: Scheduler) -> None:
    start = np.asarray(0, promote(x0.dtype, jnp.float32))
    up, down = (kernels.velocity(flow, start, x) for x in (x0, -x0))
    slope = float(gather(flow, _slope(x0, up, down)))
    _, sigma, sigma_dot = _level_and_slope(scheduler, start)
    wanted = sigma_dot / sigma
    if abs(slope - wanted) > max(_SLOPE_OFF, _SLOPE_OFF * abs(wanted), _PREDICTION_OFF * flow.slope_at_noise):
        warn(
            f"velocity: at t = 0 its slope in x is {slope:.3g}, and that of the flow's scheduler {wanted:.3g}. Does its time run "
            "from data to noise, or is a sign missing? For a network that gives dx/ds at s = 1 - t, the velocity is "
            "-network(params, 1 - t, x); for one that predicts noise, data or v, use Flow.from_prediction, the time 1 - t and no "
            "sign. (If noise and data were strongly paired in training, as by reflow, the scheduler's slope does not apply.)"
        )


def _level(scheduler: Scheduler, t: np.ndarray) -> tuple[float, float]:
    """The scale of the states at t, sqrt(alpha^2 + sigma^2), and that of the noise, sigma_0."""
    alpha, sigma, _ = _level_and_slope(scheduler, t)
    return np.hypot(alpha, sigma), _level_and_slope(scheduler, np.zeros_like(t))[1]


def _level_and_slope(scheduler: Scheduler, t: np.ndarray) -> tuple[float, float, float]:
    """(alpha, sigma, sigmadot) at t."""
    alpha, sigma, _, sigma_dot = _at(scheduler, t)
    return float(alpha), float(sigma), float(sigma_dot)


@functools.partial(jax.jit, static_argnums=0)
def _at(scheduler: Scheduler, t: np.ndarray) -> SchedulerValues:
    return scheduler.at(t)


@jax.jit
def _scaled(x: jax.Array, wanted: Scalar, own: Scalar) -> jax.Array:
    return (x * (wanted / own)).astype(x.dtype)


@jax.jit
def _others(x: jax.Array, order: Array, kept: Scalar) -> jax.Array:
    """The samples in another order, and those from `kept` on replaced by others."""
    own = (jnp.arange(len(x)) < kept).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(own, x[order], -2 * x[order])


@jax.jit
def _rms(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The RMS of the difference, and that of `one`, in float32 at least."""
    one, other = (value.astype(promote(value.dtype, jnp.float32)) for value in (one, other))
    return jnp.sqrt(mean_square(one - other, one.ndim)), jnp.sqrt(mean_square(one, one.ndim))


@jax.jit
def _rms_of_rows(one: jax.Array, rows: Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_rms` of these rows of `one`, and the first rows of `other`."""
    return _rms(one[rows], other[: len(rows)])


@jax.jit
def _slope(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """The slope in x of the velocity's odd part (u(x) - u(-x)) / 2, from which the mean of the data cancels."""
    x, odd = (value.astype(promote(x.dtype, jnp.float32)) for value in (x, (up - down) / 2))
    return jnp.sum(x * odd) / jnp.sum(x * x)
