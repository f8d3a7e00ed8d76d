"""The flow itself run backwards, from data to noise, and the volume that it gains on the way (derived).

Both are `ground_truth` of another flow: the same velocity with time reversed, and that with the divergence as further components.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.flow.conditions import CONDITION, PerSample, condition_of, is_given, velocity_of_one
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.paths import Paths
from bespoke_jax.types import Array, Number, Scalar, VelocityFunction

__all__ = ["noise_and_volume", "noise_of"]


def noise_of(
    flow: Flow, x1: Float[Array, "B *event"], rtol: Number, batch_size: int | None = None
) -> tuple[Float[jax.Array, "B *event"], int]:
    """The x0 that the flow carries to x1, by Dopri5 from t = 1 to 0.

    Args:
        flow: the velocity field.
        x1: [B, *event]; as many as a `given` flow has conditions.
        rtol: relative tolerance per step, as for `ground_truth`.
        batch_size: as for `ground_truth`.

    Returns:
        (x0 [B, *event], velocity evaluations of a sample, the most of any).
    """
    velocity: VelocityFunction = _Backwards(velocity_of_one(flow))
    velocity = PerSample(velocity) if is_given(flow) else velocity
    paths = _solved(Flow(velocity, flow.params, flow.event_shape), x1, rtol, batch_size)
    return paths.x1, int(np.max(paths.evaluations))


def noise_and_volume(
    flow: Flow,
    x1: Float[Array, "B *event"],
    probes: Float[Array, "B P D"] | None,
    rtol: Number,
    batch_size: int | None = None,
) -> tuple[Float[jax.Array, "B *event"], Float[jax.Array, "B Q"], int]:
    """The x0 that the flow carries to x1, and log|det dx1/dx0| = int_0^1 div u_t(x(t)) dt (Chen et al. 2018, arXiv:1806.07366).

    Args:
        flow, x1, rtol, batch_size: as for `noise_of`.
        probes: directions v of each sample; v^T (du/dx) v stands for the divergence (Grathwohl et al. 2018, arXiv:1810.01367).
            None for the exact divergence, which takes D derivatives.

    Returns:
        (x0 [B, *event], the integral [B, 1], or one for each probe, [B, P], velocity evaluations of a sample). A derivative in
        one direction counts as two evaluations.
    """
    size, count = int(np.prod(flow.event_shape)), len(x1)
    exact = probes is None
    if probes is None:
        probes = jnp.broadcast_to(jnp.eye(size, dtype=x1.dtype), (count, size, size))
    condition = dict(own=condition_of(flow), probes=probes)
    velocity = PerSample(_WithVolume(velocity_of_one(flow), flow.event_shape, exact))
    further = 1 if exact else probes.shape[1]
    augmented = Flow(velocity, {"flow": flow.params, CONDITION: condition}, (size + further,))
    start = jnp.concatenate([jnp.reshape(x1, (count, size)), jnp.zeros((count, further), x1.dtype)], axis=1)
    paths = _solved(augmented, start, rtol, batch_size)
    spent = int(np.max(paths.evaluations)) * (1 + 2 * probes.shape[1])
    return paths.x1[:, :size].reshape(x1.shape), paths.x1[:, size:], spent


def _solved(flow: Flow, x: Array, rtol: Number, batch_size: int | None) -> Paths:
    """`ground_truth` of a flow in s = 1 - t, whose errors say so."""
    try:
        return ground_truth(flow, x, rtol, batch_size=batch_size, ends_only=True)
    except (FloatingPointError, RuntimeError) as error:
        if not str(error).startswith("ground_truth: "):
            raise
        raise type(error)(f"{error} The solve ran from data to noise: its t is 1 minus that of the flow.") from error


@dataclasses.dataclass(frozen=True)
class _Backwards(Wrapper):
    """The velocity of s = 1 - t. Frozen: equal by value, so flows share compiled programs."""

    velocity: VelocityFunction

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: Any, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        return -self.velocity(params, 1 - t, x)


@dataclasses.dataclass(frozen=True)
class _WithVolume(Wrapper):
    """The velocity of (x, integrals of the divergence) in s = 1 - t, for one sample: [1, D + 1] or [1, D + P]."""

    velocity: VelocityFunction
    event_shape: tuple[int, ...]
    exact: bool

    @property
    def event(self) -> None:
        """None: its states are arrays."""
        return None

    def __call__(self, params: dict, t: Scalar, state: Float[Array, "1 N"]) -> Float[jax.Array, "1 N"]:
        own, probes = params[CONDITION]["own"], params[CONDITION]["probes"]
        inner = params["flow"] if own is None else {**params["flow"], CONDITION: own}

        def velocity(x):
            found = self.velocity(inner, 1 - t, x.reshape(1, *self.event_shape))
            return found.reshape(x.shape).astype(x.dtype)

        u, push = jax.linearize(velocity, state[0, : probes.shape[1]])
        terms = jnp.sum(probes * jax.vmap(push)(probes), axis=1)
        terms = jnp.sum(terms, keepdims=True) if self.exact else terms
        return jnp.concatenate([-u, terms])[None]
