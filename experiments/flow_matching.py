"""Conditional flow matching: the loss, its state and one update. What `pretrain.py` runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["TrainState", "flow_matching_loss", "learning_rate", "make_update"]


class TrainState(NamedTuple):
    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def flow_matching_loss(apply, params, scheduler, key, x1):
    """E || u_t(x_t) - (alphadot_t x1 + sigmadot_t x0) ||^2 with x_t = alpha_t x1 + sigma_t x0.

    `apply(params, t, x)` takes t of shape [B]; x1 [B, ...] is data. t is stratified over the batch: one draw in each
    of B equal cells, which leaves the expectation as it is and lowers its variance.
    """
    key_t, key_x = jax.random.split(key)
    batch = x1.shape[0]
    t = (jnp.arange(batch) + jax.random.uniform(key_t, (batch,))) / batch
    x0 = jax.random.normal(key_x, x1.shape, x1.dtype)
    per_sample = (-1,) + (1,) * (x1.ndim - 1)
    (alpha, alpha_dot), (sigma, sigma_dot) = (
        jax.jvp(f, (t,), (jnp.ones_like(t),)) for f in (scheduler.alpha, scheduler.sigma)
    )
    x_t = alpha.reshape(per_sample) * x1 + sigma.reshape(per_sample) * x0
    target = alpha_dot.reshape(per_sample) * x1 + sigma_dot.reshape(per_sample) * x0
    return jnp.mean((apply(params, t, x_t) - target) ** 2)


def learning_rate(peak: float, num_steps: int, warmup: int, decay_fraction: float):
    """Linear warm-up, constant, then linear decay to 0 over the last `decay_fraction` of the run.

    The constant part does not depend on `num_steps`: a run can be lengthened or shortened and resumed.
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


def make_update(apply, scheduler, optimizer, ema_decay: float):
    """One jitted update `(state, key, x1) -> (state, loss)`; the state's buffers are donated."""

    def update(state: TrainState, key, x1):
        loss, grads = jax.value_and_grad(lambda p: flow_matching_loss(apply, p, scheduler, key, x1))(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short memory at first, so that the average forgets the random start.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        return TrainState(state.step + 1, params, ema, opt_state), loss

    return jax.jit(update, donate_argnums=0)
