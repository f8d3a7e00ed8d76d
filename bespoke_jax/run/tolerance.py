"""The tolerance of true paths: it follows the scale of the states and stays above the velocity's round-off.

The step-size controller accepts or rejects each step by the caller's tolerance, scaled to the current states, and raised if the
round-off of the velocity alone exceeds it.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.kernels import combine
from bespoke_jax.flow.states import weighted
from bespoke_jax.run.controller import DOPRI5, begin, judge, measured
from bespoke_jax.types import Array, Scalar
from bespoke_jax.warn import warn

__all__ = ["Attempt", "Tolerance", "Verdict"]

_COARSE_ATOL = 0.1  # an absolute tolerance above this share of the states' scale is taken for a mistake
_USUAL_WIDTH = 1 / 8  # a typical step; round-off must not make the controller reject one
# The round-off of a step over that of its error estimate, whose weights are small: no step is more accurate than the former.
_ROUNDING_OF_A_STEP = 8.0
_RESOLUTION = 16  # of time, in units in the last place of t = 1: the ends of a shorter step are rounded too coarsely
_COARSE_STEP = 10.0  # error of a shortest step, over the tolerance, above which there is a warning
_NUDGES = (5e-4, 4e-3)  # relative perturbations of the state; the second is a unit in the last place of bfloat16
_FINE_NUDGE = 1e-6  # eight units in the last place of float32
_LATER_NUDGES = (4e-3, 1.6e-2)  # one and four units in the last place of bfloat16
_COARSE_LATER = 5.0  # round-off of a later step, over the tolerance, above which there is a warning


class Attempt(NamedTuple):
    """A trial step of Dopri5 from (start, x) to (stop, x1), in a solve that ends at time `end`.

    Attributes:
        start, stop, end: times, scalars.
        x, x1: states, [B, *event].
        slopes: the velocities of the seven stages, each [B, *event]; the first is at the start, the last at the stop.
        error: the embedded error estimate, [B, *event].
    """

    start: np.floating | np.ndarray
    stop: np.floating | np.ndarray
    end: np.floating | np.ndarray
    x: jax.Array
    x1: jax.Array
    slopes: list[jax.Array]
    error: jax.Array

    @property
    def width(self) -> np.floating | np.ndarray:
        """stop - start."""
        return self.stop - self.start

    def weighted(self, scale: Float[jax.Array, "..."] | None) -> "Attempt":
        """The step as the norm of a flow with weights sees it; of the slopes only the first and the last."""
        if scale is None:
            return self
        slopes = [weighted(slope, scale) for slope in (self.slopes[0], self.slopes[-1])]
        x, x1, error = (weighted(value, scale) for value in (self.x, self.x1, self.error))
        return self._replace(x=x, x1=x1, slopes=slopes, error=error)


class Verdict(NamedTuple):
    """The step-size controller's verdict on an attempt.

    Attributes:
        keep: whether the step is accepted.
        finite: whether its state and its error estimate are finite.
        size: the error over the tolerance, of the worst path.
        scale: the scale of the states, of the path where it is largest.
        following: the end of the next step.
        state: the controller's state.
    """

    keep: np.ndarray
    finite: np.ndarray
    size: np.ndarray
    scale: np.ndarray
    following: np.ndarray
    state: Any


@dataclasses.dataclass
class Tolerance:
    """The tolerance of one call of `ground_truth`, and what the solve reveals about it.

    Attributes:
        rtol, atol: as the caller gave them; atol None to follow the states.
        share_of_rounding: the share of the velocity's round-off that the tolerance is raised to.
        factor: by how much both tolerances are raised for the velocity's round-off, >= 1; None until that is measured.
        least_scale: the smallest scale of the states in any accepted step.
        worst_shortest: the largest error, over the tolerance, of a step that could not be shortened.
        later: the round-off of a step further on, over the tolerance as it was raised, and the time there; None until that is
            measured.
    """

    rtol: float
    atol: float | None
    share_of_rounding: float = 1.0
    factor: float | None = None
    least_scale: float = math.inf
    worst_shortest: float = 0.0
    later: tuple[float, float] | None = None

    def begin(self, x: Array, velocity: Array) -> tuple[tuple[np.floating, Any], np.ndarray, Any]:
        """((rtol, atol) at the noise x, before they are raised; the width of the first step; the controller's state before it).

        Args:
            x, velocity: the noise and the velocity there, [B, *event].

        Returns:
            atol is [B, 1, ...], one for each path, if it follows the states; else a scalar.
        """
        number = promote(x.dtype, jnp.float32).type
        rtol = number(self.rtol)
        atol, width, state = begin(x, velocity, rtol, None if self.atol is None else number(self.atol))
        return (rtol, atol), np.asarray(width), state

    def judge(self, attempt: Attempt, state: Any, numbers: tuple[np.floating, Any]) -> Verdict:
        """The verdict on an attempt. A step at the resolution of the times is accepted whatever its error.

        Args:
            attempt: the step.
            state: the controller's state before it.
            numbers: the tolerance at the noise, from `begin`.
        """
        times, states = (attempt.start, attempt.stop, attempt.end), (attempt.x, attempt.x1)
        velocities, factor = (attempt.slopes[0], attempt.slopes[-1]), type(numbers[0])(self.factor or 1.0)
        found = judge(times, states, velocities, attempt.error, state, factor, *numbers, self.atol is None)
        keep, finite, size, scale, following = (np.asarray(value) for value in found[:-1])
        verdict = Verdict(keep, finite, size, scale, following, found[-1])
        if verdict.finite and not verdict.keep and attempt.width <= _RESOLUTION * np.finfo(attempt.width.dtype).eps:
            self.worst_shortest = max(self.worst_shortest, float(verdict.size))
            verdict = verdict._replace(keep=np.asarray(True), following=attempt.stop + attempt.width)
        if verdict.keep:
            self.least_scale = min(self.least_scale, float(verdict.scale))
        return verdict

    def raise_to_rounding(
        self, flow: Flow, t: Scalar, x: jax.Array, velocity: jax.Array, numbers: tuple[np.floating, Any]
    ) -> int:
        """Measure the velocity's round-off, once, and set `factor` so that it alone does not make a typical step fail.

        Args:
            flow: the velocity field.
            t, x, velocity: the first time, the noise and the velocity there. Fields are smooth at the noise.
            numbers: the tolerance there, from `begin`.

        Returns:
            The velocity evaluations spent.
        """
        if self.factor is not None:
            return 0

        def apart(nudge: float) -> float:
            return _second_difference(flow, t, x, velocity, nudge, *numbers, self.atol is None)

        rounding, spent = apart(_NUDGES[0]), 2
        if _ROUNDING_OF_A_STEP * rounding > 1:
            large, spent = apart(_NUDGES[1]), 4
            # Round-off hardly grows with the nudge, while the curvature's part grows as its square: that tells them apart.
            if large > _NUDGES[1] / _NUDGES[0] * rounding:
                # More than the round-off of half precision: that of float32 is left, which a nudge without curvature shows.
                rounding, spent = min(rounding, apart(_FINE_NUDGE)), 6
            else:
                rounding = large
        self.factor = max(1.0, self.share_of_rounding * _ROUNDING_OF_A_STEP * rounding)
        return spent

    def look_later(
        self, flow: Flow, place: tuple[Scalar, jax.Array, jax.Array], width: float, numbers: tuple[np.floating, Any]
    ) -> int:
        """Measure the round-off of a step further on, where a network that is flat at the noise no longer is.

        Args:
            flow: the velocity field.
            place: the step's first time, its state and the velocity there.
            width: of the step.
            numbers: the tolerance at the noise, from `begin`.

        Returns:
            The velocity evaluations spent.
        """
        one, four = (_second_difference(flow, *place, nudge, *numbers, self.atol is None) for nudge in _LATER_NUDGES)
        # As above: what grows with the nudge is the curvature's part.
        rounding = one if four < 4 * one else 0.0
        coarse = _ROUNDING_OF_A_STEP * rounding * width / _USUAL_WIDTH / (self.factor or 1.0)
        self.later = max((coarse, float(place[0])), self.later or (0.0, 0.0))
        return 4

    def warn(self) -> None:
        """Warn of a tolerance that was raised or missed, or that is too large for the states."""
        if self.factor is not None and self.factor > 1:
            warn(
                f"ground_truth: the velocity is rounded too coarsely for rtol={self.rtol:g}. The tolerance was raised to "
                f"{self.factor * self.rtol:.1g}, which it can meet. For better paths, evaluate a network in bfloat16 or float16 "
                "in float32, and one in float32 (good to about 1e-6) in float64; to keep these paths, ask for that tolerance."
            )
        if self.later is not None and self.later[0] > _COARSE_LATER:
            coarse, time = self.later
            allowed = coarse * (self.factor or 1.0) * self.rtol
            warn(
                f"ground_truth: near t = {time:.2g} the velocity, which computes in half precision, is rounded too coarsely for "
                f"rtol={self.rtol:g}: a step there is good to about rtol={allowed:.1g}. For better paths, evaluate the network "
                "in float32, or keep large numbers out of half precision: centre data such as temperatures in Kelvin, and add "
                "what the network predicts to the state in float32. To keep these paths, ask for that tolerance."
            )
        if self.worst_shortest > _COARSE_STEP:
            warn(
                f"ground_truth: somewhere the field changes faster than times of this precision can resolve, and steps miss the "
                f"tolerance up to {self.worst_shortest:.2g} times. Solve in float64 (jax.enable_x64, and noise of that dtype)."
            )
        if self.atol is not None and self.atol > _COARSE_ATOL * self.least_scale:
            warn(
                f"atol: {self.atol:g} is {100 * self.atol / max(self.least_scale, 1e-300):.2g} % of the scale of the states "
                f"({self.least_scale:.2g}), too much for true paths; give a smaller atol, or None to follow the states."
            )


def _second_difference(
    flow: Flow, t: Scalar, x: jax.Array, velocity: jax.Array, nudge: float, rtol: np.floating, atol: Any, follow: bool
) -> float:
    """The velocity's second difference over a nudge of x, as the error over the tolerance of a typical step from (t, x).

    It is the velocity's round-off, plus the field's curvature times the nudge squared. The error is that of the embedded estimate
    if every slope has independent round-off of this size; a second difference has the variance of six velocities. NaN if it is
    not finite.
    """
    shift = _nudge(x, nudge)
    up, down = (kernels.velocity(flow, t, combine([1.0, sign], [x, shift])) for sign in (1.0, -1.0))
    weight = _USUAL_WIDTH * math.sqrt(np.sum(np.square(DOPRI5.tableau.b_error)) / 6)
    scale = flow.error_scale(len(x))
    error = combine([weight, -2 * weight, weight], [up, velocity, down])
    x, velocity, error = (weighted(value, scale) for value in (x, velocity, error))
    times, unraised = (t, t, np.ones_like(t)), np.ones_like(rtol)  # a step of zero width: no new program
    finite, size, _ = measured(times, (x, x), (velocity, velocity), error, unraised, rtol, atol, follow)
    return float(size) if finite else math.nan


@jax.jit
def _nudge(x: jax.Array, nudge: Scalar) -> Array:
    """A shift of each number by a share of itself, like rounding, with signs as irregular as random ones."""
    words = jnp.arange(x.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    signs = 1 - 2 * (jax.lax.population_count(words) & 1).astype(jnp.float32).reshape(x.shape)
    return (nudge * jnp.abs(x.astype(jnp.float32)) * signs).astype(x.dtype)
