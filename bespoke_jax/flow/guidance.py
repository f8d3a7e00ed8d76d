"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as one more flow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_numeric, check_type, known
from bespoke_jax.flow.conditions import (
    CONDITION,
    condition_of,
    condition_of_one,
    is_given,
    num_conditions,
    stored_conditions,
    velocity_of_one,
    with_conditions,
)
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import Guided, OfNetwork, Scaled, guided_velocity, is_guided, own_scale
from bespoke_jax.flow.matching import cast, check_like, kind_of
from bespoke_jax.types import Numbers, PyTree, Scalar
from bespoke_jax.warn import warn

__all__ = ["guided"]


def guided(flow: Flow, guidance_scale: Scalar | Numbers | Callable[[Any], Any], unconditional: Any = None) -> Flow:
    """The guided flow u = (1 + w) u(x | condition) - w u(x | nothing) of a conditional one.

    Both velocities come from one call of the network on a batch twice as large; NFE counts it as one evaluation,
    `calls_per_evaluation` as two. Condition and w are parameters: flows of other classes and scales share compiled programs, and
    a solver fitted at one scale can be measured at others. The velocity is linear in a prediction of noise, data or score, so
    guiding the velocity is guiding the prediction.

    Args:
        flow: its parameters are a dictionary whose entry "condition" is a pytree of arrays without a batch axis, as in the
            conditional networks of `bespoke_jax.models`; or each sample is `given` its own condition.
        guidance_scale: w, a scalar: 0 for the flow itself, -1 for the unconditional one, above 0 to follow the condition more
            strongly than the data does. (In the form u(x | nothing) + s (u(x | y) - u(x | nothing)), s = 1 + w.) For a scale of
            each sample, [K] scales if the flow is `given` K conditions; or a function of a sample's condition, which has the
            scale as one of its parts: `lambda c: c["guidance_scale"]`, defined once.
        unconditional: what stands for no condition. The network must have been trained with it.

            - A function: a sample's condition -> the same without what guidance is to follow. It keeps the rest, such as a
              padding mask: `lambda c: c | {"text": jnp.zeros_like(c["text"])}`. Define it once, at module level: flows with the
              same function share compiled programs.
            - A tree like the condition of one sample, the same for all.
            - None: zeros, as in our networks. A warning names leaves of booleans and integers, where zeros mean an empty mask
              and the first class.

    Raises:
        TypeError: if `flow` is not a Flow, or `unconditional` is a function that cannot be hashed.
        ValueError: if the flow's parameters have no condition, or it is guided by the same `unconditional` already; if that has
            another structure, other shapes or kinds of numbers; if the scale is not one finite number, or one for each condition.

    Warns:
        UserWarning: for `unconditional=None` and a condition with booleans or integers.

    Examples:
        >>> import bespoke_jax as bj
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> strong = guided(flow, 0.5)
        >>> strong(0.0, jnp.zeros(2)).tolist(), strong.calls_per_evaluation
        ([1.5, 3.0], 2)
        >>> each = guided(bj.given(flow, [[1.0, 2.0], [1.0, 2.0]]), [0.0, 0.5])
        >>> each(0.0, jnp.zeros((2, 2))).tolist()
        [[1.0, 2.0], [1.5, 3.0]]
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    condition = condition_of_one(flow)
    network = {name: value for name, value in flow.params.items() if name != CONDITION}
    params: dict[str, Any] = {"network": network, CONDITION: condition}
    scale, conditions = _add_scale(params, flow, guidance_scale)
    function = _add_unconditional(params, condition, unconditional)
    if is_guided(flow) and _is_repeated(flow, function, params.get("unconditional")):
        raise ValueError(
            "flow: wanted one that is not guided by the same `unconditional` already, at which the scales would multiply and an "
            "evaluation take four calls; guide the conditional flow that it was made of."
        )
    source, weights = (None if each is None else OfNetwork(each) for each in (flow.source, flow.weights))
    velocity = Guided(velocity_of_one(flow), function, scale)
    found = flow.replace(velocity=velocity, params=params, source=source, weights=weights)
    return with_conditions(found, conditions) if is_given(flow) else found


def _add_scale(params: dict, flow: Flow, guidance_scale: Any) -> tuple[Any, Any]:
    """Add the scale to the parameters; returns it as a function of a sample's condition, or None, and the conditions."""
    condition, conditions = params[CONDITION], stored_conditions(flow)
    scale = _hashable("guidance_scale", guidance_scale)
    if scale is not None:
        _check_scale_of(jax.eval_shape(scale, condition))
    elif is_given(flow) and not _is_number(guidance_scale):
        scale, scales = own_scale, _check_scale(guidance_scale, num_conditions(flow))
        params[CONDITION], conditions = Scaled(condition, scales[0]), Scaled(condition_of(flow), scales)
    else:
        params["guidance_scale"] = _check_scale(guidance_scale)
    return scale, conditions


def _add_unconditional(params: dict, condition: PyTree, unconditional: Any) -> Any:
    """Add what stands for no condition to the parameters, unless it is a function; returns that, or None."""
    function = _hashable("unconditional", unconditional)
    if function is not None:
        check_like(condition, jax.eval_shape(function, condition))
    elif unconditional is None:
        _warn_of_zeros(condition)
        params["unconditional"] = jax.tree.map(jnp.zeros_like, condition)
    else:
        check_like(condition, unconditional)
        params["unconditional"] = cast(unconditional, condition)
    return function


def _is_repeated(flow: Flow, function: Any, none: Any) -> bool:
    """Whether a guided flow has the same function, or the same tree, for no condition."""
    own = guided_velocity(flow).unconditional
    if function is not None or own is not None:
        return function == own
    leaves, own_leaves = (list(map(known, jax.tree.leaves(tree))) for tree in (none, flow.params["unconditional"]))
    pairs = zip(leaves, own_leaves, strict=False)
    return len(leaves) == len(own_leaves) and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in pairs
    )


def _hashable(name: str, function: Any) -> Any:
    """The function, if it is one; else None."""
    if not callable(function):
        return None
    if function.__hash__ is None:
        raise TypeError(f"{name}: wanted a function that can be hashed, got {type(function).__name__}.")
    return function


def _is_number(scale: Any) -> bool:
    return not isinstance(scale, list | tuple) and getattr(scale, "shape", ()) == ()


def _check_scale(scale: Any, count: int | None = None) -> jax.Array:
    """The scale, []; or [count] scales."""
    scale = np.asarray(scale) if count and isinstance(scale, list | tuple) else scale
    try:
        check_numeric("guidance_scale", scale)
        array = jnp.asarray(scale)
    except (TypeError, ValueError):
        array = jnp.zeros((0, 0))
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if real and array.shape == (() if count is None else (count,)):
        array = array.astype(jnp.float32)
        number = known(array)
        if number is None or np.all(np.isfinite(number)):
            return array
    wanted = "one finite number" if count is None else f"one finite number, or {count}, one for each condition"
    raise ValueError(f"guidance_scale: wanted {wanted}, got {scale!r:.200}.")


def _check_scale_of(scale: Any) -> None:
    if getattr(scale, "shape", None) != () or not jnp.issubdtype(scale.dtype, jnp.floating):
        raise ValueError(f"guidance_scale: wanted a function from a sample's condition to one float, got {scale}.")


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
