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
# does noise that was loosely paired with data in training. A prediction of data in the place of a velocity is an error of 1.
_SLOPE_OFF = 0.7
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
    start, middle = (np.asarray(t, promote(x0.dtype, jnp.float32)) for t in (0.0, 0.5))
    order, kept = np.roll(np.arange(len(x0)), 1), max(1, len(x0) // 2)
    level, x, others, opposite = _states(flow.gaussian_scheduler, x0, middle, order, kept)
    try:
        velocity = kernels.velocity(flow, middle, x)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # flax.nnx: a call that changes its module
            raise
        raise ValueError(f"{_WANTED} changes a module while it is evaluated ({error}). {_REMEDY}") from error
    again = kernels.velocity(flow, middle, x)
    of_others = kernels.velocity(of_samples(flow, order), middle, spread(flow, others))
    ends = None if level is None else [kernels.velocity(flow, start, noise) for noise in (x0, opposite)]
    found = gather(flow, _compared(velocity, again, of_others, order, kept, x0, ends))
    (apart, size), batched, slope = jax.tree.map(float, found)
    _compare(apart, size, "changes from one call to the next with the same input")
    if len(x) > 1:
        apart, size = batched
        _compare(apart, size, "depends on the other samples of its batch")
    if level is not None:
        _check_slope(flow, slope, float(level.sigma_dot) / float(level.sigma))


def _compare(distance: float, size: float, what: str) -> None:
    if distance > _APART * size:  # False for NaN, which other checks report
        by = f"by {100 * distance / size:.2g} % of its size" if size > 0 else f"from 0 to an RMS of {distance:.2g}"
        raise ValueError(f"{_WANTED} {what}, {by}. {_REMEDY}")


def _check_slope(flow: Flow, slope: float, wanted: float) -> None:
    if abs(slope - wanted) > max(_SLOPE_OFF, _SLOPE_OFF * abs(wanted), _PREDICTION_OFF * flow.slope_at_noise):
        warn(
            f"velocity: at t = 0 its slope in x is {slope:.3g}, and that of the flow's scheduler {wanted:.3g}. Does its time run "
            "from data to noise, or is a sign missing? For a network that gives dx/ds at s = 1 - t, the velocity is "
            "-network(params, 1 - t, x); for one that predicts noise, data or v, use Flow.from_prediction, the time 1 - t and no "
            "sign, or the `time` that it was trained with, such as steps. (If noise and data were strongly paired in training, "
            "as by reflow, the scheduler's slope does not apply.)"
        )


@functools.partial(jax.jit, static_argnums=0)
def _states(
    scheduler: Scheduler | None, x0: jax.Array, middle: Scalar, order: Array, kept: Scalar
) -> tuple[SchedulerValues | None, jax.Array, jax.Array, jax.Array]:
    """(The scheduler at t = 0, states of the size at `middle`, the same with some replaced, -x0).

    The replaced ones have another order, and from `kept` on other samples.
    """
    x, start = x0, None
    if scheduler is not None:
        start, at_middle = scheduler.at(jnp.zeros_like(middle)), scheduler.at(middle)
        x = (x0 * (jnp.hypot(at_middle.alpha, at_middle.sigma) / start.sigma)).astype(x0.dtype)
    return start, x, jnp.where(_first(kept, x), x[order], -2 * x[order]), -x0


@jax.jit
def _compared(
    velocity: jax.Array,
    again: jax.Array,
    of_others: jax.Array,
    order: Array,
    kept: Scalar,
    x0: jax.Array,
    ends: list[jax.Array] | None,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array], jax.Array | None]:
    """(`_rms` of two calls with one input, `_rms` of the samples that two batches share, the slope in x)."""
    shared = (jnp.where(_first(kept, u), u, jnp.zeros_like(u)) for u in (velocity[order], of_others))
    return _rms(velocity, again), _rms(*shared), None if ends is None else _slope(x0, *ends)


def _first(kept: Scalar, x: jax.Array) -> jax.Array:
    """Which samples are among the first `kept`, in a shape that broadcasts to x."""
    return (jnp.arange(len(x)) < kept).reshape(-1, *(1,) * (x.ndim - 1))


def _rms(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The RMS of the difference, and that of `one`, in float32 at least."""
    one, other = (value.astype(promote(value.dtype, jnp.float32)) for value in (one, other))
    return jnp.sqrt(mean_square(one - other, one.ndim)), jnp.sqrt(mean_square(one, one.ndim))


def _slope(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """The slope in x of the velocity's odd part (u(x) - u(-x)) / 2, from which the mean of the data cancels."""
    x, odd = (value.astype(promote(x.dtype, jnp.float32)) for value in (x, (up - down) / 2))
    return jnp.sum(x * odd) / jnp.sum(x * x)
