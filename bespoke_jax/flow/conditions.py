"""A condition for each sample: one batch, and one solver, for all classes of a conditional flow.

The condition of a flow is the entry "condition" of its parameters, the same for all samples. `given` gives each sample its own;
the other functions serve code that cuts batches into parts, or that draws noise and has to pair it with conditions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numeric, check_type, known
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, KeyArray, PyTree, Scalar, VelocityFunction

__all__ = [
    "CONDITION",
    "check_size",
    "condition_of",
    "condition_of_one",
    "dealt",
    "each_at_its_time",
    "given",
    "has_condition",
    "in_turn",
    "is_given",
    "like_any",
    "num_conditions",
    "of_paths",
    "of_samples",
    "velocity_of_one",
]

CONDITION = "condition"
"""The entry of a flow's parameters that holds its condition."""


def given(flow: Flow, conditions: PyTree) -> Flow:
    """The flow of a batch of samples, each with a condition of its own.

    `solve` and `ground_truth` take as many noises as there are conditions. Functions that draw their noise go through the
    conditions: `sample` in turn, sample i with condition i mod K; `fit`, `fit_ladder` and `check_solver` in random order, with
    counts that differ by at most one. A solver fitted to `given(flow, all_classes)` thus serves all classes.

    Args:
        flow: its parameters are a dictionary whose entry "condition" is a pytree of arrays without a batch axis. Conditional
            networks of `bespoke_jax.models` have this form; `load_flow(..., labels=[0, 3, 3])` calls this function for them.
        conditions: a pytree of the same structure, its leaves with a leading axis [K].

    Raises:
        TypeError: if `flow` is not a Flow.
        ValueError: if the flow's parameters have no condition, or `conditions` do not match it with one more axis: numbers of the
            same kind (booleans, integers, floats) that its dtype can hold.

    Examples:
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> given(flow, [[0.0, 1.0], [2.0, 3.0]])(0.0, jnp.zeros((2, 2))).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    one = condition_of_one(flow)
    try:
        conditions = jax.tree.map(_array_of, one, conditions)
        sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(conditions)}
        fit = all(
            jnp.shape(new)[1:] == jnp.shape(own)
            for own, new in zip(jax.tree.leaves(one), jax.tree.leaves(conditions), strict=True)
        )
    except (IndexError, TypeError, ValueError):
        fit, sizes = False, set()
    if not fit or len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"conditions: wanted the shapes of the flow's own, {jax.tree.map(jnp.shape, one)}, after one leading axis, the same "
            f"for all, got {jax.tree.map(_shape, conditions)}."
        )
    return _with(flow, jax.tree.map(_as, one, conditions))


_KINDS = {"a boolean": jnp.bool_, "an integer": jnp.integer, "a float": jnp.floating}


def kind_of(leaf: Any) -> str:
    """The kind of an array's numbers in words: "a boolean", "an integer" or "a float"."""
    dtype = jnp.result_type(leaf)
    return next((name for name, kind in _KINDS.items() if jnp.issubdtype(dtype, kind)), str(dtype))


def _shape(leaf: Any) -> Any:
    return jnp.shape(leaf) if hasattr(leaf, "shape") else type(leaf).__name__


def _array_of(own: Any, new: Any) -> Any:
    new = new if hasattr(new, "dtype") else np.asarray(new)
    check_numeric("conditions", new)
    return new


def _as(own: Any, new: Any) -> jax.Array:
    """`new` in the dtype of the flow's own condition, if that can hold it."""
    kinds, dtype = (kind_of(own), kind_of(new)), jnp.result_type(own)
    if kinds[0] != kinds[1] and kinds != ("a float", "an integer"):
        raise ValueError(f"conditions: wanted {kinds[0]} for each sample, like the flow's own, got {kinds[1]}.")
    numbers = known(new)
    if kinds[0] == "an integer" and numbers is not None and not np.array_equal(numbers, numbers.astype(dtype)):
        raise ValueError(f"conditions: wanted integers that {dtype} can hold, got {numbers}.")
    return jnp.asarray(new).astype(dtype)


def condition_of_one(flow: Flow) -> Any:
    """The condition of a flow, or of one sample of a `given` flow. Raises ValueError if there is none."""
    if not has_condition(flow):
        got = (
            f"the entries {sorted(map(str, flow.params))}"
            if isinstance(flow.params, dict)
            else type(flow.params).__name__
        )
        raise ValueError(
            f"flow: wanted parameters in a dictionary with the entry {CONDITION!r}, got {got}; give a flow of a conditional "
            "network."
        )
    condition = flow.params[CONDITION]
    return _first(condition) if is_given(flow) else condition


def velocity_of_one(flow: Flow) -> VelocityFunction:
    """The velocity under one condition: the flow's own, or the one that a `given` flow wraps."""
    return flow.velocity.velocity if isinstance(flow.velocity, PerSample) else flow.velocity


def has_condition(flow: Flow) -> bool:
    """Whether a flow has a condition, either one for all samples or one for each."""
    return isinstance(flow.params, dict) and CONDITION in flow.params


def is_given(flow: Flow) -> bool:
    """Whether each sample has a condition of its own."""
    return isinstance(flow.velocity, PerSample)


def condition_of(flow: Flow) -> Any:
    """The conditions of the samples, [K, ...]; None if the samples have none of their own."""
    return flow.params[CONDITION] if is_given(flow) else None


def of_samples(flow: Flow, part: Any) -> Flow:
    """The flow of some samples, given by a slice or by indices."""
    count = num_conditions(flow)
    if count is None:
        return flow
    indices = np.arange(count)[part]  # every new slice would be compiled, indices only once for each number of them
    return _with(flow, jax.tree.map(lambda leaf: _rows(leaf, indices), condition_of(flow)))


@jax.jit
def _rows(array: Array, indices: Array) -> jax.Array:
    return array[indices]


def of_paths(flow: Flow, paths: Any) -> Flow:
    """The flow of the samples that these `Paths` belong to.

    Raises:
        TypeError: if `flow` is not a Flow, or `paths` not `Paths`.
        ValueError: if the paths have another event shape, or only one of the two has conditions, or these do not match.
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if not hasattr(paths, "states"):
        raise TypeError(f"paths: wanted bespoke_jax.Paths, the result of ground_truth, got {type(paths).__name__}.")
    if paths.states.shape[2:] != flow.event_shape:
        raise ValueError(f"paths: wanted paths of the event shape {flow.event_shape}, got {paths.states.shape[2:]}.")
    if paths.condition is None:
        if is_given(flow):
            raise ValueError(
                "paths: wanted a condition for each path, since the flow is given conditions, got paths without. Make them with "
                "the given flow: ground_truth(given(flow, conditions), x0), or Paths.of_ends."
            )
        return flow
    if not has_condition(flow):
        raise ValueError("paths: wanted paths without conditions, since the flow has none; got paths with them.")
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (condition_of_one(flow), _first(paths.condition)))
    if wanted != got:
        raise ValueError(f"paths: wanted conditions like the flow's, {wanted}, got {got}.")
    return _with(flow, paths.condition)


def _first(conditions: PyTree) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], conditions)


def num_conditions(flow: Flow) -> int | None:
    """The number K of samples with conditions; None if the samples have none of their own."""
    return _size(condition_of(flow)) if is_given(flow) else None


def in_turn(flow: Flow, count: int) -> Flow:
    """The flow of `count` samples: sample i with condition i mod K."""
    total = num_conditions(flow)
    return flow if total is None else of_samples(flow, np.arange(count) % total)


def dealt(flow: Flow, key: KeyArray, count: int) -> Flow:
    """The flow of `count` samples with the conditions in random order, repeated if there are fewer than `count`.

    Examples:
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.zeros(())}, ())
        >>> sorted(condition_of(dealt(given(flow, jnp.arange(3.0)), jax.random.key(0), 4)).tolist())[1:]
        [0.0, 1.0, 2.0]
    """
    total = num_conditions(flow)
    if total is None:
        return flow
    order = np.asarray(jax.random.permutation(key, total))
    return of_samples(flow, order[np.arange(count) % len(order)])


def like_any(flow: Flow) -> Flow:
    """The flow at a meaningless condition that is the same for all flows, for comparing networks."""
    return _of_one(flow, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), condition_of_one(flow)))


def check_size(flow: Flow, count: int, name: str) -> None:
    """Raise ValueError, which begins with `name`, unless a `given` flow has conditions for `count` samples."""
    if is_given(flow):
        _check_size(condition_of(flow), count, name)


def each_at_its_time(flow: Flow, times: Float[Array, "B"], x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
    """u_{t_b}(x_b), the velocity of each sample at its own time.

    Args:
        flow: with one condition for all samples, or one for each.
        times: [B].
        x: [B, *event].

    Examples:
        >>> flow = Flow(lambda p, t, x: t * x, None, ())
        >>> each_at_its_time(flow, jnp.array([0.0, 0.5]), jnp.array([2.0, 2.0])).tolist()
        [0.0, 1.0]
    """

    def velocity(condition, t, x):
        return (flow if condition is None else _of_one(flow, condition))(t, x[None])[0]

    return jax.vmap(velocity)(condition_of(flow), times, x)


def _size(conditions: PyTree) -> int:
    return len(jax.tree.leaves(conditions)[0])


def _check_size(conditions: PyTree, count: int, name: str) -> None:
    if _size(conditions) != count:
        raise ValueError(
            f"{name}: wanted a batch that matches the flow's conditions for {_size(conditions)} samples, got {count}; use "
            "bespoke_jax.given(flow, conditions) with one condition for each sample."
        )


def _with(flow: Flow, conditions: PyTree) -> Flow:
    return _of(PerSample(velocity_of_one(flow)), flow, conditions)


def _of_one(flow: Flow, condition: PyTree) -> Flow:
    return _of(velocity_of_one(flow), flow, condition)


def _of(velocity: VelocityFunction, flow: Flow, condition: PyTree) -> Flow:
    return Flow(velocity, {**flow.params, CONDITION: condition}, flow.event_shape, flow.scheduler)


@dataclasses.dataclass(frozen=True)
class PerSample(Wrapper):
    """`velocity(params, t, x)` whose conditions have the batch axis of x. Frozen: equal by value."""

    velocity: VelocityFunction

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        _check_size(params[CONDITION], len(x), "x")

        def velocity(condition, x):
            return self.velocity({**params, CONDITION: condition}, t, x[None])[0]

        return jax.vmap(velocity)(params[CONDITION], x)
