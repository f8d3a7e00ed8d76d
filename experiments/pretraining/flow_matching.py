"""Pre-training by regression: the loss in the network's own prediction, the training state, and one update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, UInt8

from bespoke_jax.models import ADM, UNet
from bespoke_jax.models.labels import with_labels
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Array, KeyArray, PyTree
from experiments import data

__all__ = ["TARGETS", "Objective", "TrainState", "init_state", "learning_rate", "make_update"]


# prediction -> the network's target, from noise x0, data x1, and (value, derivative) of alpha_t and of sigma_t
TARGETS = {
    "velocity": lambda x0, x1, alpha, sigma: alpha[1] * x1 + sigma[1] * x0,
    "noise": lambda x0, x1, alpha, sigma: x0,
    "data": lambda x0, x1, alpha, sigma: x1,
    "v": lambda x0, x1, alpha, sigma: alpha[0] * x0 - sigma[0] * x1,
}


class Objective(NamedTuple):
    """E || network(t, x_t) - target ||^2 with x_t = alpha_t x1 + sigma_t x0, x0 ~ N(0, I) and t uniform on [0, 1].

    Its minimiser is E[target | x_t] for every prediction. It is the conditional flow-matching loss (Lipman et al. 2022,
    arXiv:2210.02747) for "velocity", and the simple loss of Ho et al. 2020 (arXiv:2006.11239) for "noise". With probability
    `label_dropout` a sample's class is withheld, so that one network learns both velocities of classifier-free guidance (Ho &
    Salimans 2022, arXiv:2207.12598).
    """

    network: UNet | ADM
    scheduler: Scheduler
    prediction: str = "velocity"
    label_dropout: float = 0.0

    def loss(
        self, params: PyTree, key: KeyArray, x1: Float[Array, "B H W C"], labels: Int[Array, "B"] | None = None
    ) -> Float[jax.Array, ""]:
        """The loss on data x1 [B, H, W, C] of classes `labels` [B], which an unconditional network ignores.

        t is stratified over the batch, one draw in each of B equal cells: this lowers the variance and keeps the expectation.
        """
        key_t, key_x, key_labels, key_dropout = jax.random.split(key, 4)
        batch, num_classes = x1.shape[0], self.network.num_classes
        t = (jnp.arange(batch) + jax.random.uniform(key_t, (batch,))) / batch
        x0 = jax.random.normal(key_x, x1.shape, x1.dtype)
        alpha, sigma = (
            tuple(c[:, None, None, None] for c in jax.jvp(f, (t,), (jnp.ones_like(t),)))
            for f in (self.scheduler.alpha, self.scheduler.sigma)
        )
        variables = {"params": params}
        if num_classes:
            kept = jax.random.uniform(key_labels, (batch, 1)) >= self.label_dropout
            variables = with_labels(variables, kept * jax.nn.one_hot(labels, num_classes), num_classes)
        out = self.network.apply(variables, t, alpha[0] * x1 + sigma[0] * x0, rngs={"dropout": key_dropout})
        return jnp.mean((out - TARGETS[self.prediction](x0, x1, alpha, sigma)) ** 2)


class TrainState(NamedTuple):
    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def init_state(
    objective: Objective, optimizer: optax.GradientTransformation, event_shape: tuple[int, ...], key: KeyArray
) -> TrainState:
    """The state before the first update."""
    variables = jax.jit(objective.network.init)(key, jnp.zeros(()), jnp.zeros((1, *event_shape)))
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def learning_rate(peak: float, num_steps: int, warmup: int, decay_fraction: float) -> optax.Schedule:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay_fraction` of the run.

    The constant part does not depend on `num_steps`, so a run can be lengthened or shortened, and resumed.
    """
    decay_steps = int(decay_fraction * num_steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, decay_steps),
        ],
        [warmup, num_steps - decay_steps],
    )


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[
    [TrainState, KeyArray, UInt8[Array, "B H W C"], Int[Array, "B"]], tuple[TrainState, Float[jax.Array, ""]]
]:
    """One jitted update `(state, key, images, labels) -> (state, loss)`; the state's buffers are donated.

    images: uint8 [B, H, W, C]. With the images spread over devices and the state on each of them, every device computes its part
    of the gradient; the numbers are those of one device up to rounding.
    """

    def update(state: TrainState, key, images, labels):
        loss, grads = jax.value_and_grad(objective.loss)(state.params, key, data.to_model(images), labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short memory at first, so that the average forgets the random start.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        return TrainState(state.step + 1, params, ema, opt_state), loss

    return jax.jit(update, donate_argnums=0)
