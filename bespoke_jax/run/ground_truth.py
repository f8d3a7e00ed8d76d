"""True paths: the flow's ODE solved to a tolerance by diffrax's Dopri5, and stored so that they can be read at any time.

Python drives diffrax's Dopri5 (tableau and dense output) and its step-size controller (`controller`) stage by stage. The loop of
diffrax would allocate seven stages for each of `max_steps` steps before it knows how many it takes, and would run the network in
a loop within a loop, which halved its speed on two CPU devices. Here three states are stored for each accepted step, and the
network is the one compiled program of `flow.kernels`.
"""

import functools
import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_flag, check_positive, check_type, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import check_size, of_samples, stored_conditions
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.kernels import combine
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.flow.states import weighted
from bespoke_jax.run.controller import DOPRI5
from bespoke_jax.run.interpolation import padded
from bespoke_jax.run.paths import Paths, check_finite, slices
from bespoke_jax.run.rows import between_ends, cut, joined
from bespoke_jax.run.tolerance import Attempt, Tolerance
from bespoke_jax.types import Array, Number, State

__all__ = ["finer_ends", "ground_truth"]

_MAX_STEPS = 1000


def ground_truth(
    flow: Flow,
    x0: State,
    rtol: Number = 1e-5,
    atol: Number | None = None,
    *,
    batch_size: int | None = None,
    max_steps: int = _MAX_STEPS,
    ends_only: bool = False,
) -> Paths:
    """Solve x'(t) = u_t(x) from t = 0 to 1 by adaptive Dopri5.

    The paths of a batch share their steps, which are short enough for the worst path, so every path meets the tolerance. Call it
    outside `jit`; its compiled programs serve later calls of the same shapes.

    Args:
        flow: the velocity field.
        x0: noises, [*batch, *event_shape], or a tree of [*batch, *leaf]; as many as a `given` flow has conditions. Paths from
            those in half precision are solved in float32 and rounded.
        rtol: relative tolerance per step, > 0. float32 allows about 1e-6.
        atol: absolute tolerance per step, > 0, in the units of the state. None for `rtol` times the current scale of each state
            (its RMS, or 1 % of the way it has still to go), so that data of any scale is solved alike.
        batch_size: how many paths are solved together; None for 256, or fewer if one event has more than 65,536 numbers.
        max_steps: the number of attempted steps, of six evaluations each, after which to give up.
        ends_only: keep only x0 and x1, which is all that losses of end points need; see `Paths.of_ends`.

    Returns:
        `Paths` with three states per accepted step: 220 MB for 256 images of 32 x 32 x 3 and 23 steps; two states with
        `ends_only`. They hold arrays, also for a flow of trees: `flow.unravel(paths.x1)`.

    Raises:
        TypeError: if `flow` is not a Flow, or x0 or the flow is traced.
        ValueError: for a wrong shape, tolerance, batch_size or max_steps, and for noise that is not finite.
        FloatingPointError: if the velocity returns NaN or infinity; names the time.
        RuntimeError: if `max_steps` steps do not reach t = 1; names the time that they reached.

    Warns:
        UserWarning: if the velocity's round-off (a bfloat16 network's) exceeds the tolerance, which is then raised to what it
            allows; if the times are too coarse for the field; if `atol` is more than a tenth of the states' scale.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1e-3, -1e-3], std=1e-4)
        >>> x0 = flow.noise(jax.random.key(0), (4,))
        >>> float(abs(ground_truth(flow, x0).x1 - (flow.params["means"] + 1e-4 * x0)).max()) < 1e-6
        True
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((x0, flow))):
        raise TypeError(
            "ground_truth: wanted concrete arrays, got a traced x0 or flow; call it outside jit, vmap and grad."
        )
    tolerance = Tolerance(check_positive("rtol", rtol), None if atol is None else check_positive("atol", atol))
    ends_only = check_flag("ends_only", ends_only)
    max_steps = check_count("max_steps", max_steps)
    batch_size = None if batch_size is None else check_count("batch_size", batch_size)
    batch_shape, flat = _checked_noises(flow, x0)
    fields = _solve(flow, flat, tolerance, batch_size, max_steps, ends_only)
    tolerance.warn()
    return Paths(*fields, batch_shape=batch_shape, condition=stored_conditions(flow))


def _checked_noises(flow: Flow, x0: State) -> tuple[tuple[int, ...], jax.Array]:
    """(the batch shape, the noises [B, *event]) of x0, if they are finite and as many as the flow has conditions."""
    x0, _ = flow.as_array("x0", x0)
    batch_shape = flow.batch_shape(x0, "x0")
    flat = jnp.reshape(x0, (-1, *flow.event_shape))
    if flat.shape[0] == 0:
        raise ValueError(f"x0: wanted at least one noise, got shape {jnp.shape(x0)}.")
    check_size(flow, len(flat), "x0")
    check_finite("x0", gather(flow, flat))
    flow.check_weights(len(flat))
    return batch_shape, flat


def finer_ends(
    flow: Flow, x0: Float[Array, "B *event"], rtol: Number, atol: Number | None
) -> tuple[Float[jax.Array, "B *event"], int]:
    """The ends of paths solved to a tenth of a tolerance, to compare with those solved to the tolerance itself.

    If round-off allows nothing below the tolerance, the steps differ at least, and so the ends differ by round-off.

    Args:
        flow: the velocity field.
        x0: noises, [B, *event].
        rtol, atol: the tolerance, as for `ground_truth`.

    Returns:
        (x1 [B, *event] in float32 at least, velocity evaluations spent).
    """
    rtol, atol = float(rtol) / 10, None if atol is None else float(atol) / 10
    # Where the paths themselves are solved, half precision is looked at further on, and warned of.
    tolerance = Tolerance(rtol, atol, share_of_rounding=0.5, later=(0.0, 0.0))
    x1, evaluations = zip(*_parts(flow, x0, tolerance, None, _MAX_STEPS, ends_only=True), strict=True)
    return joined(flow, x1), int(np.sum(np.concatenate(evaluations)))


def _solve(
    flow: Flow, x0: Array, tolerance: Tolerance, batch_size: int | None, max_steps: int, ends_only: bool
) -> tuple[Any, ...]:
    """The arrays of `Paths` from noises [B, *event], `batch_size` at a time; None for velocities and middles if not kept."""
    parts = _parts(flow, x0, tolerance, batch_size, max_steps, ends_only)
    if ends_only:
        x1, evaluations = zip(*parts, strict=True)
        times, states = between_ends(flow, spread(flow, x0), joined(flow, x1).astype(x0.dtype))
        return times, states, None, None, jax.device_put(np.concatenate(evaluations))
    longest = max(part[0].shape[1] for part in parts)
    times, *arrays, evaluations = map(jnp.concatenate, zip(*(padded(part, longest) for part in parts), strict=True))
    return times, *(array.astype(x0.dtype) for array in arrays), evaluations


def _parts(
    flow: Flow, x0: Array, tolerance: Tolerance, batch_size: int | None, max_steps: int, ends_only: bool
) -> list[tuple[Any, ...]]:
    """The results of `_solve_batch`, in float32 at least: no tolerance is worth much in steps rounded more coarsely."""
    x0 = x0.astype(promote(x0.dtype, jnp.float32))
    if batch_size is None:
        batch_size = max(1, min(256, _NUMBERS_TOGETHER // math.prod(flow.event_shape)))
    return [
        _solve_batch(of_samples(flow, part), cut(flow, x0, part), tolerance, max_steps, ends_only)
        for part in slices(len(x0), batch_size)
    ]


_NUMBERS_TOGETHER = 2**24  # in the states of a batch: 64 MB in float32, and Dopri5 holds ten such arrays at a time
_SHORTEST = 1e-6  # if a step this short is not finite, the velocity is to blame, not the step
_NEAR_THE_END = 1e-4  # of t = 1


def _solve_batch(flow: Flow, x0: Array, tolerance: Tolerance, max_steps: int, ends_only: bool) -> tuple[Any, ...]:
    """The arrays of `Paths` from noises [B, *event] solved together; if `ends_only`, x1 and evaluations."""
    x = x0 = spread(flow, x0)
    start, end = (np.asarray(t, promote(x.dtype, jnp.float32))[()] for t in (0, 1))
    velocity = kernels.velocity(flow, start, x)
    scale = flow.error_scale(len(x))
    asked, width, controller_state = tolerance.begin(weighted(x, scale), weighted(velocity, scale))
    others = 1 + tolerance.raise_to_rounding(flow, start, x, velocity, asked)
    watched = _Later(tolerance.later is None and kernels.computes_in_half(flow, start, x))
    stop, attempts, knots = start + width.astype(start.dtype), 0, []
    while start < end:
        if not np.isfinite(stop):
            raise _not_finite(flow, start, attempts)
        if attempts == max_steps:
            atol = "" if tolerance.atol is None else f", atol={tolerance.atol:g}"
            raise RuntimeError(
                f"ground_truth: {attempts} steps reached only t = {start:.6g}; the field is too stiff for rtol={tolerance.rtol:g}"
                f"{atol}. Does its time run from noise to data? A reversed one is often stiff (Flow.from_prediction(..., "
                f"time='noise_at_1') turns it). Else loosen the tolerances or raise max_steps={max_steps}."
            )
        attempts += 1
        # Stretched to the end if it stops within rounding of it: a further step would have no width to divide by.
        attempt = _attempt(flow, start, end if stop > end - 4 * np.finfo(end.dtype).eps else stop, end, x, velocity)
        verdict = tolerance.judge(attempt.weighted(scale), controller_state, asked)
        if not verdict.finite:
            _blame(flow, attempt, attempts)
            others += 2 * (attempt.stop == end)
        if verdict.keep:
            if not ends_only:
                knots.append((start, x, velocity, _middle(attempt)))
            watched.see((start, x, velocity), float(attempt.width))
            start, x, velocity = attempt.stop, attempt.x1, attempt.slopes[-1]
        stop, controller_state = verdict.following, verdict.state
    others += sum(tolerance.look_later(flow, *step, asked) for step in watched.steps())
    # Dopri5 is FSAL (first same as last): six new evaluations per attempted step, and one at the start.
    evaluations = np.full(len(x0), 6 * attempts + others, np.int32)
    if ends_only:
        return x, evaluations
    times, states, velocities, middles = (list(column) for column in zip(*knots, strict=True))
    times = np.broadcast_to(np.array([*times, end]), (len(x0), len(times) + 1))
    return times, *(_per_path(column) for column in ([*states, x], [*velocities, velocity], middles)), evaluations


class _Later:
    """The steps at which a velocity in half precision is looked at again: the first in the second half, and the last."""

    def __init__(self, wanted: bool):
        self._wanted, self._middle, self._last = wanted, None, None

    def see(self, place: tuple[Any, jax.Array, jax.Array], width: float) -> None:
        """Note an accepted step, by its first time, the state and the velocity there, and its width."""
        if self._wanted:
            before = 0.0 if self._last is None else self._last[1]
            self._last = place, max(width, before) if place[0] + width >= 1 else width  # the last may be what was left
            if self._middle is None and place[0] >= 0.5:
                self._middle = self._last

    def steps(self) -> list[tuple[tuple[Any, jax.Array, jax.Array], float]]:
        """Those noted, by place and width."""
        return [step for step in (self._middle, self._last) if step is not None]


def _attempt(flow: Flow, start: Any, stop: Any, end: Any, x: jax.Array, velocity: jax.Array) -> Attempt:
    """Dopri5's step from x at `start`, with the velocity there, to `stop`."""
    width, slopes = stop - start, [velocity]
    for node, row in zip(DOPRI5.tableau.c, DOPRI5.tableau.a_lower, strict=True):
        state = combine([1.0, *width * row], [x, *slopes])
        slopes.append(kernels.velocity(flow, stop if node == 1 else start + start.dtype.type(node) * width, state))
    return Attempt(start, stop, end, x, state, slopes, combine(width * DOPRI5.tableau.b_error, slopes))


def _middle(attempt: Attempt) -> jax.Array:
    """x half way through a step."""
    return combine([1.0, *attempt.width * DOPRI5.interpolation_cls.c_mid], [attempt.x, *attempt.slopes])


def _blame(flow: Flow, attempt: Attempt, attempts: int) -> None:
    """Raise FloatingPointError if an attempt is not finite because of the velocity, rather than a step that is too long."""
    if attempt.stop == attempt.end:  # shorter steps would reach the end too: is the velocity not finite there alone?
        before = attempt.end - attempt.end.dtype.type(_NEAR_THE_END)
        velocities = (kernels.velocity(flow, t, attempt.x) for t in (before, attempt.end))
        if [bool(gather(flow, _is_finite(velocity))) for velocity in velocities] == [True, False]:
            raise _not_finite(flow, attempt.end, attempts, "at")
    if not attempt.width > _SHORTEST:
        raise _not_finite(flow, attempt.start, attempts)


def _not_finite(flow: Flow, t: Any, attempts: int, where: str = "after") -> FloatingPointError:
    for place, leaf in jax.tree_util.tree_leaves_with_path(flow.params):
        numbers = known(leaf)
        if numbers is not None and jnp.issubdtype(numbers.dtype, jnp.inexact) and not np.all(np.isfinite(numbers)):
            bad = int(np.sum(~np.isfinite(numbers)))
            return FloatingPointError(
                f"ground_truth: the velocity returned NaN or infinity {where} t = {t:.6g} (step {attempts}), because the flow's "
                f"params{jax.tree_util.keystr(place)} has NaN or infinity in {bad} of {numbers.size} numbers."
            )
    remedy = (
        ": time_margin=1e-3, of Flow.from_prediction and the adapters, keeps away from such an end"
        if where == "at"
        else ""
    )
    time = "" if where == "at" else "; a network of another time wants time="
    return FloatingPointError(
        f"ground_truth: the velocity returned NaN or infinity {where} t = {t:.6g} (step {attempts}). Check "
        f"flow(t, x) near that time, its parameters, and whether it divides by alpha_t or sigma_t{remedy}{time}."
    )


_per_path = jax.jit(functools.partial(jnp.stack, axis=1))


@jax.jit
def _is_finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))
