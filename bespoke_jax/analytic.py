"""Flows in closed form: data that is Gaussian, a Gaussian mixture, or a finite set. Their velocities are exact.

With posterior means X1 = E[x1|x] and X0 = E[x0|x], u = alphadot X1 + sigmadot X0 (Sec. 2.2).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import Flow
from bespoke_jax.schedulers import CondOT, Scheduler

__all__ = ["finite_data", "gaussian", "mixture"]


def mixture(means, std, weights=None, scheduler: Scheduler | None = None) -> Flow:
    """Data from sum_k w_k N(mean_k, std_k^2 I); the velocity is exact.

    Args:
        means: [K, *event_shape].
        std: scalar or [K], >= 0 (0: a finite data set, whose velocity is singular at t = 1).
        weights: [K] positive, normalised here; equal if not given.
        scheduler: CondOT if not given.

    Examples:
        >>> flow = mixture(means=[[-2.0, 0.0], [2.0, 0.0]], std=0.3)
        >>> flow.event_shape
        (2,)
    """
    means = jnp.asarray(means, jnp.result_type(float))
    if means.ndim < 1 or means.shape[0] < 1:
        raise ValueError(f"means: wanted shape [K, *event_shape], got {means.shape}.")
    std = jnp.broadcast_to(jnp.asarray(std, means.dtype), means.shape[:1])
    weights = jnp.ones_like(std) if weights is None else jnp.asarray(weights, means.dtype)
    if weights.shape != std.shape:
        raise ValueError(f"weights: wanted shape {std.shape}, one for each mean, got {weights.shape}.")
    scheduler = CondOT() if scheduler is None else scheduler
    params = dict(means=means, std=std, log_weights=jnp.log(weights / jnp.sum(weights)))
    return Flow(_mixture_velocity(scheduler), params, means.shape[1:], scheduler)


def gaussian(mean, std, scheduler: Scheduler | None = None) -> Flow:
    """Data from N(mean, std^2 I), mean of shape event_shape: a mixture of one. Linear in x, paths in closed form.

    x(t) = alpha_t mean + sqrt((alpha_t^2 std^2 + sigma_t^2) / (alpha_0^2 std^2 + sigma_0^2)) (x0 - alpha_0 mean).
    """
    return mixture(jnp.asarray(mean, jnp.result_type(float))[None], std, scheduler=scheduler)


def finite_data(points, scheduler: Scheduler | None = None) -> Flow:
    """The exact flow of a finite data set, [K, *event_shape]: eq. (23). Singular at t = 1; kept finite by a spread of 1e-3."""
    return mixture(points, 1e-3, scheduler=scheduler)


@functools.cache
def _mixture_velocity(scheduler: Scheduler) -> Callable:
    """One function per scheduler, so that flows of the same kind share what is compiled."""

    def velocity(params, t, x):
        dtype = x.dtype
        t = jnp.asarray(t, promote(dtype, jnp.float32))
        (alpha, alpha_dot), (sigma, sigma_dot) = (
            tuple(c.astype(dtype) for c in jax.jvp(f, (t,), (jnp.ones_like(t),)))
            for f in (scheduler.alpha, scheduler.sigma)
        )
        event = params["means"].shape[1:]
        means = params["means"].astype(dtype).reshape(len(params["means"]), -1)
        std, log_weights = params["std"].astype(dtype), params["log_weights"].astype(dtype)
        flat = x.reshape(-1, means.shape[1])
        difference = flat[:, None, :] - alpha * means  # [B, K, D]
        variance = alpha**2 * std**2 + sigma**2  # [K]
        log_density = (
            log_weights - 0.5 * jnp.sum(difference**2, axis=-1) / variance - 0.5 * means.shape[1] * jnp.log(variance)
        )
        posterior = jax.nn.softmax(log_density, axis=-1)  # [B, K]
        # Given component k: E[x0 | x] / sigma = difference / variance, finite at sigma = 0; E[x1 | x] follows.
        x0_over_sigma = jnp.einsum("bk,bkd->bd", posterior / variance, difference)
        x1 = posterior @ means + alpha * jnp.einsum("bk,bkd->bd", posterior * std**2 / variance, difference)
        return (alpha_dot * x1 + sigma * sigma_dot * x0_over_sigma).reshape(-1, *event)

    return velocity
