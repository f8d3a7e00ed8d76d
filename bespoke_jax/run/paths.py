"""Paths x(t) of a batch of noises, stored as arrays and readable at any time."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bespoke_jax.checks import check_count, check_numbers, check_numeric, check_type, known
from bespoke_jax.flow.conditions import check_size, of_paths, of_samples, stored_conditions
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.per_sample import Indexed, rows_of, take
from bespoke_jax.flow.sharding import spread
from bespoke_jax.run.interpolation import quartic
from bespoke_jax.run.rows import between_ends
from bespoke_jax.run.rows import ends as ends_of
from bespoke_jax.types import Array, Numbers, Scalar, State

__all__ = ["Paths", "check_finite", "samples", "slices"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Paths:
    """True paths x(t), t in [0, 1], of a batch of noises; a pytree of arrays.

    Between two accepted times a path is the quartic of Dopri5's dense output (Shampine 1986), determined by the states and
    velocities at both ends and the state in the middle.

    Attributes:
        times: [B, K + 1] accepted times of each path; the last, 1, is repeated for paths that needed fewer steps.
        states: [B, K + 1, *event] x at these times.
        velocities: [B, K + 1, *event] u at these times.
        middles: [B, K, *event] x half way between them.
        evaluations: [B] velocity evaluations spent on each path; network calls are `flow.calls_per_evaluation` times as many.
        batch_shape: the caller's leading axes, of product B; static.
        condition: the condition of each path, a pytree of [B, ...], if the flow was `given` conditions; else None. Large ones,
            which paths share, are kept once, with the number of each path's: `flow.per_sample.Indexed`.

    Paths of a flow of trees hold arrays, event = (D,): `flow.unravel(paths.x1)` is a tree.
    Paths made by `of_ends` are known only at their ends: velocities and middles are None, `at` and `velocity` raise ValueError.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=(2,))
        >>> paths = bj.ground_truth(flow, jnp.ones((3, 2)))
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
    def of_ends(cls, flow: Flow, x0: State, x1: State, evaluations: int = 0) -> "Paths":
        """Paths known only at their ends, from noises and samples that you have. Losses of end points need no more.

        Args:
            flow: the flow of these paths; `given` their conditions, if it is conditional.
            x0, x1: noises and the samples that the flow takes them to, [*batch, *event_shape] or trees. The solver that made the
                samples should be much better than the one to learn, with a tenth of its error.
            evaluations: velocity evaluations spent on each.

        Raises:
            TypeError: if `flow` is not a Flow.
            ValueError: for a wrong shape, numbers that are not finite, or `evaluations` that are not a count.

        Examples:
            >>> import jax, bespoke_jax as bj
            >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
            >>> x0 = flow.noise(jax.random.key(0), (64,))
            >>> many = bj.classic.ipndm(40, order=4)
            >>> pairs = bj.Paths.of_ends(flow, x0, bj.solve(flow, many, x0), evaluations=many.nfe)
            >>> bj.losses.endpoint(flow, bj.init_theta("rk2", 5), pairs).shape
            ()
        """
        check_type("flow", flow, Flow, "a bespoke_jax.Flow")
        evaluations = check_count("evaluations", evaluations, 0)
        (x0, _), (x1, _) = flow.as_array("x0", x0), flow.as_array("x1", x1)
        batch_shape = flow.batch_shape(x0, "x0")
        if flow.batch_shape(x1, "x1") != batch_shape:
            raise ValueError(f"x1: wanted one for each noise, {jnp.shape(x0)}, got shape {jnp.shape(x1)}.")
        ends = [jnp.reshape(x, (-1, *flow.event_shape)) for x in (x0, x1)]
        count = len(ends[0])
        check_size(flow, count, "x0")
        for name, x in zip(("x0", "x1"), ends, strict=True):
            check_finite(name, x)
        times, states = between_ends(flow, *ends)
        spent = jax.device_put(np.full(count, evaluations, np.int32))
        return cls(times, states, None, None, spent, batch_shape, stored_conditions(flow))

    def check(self, name: str) -> None:
        """Raise ValueError unless the arrays form one set of paths: shapes agree, numbers are finite, times run from 0 to 1.

        Args:
            name: what errors call the paths.
        """
        event, (count, knots) = jnp.shape(self.states)[2:], jnp.shape(self.times)
        shapes = dict(times=(count, knots), states=(count, knots, *event), evaluations=(count,))
        if not self.is_of_ends:
            shapes |= dict(velocities=(count, knots, *event), middles=(count, knots - 1, *event))
        for field, shape in shapes.items():
            if jnp.shape(getattr(self, field)) != shape:
                raise ValueError(f"{name}.{field}: wanted shape {shape}, got {jnp.shape(getattr(self, field))}.")
            if field != "evaluations":
                check_finite(f"{name}.{field}", getattr(self, field))
        if math.prod(self.batch_shape) != count:
            raise ValueError(f"{name}.batch_shape: wanted the shape of {count} paths, got {self.batch_shape}.")
        own = self.condition.index if isinstance(self.condition, Indexed) else self.condition
        if any(jnp.shape(leaf)[:1] != (count,) for leaf in jax.tree.leaves(own)):
            shapes = jax.tree.map(jnp.shape, self.condition)
            raise ValueError(f"{name}.condition: wanted one for each of {count} paths, got shapes {shapes}.")
        times = known(self.times)
        if times is not None and not (
            knots > 1 and np.all(times[:, 0] == 0) and np.all(times[:, -1] == 1) and np.all(np.diff(times) >= 0)
        ):
            raise ValueError(f"{name}.times: wanted times that increase from 0 to 1, got others.")

    @property
    def is_of_ends(self) -> bool:
        """Whether only the ends are known."""
        return self.velocities is None

    @property
    def num_paths(self) -> int:
        """B, the number of paths."""
        return self.times.shape[0]

    @property
    def x0(self) -> Float[jax.Array, "..."]:
        """The noises, [*batch, *event]."""
        return self._to_batch(self.states[:, 0])

    @property
    def x1(self) -> Float[jax.Array, "..."]:
        """The end points, [*batch, *event]."""
        return self._to_batch(self.states[:, -1])

    @property
    def nfe(self) -> Float[jax.Array, ""]:
        """Velocity evaluations per path, averaged over paths; a float32 scalar."""
        return jnp.mean(self.evaluations.astype(jnp.float32))

    def at(self, t: Scalar | Numbers) -> Float[jax.Array, "..."]:
        """x(t), differentiable in t.

        Args:
            t: one time in [0, 1], or times [m].

        Returns:
            [*batch, *event] for one time, [m, *batch, *event] for several.

        Raises:
            ValueError: for a time outside [0, 1], unless it is traced, and for paths known only at their ends.
        """
        return _at(self, self._checked(t))

    def velocity(self, t: Scalar | Numbers) -> Float[jax.Array, "..."]:
        """x'(t), of the same shape as `at(t)`: the derivative of the stored curve, which costs no velocity evaluation."""
        return _velocity(self, self._checked(t))

    def take(self, indices: Int[Array, "m"]) -> "Paths":
        """The paths with these indices, as a batch of shape [m].

        Args:
            indices: [m], into the flattened batch; negative ones count from its end.

        Raises:
            TypeError: if the indices are not integers.
            ValueError: for an index that no path has.
        """
        shape, dtype = check_numeric("indices", indices)
        if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"indices: wanted integers, shape [m], got {dtype}{list(shape)}.")
        numbers = known(indices)
        if numbers is not None and numbers.size:
            least, most = int(np.min(numbers)), int(np.max(numbers))
            if least < -self.num_paths or most >= self.num_paths:
                wrong = least if least < 0 else most
                raise ValueError(f"indices: wanted those of {self.num_paths} paths, got {wrong}.")
        rows = jnp.asarray(indices) if numbers is None else numbers
        fields = rows_of((*self._arrays, self.evaluations), rows)
        condition = None if self.condition is None else take(self.condition, rows)
        return Paths(*fields, batch_shape=shape, condition=condition)

    def chunks(
        self, flow: Flow, batch_size: int | None = None, count: int | None = None
    ) -> Iterator[tuple[Flow, jax.Array, jax.Array]]:
        """The paths in chunks: (the flow of these samples, x0, x1), placed on the flow's devices.

        Args:
            flow: the flow of these paths.
            batch_size: the largest number of paths in a chunk; None for all together.
            count: how many of the paths, the first ones; None, or more than there are, for all.

        Raises:
            ValueError: if the paths have another event shape than the flow, or only one of the two has conditions.

        Examples:
            >>> import bespoke_jax as bj
            >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
            >>> paths = bj.Paths.of_ends(flow, jnp.zeros((5, 2)), jnp.ones((5, 2)))
            >>> [x1.shape for _, x0, x1 in paths.chunks(flow, 3)]
            [(3, 2), (2, 2)]
        """
        flow = of_paths(flow, self)
        for part in slices(min(count or self.num_paths, self.num_paths), batch_size):
            x0, x1 = ends_of(flow, self.states, part)
            yield of_samples(flow, part), spread(flow, x0), spread(flow, x1)

    def _checked(self, t: Any) -> jax.Array:
        if self.is_of_ends:
            raise ValueError(
                "paths: wanted whole paths, from bespoke_jax.ground_truth, got the ends alone (Paths.of_ends), which serve "
                "losses of ends, but not losses of single steps."
            )
        if not isinstance(t, jax.core.Tracer):
            t = t if hasattr(t, "dtype") else np.asarray(t)
            check_numeric("t", t)
            times = check_numbers("t", t, t.shape)
            if not np.all((times >= 0) & (times <= 1)):
                raise ValueError(f"t: wanted times from 0 to 1, got {t}.")
        return jnp.asarray(t, self.times.dtype)

    @property
    def _arrays(self) -> tuple[jax.Array, jax.Array, Any, Any]:
        return self.times, self.states, self.velocities, self.middles

    def _to_batch(self, x: jax.Array) -> jax.Array:
        return x.reshape(*self.batch_shape, *x.shape[1:])


@jax.jit
def _at(paths: Paths, t: jax.Array) -> jax.Array:
    if jnp.ndim(t):
        return jax.vmap(functools.partial(_at, paths))(t)
    return paths._to_batch(jax.vmap(quartic, in_axes=(0, 0, 0, 0, None))(*paths._arrays, t))


@jax.jit
def _velocity(paths: Paths, t: jax.Array) -> jax.Array:
    if jnp.ndim(t):
        return jax.vmap(functools.partial(_velocity, paths))(t)
    return jax.jvp(functools.partial(_at, paths), (t,), (jnp.ones_like(t),))[1]


def samples(flow: Flow, paths: Paths) -> tuple[Flow, Float[jax.Array, "B *event"], Float[jax.Array, "B *event"]]:
    """(the flow of these paths' samples, x0 [B, *event], x1 [B, *event]), after checking that the paths fit the flow.

    Raises:
        ValueError: if the paths have another event shape than the flow, or only one of the two has conditions.
    """
    flow = of_paths(flow, paths)
    return flow, *ends_of(flow, paths.states, slice(0, paths.num_paths))


def slices(size: int, batch_size: int | None) -> Iterator[slice]:
    """Slices that cover range(size), each of at most `batch_size`; one slice if that is None.

    Examples:
        >>> list(slices(5, 3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    step = batch_size or size
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


def check_finite(name: str, x: Float[Array, "B *event"]) -> None:
    """Raise ValueError, which names the first bad sample, unless all of x [B, *event] is finite.

    Arrays that this process cannot read pass: traced ones, and those with parts on other processes.
    """
    if isinstance(x, jax.core.Tracer):
        return
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return
    finite = np.all(np.isfinite(np.asarray(x).reshape(len(x), -1)), axis=1)
    if not np.all(finite):
        raise ValueError(
            f"{name}: wanted finite numbers, got NaN or infinity in {np.sum(~finite)} of {len(finite)} samples, first in number "
            f"{int(np.argmin(finite))}."
        )
