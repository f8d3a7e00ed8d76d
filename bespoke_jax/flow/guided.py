"""What a guided flow is made of: its velocity, its two networks, its scales."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import known
from bespoke_jax.flow.conditions import CONDITION, condition_of, condition_of_one, given, is_given, velocity_of_one
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.matching import cast
from bespoke_jax.flow.per_sample import batched_velocity
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, KeyArray, Scalar, VelocityFunction
from bespoke_jax.warn import warn

__all__ = [
    "Guided",
    "OfNetwork",
    "Scaled",
    "check_scale",
    "guided_velocity",
    "is_guided",
    "of_call",
    "of_network",
    "own_scale",
    "scale_of",
    "scales_of",
]


class Scaled(NamedTuple):
    """The conditions of samples that are guided by a scale of their own.

    Attributes:
        condition: the network's, a pytree of [B, ...].
        guidance_scale: [B].
    """

    condition: Any
    guidance_scale: jax.Array


jax.export.register_namedtuple_serialization(Scaled, serialized_name="bespoke_jax.Scaled")  # for `save_sampler`


def of_call(flow: Flow, field: int | jax.Array) -> Flow:
    """The flow of one of the two networks of a guided one: the conditional for field 0, the unconditional for 1.

    Both have the same shapes, so that they share compiled programs; `field` may be traced.

    Raises:
        ValueError: if the flow is not `guided`.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.float32(2.0)}, ())
        >>> [float(of_call(bj.guided(flow, 0.5), field)(0.0, jnp.zeros(()))) for field in (0, 1)]
        [2.0, 0.0]
    """
    velocity = guided_velocity(flow)
    own, function = (
        of_network(condition_of(flow) if is_given(flow) else flow.params[CONDITION]),
        velocity.unconditional,
    )
    if function is not None:
        # Under `given` the function is one of each sample's condition.
        none = jax.vmap(lambda c: cast(function(c), c))(own) if is_given(flow) else cast(function(own), own)
    else:
        none = jax.tree.map(lambda other, c: jnp.broadcast_to(other, c.shape), flow.params["unconditional"], own)
    condition = jax.tree.map(lambda c, other: jnp.where(jnp.asarray(field) == 1, other, c), own, none)
    source, weights = (each.function if isinstance(each, OfNetwork) else each for each in (flow.source, flow.weights))
    params = {**flow.params["network"], CONDITION: of_network(condition_of_one(flow))}
    network = flow.replace(velocity=velocity.velocity, params=params, source=source, weights=weights)
    return given(network, condition) if is_given(flow) else network.replace(params={**params, CONDITION: condition})


def is_guided(flow: Flow) -> bool:
    """Whether a flow is `guided`."""
    return isinstance(velocity_of_one(flow), Guided)


def scale_of(flow: Flow) -> jax.Array:
    """The guidance scale w of a guided flow, []. Raises ValueError if it is not `guided`, or has a scale for each sample."""
    if guided_velocity(flow).scale is not None:
        raise ValueError(
            "flow: wanted one guidance scale for all samples, got one for each; a solver for these is "
            "LearnedCalls.euler(m, scales=(least, greatest))."
        )
    return flow.params["guidance_scale"]


def scales_of(flow: Flow) -> Float[jax.Array, "..."]:
    """The guidance scale of all samples of a guided flow, [], or of each, [B]. Raises ValueError if it is not `guided`.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.float32(0.0)}, ())
        >>> scales_of(bj.guided(bj.given(flow, [0.0, 1.0]), [0.5, 2.0])).tolist()
        [0.5, 2.0]
    """
    scale = guided_velocity(flow).scale
    if scale is None:
        return flow.params["guidance_scale"]
    return jax.vmap(scale)(condition_of(flow)) if is_given(flow) else scale(flow.params[CONDITION])


def check_scale(flow: Flow, learned: float | None) -> None:
    """Warn if a flow is guided by another scale than that which a solver by the call holds; None for one that is not known.

    Raises:
        ValueError: if the flow is not `guided`.
    """
    scales = known(scales_of(flow))
    if learned is None or scales is None or np.allclose(scales, learned, rtol=1e-3, atol=1e-6):
        return
    got = f"{np.min(scales):g}" if np.ptp(scales) == 0 else f"from {np.min(scales):g} to {np.max(scales):g}"
    warn(
        f"solver: learned for the guidance scale {learned:g}, which its factors hold, got a flow guided by {got}; samples are "
        f"those of {learned:g}. LearnedCalls.euler(m, scales=(least, greatest)) learns a range of scales."
    )


def guided_velocity(flow: Flow) -> "Guided":
    """The velocity of a guided flow, or of one of its samples. Raises ValueError if it is not `guided`."""
    velocity = velocity_of_one(flow)
    if not isinstance(velocity, Guided):
        raise ValueError(
            f"flow: wanted a guided flow (bespoke_jax.guided), whose two networks the solver calls apart, got {flow!r}."
        )
    return velocity


def own_scale(condition: Scaled) -> jax.Array:
    """The scale of a sample."""
    return condition.guidance_scale


def of_network(condition: Any) -> Any:
    """The network's part of a condition."""
    return condition.condition if isinstance(condition, Scaled) else condition


@dataclasses.dataclass(frozen=True)
class OfNetwork:
    """The source or the weights of a guided flow: the network's, which see its parameters. Frozen: equal by value."""

    function: Callable[..., Any]

    def __call__(self, params: dict, *key: KeyArray) -> Any:
        return self.function({**params["network"], CONDITION: of_network(params[CONDITION])}, *key)


@dataclasses.dataclass(frozen=True)
class Guided(Wrapper):
    """`velocity(params, t, x)` under guidance. Frozen: equal by value."""

    velocity: VelocityFunction
    unconditional: Callable[[Any], Any] | None  # None: the parameters hold what stands for no condition
    scale: Callable[[Any], Any] | None  # of a sample's condition; None: the parameters hold it

    @property
    def calls_per_evaluation(self) -> int:
        """Twice the wrapped velocity's, which may be guided too."""
        return 2 * getattr(self.velocity, "calls_per_evaluation", 1)

    def batched(self) -> "Guided":
        """As it is, with a network that takes a batch of conditions."""
        return dataclasses.replace(self, velocity=batched_velocity(self.velocity))

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        own, none, scale = self._parts(params, params[CONDITION])
        # What stands for no condition in its own place, a padding mask or a cached prefix, is not copied.
        axes = jax.tree.map(lambda own, none: None if none is own else 0, own, none)
        pair = jax.tree.map(lambda own, none: own if none is own else jnp.stack([own, none]), own, none)

        def velocity(condition):
            return self.velocity({**params["network"], CONDITION: condition}, t, x)

        # vmap over the pair calls the network once, and computes what does not depend on the condition only once.
        if not jax.tree.leaves(axes):  # nothing is taken away
            return velocity(own)
        with_condition, without = jax.vmap(velocity, in_axes=(axes,))(pair)
        return with_condition + scale.astype(with_condition.dtype) * (with_condition - without)

    @property
    def of_batch(self) -> VelocityFunction | None:
        """The velocity for conditions [B, ...], if the network takes a batch of them: one call of a batch twice as large."""
        of_batch: Any = getattr(self.velocity, "of_batch", None)
        if of_batch is None:
            return None

        def velocity(params, t, x):
            own, none, scale = jax.vmap(lambda condition: self._parts(params, condition))(params[CONDITION])
            both = jax.tree.map(lambda *parts: jnp.concatenate(parts), own, none)
            out = of_batch({**params["network"], CONDITION: both}, t, jnp.concatenate([x, x]))
            with_condition, without = jnp.split(out, 2)
            scale = scale.astype(out.dtype).reshape(-1, *(1,) * (x.ndim - 1))
            return with_condition + scale * (with_condition - without)

        return velocity

    def _parts(self, params: dict, condition: Any) -> tuple[Any, Any, jax.Array]:
        """(the network's condition, what stands for none, the scale) of one sample."""
        own = of_network(condition)
        none = params["unconditional"] if self.unconditional is None else cast(self.unconditional(own), own)
        return own, none, params["guidance_scale"] if self.scale is None else self.scale(condition)
