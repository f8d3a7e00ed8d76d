"""Flows in closed form, with exact velocities: of Gaussian data, a Gaussian mixture, or a finite set.

With the posterior means X1 = E[x1|x] and X0 = E[x0|x], u = alphadot X1 + sigmadot X0 (Sec. 2.2).
"""

import functools
import types
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_type, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import CondOT, Scheduler
from bespoke_jax.types import Array, Number, Numbers, VelocityFunction

__all__ = ["finite_data", "gaussian", "mixture"]


def mixture(
    means: Numbers, std: Number | Numbers, weights: Numbers | None = None, scheduler: Scheduler | None = None
) -> Flow:
    """The flow of data from the Gaussian mixture sum_k w_k N(mean_k, std_k^2 I).

    Numbers may be lists or arrays, also traced ones.

    Args:
        means: [K, *event_shape].
        std: a scalar or [K], >= 0 (0 stands for a finite data set, whose velocity is singular at t = 1).
        weights: [K], positive; they are normalised here. None for equal weights.
        scheduler: None for CondOT.

    Raises:
        TypeError: for a generator, or a scheduler that is none.
        ValueError: for other shapes, numbers that are not real and finite, a negative std, or weights that are not positive.

    Examples:
        >>> flow = mixture(means=[[-2.0, 0.0], [2.0, 0.0]], std=0.3)
        >>> flow.event_shape
        (2,)
    """
    centres = _numbers("means", means)
    if centres.ndim < 1 or centres.shape[0] < 1:
        raise ValueError(f"means: wanted shape [K, *event_shape], got {centres.shape}.")
    spread = _numbers("std", std)
    if spread.shape not in ((), centres.shape[:1]):
        raise ValueError(
            f"std: wanted one number, or shape {centres.shape[:1]}, one for each mean, got {spread.shape}."
        )
    numbers = known(spread)
    if numbers is not None and np.any(numbers < 0):
        raise ValueError(f"std: wanted numbers >= 0, got {spread}.")
    spread = jnp.broadcast_to(spread, centres.shape[:1])
    shares = jnp.ones_like(spread) if weights is None else _numbers("weights", weights)
    if shares.shape != spread.shape:
        raise ValueError(f"weights: wanted shape {spread.shape}, one for each mean, got {shares.shape}.")
    numbers = known(shares)
    if numbers is not None and not np.all(numbers > 0):
        raise ValueError(f"weights: wanted numbers > 0, got {shares}.")
    scheduler = CondOT() if scheduler is None else check_type("scheduler", scheduler, Scheduler, "a Scheduler")
    params = dict(means=centres, std=spread, log_weights=jnp.log(shares / jnp.sum(shares)))
    return Flow(_mixture_velocity(scheduler), params, centres.shape[1:], scheduler)


def gaussian(mean: Number | Numbers, std: Number | Numbers, scheduler: Scheduler | None = None) -> Flow:
    """The flow of data from N(mean, std^2 I): a mixture of one. It is linear in x, and its paths have the closed form

    x(t) = alpha_t mean + sqrt((alpha_t^2 std^2 + sigma_t^2) / (alpha_0^2 std^2 + sigma_0^2)) (x0 - alpha_0 mean).

    Args:
        mean: of shape event_shape; a number for scalar data.
        std: a scalar.
        scheduler: None for CondOT.

    Raises:
        TypeError, ValueError: as `mixture`.

    Examples:
        >>> flow = gaussian(mean=[3.0, 0.0], std=1.0)
        >>> flow(1.0, jnp.array([3.0, 0.0])).tolist()  # at the data's mean
        [3.0, 0.0]
    """
    return mixture(_numbers("mean", mean)[None], std, scheduler=scheduler)


def finite_data(points: Numbers, scheduler: Scheduler | None = None) -> Flow:
    """The flow of a finite data set, eq. (23). A spread of 1e-3 around each point keeps the velocity finite at t = 1.

    Args:
        points: [K, *event_shape].
        scheduler: None for CondOT.

    Raises:
        TypeError, ValueError: as `mixture`.
    """
    return mixture(_numbers("points", points), 1e-3, scheduler=scheduler)


def _numbers(name: str, values: Any) -> jax.Array:
    """The values as JAX's default floats, if they are real, and finite where `known`."""
    if isinstance(values, types.GeneratorType):
        raise TypeError(f"{name}: wanted an array, got a generator.")
    try:
        array = jnp.asarray(values) if any(map(_traced, jax.tree.leaves(values))) else np.asarray(values)
    except (TypeError, ValueError):
        array = np.array(None)
    if jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer):
        array = jnp.asarray(array, jnp.result_type(float))
        numbers = known(array)
        if numbers is None or np.all(np.isfinite(numbers)):
            return array
    raise ValueError(f"{name}: wanted finite real numbers, got {values!r:.200}.")


def _traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


@functools.cache
def _mixture_velocity(scheduler: Scheduler) -> VelocityFunction:
    """One function per scheduler, so that mixtures under one scheduler share compiled programs."""

    def velocity(params: dict, t: Float[Array, ""], x: Float[Array, "B *event"]) -> Float[Array, "B *event"]:
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
