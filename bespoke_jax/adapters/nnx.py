"""Flax NNX: a module as a flow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from bespoke_jax.adapters.calls import call_of, flow_of
from bespoke_jax.flow.conditions import CONDITION
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import EventShape, Numbers, PyTree, SourceFunction, Weights

__all__ = ["flow"]

_TRAINING = ("deterministic", "use_running_average")  # attributes of modules that are False in training


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
    """An NNX module as a flow; its state is the flow's parameters, a dictionary. The module itself is not changed.

    Args:
        module: the module in evaluation mode (`module.eval()`); t = 0 is noise, t = 1 data.
        event_shape, scheduler: as for `Flow`.
        prediction: what the module predicts, as for `Flow.from_prediction`.
        call: `call(module, t, x) -> prediction`, t a scalar and x [B, *event]. Define it once, at module level. None if
            `__call__` takes a batch and a time for each sample, [B], and no more: whichever of its two parameters is called t,
            time(s) or timestep(s) is the time.
        condition: of one sample, for a network with conditions: `call(module, t, x, condition)`. The flow can then be `given`
            conditions, and `guided`.
        time: the time that `call` gets, as for `Flow.from_prediction`.
        source, weights, time_margin: as for `Flow.from_prediction`.

    Raises:
        TypeError: if `module` is not an NNX module; for the rest as `Flow`.
        ValueError: if a part of the module is in training mode; if `call` is missing; if the module returns another shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer = nnx.Linear(2, 2, rngs=rngs)
        ...     def __call__(self, x, t):
        ...         return t[:, None] * self.layer(x)
        >>> flow(Net(nnx.Rngs(0)), (2,))(0.5, jnp.zeros((4, 2))).shape
        (4, 2)
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(f"module: wanted a flax.nnx.Module, got {type(module).__name__}.")
    _check_evaluating(module)
    graph, random, state = nnx.split(module, nnx.RngState, ...)
    call = call_of(call, type(module).__call__, condition, one_sample=False)
    keys = tuple(jax.tree.leaves(random))
    velocity = _Velocity(graph, jax.tree.structure(random), _Unread(keys), call, condition is not None)
    options = {"source": source, "weights": weights, "time_margin": time_margin}
    return flow_of(velocity, nnx.to_pure_dict(state), event_shape, scheduler, prediction, condition, time, options)


def _check_evaluating(module: Any) -> None:
    """Raise ValueError, naming the part, if a part of the module behaves as in training."""
    from flax import nnx

    for path, part in nnx.iter_graph(module):
        for name in _TRAINING:
            if getattr(part, name, None) is False and getattr(part, "rate", None) != 0:
                where = ".".join(map(str, path)) or "module"
                raise ValueError(
                    f"module: wanted a module in evaluation mode, got {name}=False in {where} ({type(part).__name__}). Call "
                    "module.eval() first: in training mode samples depend on chance or on their batch."
                )


class _Unread:
    """Random keys of dropout, which evaluation does not read: all are equal."""

    def __init__(self, keys: tuple):
        self.keys = keys

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unread)


@dataclasses.dataclass(frozen=True)
class _Velocity:
    """`velocity(params, t, x)`. Frozen: equal by value, as graphs of NNX are."""

    graph: Any
    random: Any
    keys: _Unread
    call: Callable
    is_conditional: bool

    def __call__(self, params: Any, t: jax.Array, x: jax.Array) -> Any:
        from flax import nnx

        state = params["network"] if self.is_conditional else params
        condition = (params[CONDITION],) if self.is_conditional else ()
        module = nnx.merge(self.graph, jax.tree.unflatten(self.random, self.keys.keys), state)
        return self.call(module, t, x, *condition)
