"""True paths: the flow's ODE solved by diffrax's Dopri5 to a tolerance, kept so that they can be read at any time.

This is the only module that knows diffrax: its Dopri5 (tableau and dense output) and its step-size controller are driven from
Python, stage by stage. diffrax's own loop would reserve seven stages for each of `max_steps` steps before it knows how many
there will be, and holds the network in a loop within a loop, where two CPU devices ran it at half its speed; here three states
are kept for each step that was taken, and the network is the one program of `programs`.
"""

import dataclasses
import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import programs
from bespoke_jax.checks import check_count
from bespoke_jax.conditions import check_size, condition_of, of_samples
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import Flow
from bespoke_jax.programs import combine
from bespoke_jax.sharding import spread

__all__ = ["Paths", "ground_truth"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Paths:
    """True paths x(t), t in [0, 1], of a batch of noises; a pytree of arrays.

    Between two accepted steps a path is the quartic of Dopri5's own dense output (Shampine 1986), given by both end points,
    both end velocities and the middle.

    Attributes:
        times: [B, K + 1] accepted times of each path; the last, 1, is repeated where a path needed fewer steps.
        states: [B, K + 1, *event] x at those times.
        velocities: [B, K + 1, *event] u at those times.
        middles: [B, K, *event] x half way between them.
        evaluations: [B] velocity evaluations spent on each path; network calls are `flow.calls_per_evaluation` times as many.
        batch_shape: the caller's leading axes, of product B; static.
        condition: that of each path, a pytree of [B, ...], if the flow was `given` them; else None.

    Of paths made by `of_ends` nothing is known between the ends: velocities and middles are None, `at` and `velocity` raise
    ValueError.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=(2,))
        >>> paths = ground_truth(flow, jnp.ones((3, 2)))
        >>> paths.at(0.5).shape, round(float(paths.x1[0, 0]), 4)
        ((3, 2), 0.3679)
    """

    times: jax.Array
    states: jax.Array
    velocities: jax.Array | None
    middles: jax.Array | None
    evaluations: jax.Array
    batch_shape: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    condition: Any = None

    @classmethod
    def of_ends(cls, flow: Flow, x0, x1, evaluations: int = 0) -> "Paths":
        """Paths of which the ends alone are known: noises and samples that you have. Losses of ends need no more.

        Args:
            flow: whose paths they are; `given` their conditions, if it has some.
            x0, x1: noises and the samples that the flow takes them to, by a solver much better than the one to learn: a tenth of
                its error. Each [*batch, *event_shape].
            evaluations: velocity evaluations that were spent on each.

        Raises:
            ValueError: for a wrong shape.

        Examples:
            >>> import jax, bespoke_jax as bj
            >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
            >>> x0 = flow.noise(jax.random.key(0), (64,))
            >>> many = bj.classic.ipndm(40, order=4)
            >>> pairs = bj.Paths.of_ends(flow, x0, bj.solve(flow, many, x0), evaluations=many.nfe)
            >>> bj.losses.endpoint(flow, bj.init_theta("rk2", 5), pairs).shape
            ()
        """
        batch_shape = flow.batch_shape(x0, "x0")
        if flow.batch_shape(x1, "x1") != batch_shape:
            raise ValueError(f"x1: wanted one for each noise, {jnp.shape(x0)}, got shape {jnp.shape(x1)}.")
        ends = [jnp.reshape(x, (-1, *flow.event_shape)) for x in (x0, x1)]
        count = len(ends[0])
        check_size(flow, count, "x0")
        states = jnp.stack(ends, axis=1)
        times = jnp.tile(jnp.arange(2, dtype=promote(states.dtype, jnp.float32)), (count, 1))
        spent = jnp.full(count, evaluations, jnp.int32)
        return cls(times, states, None, None, spent, batch_shape, condition_of(flow))

    @property
    def is_of_ends(self) -> bool:
        """Whether nothing is known between the ends."""
        return self.velocities is None

    @property
    def num_paths(self) -> int:
        """B, the number of paths."""
        return self.times.shape[0]

    @property
    def x0(self):
        """The noises, [*batch, *event]."""
        return self._to_batch(self.states[:, 0])

    @property
    def x1(self):
        """The end points, [*batch, *event]."""
        return self._to_batch(self.states[:, -1])

    @property
    def nfe(self):
        """Velocity evaluations per path, averaged over paths; a float32 scalar."""
        return jnp.mean(self.evaluations.astype(jnp.float32))

    @jax.jit
    def at(self, t):
        """x(t), [*batch, *event] for a scalar t in [0, 1]; [m, *batch, *event] for t of shape [m]. Differentiable in t."""
        if self.is_of_ends:
            raise ValueError(
                "paths: of these the ends alone are known (Paths.of_ends), which losses of ends can use; the losses of single "
                "steps need bespoke_jax.ground_truth."
            )
        if jnp.ndim(t):
            return jax.vmap(self.at)(t)
        return self._to_batch(jax.vmap(_quartic, in_axes=(0, 0, 0, 0, None))(*self._arrays, t))

    @jax.jit
    def velocity(self, t):
        """x'(t), of the same shape as `at(t)`: the derivative of the stored curve, no velocity evaluation spent."""
        if jnp.ndim(t):
            return jax.vmap(self.velocity)(t)
        t = jnp.asarray(t, self.times.dtype)
        return jax.jvp(self.at, (t,), (jnp.ones_like(t),))[1]

    def take(self, indices) -> "Paths":
        """The paths with these indices (into the flattened batch), as a batch of shape [len(indices)]."""
        *fields, condition = _rows((*self._arrays, self.evaluations, self.condition), indices)
        return Paths(*fields, batch_shape=(len(indices),), condition=condition)

    @property
    def _arrays(self):
        return self.times, self.states, self.velocities, self.middles

    def _to_batch(self, x):
        return x.reshape(*self.batch_shape, *x.shape[1:])


@jax.jit
def _rows(arrays, indices):
    return jax.tree.map(lambda array: array[indices], arrays)


def _quartic(times, states, velocities, middles, t):
    """Value at t of one path: the quartic through both ends with their velocities and the middle of t's interval."""
    t = jnp.asarray(t, times.dtype)
    # side="left" finds the last real interval for t = 1, where the padding has none.
    k = jnp.clip(jnp.searchsorted(times, t, side="left") - 1, 0, len(times) - 2)
    step = times[k + 1] - times[k]
    p = (t - times[k]) / jnp.where(step > 0, step, 1)
    left, right = (1 - p) ** 2, p**2
    basis = (
        left * (1 - 2 * p) * (1 + 4 * p),
        right * (2 * p - 1) * (5 - 4 * p),
        16 * left * right,
        step * p * left * (1 - 2 * p),
        step * right * (1 - p) * (1 - 2 * p),
    )
    values = (states[k], states[k + 1], middles[k], velocities[k], velocities[k + 1])
    return sum(b.astype(v.dtype) * v for b, v in zip(basis, values, strict=True))


def ground_truth(flow: Flow, x0, rtol=1e-5, atol=1e-5, *, batch_size: int = 256, max_steps: int = 1000) -> Paths:
    """Solve x'(t) = u_t(x) from t = 0 to 1 by adaptive Dopri5.

    The paths of a batch share their steps, which are as short as the worst of them needs: every single path meets the
    tolerance. Call it outside `jit`; what it compiles is kept for the next call of the same shapes.

    Args:
        flow: the velocity field.
        x0: noises, [*batch, *event_shape]; as many as a `given` flow has conditions.
        rtol, atol: relative and absolute tolerance per step, > 0. float32 allows about 1e-6.
        batch_size: how many paths are solved together.
        max_steps: attempted steps (six evaluations each) after which the solve is given up.

    Returns:
        `Paths`: three states per accepted step, so 220 MB for 256 images of 32 x 32 x 3 and 23 steps.

    Raises:
        ValueError: for a wrong shape, tolerance, batch_size or max_steps.
        FloatingPointError: if the velocity returns NaN or infinity; says when.
        RuntimeError: if `max_steps` do not reach t = 1; says how far they got.
    """
    for name, value in dict(rtol=rtol, atol=atol).items():
        if not (np.ndim(value) == 0 and np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: wanted a tolerance > 0 such as 1e-5, got {value!r}.")
    batch_size, max_steps = check_count("batch_size", batch_size), check_count("max_steps", max_steps)
    batch_shape = flow.batch_shape(x0, "x0")
    flat = jnp.reshape(x0, (-1, *flow.event_shape))
    if flat.shape[0] == 0:
        raise ValueError(f"x0: wanted at least one noise, got shape {jnp.shape(x0)}.")
    check_size(flow, len(flat), "x0")
    slices = (slice(start, start + batch_size) for start in range(0, len(flat), batch_size))
    parts = [_solve_batch(of_samples(flow, part), flat[part], float(rtol), float(atol), max_steps) for part in slices]
    longest = max(part[0].shape[1] for part in parts)
    fields = [jnp.concatenate(column) for column in zip(*(padded(part, longest) for part in parts), strict=True)]
    return Paths(*fields, batch_shape=batch_shape, condition=condition_of(flow))


def padded(part, length: int):
    """The arrays of `Paths`, the end of each path repeated up to `length` knots: batches of different steps fit together."""
    *arrays, evaluations = part
    grown = []
    for array, knots in zip(arrays, (length, length, length, length - 1), strict=True):
        tail = [array[:, -1:]] * (knots - array.shape[1])
        grown.append(jnp.concatenate([array, *tail], axis=1) if tail else array)
    return (*grown, evaluations)


_DOPRI5 = diffrax.Dopri5
_SHORTEST = 1e-6  # a step as short as this that still gives NaN or infinity is the velocity's fault, not the step's


def _solve_batch(flow, x0, rtol, atol, max_steps):
    x = spread(flow, x0)
    start, end = (np.asarray(t, promote(x.dtype, jnp.float32))[()] for t in (0, 1))
    velocity = programs.velocity(flow, start, x)
    width, controller_state = _first_step(x, velocity, rtol, atol)
    stop, attempts, knots = start + np.asarray(width), 0, []
    while start < end:
        if not np.isfinite(stop):
            raise _not_finite(start, attempts)
        if attempts == max_steps:
            raise RuntimeError(
                f"ground_truth: {attempts} steps reached only t = {start:.6g}; the field is too stiff for rtol={rtol:g}, "
                f"atol={atol:g}. Loosen the tolerances or raise max_steps={max_steps}."
            )
        attempts += 1
        # A last step shorter than rounding would divide by nothing.
        stop = end if stop > end - 1e-6 else stop
        x1, slopes = _stages(flow, start, stop, x, velocity)
        width = stop - start
        keep, finite, following, controller_state = _judge(
            start, stop, x, x1, combine(width * _DOPRI5.tableau.b_error, slopes), controller_state, rtol, atol
        )
        if not finite and not width > _SHORTEST:
            raise _not_finite(start, attempts)
        if keep:
            middle = combine([1.0, *width * _DOPRI5.interpolation_cls.c_mid], [x, *slopes])
            knots.append((start, x, velocity, middle))
            start, x, velocity = stop, x1, slopes[-1]
        stop = np.asarray(following)
    times, states, velocities, middles = (list(column) for column in zip(*knots, strict=True))
    batch = len(x0)
    # "First same as last": six new evaluations per attempted step, and the velocity at the start.
    evaluations = jnp.full((batch,), 6 * attempts + 1, jnp.int32)
    times = jnp.broadcast_to(np.array([*times, end]), (batch, len(times) + 1))
    return times, *(_per_path(column) for column in ([*states, x], [*velocities, velocity], middles)), evaluations


def _not_finite(t, attempts):
    return FloatingPointError(
        f"ground_truth: the velocity returned NaN or infinity after t = {t:.6g} (step {attempts}). Check "
        "flow(t, x) near that time, its parameters, and whether it divides by alpha_t or sigma_t."
    )


def _stages(flow, start, stop, x, velocity):
    """(where Dopri5's step from x ends, its seven slopes): the first is the velocity at the start, the last that at the end."""
    width, slopes = stop - start, [velocity]
    for node, row in zip(_DOPRI5.tableau.c, _DOPRI5.tableau.a_lower, strict=True):
        state = combine([1.0, *width * row], [x, *slopes])
        slopes.append(programs.velocity(flow, stop if node == 1 else start + start.dtype.type(node) * width, state))
    return state, slopes


_per_path = jax.jit(functools.partial(jnp.stack, axis=1))


def _worst_rms(error):
    """The largest over the batch of the RMS over the event: makes the controller serve the worst path."""
    return jnp.max(jnp.sqrt(jnp.mean(jnp.reshape(error, (error.shape[0], -1)) ** 2, axis=1)))


def _controller(rtol, atol):
    return diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_rms)


_TERM = diffrax.ODETerm(lambda t, x, args: x)  # what the controller wants to see; it does not evaluate it


@functools.partial(jax.jit, static_argnums=(2, 3))
def _first_step(x, velocity, rtol, atol):
    """(width of the first step, the controller's state): the velocity alone moves x by 1 % of its scale (Hairer et al., II.4)."""
    scale = atol + rtol * jnp.abs(x)
    size, speed = _worst_rms(x / scale), _worst_rms(velocity / scale)
    guess = jnp.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    time = promote(x.dtype, jnp.float32)
    t0, t1 = jnp.zeros((), time), jnp.ones((), time)
    order = _DOPRI5().error_order(_TERM)
    stop, state = _controller(rtol, atol).init(_TERM, t0, t1, x, guess.astype(time), None, _DOPRI5().func, order)
    return stop - t0, state


@functools.partial(jax.jit, static_argnums=(6, 7))
def _judge(start, stop, x, x1, error, state, rtol, atol):
    """(is the step accepted, is all of it finite, where the next one ends, the controller's state)."""
    # A trial step may overflow where a shorter one does not: an infinite error has the controller try a shorter one.
    finite = jnp.all(jnp.isfinite(x1)) & jnp.all(jnp.isfinite(error))
    x1, error = jnp.where(finite, x1, x), jnp.where(finite, error, jnp.inf)
    order = _DOPRI5().error_order(_TERM)
    keep, _, following, _, state, _ = _controller(rtol, atol).adapt_step_size(
        start, stop, x, x1, None, error, order, state
    )
    return keep, finite, following, state
