"""Flax linen: a module and its variables as a flow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from bespoke_jax.adapters.calls import call_of, check_attributes, flow_of
from bespoke_jax.flow.conditions import CONDITION
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import EventShape, Numbers, PyTree, SourceFunction, Weights

__all__ = ["flow"]


def flow(
    module: Any,
    variables: PyTree,
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
    """A linen module as a flow; its variables are the flow's parameters.

    Args:
        module: the module; t = 0 is noise, t = 1 data, unless `time` says otherwise.
        variables: as for `module.apply`, with batch statistics if it has some.
        event_shape, scheduler: as for `Flow`.
        call: `call(module, t, x) -> prediction`, t a scalar and x [B, *event]; `module` is bound to its variables. Define it
            once, at module level. None if `__call__` takes a batch and a time for each sample, [B], and no more: whichever of
            its two parameters is called t, time(s) or timestep(s) is the time. For example
            `lambda module, t, x: module(x, 1000 * (1 - t), train=False)`.
        condition: of one sample, for a network with conditions: `call(module, t, x, condition)`. The flow can then be `given`
            conditions, and `guided`.
        prediction, time: what the module predicts, and the time that `call` gets, as for `Flow.from_prediction`.
        source, weights, time_margin: as for `Flow.from_prediction`.

    Raises:
        TypeError: if `module` is not a linen module; for the rest as `Flow`.
        ValueError: if the module is in training mode: if it draws dropout, or updates batch statistics; if an attribute of it is
            an array; if `call` is missing; if the module returns another shape.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, t):
        ...         return nn.Dense(2)(jnp.concatenate([x, t[:, None]], axis=1))
        >>> variables = Net().init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
        >>> flow(Net(), variables, (2,))(0.5, jnp.zeros((4, 2))).shape
        (4, 2)
    """
    from flax import errors, linen

    if not isinstance(module, linen.Module):
        raise TypeError(f"module: wanted a flax.linen.Module, got {type(module).__name__}.")
    check_attributes(module, _attributes, "Make it a tuple of numbers, or a parameter or variable of the module.")
    call = call_of(call, type(module).__call__, condition, one_sample=False)
    velocity = _Velocity(module, call, condition is not None)
    try:
        options = {"source": source, "weights": weights, "time_margin": time_margin}
        return flow_of(velocity, variables, event_shape, scheduler, prediction, condition, time, options)
    except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
        raise ValueError(_TRAINING.format(type(error).__name__)) from error


_TRAINING = (
    "module: wanted a module in evaluation mode, without dropout and with stored batch statistics, got one in training "
    "mode ({}). Say so in the call, in the module's own words: call=lambda module, t, x: module(x, t, train=False)."
)


def _attributes(part: Any) -> list[str]:
    """The names of a linen module's own attributes; none of anything else."""
    from flax import linen

    fields = dataclasses.fields(part) if isinstance(part, linen.Module) else ()
    return [field.name for field in fields if field.name not in ("parent", "name")]


@dataclasses.dataclass(frozen=True)
class _Velocity:
    """`velocity(params, t, x)`. Frozen: equal by value, as modules of linen are."""

    module: Any
    call: Callable
    is_conditional: bool

    def __call__(self, params: Any, t: jax.Array, x: jax.Array) -> Any:
        variables = params["network"] if self.is_conditional else params
        condition = (params[CONDITION],) if self.is_conditional else ()

        def bound(*args, **kwargs):
            return self.module.apply(variables, *args, **kwargs)

        return self.call(bound, t, x, *condition)
