"""Flows in closed form: data that is Gaussian, a Gaussian mixture, or a finite set. Their velocities are exact.

With posterior means X1 = E[x1|x] and X0 = E[x0|x], u = alphadot X1 + sigmadot X0 (Sec. 2.2).
"""

import functools
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_type, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import CondOT, Scheduler

__all__ = ["finite_data", "gaussian", "mixture"]


def mixture(means, std, weights=None, scheduler: Scheduler | None = None) -> Flow:
    """Data from sum_k w_k N(mean_k, std_k^2 I); the velocity is exact.

    Args:
        means: [K, *event_shape].
        std: scalar or [K], >= 0 (0: a finite data set, whose velocity is singular at t = 1).
        weights: [K] positive, normalised here; equal if not given.
        scheduler: CondOT if not given.

    Raises:
        ValueError: for other shapes, numbers that are not real and finite, a negative std, or weights that are not positive.

    Examples:
        >>> flow = mixture(means=[[-2.0, 0.0], [2.0, 0.0]], std=0.3)
        >>> flow.event_shape
        (2,)
    """
    means = _numbers("means", means)
    if means.ndim < 1 or means.shape[0] < 1:
        raise ValueError(f"means: wanted shape [K, *event_shape], got {means.shape}.")
    std = _numbers("std", std)
    if std.shape not in ((), means.shape[:1]):
        raise ValueError(f"std: wanted one number, or shape {means.shape[:1]}, one for each mean, got {std.shape}.")
    if known(std) is not None and np.any(known(std) < 0):
        raise ValueError(f"std: wanted numbers >= 0, got {std}.")
    std = jnp.broadcast_to(std, means.shape[:1])
    weights = jnp.ones_like(std) if weights is None else _numbers("weights", weights)
    if weights.shape != std.shape:
        raise ValueError(f"weights: wanted shape {std.shape}, one for each mean, got {weights.shape}.")
    if known(weights) is not None and not np.all(known(weights) > 0):
        raise ValueError(f"weights: wanted numbers > 0, got {weights}.")
    scheduler = CondOT() if scheduler is None else check_type("scheduler", scheduler, Scheduler, "a Scheduler")
    params = dict(means=means, std=std, log_weights=jnp.log(weights / jnp.sum(weights)))
    return Flow(_mixture_velocity(scheduler), params, means.shape[1:], scheduler)


def gaussian(mean, std, scheduler: Scheduler | None = None) -> Flow:
    """Data from N(mean, std^2 I), mean of shape event_shape: a mixture of one. Linear in x, paths in closed form.

    x(t) = alpha_t mean + sqrt((alpha_t^2 std^2 + sigma_t^2) / (alpha_0^2 std^2 + sigma_0^2)) (x0 - alpha_0 mean).
    """
    return mixture(_numbers("mean", mean)[None], std, scheduler=scheduler)


def finite_data(points, scheduler: Scheduler | None = None) -> Flow:
    """The exact flow of a finite data set, [K, *event_shape]: eq. (23). Singular at t = 1; kept finite by a spread of 1e-3."""
    return mixture(_numbers("points", points), 1e-3, scheduler=scheduler)


def _numbers(name: str, values):
    """As JAX's default floats, if they are real, and finite as far as they are known."""
    if isinstance(values, types.GeneratorType):
        raise TypeError(f"{name}: wanted an array, got a generator.")
    try:
        array = jnp.asarray(values) if any(map(_traced, jax.tree.leaves(values))) else np.asarray(values)
        real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    except (TypeError, ValueError):
        real = False
    if real:
        array = jnp.asarray(array, jnp.result_type(float))
        if known(array) is None or np.all(np.isfinite(known(array))):
            return array
    raise ValueError(f"{name}: wanted finite real numbers, got {values!r:.200}.")


def _traced(value) -> bool:
    return isinstance(value, jax.core.Tracer)


@functools.cache
def _mixture_velocity(scheduler: Scheduler) -> Callable:
    """One function per scheduler, so that flows of the same kind share what is compiled."""

    def velocity(params, t, x):
        dtype = x.dtype
        t = jnp.asarray(t, promote(dtype, jnp.float32))
        alpha, sigma, alpha_dot, sigma_dot = jax.tree.map(lambda value: value.astype(dtype), scheduler.at(t))
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
