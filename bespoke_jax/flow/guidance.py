"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as one more flow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numeric, check_type, known
from bespoke_jax.flow.conditions import (
    CONDITION,
    condition_of,
    condition_of_one,
    given,
    is_given,
    kind_of,
    velocity_of_one,
)
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, KeyArray, PyTree, Scalar, SourceFunction, VelocityFunction
from bespoke_jax.warn import warn

__all__ = ["guided", "of_call", "scale_of"]


def guided(flow: Flow, guidance_scale: Scalar, unconditional: Any = None) -> Flow:
    """The guided flow u = (1 + w) u(x | condition) - w u(x | nothing) of a conditional one.

    Both velocities come from one call of the network on a batch twice as large; NFE counts it as one evaluation,
    `calls_per_evaluation` as two. Condition and w are parameters: flows of other classes and scales share compiled programs, and
    a solver fitted at one scale can be measured at others. The velocity is linear in a prediction of noise, data or score, so
    guiding the velocity is guiding the prediction.

    Args:
        flow: its parameters are a dictionary whose entry "condition" is a pytree of arrays without a batch axis, as in the
            conditional networks of `bespoke_jax.models`; or each sample is `given` its own condition.
        guidance_scale: w, a scalar: 0 for the flow itself, -1 for the unconditional one, above 0 to follow the condition more
            strongly than the data does. (In the form u(x | nothing) + s (u(x | y) - u(x | nothing)), s = 1 + w.)
        unconditional: what stands for no condition. The network must have been trained with it.

            - A function: a sample's condition -> the same without what guidance is to follow. It keeps the rest, such as a
              padding mask: `lambda c: c | {"text": jnp.zeros_like(c["text"])}`. Define it once, at module level: flows with the
              same function share compiled programs.
            - A tree like the condition of one sample, the same for all.
            - None: zeros, as in our networks. A warning names leaves of booleans and integers, where zeros mean an empty mask
              and the first class.

    Raises:
        TypeError: if `flow` is not a Flow, or `unconditional` is a function that cannot be hashed.
        ValueError: if the flow's parameters have no condition, if `unconditional` has another structure, other shapes or kinds of
            numbers, or if the scale is not one finite number.

    Warns:
        UserWarning: for `unconditional=None` and a condition with booleans or integers.

    Examples:
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> strong = guided(flow, 0.5)
        >>> strong(0.0, jnp.zeros(2)).tolist(), strong.calls_per_evaluation
        ([1.5, 3.0], 2)
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    condition = condition_of_one(flow)
    network = {name: value for name, value in flow.params.items() if name != CONDITION}
    params = {"network": network, "guidance_scale": _check_scale(guidance_scale), CONDITION: condition}
    function = unconditional if callable(unconditional) else None
    if function is not None:
        if function.__hash__ is None:
            raise TypeError(f"unconditional: wanted a function that can be hashed, got {type(function).__name__}.")
        _check_like(condition, jax.eval_shape(function, condition))
    elif unconditional is None:
        _warn_of_zeros(condition)
        params["unconditional"] = jax.tree.map(jnp.zeros_like, condition)
    else:
        _check_like(condition, unconditional)
        params["unconditional"] = _cast(unconditional, condition)
    source = None if flow.source is None else _OfNetwork(flow.source)
    found = flow.replace(velocity=_Guided(velocity_of_one(flow), function), params=params, source=source)
    return given(found, condition_of(flow)) if is_given(flow) else found


def of_call(flow: Flow, field: int | jax.Array) -> Flow:
    """The flow of one of the two networks of a guided one: the conditional for field 0, the unconditional for 1.

    Both have the same shapes, so that they share compiled programs; `field` may be traced.

    Raises:
        ValueError: if the flow is not `guided`.

    Examples:
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.float32(2.0)}, ())
        >>> [float(of_call(guided(flow, 0.5), field)(0.0, jnp.zeros(()))) for field in (0, 1)]
        [2.0, 0.0]
    """
    velocity = _guided_velocity(flow)
    own, function = flow.params[CONDITION], velocity.unconditional
    if function is not None:
        # Under `given` the function is one of each sample's condition.
        none = jax.vmap(lambda c: _cast(function(c), c))(own) if is_given(flow) else _cast(function(own), own)
    else:
        none = jax.tree.map(lambda other, c: jnp.broadcast_to(other, c.shape), flow.params["unconditional"], own)
    condition = jax.tree.map(lambda c, other: jnp.where(jnp.asarray(field) == 1, other, c), own, none)
    source = flow.source.source if isinstance(flow.source, _OfNetwork) else flow.source
    params = {**flow.params["network"], CONDITION: condition_of_one(flow)}
    network = flow.replace(velocity=velocity.velocity, params=params, source=source)
    return given(network, condition) if is_given(flow) else network.replace(params={**params, CONDITION: condition})


def scale_of(flow: Flow) -> jax.Array:
    """The guidance scale w of a guided flow, []. Raises ValueError if the flow is not `guided`."""
    _guided_velocity(flow)
    return flow.params["guidance_scale"]


def _guided_velocity(flow: Flow) -> "_Guided":
    velocity = velocity_of_one(flow)
    if not isinstance(velocity, _Guided):
        raise ValueError(
            f"flow: wanted a guided flow (bespoke_jax.guided), whose two networks the solver calls apart, got {flow!r}."
        )
    return velocity


def _check_scale(scale: Any) -> jax.Array:
    try:
        check_numeric("guidance_scale", scale)
        array = jnp.asarray(scale)
    except (TypeError, ValueError):
        array = jnp.zeros(0)
    if array.ndim == 0 and (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        array = array.astype(jnp.float32)
        number = known(array)
        if number is None or np.isfinite(number):
            return array
    raise ValueError(f"guidance_scale: wanted one finite number, got {scale!r}.")


def _check_like(condition: PyTree, unconditional: PyTree) -> None:
    """Raise ValueError unless `unconditional` has the condition's structure, shapes and kinds of numbers."""
    for leaf in jax.tree.leaves(unconditional):
        check_numeric("unconditional", leaf)
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (condition, unconditional))
    if got != wanted:
        raise ValueError(
            f"unconditional: wanted the shapes of one sample's condition, {wanted}, got {got}; for a value that depends on the "
            "sample, give a function of its condition."
        )
    leaves = jax.tree_util.tree_leaves_with_path(condition)
    for (path, own), other in zip(leaves, jax.tree.leaves(unconditional), strict=True):
        kinds = kind_of(own), kind_of(other)
        if kinds[0] != kinds[1] and kinds != ("a float", "an integer"):
            raise ValueError(f"unconditional{jax.tree_util.keystr(path)}: wanted {kinds[0]}, got {kinds[1]}.")


def _cast(unconditional: PyTree, condition: PyTree) -> Any:
    return jax.tree.map(lambda other, own: jnp.asarray(other, jnp.result_type(own)), unconditional, condition)


def _warn_of_zeros(condition: PyTree) -> None:
    found = [
        f"condition{jax.tree_util.keystr(path)} ({jnp.result_type(leaf)})"
        for path, leaf in jax.tree_util.tree_leaves_with_path(condition)
        if kind_of(leaf) != "a float"
    ]
    if found:
        warn(
            f"unconditional: None puts zeros in the place of {', '.join(found)}: an empty mask, the first class. Give the tree "
            "that stands for no condition, or a function of a sample's condition that keeps the other parts."
        )


@dataclasses.dataclass(frozen=True)
class _OfNetwork:
    """The source of a guided flow: the network's, which sees the network's parameters. Frozen: equal by value."""

    source: SourceFunction

    def __call__(self, params: dict, key: KeyArray) -> Any:
        return self.source({**params["network"], CONDITION: params[CONDITION]}, key)


@dataclasses.dataclass(frozen=True)
class _Guided(Wrapper):
    """`velocity(params, t, x)` under guidance. Frozen: equal by value."""

    velocity: VelocityFunction
    unconditional: Callable[[Any], Any] | None  # None: the parameters hold what stands for no condition

    @property
    def calls_per_evaluation(self) -> int:
        """Twice the wrapped velocity's, which may be guided too."""
        return 2 * getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        own = params[CONDITION]
        none = params["unconditional"] if self.unconditional is None else _cast(self.unconditional(own), own)
        pair = jax.tree.map(lambda *values: jnp.stack(values), own, none)

        def velocity(condition):
            return self.velocity({**params["network"], CONDITION: condition}, t, x)

        # vmap over the pair calls the network once, and computes what does not depend on the condition only once.
        with_condition, without = jax.vmap(velocity)(pair)
        return with_condition + params["guidance_scale"].astype(with_condition.dtype) * (with_condition - without)
