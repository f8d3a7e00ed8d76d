"""Denoisers: a network with its preconditioning, which together determine the flow under any scheduler.

For data that is not scaled, every diffusion model is a denoiser D(y, level) = E[x1 | x1 + level x0 = y], computed as
D(y, level) = c_skip y + c_out network(c_in y, c_noise) (Karras et al. 2022, arXiv:2206.00364, Table 1). At time t of a scheduler
the level is sigma_t / alpha_t and y = x / alpha_t, so E[x1 | x_t = x] = D(x / alpha_t, sigma_t / alpha_t).
"""

import dataclasses
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax import schedulers
from bespoke_jax.checks import check_shape, check_type
from bespoke_jax.flow.flow import Flow
from bespoke_jax.models.labels import labelled, with_labels
from bespoke_jax.models.preconditioning import Preconditioning
from bespoke_jax.types import Array, ArrayLike, Labels, PyTree

__all__ = ["Denoiser", "DenoiserPrediction", "Preconditioning", "ReversedVelocity"]


@dataclasses.dataclass(frozen=True)
class DenoiserPrediction:
    """`network(params, t, x) -> E[x1 | x_t = x]` for `Flow.from_prediction`, at the times of `scheduler`. Equal by value."""

    network: Any
    preconditioning: Preconditioning
    scheduler: schedulers.Scheduler

    def __call__(self, params: PyTree, t: Float[Array, ""], x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        alpha, sigma = (f(t).astype(x.dtype) for f in (self.scheduler.alpha, self.scheduler.sigma))
        p = self.preconditioning
        # Near pure noise sigma / alpha exceeds sigma_max, and x / alpha is all noise. Scaled to sigma_max it is an input like
        # those of training, for which the output is off by only O(1 / sigma_max). Near clean data x itself is kept.
        level = jnp.clip(sigma / alpha, p.sigma_min, p.sigma_max)
        scale = jnp.where(level < sigma / alpha, level / sigma, 1 / alpha)
        return denoise(self.network, p, params, scale * x, level)


@dataclasses.dataclass(frozen=True)
class ReversedVelocity:
    """`(params, t, x) -> velocity` under CondOT of a network of kind "flow", whose time runs from `steps` (noise) to 0 (data)."""

    network: Any
    steps: int

    def __call__(self, params: PyTree, t: Float[Array, ""], x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return -self.network.apply(params, jnp.broadcast_to(self.steps * (1 - t), x.shape[:1]), x)


def denoise(
    network: Any,
    preconditioning: Preconditioning,
    variables: PyTree,
    y: Float[Array, "B H W C"],
    level: ArrayLike,
) -> Float[Array, "B H W C"]:
    """D(y, level) for y [B, H, W, C] and levels [] or [B]."""
    level = jnp.broadcast_to(jnp.asarray(level, y.dtype), y.shape[:1])
    c_skip, c_in, c_out, c_noise = preconditioning.coefficients(level)
    c_skip, c_in, c_out = (c[:, None, None, None] for c in (c_skip, c_in, c_out))
    return c_skip * y + c_out * network.apply(variables, c_noise, c_in * y)


class Denoiser:
    """A pre-trained denoiser of images.

    Args:
        network: a Flax module with a field `num_classes`, called as `network.apply(variables, time, x)`.
        variables: its variables, including `condition/label` if it is conditional.
        event_shape: (H, W, C).
        preconditioning: what the network predicts.

    Attributes:
        num_classes: length of its class label; 0 if unconditional.

    Raises:
        TypeError: if `event_shape` or `preconditioning` are of another type.
        ValueError: if a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bespoke_jax.models import ADM
        >>> net = ADM(channels=(8,), num_blocks=1, heads=(0,), middle_heads=0, time_channels=8, num_classes=10)
        >>> variables = jax.eval_shape(net.init, jax.random.key(0), 0.0, jnp.zeros((1, 4, 4, 3)))  # or real ones
        >>> model = Denoiser(net, variables, (4, 4, 3), Preconditioning("edm"))
        >>> model
        Denoiser(ADM, edm, (4, 4, 3), 10 classes)
        >>> model.flow(labels=7).event_shape
        (4, 4, 3)
    """

    def __init__(self, network: Any, variables: Any, event_shape: tuple[int, ...], preconditioning: Preconditioning):
        self.network = network
        self.variables = variables
        self.event_shape = check_shape("event_shape", event_shape)
        self.preconditioning = check_type("preconditioning", preconditioning, Preconditioning, "a Preconditioning")
        self.num_classes = network.num_classes

    def __repr__(self) -> str:
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"Denoiser({type(self.network).__name__}, {self.preconditioning.kind}, {self.event_shape}{classes})"

    def denoise(
        self, x: Float[Array, "B H W C"], sigma: ArrayLike, labels: Labels | None = None
    ) -> Float[Array, "B H W C"]:
        """E[x1 | x1 + sigma x0 = x], the expected clean images given noisy ones.

        Args:
            x: [B, H, W, C].
            sigma: the standard deviation of the noise, [] or [B], also traced.
            labels: for a conditional network, a class, [B] classes, or weights [B, num_classes]; None for no class (zeros).

        Raises:
            ValueError: for an x of another shape, a sigma that is not positive, or labels that the network does not have.
        """
        x = jnp.asarray(x)
        if x.shape[1:] != self.event_shape or jnp.shape(sigma) not in ((), x.shape[:1]):
            wanted = f"x [B, {', '.join(map(str, self.event_shape))}] and sigma [] or [B]"
            raise ValueError(f"denoise: wanted {wanted}, got {x.shape} and {jnp.shape(sigma)}.")
        if not isinstance(sigma, jax.core.Tracer) and not np.all(np.asarray(sigma) > 0):
            raise ValueError(f"sigma: wanted numbers > 0, got {np.min(np.asarray(sigma))}.")
        return denoise(
            self.network, self.preconditioning, with_labels(self.variables, labels, self.num_classes), x, sigma
        )

    @property
    def usual_scheduler(self) -> dict[str, Any]:
        """The default of `flow`: EDM's scheduler from sigma_max (at most 80) to sigma_min (at least 0.002).

        For a network of kind "flow" it is CondOT.
        """
        p = self.preconditioning
        if p.kind == "flow":
            return {"name": "condot"}
        return {"name": "edm", "sigma_min": max(p.sigma_min, 0.002), "sigma_max": min(p.sigma_max, 80.0)}

    def flow(
        self,
        scheduler: schedulers.Scheduler | str | dict | None = None,
        labels: Labels | None = None,
        time_margin: float | None = None,
    ) -> Flow:
        """The flow of this denoiser under a scheduler.

        Args:
            scheduler: a `schedulers.Scheduler`, its name ("edm", "vp", "cosine", "condot"), or a dictionary of name and
                constants; None for `self.usual_scheduler`.
            labels: one class, or weights [num_classes]; classes [B] or weights [B, num_classes] for a class of each sample
                (`bespoke_jax.given`); "all" for every class once; None for no class (zeros, as in EDM's own code; unknown to a
                network that was trained without dropping labels).
            time_margin: times within it of 0 and of 1 are replaced by the nearest time inside. None is 0 if the scheduler is
                regular at both ends (EDM), else 1e-3: the velocity divides by alpha, which is 0 at t = 0 (CondOT, cosine), and by
                sigma, which is 0 at t = 1. Noise levels outside [sigma_min, sigma_max] of the network are always clipped. A
                network of kind "flow" under CondOT is its own velocity, without margin or clipping.

        Raises:
            TypeError: if `scheduler` is of another type.
            ValueError: for an unknown scheduler, a wrong margin, and labels that the network does not have.
        """
        if scheduler is None:
            scheduler = self.usual_scheduler
        if isinstance(scheduler, str | dict):
            scheduler = schedulers.from_config(scheduler)
        scheduler = check_type("scheduler", scheduler, schedulers.Scheduler, "a Scheduler, a name or a dictionary")
        if self.preconditioning.kind == "flow" and scheduler == schedulers.CondOT() and not time_margin:
            velocity = ReversedVelocity(self.network, self.preconditioning.steps)  # regular at both ends
            return labelled(Flow(velocity, self.variables, self.event_shape, scheduler), labels, self.num_classes)
        if time_margin is None:
            ends = [float(value) for value in (scheduler.alpha(jnp.zeros(())), scheduler.sigma(jnp.ones(())))]
            time_margin = 0.0 if min(ends) > 1e-4 else 1e-3
        prediction = DenoiserPrediction(self.network, self.preconditioning, scheduler)
        flow = Flow.from_prediction(prediction, self.variables, self.event_shape, scheduler, "data", time_margin)
        return labelled(flow, labels, self.num_classes)
