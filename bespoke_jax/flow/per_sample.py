"""The velocity of a batch of samples that have a condition each, and how their conditions are stored."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Float, Int

from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, PyTree, Scalar, VelocityFunction

__all__ = [
    "CONDITION",
    "Batched",
    "Indexed",
    "PerSample",
    "batched_velocity",
    "check_num",
    "expanded",
    "num_of",
    "of_sample",
    "rows_of",
    "shapes_of_one",
    "take",
]

CONDITION = "condition"
"""The entry of a flow's parameters that holds its condition."""

_LARGE = 2**20  # bytes of one condition


class Indexed(NamedTuple):
    """Conditions of samples that are too large to copy for each sample.

    Small conditions are copied, so that what is compiled does not depend on how many there are.

    Attributes:
        conditions: a pytree of [K, ...].
        index: [B], the condition of each sample.
    """

    conditions: Any
    index: jax.Array


jax.export.register_namedtuple_serialization(Indexed, serialized_name="bespoke_jax.Indexed")  # for `save_sampler`


def num_of(conditions: PyTree) -> int:
    """For how many samples there are conditions."""
    return len(conditions.index) if isinstance(conditions, Indexed) else len(jax.tree.leaves(conditions)[0])


def check_num(conditions: PyTree, count: int, name: str) -> None:
    """Raise ValueError, which begins with `name`, unless there are conditions for `count` samples."""
    if num_of(conditions) != count:
        raise ValueError(
            f"{name}: wanted as many samples as the flow has conditions, {num_of(conditions)}, got {count}; use "
            "bespoke_jax.given(flow, conditions) with one condition for each sample."
        )


def take(conditions: PyTree, indices: Int[Array, "m"]) -> Any:
    """The conditions of some samples, `Indexed` if they are large.

    Examples:
        >>> few = take({"small": jnp.arange(3)}, jnp.array([2, 0]))
        >>> few["small"].tolist()
        [2, 0]
        >>> few = take({"large": jnp.zeros((3, 2**20))}, jnp.array([2, 0]))
        >>> few.index.tolist(), num_of(few), expanded(few)["large"].shape
        ([2, 0], 2, (2, 1048576))
    """
    if isinstance(conditions, Indexed):
        return Indexed(conditions.conditions, conditions.index[indices])
    size = sum(leaf.dtype.itemsize * math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(conditions))
    if size >= _LARGE:
        return Indexed(conditions, jnp.asarray(indices, jnp.int32))
    return rows_of(conditions, indices)


@jax.jit
def rows_of(arrays: Any, indices: jax.Array) -> Any:
    """These rows of each of the arrays."""
    return jax.tree.map(lambda array: array[indices], arrays)


def of_sample(conditions: PyTree, i: Any) -> Any:
    """The condition of sample i."""
    if isinstance(conditions, Indexed):
        return jax.tree.map(lambda leaf: leaf[conditions.index[i]], conditions.conditions)
    return jax.tree.map(lambda leaf: leaf[i], conditions)


def expanded(conditions: PyTree) -> Any:
    """A pytree of [B, ...]: the conditions, with a copy for each sample if they are `Indexed`."""
    return of_sample(conditions, slice(None)) if isinstance(conditions, Indexed) else conditions


def shapes_of_one(conditions: PyTree) -> Any:
    """The condition of one sample as shapes and dtypes, a tree of `jax.ShapeDtypeStruct`."""
    conditions = conditions.conditions if isinstance(conditions, Indexed) else conditions
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), conditions)


def _params_of_sample(params: dict, i: Any) -> Any:
    return {**params, CONDITION: of_sample(params[CONDITION], i)}


@dataclasses.dataclass(frozen=True)
class PerSample(Wrapper):
    """`velocity(params, t, x)` whose conditions have the batch axis of x. Frozen: equal by value."""

    velocity: VelocityFunction

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def params_of_samples(self, params: dict, count: int) -> Callable[[Any, Any], Any]:
        """`(params, i) -> the parameters of sample i`, for `Flow.noise`.

        Raises:
            ValueError: unless there are conditions for `count` samples.
        """
        check_num(params[CONDITION], count, "batch_shape")
        return _params_of_sample

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        conditions = params[CONDITION]
        check_num(conditions, len(x), "x")
        of_batch = getattr(self.velocity, "of_batch", None)
        if of_batch is not None:
            return of_batch({**params, CONDITION: expanded(conditions)}, t, x)
        if isinstance(conditions, Indexed) and num_of(conditions.conditions) == 1:
            return self.velocity(_params_of_sample(params, 0), t, x)  # one condition for all is not copied

        def velocity(condition, x):
            return self.velocity({**params, CONDITION: condition}, t, x[None])[0]

        try:
            if isinstance(conditions, Indexed):
                return jax.vmap(lambda i, x: velocity(of_sample(conditions, i), x))(jnp.arange(len(x)), x)
            return jax.vmap(velocity)(conditions, x)
        except Exception as error:  # the network's own, of any kind
            if not _takes_batch(self.velocity, params, t, x):
                raise
            raise ValueError(
                f"velocity: wanted one of one condition for the whole batch, got one of a condition for each sample "
                f"({type(error).__name__} on one condition). Use bespoke_jax.given(flow, conditions, batched=True)."
            ) from error


def _takes_batch(velocity: VelocityFunction, params: dict, t: Any, x: Array) -> bool:
    """Whether a velocity that failed on one condition accepts one for each sample."""
    try:
        out = jax.eval_shape(velocity, {**params, CONDITION: expanded(params[CONDITION])}, t, x)
    except Exception:  # the user's code may raise anything
        return False
    return getattr(out, "shape", None) == x.shape


@dataclasses.dataclass(frozen=True)
class Batched(Wrapper):
    """`velocity(params, t, x)` of one condition, from a network whose condition has the batch axis of x.

    `of_batch` calls the network once for a batch of conditions. Frozen: equal by value.
    """

    velocity: VelocityFunction

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        conditions = jax.tree.map(lambda c: jnp.broadcast_to(c, (len(x), *jnp.shape(c))), params[CONDITION])
        return self.velocity({**params, CONDITION: conditions}, t, x)

    def of_batch(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        """The velocity for conditions [B, ...]."""
        return self.velocity(params, t, x)


def batched_velocity(velocity: VelocityFunction) -> VelocityFunction:
    """The velocity of one condition, or of a batch of them by `of_batch`, whose network takes a batch of conditions."""
    if getattr(velocity, "of_batch", None) is not None:
        return velocity
    batched = getattr(velocity, "batched", None)
    return Batched(velocity) if batched is None else batched()
