"""A condition for each sample: one batch, and one solver, for all classes of a conditional flow.

The condition of a flow is the entry "condition" of its parameters, and holds for all samples. `given` makes it one for each;
the rest serves functions that cut batches into parts, or that draw noise and so have to say which condition goes with it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_numeric, check_type, known
from bespoke_jax.flow.flow import Flow

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
"""The entry of a flow's parameters that says what is wanted."""


def given(flow: Flow, conditions: Any) -> Flow:
    """The flow of a batch of samples, each with a condition of its own.

    `solve` and `ground_truth` take as many noises as there are conditions. Functions that draw their noise go through the
    conditions: `sample` in turn, sample i with condition i mod K; `fit`, `fit_ladder` and `check_solver` in random order, each as
    often as any other, to within one. So a solver fitted to `given(flow, all_classes)` is one for all classes.

    Args:
        flow: its parameters are a dictionary, its condition the entry "condition", any pytree of arrays without a batch axis. The
            conditional networks of `bespoke_jax.models` are such; `load_flow(..., labels=[0, 3, 3])` calls this for them.
        conditions: such a pytree, its leaves with a leading axis [K].

    Raises:
        TypeError: if `flow` is none.
        ValueError: if the flow's parameters have no condition, or `conditions` are not like it with one axis more: numbers of its
            kind (booleans, integers, floats), that its dtype holds.

    Examples:
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> given(flow, [[0.0, 1.0], [2.0, 3.0]])(0.0, jnp.zeros((2, 2))).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"given: flow must be a bespoke_jax.Flow, got {type(flow).__name__}.")
    one = condition_of_one(flow, "given")
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
            f"given: conditions must be like the flow's own, {jax.tree.map(jnp.shape, one)}, with one leading axis more, the "
            f"same for all; got {jax.tree.map(_shape, conditions)}."
        )
    return _with(flow, jax.tree.map(_as, one, conditions))


_KINDS = {"a boolean": jnp.bool_, "an integer": jnp.integer, "a float": jnp.floating}


def kind_of(leaf) -> str:
    """Whether an array is of booleans, integers or floats, in words."""
    dtype = jnp.result_type(leaf)
    return next((name for name, kind in _KINDS.items() if jnp.issubdtype(dtype, kind)), str(dtype))


def _shape(leaf):
    return jnp.shape(leaf) if hasattr(leaf, "shape") else type(leaf).__name__


def _array_of(own, new):
    new = new if hasattr(new, "dtype") else np.asarray(new)
    check_numeric("conditions", new)
    return new


def _as(own, new):
    """`new` in the dtype of a flow's own condition, which holds it."""
    kinds, dtype = (kind_of(own), kind_of(new)), jnp.result_type(own)
    if kinds[0] != kinds[1] and kinds != ("a float", "an integer"):
        raise ValueError(f"conditions: wanted {kinds[0]} for each sample, as the flow's own is, got {kinds[1]}.")
    numbers = known(new)
    if kinds[0] == "an integer" and numbers is not None and not np.array_equal(numbers, numbers.astype(dtype)):
        raise ValueError(f"conditions: wanted integers that {dtype} holds, got {numbers}.")
    return jnp.asarray(new).astype(dtype)


def condition_of_one(flow: Flow, name: str) -> Any:
    """The condition of a flow, or of one sample of a `given` one. Raises ValueError, which begins with `name`, if it has none."""
    if not has_condition(flow):
        got = (
            f"the entries {sorted(map(str, flow.params))}"
            if isinstance(flow.params, dict)
            else type(flow.params).__name__
        )
        raise ValueError(
            f"{name}: the flow's parameters must be a dictionary with the entry {CONDITION!r}, got {got}; give a flow of a "
            "conditional network."
        )
    condition = flow.params[CONDITION]
    return _first(condition) if is_given(flow) else condition


def velocity_of_one(flow: Flow) -> Callable:
    """The velocity that looks at one condition: the flow's own, unless it is a `given` one."""
    return flow.velocity.velocity if is_given(flow) else flow.velocity


def has_condition(flow: Flow) -> bool:
    """Whether a flow has a condition, one for all samples or one for each."""
    return isinstance(flow.params, dict) and CONDITION in flow.params


def is_given(flow: Flow) -> bool:
    """Whether each sample has a condition of its own."""
    return isinstance(flow.velocity, PerSample)


def condition_of(flow: Flow) -> Any:
    """The conditions of the samples, [K, ...]; None if they have none of their own."""
    return flow.params[CONDITION] if is_given(flow) else None


def of_samples(flow: Flow, part) -> Flow:
    """The flow of some samples: those of a slice, or with these indices."""
    if not is_given(flow):
        return flow
    indices = np.arange(num_conditions(flow))[part]  # not the slice: each other one would compile anew
    return _with(flow, jax.tree.map(lambda leaf: leaf[indices], condition_of(flow)))


def of_paths(flow: Flow, paths) -> Flow:
    """The flow of the samples that these `Paths` belong to.

    Raises:
        ValueError: if the paths are not of this flow's event shape, or one has conditions that the other has not.
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if not hasattr(paths, "states"):
        raise TypeError(f"paths: wanted bespoke_jax.Paths, as ground_truth gives them, got {type(paths).__name__}.")
    if paths.states.shape[2:] != flow.event_shape:
        raise ValueError(f"paths: wanted paths of the event shape {flow.event_shape}, got {paths.states.shape[2:]}.")
    if paths.condition is None:
        if is_given(flow):
            raise ValueError(
                "paths: wanted a condition for each path, since the flow is given conditions; got paths without. Make them with "
                "the given flow: ground_truth(given(flow, conditions), x0), or Paths.of_ends."
            )
        return flow
    if not has_condition(flow):
        raise ValueError("paths: wanted paths without conditions, since the flow has none; got paths with them.")
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (condition_of_one(flow, "flow"), _first(paths.condition)))
    if wanted != got:
        raise ValueError(f"paths: wanted conditions like the flow's, {wanted}, got {got}.")
    return _with(flow, paths.condition)


def _first(conditions):
    return jax.tree.map(lambda leaf: leaf[0], conditions)


def num_conditions(flow: Flow) -> int | None:
    """K, for how many samples there are conditions; None if they have none of their own."""
    return _size(condition_of(flow)) if is_given(flow) else None


def in_turn(flow: Flow, count: int) -> Flow:
    """The flow of `count` samples: sample i with condition i mod K."""
    return of_samples(flow, np.arange(count) % num_conditions(flow)) if is_given(flow) else flow


def dealt(flow: Flow, key, count: int) -> Flow:
    """The flow of `count` samples, to which the conditions are dealt out in random order, again when there are no more.

    Examples:
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.zeros(())}, ())
        >>> sorted(condition_of(dealt(given(flow, jnp.arange(3.0)), jax.random.key(0), 4)).tolist())[1:]
        [0.0, 1.0, 2.0]
    """
    if not is_given(flow):
        return flow
    order = np.asarray(jax.random.permutation(key, num_conditions(flow)))
    return of_samples(flow, order[np.arange(count) % len(order)])


def like_any(flow: Flow) -> Flow:
    """The flow at one condition that means nothing but is the same for all flows, by which to know it again."""
    return _of_one(flow, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), condition_of_one(flow, "flow")))


def check_size(flow: Flow, count: int, name: str) -> None:
    """Raise ValueError unless there are conditions for `count` samples."""
    if is_given(flow):
        _check_size(condition_of(flow), count, name)


def each_at_its_time(flow: Flow, times, x):
    """u_{t_b}(x_b) of samples x [B, *event] at times [B].

    Examples:
        >>> flow = Flow(lambda p, t, x: t * x, None, ())
        >>> each_at_its_time(flow, jnp.array([0.0, 0.5]), jnp.array([2.0, 2.0])).tolist()
        [0.0, 1.0]
    """

    def velocity(condition, t, x):
        return (flow if condition is None else _of_one(flow, condition))(t, x[None])[0]

    return jax.vmap(velocity)(condition_of(flow), times, x)


def _size(conditions):
    return len(jax.tree.leaves(conditions)[0])


def _check_size(conditions, count, name):
    if _size(conditions) != count:
        raise ValueError(
            f"{name}: this flow is given conditions for {_size(conditions)} samples, got {count}; "
            "bespoke_jax.given(flow, conditions) with one for each."
        )


def _with(flow, conditions):
    return _of(PerSample(velocity_of_one(flow)), flow, conditions)


def _of_one(flow, condition):
    return _of(velocity_of_one(flow), flow, condition)


def _of(velocity, flow, condition):
    return Flow(velocity, {**flow.params, CONDITION: condition}, flow.event_shape, flow.scheduler)


class Wrapper:
    """A velocity made of another one, `velocity`, that passes on what is known of it: `Flow` has properties of these names."""

    velocity: Callable

    @property
    def time_range(self) -> tuple[float, float]:
        """That of the velocity itself."""
        return getattr(self.velocity, "time_range", (0.0, 1.0))

    @property
    def slope_at_noise(self) -> float:
        """That of the velocity itself."""
        return getattr(self.velocity, "slope_at_noise", 1.0)


@dataclasses.dataclass(frozen=True)
class PerSample(Wrapper):
    """`velocity(params, t, x)` whose conditions have the batch axis of x. Frozen: equal by value."""

    velocity: Callable

    @property
    def calls_per_evaluation(self) -> int:
        """That of the velocity itself."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params, t, x):
        _check_size(params[CONDITION], len(x), "x")

        def velocity(condition, x):
            return self.velocity({**params, CONDITION: condition}, t, x[None])[0]

        return jax.vmap(velocity)(params[CONDITION], x)
