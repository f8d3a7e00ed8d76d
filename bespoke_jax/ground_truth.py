"""True paths: the flow's ODE solved by diffrax's Dopri5 to a tolerance, kept so that they can be read at any time.

This is the only module that knows diffrax. It drives diffrax's solver and step-size controller step by step, because
diffrax's own dense output reserves seven stages for each of `max_steps` steps before it knows how many there will be; here
three states are kept for each step that was taken, and nothing else.
"""

import dataclasses
import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import Flow
from bespoke_jax.sharding import spread

__all__ = ["Paths", "ground_truth"]

_SEGMENT = 16  # accepted steps per compiled call: the buffer on the device holds no more than this many


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
        evaluations: [B] velocity evaluations spent on each path.
        batch_shape: the caller's leading axes, of product B; static.

    Example:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=(2,))
        >>> paths = ground_truth(flow, jnp.ones((3, 2)))
        >>> paths.at(0.5).shape, round(float(paths.x1[0, 0]), 4)
        ((3, 2), 0.3679)
    """

    times: jax.Array
    states: jax.Array
    velocities: jax.Array
    middles: jax.Array
    evaluations: jax.Array
    batch_shape: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))

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
        fields = (self.times, self.states, self.velocities, self.middles, self.evaluations)
        return Paths(*(field[indices] for field in fields), batch_shape=(len(indices),))

    @property
    def _arrays(self):
        return self.times, self.states, self.velocities, self.middles

    def _to_batch(self, x):
        return x.reshape(*self.batch_shape, *x.shape[1:])


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
        x0: noises, [*batch, *event_shape].
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
    for name, value in dict(batch_size=batch_size, max_steps=max_steps).items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: wanted an integer > 0, got {value!r}.")
    batch_shape = flow.batch_shape(x0, "x0")
    flat = jnp.reshape(x0, (-1, *flow.event_shape))
    if flat.shape[0] == 0:
        raise ValueError(f"x0: wanted at least one noise, got shape {jnp.shape(x0)}.")
    parts = [
        _solve_batch(flow, flat[start : start + batch_size], float(rtol), float(atol), max_steps)
        for start in range(0, len(flat), batch_size)
    ]
    longest = max(part[0].shape[1] for part in parts)
    fields = [jnp.concatenate(column) for column in zip(*(_pad(part, longest) for part in parts), strict=True)]
    return Paths(*fields, batch_shape=batch_shape)


def _pad(part, length):
    """Repeat the end of each path until it has `length` knots, so that batches with different steps fit together."""
    *arrays, evaluations = part
    grown = []
    for array, knots in zip(arrays, (length, length, length, length - 1), strict=True):
        tail = jnp.repeat(array[:, -1:], knots - array.shape[1], axis=1)
        grown.append(jnp.concatenate([array, tail], axis=1))
    return (*grown, evaluations)


def _solve_batch(flow, x0, rtol, atol, max_steps):
    carry = _begin(flow, spread(flow, x0), rtol, atol)
    pieces = []
    while True:
        carry, times, buffers, taken = _advance(flow, carry, max_steps, rtol, atol)
        taken = int(taken)
        pieces.append((times[:taken], *(buffer[:taken] for buffer in buffers)))
        t, x, attempts = float(carry["t"]), carry["x"], int(carry["attempts"])
        if not bool(jnp.all(jnp.isfinite(x))) or not np.isfinite(float(carry["t_next"])) or bool(carry["bad"]):
            raise FloatingPointError(
                f"ground_truth: the velocity returned NaN or infinity after t = {t:.6g} (step {attempts}). Check "
                "flow(t, x) near that time, its parameters, and whether it divides by alpha_t or sigma_t."
            )
        if t >= 1:
            break
        if attempts >= max_steps:
            raise RuntimeError(
                f"ground_truth: {attempts} steps reached only t = {t:.6g}; the field is too stiff for rtol={rtol:g}, "
                f"atol={atol:g}. Loosen the tolerances or raise max_steps={max_steps}."
            )
    times, states, velocities, middles = (jnp.concatenate(column) for column in zip(*pieces, strict=True))
    batch = x0.shape[0]
    times = jnp.concatenate([times, jnp.ones((1,), times.dtype)])
    states = jnp.concatenate([states, carry["x"][None]])
    velocities = jnp.concatenate([velocities, carry["velocity"][None]])
    # FSAL: six new evaluations per attempted step. Before that: the velocity at the start, two to choose the first step.
    evaluations = jnp.full((batch,), 6 * int(carry["attempts"]) + 3, jnp.int32)
    per_path = (jnp.swapaxes(array, 0, 1) for array in (states, velocities, middles))
    return jnp.broadcast_to(times, (batch, len(times))), *per_path, evaluations


def _worst_rms(error):
    """The largest over the batch of the RMS over the event: makes the controller serve the worst path."""
    return jnp.max(jnp.sqrt(jnp.mean(jnp.reshape(error, (error.shape[0], -1)) ** 2, axis=1)))


_SOLVER = diffrax.Dopri5()
_SHORTEST = 1e-6  # a step as short as this that still gives NaN or infinity is the velocity's fault, not the step's


def _setup(flow, rtol, atol):
    term = diffrax.ODETerm(lambda t, x, args: flow(t, x))
    return term, diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_rms)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _begin(flow, x0, rtol, atol):
    term, controller = _setup(flow, rtol, atol)
    t0, t1 = (jnp.asarray(t, promote(x0.dtype, jnp.float32)) for t in (0.0, 1.0))
    order = _SOLVER.error_order(term)
    velocity = flow(t0, x0)
    t_next, controller_state = controller.init(term, t0, t1, x0, None, None, _SOLVER.func, order)
    t_next = jnp.minimum(jnp.asarray(t_next, t0.dtype), t1)
    return dict(
        t=t0,
        t_next=t_next,
        x=x0,
        velocity=velocity,
        # What diffrax carries from step to step ("first same as last"): whether the first stage is missing, and that stage.
        solver_state=(jnp.zeros((), bool), velocity),
        controller_state=controller_state,
        attempts=jnp.zeros((), jnp.int32),
        bad=jnp.zeros((), bool),
    )


@functools.partial(jax.jit, static_argnums=(3, 4), donate_argnums=1)
def _advance(flow, carry, max_steps, rtol, atol):
    """Up to `_SEGMENT` accepted steps: (carry, start times, (states, velocities, middles) there, how many)."""
    term, controller = _setup(flow, rtol, atol)
    order = _SOLVER.error_order(term)
    x = carry["x"]
    times = jnp.zeros((_SEGMENT,), carry["t"].dtype)
    buffers = tuple(jnp.zeros((_SEGMENT, *x.shape), x.dtype) for _ in range(3))

    def going_on(loop):
        carry, _, _, taken = loop
        return (carry["t"] < 1) & (taken < _SEGMENT) & (carry["attempts"] < max_steps) & ~carry["bad"]

    def attempt(loop):
        c, times, buffers, taken = loop
        x1, error, dense, solver_state, _ = _SOLVER.step(
            term, c["t"], c["t_next"], c["x"], None, c["solver_state"], made_jump=False
        )
        # A trial step may overflow where a shorter one does not: an infinite error has the controller try a shorter one.
        finite = jnp.all(jnp.isfinite(x1)) & jnp.all(jnp.isfinite(error))
        x1, error = jnp.where(finite, x1, c["x"]), jnp.where(finite, error, jnp.inf)
        keep, _, t_next, _, controller_state, _ = controller.adapt_step_size(
            c["t"], c["t_next"], c["x"], x1, None, error, order, c["controller_state"]
        )
        curve = _SOLVER.interpolation_cls(t0=c["t"], t1=c["t_next"], **dense)
        width = c["t_next"] - c["t"]
        # diffrax keeps stage slopes times the step; the last stage is the velocity at the step's end.
        velocity = (dense["k"][-1] / width.astype(x1.dtype)).astype(x1.dtype)
        middle = curve.evaluate(c["t"] + 0.5 * width)
        # A rejected step leaves `taken` where it is, and the next attempt writes over it.
        values = (c["x"], c["velocity"], middle)
        buffers = tuple(buffer.at[taken].set(value) for buffer, value in zip(buffers, values, strict=True))
        times = times.at[taken].set(c["t"])
        start = jnp.where(keep, c["t_next"], c["t"])
        end = start + jnp.where(keep, t_next - c["t_next"], t_next - c["t"])
        # A last step shorter than rounding would divide by nothing.
        end = jnp.where(end > 1 - 1e-6, 1.0, end).astype(start.dtype)
        pick = functools.partial(jax.tree.map, lambda new, old: jnp.where(keep, new, old))
        c = dict(
            t=start,
            t_next=end,
            x=pick(x1, c["x"]),
            velocity=pick(velocity, c["velocity"]),
            solver_state=pick(solver_state, c["solver_state"]),
            controller_state=controller_state,
            attempts=c["attempts"] + 1,
            bad=~finite & ~(width > _SHORTEST),  # written so that a width of NaN is bad
        )
        return c, times, buffers, taken + keep.astype(taken.dtype)

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(going_on, attempt, (carry, times, buffers, zero))
