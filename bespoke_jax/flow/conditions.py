"""A condition for each sample: one batch, and one solver, for all classes of a conditional flow.

The condition of a flow is the entry "condition" of its parameters, the same for all samples. `given` gives each sample its own;
the other functions serve code that cuts batches into parts, or that draws noise and has to pair it with conditions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bespoke_jax.checks import check_flag, check_type
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.matching import as_arrays, matched
from bespoke_jax.flow.per_sample import (
    CONDITION,
    Indexed,
    PerSample,
    batched_velocity,
    check_num,
    expanded,
    num_of,
    of_sample,
    shapes_of_one,
    take,
)
from bespoke_jax.types import Array, KeyArray, PyTree, VelocityFunction

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
    "stored_conditions",
    "velocity_of_one",
    "with_conditions",
]


def given(flow: Flow, conditions: PyTree, *, batched: bool = False) -> Flow:
    """The flow of a batch of samples, each with a condition of its own.

    `solve` and `ground_truth` take as many noises as there are conditions. Functions that draw their noise go through the
    conditions: `sample` in turn, sample i with condition i mod K; `fit`, `fit_ladder` and `check_solver` in random order, with
    counts that differ by at most one. A solver fitted to `given(flow, all_classes)` thus serves all classes.

    Args:
        flow: its parameters are a dictionary whose entry "condition" is a pytree of arrays without a batch axis. Conditional
            networks of `bespoke_jax.models` have this form; `load_flow(..., labels=[0, 3, 3])` calls this function for them.
            If there is no such entry yet, the conditions are taken as they are, and the velocity has to read them.
        conditions: a pytree of the same structure, its leaves with a leading axis [K]. Conditions of 1 MiB and more are kept
            once, however many samples share them; a batch of samples copies its own while it is evaluated, unless there is only
            one condition.
        batched: the velocity's network is batched by nature and reads `params["condition"]` with the batch axis of x, one
            condition for each sample. It is called once for the batch, instead of under `vmap` with a batch of one.

    Raises:
        TypeError: if `flow` is not a Flow.
        ValueError: if the flow's parameters are no dictionary, or `conditions` do not match its condition with one more axis:
            numbers of the same kind (booleans, integers, floats) that its dtype can hold; if there is no condition yet, and the
            velocity does not read one.

    Examples:
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> given(flow, [[0.0, 1.0], [2.0, 3.0]])(0.0, jnp.zeros((2, 2))).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
        >>> bare = Flow(lambda params, t, x: params["condition"] - x, {}, (2,))
        >>> given(bare, jnp.ones((3, 2)), batched=True)(0.0, jnp.zeros((3, 2))).shape
        (3, 2)
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if check_flag("batched", batched):
        flow = flow.replace(velocity=batched_velocity(flow.velocity)) if not is_given(flow) else _batched(flow)
    if not has_condition(flow) and isinstance(flow.params, dict):
        conditions = as_arrays(conditions)
        _check_reads(flow, conditions)
        return with_conditions(flow, conditions)
    return with_conditions(flow, matched(example_of(flow), conditions))


def _batched(flow: Flow) -> Flow:
    return flow.replace(velocity=PerSample(batched_velocity(velocity_of_one(flow))))


def _check_reads(flow: Flow, conditions: PyTree) -> None:
    """Raise ValueError unless the velocity of a flow without a condition reads one."""
    x = jax.ShapeDtypeStruct((1, *flow.event_shape), jnp.float32)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), conditions)

    def velocity(conditions, x):
        return with_conditions(flow, conditions)(jnp.float32(0), x)

    traced = jax.make_jaxpr(velocity)(one, x).jaxpr
    read = [atom for equation in traced.eqns for atom in equation.invars] + traced.outvars
    if not any(atom is each for atom in traced.invars[: len(jax.tree.leaves(one))] for each in read):
        raise ValueError(
            f"flow: wanted a velocity that reads params[{CONDITION!r}], got one that does not, and {_entries(flow)}; give a flow "
            "of a conditional network."
        )


def condition_of_one(flow: Flow) -> Any:
    """The condition of a flow, or of one sample of a `given` flow. Raises ValueError if there is none."""
    if not has_condition(flow):
        raise ValueError(
            f"flow: wanted parameters in a dictionary with the entry {CONDITION!r}, got {_entries(flow)}; give a flow of a "
            "conditional network."
        )
    condition = flow.params[CONDITION]
    return of_sample(condition, 0) if is_given(flow) else condition


def example_of(flow: Flow) -> Any:
    """As `condition_of_one`, but of a `given` flow only the shapes and dtypes, so that nothing is copied."""
    return shapes_of_one(flow.params[CONDITION]) if is_given(flow) else condition_of_one(flow)


def _entries(flow: Flow) -> str:
    if not isinstance(flow.params, dict):
        return type(flow.params).__name__
    return f"the entries {sorted(map(str, flow.params))}"


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
    """The conditions of the samples, a pytree of [B, ...]; None if the samples have none of their own."""
    return expanded(flow.params[CONDITION]) if is_given(flow) else None


def stored_conditions(flow: Flow) -> Any:
    """As `condition_of`, but as they are stored: `Indexed`, if they are large and samples share them."""
    return flow.params[CONDITION] if is_given(flow) else None


def of_samples(flow: Flow, part: Any) -> Flow:
    """The flow of some samples, given by a slice or by indices."""
    count = num_conditions(flow)
    if count is None:
        return flow
    indices = np.arange(count)[part]  # every new slice would be compiled, indices only once for each number of them
    return with_conditions(flow, take(stored_conditions(flow), indices))


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
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (example_of(flow), shapes_of_one(paths.condition)))
    if wanted != got:
        raise ValueError(f"paths: wanted conditions like the flow's, {wanted}, got {got}.")
    return with_conditions(flow, paths.condition)


def num_conditions(flow: Flow) -> int | None:
    """The number K of samples with conditions; None if the samples have none of their own."""
    return num_of(stored_conditions(flow)) if is_given(flow) else None


def in_turn(flow: Flow, count: int) -> Flow:
    """The flow of `count` samples: sample i with condition i mod K."""
    total = num_conditions(flow)
    return flow if total is None else of_samples(flow, np.arange(count) % total)


def dealt(flow: Flow, key: KeyArray, count: int) -> Flow:
    """The flow of `count` samples with the conditions in random order, repeated if there are fewer than `count`.

    Examples:
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.zeros(())}, ())
        >>> sorted(condition_of(dealt(given(flow, jnp.arange(3.0)), jax.random.key(0), 4)).tolist())
        [0.0, 1.0, 2.0, 2.0]
    """
    total = num_conditions(flow)
    if total is None:
        return flow
    return of_samples(flow, shuffled(key, total)[np.arange(count) % total])


def shuffled(key: KeyArray, count: int) -> Int[np.ndarray, "count"]:
    """The numbers below `count` in random order, drawn on the host, where `jax.random.permutation` compiles a sort.

    Examples:
        >>> sorted(shuffled(jax.random.key(0), 4).tolist())
        [0, 1, 2, 3]
    """
    words = np.ravel(jax.device_get(jax.random.key_data(key)))
    return np.argsort(np.random.PCG64(words).random_raw(count), kind="stable")


def like_any(flow: Flow) -> Flow:
    """The flow at a meaningless condition that is the same for all flows, for comparing networks."""
    return _of_one(flow, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), condition_of_one(flow)))


def check_size(flow: Flow, count: int, name: str) -> None:
    """Raise ValueError, which begins with `name`, unless a `given` flow has conditions for `count` samples."""
    if is_given(flow):
        check_num(stored_conditions(flow), count, name)


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

    conditions = stored_conditions(flow)

    def velocity(condition, t, x):
        return (flow if condition is None else _of_one(flow, condition))(t, x[None])[0]

    if isinstance(conditions, Indexed):
        return jax.vmap(lambda i, t, x: velocity(of_sample(conditions, i), t, x))(jnp.arange(len(x)), times, x)
    return jax.vmap(velocity)(conditions, times, x)


def with_conditions(flow: Flow, conditions: PyTree) -> Flow:
    """As `given`, of conditions that are known to match."""
    return _of(PerSample(velocity_of_one(flow)), flow, conditions)


def _of_one(flow: Flow, condition: PyTree) -> Flow:
    return _of(velocity_of_one(flow), flow, condition)


def _of(velocity: VelocityFunction, flow: Flow, condition: PyTree) -> Flow:
    return flow.replace(velocity=velocity, params={**flow.params, CONDITION: condition})
