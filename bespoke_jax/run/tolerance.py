"""When a step of a true path is good enough: tolerances that follow the states, and stop at what the velocity can give.

diffrax's step-size controller decides, step by step. What it is told to meet is asked for by the caller, scaled to the states
where they are, and raised where the rounding of the velocity alone is more.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.kernels import combine
from bespoke_jax.warn import warn

__all__ = ["DOPRI5", "Attempt", "Tolerance", "Verdict", "first_step"]

DOPRI5 = diffrax.Dopri5
_COARSE_ATOL = 0.1  # of the scale of the states: no absolute tolerance that anybody means

_USUAL_WIDTH = 1 / 8  # of a step: what it must be possible to accept
# The rounding of a step over that of its error estimate, whose weights are small: more accuracy than that is not to be had.
_ROUNDING_OF_A_STEP = 8.0
_RESOLUTION = 16  # units in the last place of t = 1: no step need be shorter, as its own ends are not known better
_SHARE_OF_THE_WAY = 1e-2  # that a path has still to go: the scale of a state that passes through 0
_COARSE_STEP = 10.0  # times the tolerance: the error of such a step that is worth a word
_NUDGES = (5e-4, 4e-3)  # of each number of the state; the second is a unit in the last place of bfloat16


class Attempt(NamedTuple):
    """A step of Dopri5 that was tried, from (start, x) to (stop, x1), in a solve that ends at time `end`.

    Attributes:
        start, stop, end: times, NumPy scalars.
        x, x1: states [B, *event].
        slopes: seven velocities; the first is that at the start, the last that at the stop.
        error: [B, *event] the embedded estimate.
    """

    start: np.generic
    stop: np.generic
    end: np.generic
    x: jax.Array
    x1: jax.Array
    slopes: list[jax.Array]
    error: jax.Array

    @property
    def width(self):
        """stop - start."""
        return self.stop - self.start


class Verdict(NamedTuple):
    """What the controller says of an attempt.

    Attributes:
        keep: whether it is accepted.
        finite: whether all of it is finite.
        size: its error over the tolerance, of the worst path.
        scale: of the states, of the largest path.
        following: where the next step ends.
        state: the controller's.
    """

    keep: np.ndarray
    finite: np.ndarray
    size: np.ndarray
    scale: np.ndarray
    following: np.ndarray
    state: Any


@dataclasses.dataclass
class Tolerance:
    """The tolerance of one call of `ground_truth`, and what was found out about it on the way.

    Attributes:
        rtol, atol: as asked for; atol None to follow the states.
        share_of_rounding: what part of the rounding of the velocity is met.
        factor: by which both are raised, for the velocity gives no more; None until it was looked at.
        least_scale: the smallest scale that the states of a batch had.
        worst_shortest: the largest error, over the tolerance, of a step that cannot be shortened.
    """

    rtol: float
    atol: float | None
    share_of_rounding: float = 1.0
    factor: float | None = None
    least_scale: float = math.inf
    worst_shortest: float = 0.0

    def numbers(self, x, velocity) -> tuple[np.generic, Any]:
        """(rtol, atol) of a solve from the noise x with its velocity, in the time's dtype; atol is each path's own if it follows
        the states, [B, 1, ...]. Neither is raised yet."""
        number = promote(x.dtype, jnp.float32).type
        if self.atol is not None:
            return number(self.rtol), number(self.atol)
        atol = (number(self.rtol) * _scales(x, velocity, number(1))).astype(number)
        return number(self.rtol), jnp.maximum(atol, jnp.finfo(atol.dtype).tiny)

    def judge(self, attempt: Attempt, state, numbers) -> Verdict:
        """The verdict on an attempt; `numbers` as they were at the noise, `state` the controller's before."""
        times, states = (attempt.start, attempt.stop, attempt.end), (attempt.x, attempt.x1)
        velocities, factor = (attempt.slopes[0], attempt.slopes[-1]), type(numbers[0])(self.factor or 1.0)
        found = _judge(times, states, velocities, attempt.error, state, factor, *numbers, self.atol is None)
        verdict = Verdict(*(np.asarray(value) for value in found[:-1]), found[-1])
        if verdict.finite and not verdict.keep and attempt.width <= _RESOLUTION * np.finfo(attempt.width.dtype).eps:
            self.worst_shortest = max(self.worst_shortest, float(verdict.size))
            verdict = verdict._replace(keep=np.asarray(True), following=attempt.stop + attempt.width)
        if verdict.keep:
            self.least_scale = min(self.least_scale, float(verdict.scale))
        return verdict

    def raise_to_rounding(self, flow, t, x, velocity, numbers) -> int:
        """Raise the factor if, for the rounding of the velocity, a step of usual width cannot be accepted; looks once.

        Args:
            flow: the flow.
            t, x, velocity: the noise, at which fields are smooth.
            numbers: the tolerance there.

        Returns:
            The velocity evaluations that this took.
        """
        if self.factor is not None:
            return 0

        def apart(nudge):
            return _second_difference(flow, t, x, velocity, nudge, *numbers)

        rounding, spent = apart(_NUDGES[0]), 2
        if _ROUNDING_OF_A_STEP * rounding > 1:
            large, spent = apart(_NUDGES[1]), 4
            # Of the field's curvature the larger nudge sees more, as its square; of rounding hardly so.
            growth = (_NUDGES[1] / _NUDGES[0]) ** 2
            of_both = max(0.0, (growth * rounding) ** 2 - large**2) / (growth**2 - 1)
            rounding = large if large < math.sqrt(growth) * rounding else math.sqrt(of_both)
        self.factor = max(1.0, self.share_of_rounding * _ROUNDING_OF_A_STEP * rounding)
        return spent

    def warn(self):
        """Say what the caller should know."""
        if self.factor is not None and self.factor > 1:
            warn(
                f"ground_truth: the velocity is rounded too coarsely for rtol={self.rtol:g}. The tolerance was raised to "
                f"{self.factor * self.rtol:.1g}, which is what it can give. A network in bfloat16 or float16 gives better paths "
                "in float32, one in float32 (to about 1e-6) in float64; to keep these paths, ask for that tolerance."
            )
        if self.worst_shortest > _COARSE_STEP:
            warn(
                f"ground_truth: somewhere the field changes faster than times of this precision can say; steps there miss the "
                f"tolerance up to {self.worst_shortest:.2g} times. Solve in float64 (jax.enable_x64, and noise of that dtype)."
            )
        if self.atol is not None and self.atol > _COARSE_ATOL * self.least_scale:
            warn(
                f"atol: {self.atol:g} is {100 * self.atol / max(self.least_scale, 1e-300):.2g} % of the scale of the states "
                f"({self.least_scale:.2g}), so these are no true paths; give a smaller atol, or None to follow the states."
            )


def _second_difference(flow, t, x, velocity, nudge, rtol, atol) -> float:
    """The error of a step of usual width from (t, x), over the tolerance, if each of its slopes were off as the velocity's second
    difference over a nudge of x is: by rounding, and by the field's curvature times the nudge squared."""
    shift = _nudge(x, nudge)  # of each number by a share of itself, as rounding is
    up, down = (kernels.velocity(flow, t, combine([1.0, sign], [x, shift])) for sign in (1.0, -1.0))
    weight = _USUAL_WIDTH * math.sqrt(np.sum(np.square(DOPRI5.tableau.b_error)) / 6)
    return float(_over_tolerance(combine([weight, -2 * weight, weight], [up, velocity, down]), x, rtol, atol))


@jax.jit
def _nudge(x, nudge):
    signs = jax.random.rademacher(jax.random.key(0), x.shape, jnp.float32)
    return (nudge * jnp.abs(x.astype(jnp.float32)) * signs).astype(x.dtype)


@jax.jit
def _over_tolerance(error, *states_and_numbers):
    *states, rtol, atol = (value.astype(promote(error.dtype, jnp.float32)) for value in states_and_numbers)
    largest = functools.reduce(jnp.maximum, map(jnp.abs, states))
    return _worst_rms(error.astype(largest.dtype) / (atol + rtol * largest))


def _rms(x):
    """The RMS over the event of each sample, [B], in float32 at least."""
    wide = x.astype(promote(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.mean(jnp.square(wide.reshape(len(x), -1)), axis=1))


def _worst_rms(error):
    """The largest over the batch of the RMS over the event: makes the controller serve the worst path."""
    return jnp.max(_rms(error))


@jax.jit
def _scales(x, velocity, time):
    """The scale of each path's state, [B, 1, ...]: its RMS, or a share of its way in some time, lest one near 0 has none."""
    scales = jnp.maximum(_rms(x), _SHARE_OF_THE_WAY * time * _rms(velocity))
    return jnp.maximum(scales, jnp.finfo(scales.dtype).tiny).reshape(-1, *(1,) * (x.ndim - 1))


def _controller(rtol, atol):
    return diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_rms)


_TERM = diffrax.ODETerm(lambda t, x, args: x)  # what the controller wants to see; it does not evaluate it


@jax.jit
def first_step(x, velocity, rtol, atol):
    """(width of the first step, the controller's state): the velocity alone moves x by 1 % of its scale (Hairer et al., II.4)."""
    dtype = promote(x.dtype, jnp.float32)  # float16 has no room for what is divided by a tolerance
    wide, speed = x.astype(dtype), velocity.astype(dtype)
    scale = atol.astype(dtype) + rtol.astype(dtype) * jnp.abs(wide)
    size, speed = _worst_rms(wide / scale), _worst_rms(speed / scale)
    guess = jnp.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    time = promote(dtype, jnp.float32)
    t0, t1 = jnp.zeros((), time), jnp.ones((), time)
    order = DOPRI5().error_order(_TERM)
    stop, state = _controller(rtol, atol).init(_TERM, t0, t1, wide, guess.astype(time), None, DOPRI5().func, order)
    return stop - t0, state


@functools.partial(jax.jit, static_argnums=8)
def _judge(times, states, velocities, error, state, factor, rtol, atol, follow):
    """A step from states[0] at times[0] to states[1] at times[1]; times[2] is where the solve ends.

    With `follow`, the absolute tolerance is `rtol` times the scale of the states, at that end of the step where it is less, but
    never less than rounding makes of the noise (whose tolerance `atol` is).
    """
    wide = promote(error.dtype, jnp.float32)
    (start, stop, end), (x, x1, error) = times, (value.astype(wide) for value in (*states, error))
    # A trial step may overflow where a shorter one does not: an infinite error has the controller try a shorter one.
    finite = jnp.all(jnp.isfinite(x1)) & jnp.all(jnp.isfinite(error))
    x1, error = jnp.where(finite, x1, x), jnp.where(finite, error, jnp.inf)
    width = stop - start
    before, after = _scales(x, velocities[0], end - start), _scales(x1, velocities[1], end - stop + width)
    scales = jnp.where(finite, jnp.minimum(before, after), before)
    if follow:  # each path's own: one that is much larger or smaller than the others does not set theirs
        atol = jnp.maximum(rtol * scales.astype(rtol.dtype), jnp.finfo(rtol.dtype).eps * atol)
    atol = jnp.maximum(atol, jnp.finfo(atol.dtype).tiny)
    rtol, atol = factor * rtol, factor * atol
    order = DOPRI5().error_order(_TERM)
    keep, _, following, _, state, _ = _controller(rtol, atol).adapt_step_size(
        start, stop, x, x1, None, error, order, state
    )
    return keep, finite, _over_tolerance(error, x, x1, rtol, atol), jnp.max(scales), following, state
