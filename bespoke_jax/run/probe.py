"""Is this velocity one that a solver can be learned for? A few looks at it before any work.

A network in training mode (dropout, batch statistics), a time that runs the other way or a forgotten sign give results that are
wrong without a word: the fit learns whatever field it is given. All of these show in some velocities of one batch.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.metrics import mean_square
from bespoke_jax.warn import warn

__all__ = ["EVALUATIONS", "check_velocity"]

EVALUATIONS = 5
"""Velocity evaluations of each sample that `check_velocity` makes."""

_APART = 1e-2  # of the velocities' RMS: more than rounding, in bfloat16 too
# Of the slope at t = 0, or of 1 if that is larger: neither a training error nor pairs of noise and data.
_SLOPE_OFF = 1.0
_PREDICTION_OFF = 0.5  # of the slope of what a network predicts: a sign is 2

_REMEDY = (
    "Each sample's velocity must be a function of t, the sample and the parameters alone. Is the network in training mode "
    "(dropout, batch statistics)? Use model.eval() before nnx.split, deterministic=True or use_running_average=True in Flax "
    "linen, eqx.nn.inference_mode in Equinox."
)


def check_velocity(flow: Flow, x0) -> None:
    """Refuse a velocity that depends on chance or on the other samples of a batch; warn of one whose noise end looks wrong.

    Args:
        flow: the flow; with as many conditions as there are noises, if it is given some.
        x0: noises [B, *event_shape].

    Raises:
        ValueError: if the same input gives two velocities, or a sample another velocity in another batch.

    Warns:
        UserWarning: if the flow has a scheduler and the slope of its velocity in x at t = 0 is not the scheduler's. There x is
            pure noise, independent of the data, so u_0(x) = alphadot_0 E[x1] + sigmadot_0 / sigma_0 (x - alpha_0 E[x1]).

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda params, t, x: jnp.mean(x, axis=0) - x, None, event_shape=(2,))
        >>> check_velocity(flow, jax.random.normal(jax.random.key(0), (4, 2)))
        Traceback (most recent call last):
        ValueError: velocity: the velocity of a sample depends on the other samples of its batch, by 50 % of its size. Each ...
    """
    x0 = spread(flow, x0)
    middle = np.asarray(0.5, promote(x0.dtype, jnp.float32))
    x = x0 if flow.scheduler is None else _scaled(x0, *_level(flow.scheduler, middle))
    try:
        velocity = kernels.velocity(flow, middle, x)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # of flax.nnx: a module that is changed by being called
            raise
        raise ValueError(f"velocity: it changes a module while it is evaluated ({error}). {_REMEDY}") from error
    _compare(flow, velocity, kernels.velocity(flow, middle, x), "changes from one call to the next with the same input")
    if len(x) > 1:
        order = np.roll(np.arange(len(x)), 1)
        kept = max(1, len(x) // 2)
        other = kernels.velocity(of_samples(flow, order), middle, spread(flow, _others(x, order, kept)))
        _compare(flow, velocity[order[:kept]], other[:kept], "depends on the other samples of its batch")
    if flow.scheduler is not None:
        _check_slope(flow, x0)


def _compare(flow, one, other, what):
    distance, size = (float(value) for value in gather(flow, _rms(one, other)))
    if distance > _APART * size:  # False for NaN, which has an error of its own
        raise ValueError(
            f"velocity: the velocity of a sample {what}, by {100 * distance / size:.2g} % of its size. {_REMEDY}"
        )


def _check_slope(flow, x0):
    start = np.asarray(0, promote(x0.dtype, jnp.float32))
    up, down = (kernels.velocity(flow, start, x) for x in (x0, -x0))
    slope = float(gather(flow, _slope(x0, up, down)))
    _, sigma, sigma_dot = _level_and_slope(flow.scheduler, start)
    wanted = sigma_dot / sigma
    if abs(slope - wanted) > max(_SLOPE_OFF, _SLOPE_OFF * abs(wanted), _PREDICTION_OFF * flow.slope_at_noise):
        warn(
            f"velocity: at t = 0 its slope in x is {slope:.3g}, and that of the flow's scheduler {wanted:.3g}. Does its time run "
            "from data to noise, or is a sign missing? A network that gives dx/ds at s = 1 - t wants -network(params, 1 - t, x) "
            "as velocity; one that predicts noise, data or v wants Flow.from_prediction and the time 1 - t without the sign. (If "
            "noise and data were strongly paired in training, by reflow say, the scheduler's slope does not hold.)"
        )


def _level(scheduler, t):
    alpha, sigma, _ = _level_and_slope(scheduler, t)
    return np.hypot(alpha, sigma), _level_and_slope(scheduler, np.zeros_like(t))[1]


def _level_and_slope(scheduler, t):
    t = jnp.asarray(t)
    sigma, sigma_dot = jax.jvp(scheduler.sigma, (t,), (jnp.ones_like(t),))
    return float(scheduler.alpha(t)), float(sigma), float(sigma_dot)


@jax.jit
def _scaled(x, wanted, own):
    return (x * (wanted / own)).astype(x.dtype)


@jax.jit
def _others(x, order, kept):
    """The samples in another order, of which those from `kept` on are other ones."""
    own = (jnp.arange(len(x)) < kept).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(own, x[order], -2 * x[order])


@jax.jit
def _rms(one, other):
    one, other = (value.astype(promote(value.dtype, jnp.float32)) for value in (one, other))
    return tuple(jnp.sqrt(mean_square(value, value.ndim)) for value in (one - other, one))


@jax.jit
def _slope(x, up, down):
    """Of the odd part of the velocity: no mean of the data is in it."""
    x, odd = (value.astype(promote(x.dtype, jnp.float32)) for value in (x, (up - down) / 2))
    return jnp.sum(x * odd) / jnp.sum(x * x)
