"""Equinox: a module of one sample as a flow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bespoke_jax.adapters.calls import call_of, check_attributes, flow_of
from bespoke_jax.flow.conditions import CONDITION
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import EventShape, Numbers, PyTree, SourceFunction, Weights

__all__ = ["flow"]


def flow(
    module: Any,
    event_shape: EventShape,
    scheduler: Scheduler | None = None,
    *,
    prediction: str = "velocity",
    call: Callable | None = None,
    condition: PyTree = None,
    time: str | Numbers = "noise_at_0",
    source: SourceFunction | None = None,
    weights: Weights | None = None,
    time_margin: float | None = None,
) -> Flow:
    """An Equinox module as a flow; its arrays are the flow's parameters, a list.

    Args:
        module: the module in inference mode (`eqx.nn.inference_mode(module)`), or another callable tree; t = 0 is noise, t = 1
            data.
        event_shape, scheduler: as for `Flow`.
        prediction: what the module predicts, as for `Flow.from_prediction`.
        call: `call(module, t, x) -> prediction`, of one sample x, [*event], and a scalar t. Define it once, at module level. None
            if the module takes a sample, a time and no more: whichever of its two parameters is called t, time(s) or timestep(s)
            is the time.
        condition: of one sample, for a network with conditions: `call(module, t, x, condition)`. The flow can then be `given`
            conditions, and `guided`.
        time: the time that `call` gets, as for `Flow.from_prediction`.
        source, weights, time_margin: as for `Flow.from_prediction`.

    Raises:
        TypeError: if `module` is not callable; for the rest as `Flow`.
        ValueError: if a part of the module is in training mode; if a static field is an array; if `call` is missing; if the
            module returns another shape.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> net = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))
        >>> flow(net, (2,), call=lambda net, t, x: net(jnp.append(x, t)))(0.5, jnp.zeros((4, 2))).shape
        (4, 2)
    """
    import equinox as eqx

    if not callable(module):
        raise TypeError(f"module: wanted an equinox.Module, got {type(module).__name__}.")
    _check_evaluating(module)
    _check_static(module)
    function = type(module).__call__ if isinstance(module, eqx.Module) else module
    call = call_of(call, function, condition, one_sample=True)
    leaves, structure = jax.tree.flatten(module)
    is_array = tuple(eqx.is_array(leaf) or isinstance(leaf, np.ndarray) for leaf in leaves)
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    others = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
    velocity = _Velocity(structure, is_array, others, call, condition is not None)
    options = {"source": source, "weights": weights, "time_margin": time_margin}
    return flow_of(velocity, arrays, event_shape, scheduler, prediction, condition, time, options)


def _check_static(module: Any) -> None:
    """Raise ValueError if a static field of the module, or of a module in it, is an array."""
    import equinox as eqx

    def is_part(value):
        return isinstance(value, eqx.Module) and value is not module

    def static(part):
        fields = dataclasses.fields(part) if part is module and isinstance(part, eqx.Module) else ()
        return [field.name for field in fields if field.metadata.get("static", False)]

    check_attributes(module, static, "Make it a tuple of numbers, or a field that is not static.")
    for part in jax.tree.leaves(module, is_leaf=is_part):
        if is_part(part):
            _check_static(part)


def _check_evaluating(module: Any) -> None:
    """Raise ValueError, naming the part, if a part of the module behaves as in training."""

    def has_mode(part):
        return isinstance(getattr(part, "inference", None), bool)

    for path, part in jax.tree_util.tree_leaves_with_path(module, is_leaf=has_mode):
        if has_mode(part) and not part.inference and getattr(part, "p", None) != 0:
            raise ValueError(
                f"module: wanted a module in inference mode, got inference=False in module{jax.tree_util.keystr(path)} "
                f"({type(part).__name__}). Give equinox.nn.inference_mode(module): in training mode samples depend on chance or "
                "on their batch."
            )


@dataclasses.dataclass(frozen=True)
class _Velocity:
    """`velocity(params, t, x)`: the module on each sample of a batch. Frozen: equal by value.

    Attributes:
        structure, is_array, others: the module's tree, which of its leaves are arrays, and the other leaves.
    """

    structure: Any
    is_array: tuple[bool, ...]
    others: tuple[Any, ...]
    call: Callable
    is_conditional: bool

    def __call__(self, params: Any, t: jax.Array, x: jax.Array) -> Any:
        arrays = iter(params["network"] if self.is_conditional else params)
        condition = (params[CONDITION],) if self.is_conditional else ()
        leaves = [next(arrays) if array else other for array, other in zip(self.is_array, self.others, strict=True)]
        module = jax.tree.unflatten(self.structure, leaves)
        return jax.vmap(lambda one: self.call(module, t, one, *condition))(x)
