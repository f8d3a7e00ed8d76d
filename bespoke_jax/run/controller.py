"""diffrax's step-size controller, whose norm is the error of the worst path of a batch."""

import functools
from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.dtypes import promote
from bespoke_jax.types import Array

__all__ = ["DOPRI5", "begin", "judge", "measured", "scales_of"]

DOPRI5 = diffrax.Dopri5

# The scale of a state is at least this share of the way that it has still to go, so that a state near 0 has a scale.
_SHARE_OF_THE_WAY = 1e-2


def _over_tolerance(
    error: Float[Array, "B *event"], states: Sequence[Float[Array, "B *event"]], rtol: Any, atol: Any
) -> Float[jax.Array, ""]:
    """The error of a step over its tolerance, of the worst path.

    Args:
        error: the error of the step, [B, *event].
        states: those at its ends, each [B, *event]; the tolerance is atol + rtol |x| for the larger |x|.
        rtol, atol: the tolerance; scalars, or atol [B, 1, ...].
    """
    wide = promote(error.dtype, jnp.float32)
    *wide_states, rtol, atol = (value.astype(wide) for value in (*states, rtol, atol))
    largest = functools.reduce(jnp.maximum, map(jnp.abs, wide_states))
    return _worst_rms(error.astype(largest.dtype) / (atol + rtol * largest))


def _rms(x: Array) -> jax.Array:
    """The RMS of each sample, [B], in float32 at least.

    Its unit is a power of two near the largest number: division by it is exact, and squares neither overflow nor vanish. Like it,
    its inverse is a normal number, since XLA may multiply by that.
    """
    wide = x.astype(promote(x.dtype, jnp.float32)).reshape(len(x), -1)
    largest = jnp.max(jnp.abs(wide), axis=1, keepdims=True)
    unit = largest / (4 * jnp.frexp(largest)[0])
    unit = jnp.where(jnp.isfinite(unit) & (unit > 0), unit, 1)  # of 0, infinity and NaN
    return unit[:, 0] * jnp.sqrt(jnp.mean(jnp.square(wide / unit), axis=1))


def _worst_rms(error: Array) -> jax.Array:
    """The largest RMS of a sample: as the controller's norm, it makes steps short enough for the worst path."""
    return jnp.max(_rms(error))


@jax.jit
def scales_of(
    x: Float[Array, "B *event"], velocity: Float[Array, "B *event"], time: Any
) -> Float[jax.Array, "B *ones"]:
    """The scale of each path's state, [B, 1, ...]: its RMS, or at least a share of how far it moves in `time`."""
    scales = jnp.maximum(_rms(x), _SHARE_OF_THE_WAY * time * _rms(velocity))
    return jnp.maximum(scales, jnp.finfo(scales.dtype).tiny).reshape(-1, *(1,) * (x.ndim - 1))


@jax.jit
def begin(
    x: Float[Array, "B *event"], velocity: Float[Array, "B *event"], rtol: Any, atol: Any
) -> tuple[jax.Array, Float[jax.Array, ""], Any]:
    """(The absolute tolerance at the noise, the width of the first step, the controller's state before it.)

    Args:
        x, velocity: the noise and the velocity there, [B, *event].
        rtol, atol: the tolerance; atol None to follow the states, which gives one for each path, [B, 1, ...].
    """
    if atol is None:
        atol = (rtol * scales_of(x, velocity, jnp.ones_like(rtol))).astype(rtol.dtype)
        atol = jnp.maximum(atol, jnp.finfo(atol.dtype).tiny)
    width = _first_step(x, velocity, rtol, atol)
    return atol, width, _first_state(width)


def _first_step(x: Array, velocity: Array, rtol: Any, atol: Any) -> jax.Array:
    """The width of the first step, over which the velocity moves x by 1 % of its scale (Hairer et al., II.4)."""
    dtype = promote(x.dtype, jnp.float32)  # states over a tolerance overflow in float16
    wide, speed = x.astype(dtype), velocity.astype(dtype)
    scale = atol.astype(dtype) + rtol.astype(dtype) * jnp.abs(wide)
    size, speed = _worst_rms(wide / scale), _worst_rms(speed / scale)
    return jnp.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).astype(dtype)


# diffrax's controller sees a step as its error over the tolerance: one number, so that it is compiled once for all shapes.
_TERM = diffrax.ODETerm(lambda t, x, args: x)  # diffrax's interface asks for one; it is not evaluated


def _controller(number: np.dtype) -> diffrax.PIDController:
    return diffrax.PIDController(rtol=np.zeros((), number), atol=np.ones((), number), norm=jnp.abs)


def _order() -> Any:
    return DOPRI5().error_order(_TERM)


def _first_state(width: jax.Array) -> Any:
    """The controller's state before the first step, which has this width; a pytree of scalars."""
    zero, controller = jnp.zeros_like(width), _controller(width.dtype)
    return controller.init(_TERM, zero, jnp.ones_like(width), zero, width, None, DOPRI5().func, _order())[1]


@jax.jit
def _followed(start: Any, stop: Any, size: Any, state: Any) -> tuple[Any, Any, Any]:
    """(Whether a step of this error over the tolerance is accepted, the end of the next one, the controller's next state)."""
    zero = jnp.zeros_like(size)
    keep, _, following, _, state, _ = _controller(size.dtype).adapt_step_size(
        start, stop, zero, zero, None, size, _order(), state
    )
    return keep, following, state


def judge(
    times: tuple,
    states: tuple,
    velocities: tuple,
    error: Any,
    state: Any,
    factor: Any,
    rtol: Any,
    atol: Any,
    follow: bool,
) -> tuple[Any, ...]:
    """The controller's verdict on a step, and its next step.

    Args:
        times: of the step's ends, and of the end of the solve.
        states, velocities: those at the step's ends, each [B, *event].
        error: the embedded error estimate, [B, *event].
        state: the controller's, before.
        factor: by which the tolerance is raised.
        rtol, atol: the tolerance at the noise, from `Tolerance.begin`.
        follow: replace `atol` by `rtol` times the smaller of the states' scales at both ends of the step, or by the round-off of
            the noise if that is larger.

    Returns:
        (keep, finite, size, scale, following, state), as in `Verdict`.
    """
    finite, size, scale = measured(times, states, velocities, error, factor, rtol, atol, follow)
    keep, following, state = _followed(*times[:2], size, state)
    return keep, finite, size, scale, following, state


@functools.partial(jax.jit, static_argnums=7)
def measured(
    times: tuple, states: tuple, velocities: tuple, error: Any, factor: Any, rtol: Any, atol: Any, follow: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(finite, size, scale) of `judge`, with its arguments."""
    wide = promote(error.dtype, jnp.float32)
    (start, stop, end), (x, x1, error) = times, (value.astype(wide) for value in (*states, error))
    # A trial step may overflow where a shorter one does not; an infinite error makes the controller try a shorter one.
    finite = jnp.all(jnp.isfinite(x1)) & jnp.all(jnp.isfinite(error))
    x1, error = jnp.where(finite, x1, x), jnp.where(finite, error, jnp.inf)
    width = stop - start
    before, after = scales_of(x, velocities[0], end - start), scales_of(x1, velocities[1], end - stop + width)
    scales = jnp.where(finite, jnp.minimum(before, after), before)
    if follow:  # a tolerance for each path, because paths may differ much in scale
        atol = jnp.maximum(rtol * scales.astype(rtol.dtype), jnp.finfo(rtol.dtype).eps * atol)
    atol = jnp.maximum(atol, jnp.finfo(atol.dtype).tiny)
    return finite, _over_tolerance(error, (x, x1), factor * rtol, factor * atol), jnp.max(scales)
