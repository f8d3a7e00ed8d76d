"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as one more flow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bespoke_jax.conditions import CONDITION, condition_of, condition_of_one, given, is_given, velocity_of_one
from bespoke_jax.flow import Flow

__all__ = ["guided"]


def guided(flow: Flow, guidance_scale, unconditional: Any = None) -> Flow:
    """The guided flow u = (1 + w) u(x | condition) - w u(x | nothing) of a conditional one.

    Both velocities are one call of the network on a batch of two; NFE counts it as one evaluation, `calls_per_evaluation` as
    two. Condition and w are parameters: flows of other classes and other scales share what is compiled, and a solver fitted at
    one scale can be measured at others. All that predictions are turned into is linear in them, so guiding the velocity is
    guiding the noise, the data or the score.

    Args:
        flow: its parameters are a dictionary, its condition the entry "condition", any pytree of arrays without a batch axis. The
            conditional networks of `bespoke_jax.models` are such, their label among it. Each sample may be `given` its own.
        guidance_scale: w, a scalar: 0 for the flow as it is, -1 for the unconditional one, above 0 to follow the condition
            more than the data does. (Who writes u(x | nothing) + s (u(x | y) - u(x | nothing)) has s = 1 + w.)
        unconditional: what stands for no condition, of the condition's structure; None for zeros, as our networks have it. The
            network must have been trained with it.

    Raises:
        TypeError: if `flow` is none.
        ValueError: if the flow's parameters have no condition, `unconditional` is of another structure, or the scale is not one
            number.

    Examples:
        >>> def velocity(params, t, x):
        ...     return params["weight"] * x + params["condition"]
        >>> flow = Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.array([1.0, 2.0])}, (2,))
        >>> strong = guided(flow, 0.5)
        >>> strong(0.0, jnp.zeros(2)).tolist(), strong.calls_per_evaluation
        ([1.5, 3.0], 2)
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"guided: flow must be a bespoke_jax.Flow, got {type(flow).__name__}.")
    condition = condition_of_one(flow, "guided")
    scale = jnp.asarray(guidance_scale)
    if scale.ndim or not jnp.issubdtype(scale.dtype, jnp.number):
        raise ValueError(f"guided: guidance_scale must be one number, got {guidance_scale!r}.")
    if unconditional is None:
        unconditional = jax.tree.map(jnp.zeros_like, condition)
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (condition, unconditional))
    if got != wanted:
        raise ValueError(f"guided: unconditional must be like the condition, {wanted}, got {got}.")
    network = {name: value for name, value in flow.params.items() if name != CONDITION}
    params = {"network": network, "guidance_scale": scale.astype(jnp.float32), "unconditional": unconditional}
    found = Flow(_Guided(velocity_of_one(flow)), {**params, CONDITION: condition}, flow.event_shape, flow.scheduler)
    return given(found, condition_of(flow)) if is_given(flow) else found


@dataclasses.dataclass(frozen=True)
class _Guided:
    """`velocity(params, t, x)` under guidance. Frozen: equal by value."""

    velocity: Callable
    calls_per_evaluation: int = dataclasses.field(default=2, init=False)

    @property
    def time_range(self) -> tuple[float, float]:
        """That of the velocity itself."""
        return getattr(self.velocity, "time_range", (0.0, 1.0))

    def __call__(self, params, t, x):
        pair = jax.tree.map(lambda *values: jnp.stack(values), params[CONDITION], params["unconditional"])

        def velocity(condition):
            return self.velocity({**params["network"], CONDITION: condition}, t, x)

        # Batched over the pair, the network is called once, and what does not look at the condition is computed once.
        with_condition, without = jax.vmap(velocity)(pair)
        return with_condition + params["guidance_scale"].astype(with_condition.dtype) * (with_condition - without)
