"""The source of a flow: where its x0 come from, if not from the scheduler's Gaussian noise.

A source is a function `source(params, key) -> x0` of one sample. It sees the flow's parameters, and with them the sample's own
condition if the flow is `given` conditions.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.flow.trees import Event
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import DTypeLike, KeyArray, PyTree, SourceFunction

__all__ = ["check_source", "draw", "gaussian", "noise_std", "same_params"]


def check_source(source: Any) -> None:
    """Raise TypeError unless `source` is None or a function that can be hashed."""
    if source is None:
        return
    if not callable(source):
        raise TypeError(f"source: wanted a function of (params, key), or None, got {type(source).__name__}.")
    if source.__hash__ is None:
        raise TypeError(f"source: wanted a function that can be hashed, got {type(source).__name__}.")


def same_params(params: PyTree, i: Any) -> Any:
    """The parameters of sample i of a flow whose samples have nothing of their own."""
    return params


def draw(
    source: SourceFunction,
    params_of: Callable[[Any, Any], PyTree],
    params: PyTree,
    key: KeyArray,
    batch_shape: tuple[int, ...],
    event_shape: tuple[int, ...],
    dtype: DTypeLike,
    event: Event | None = None,
) -> Float[jax.Array, "..."]:
    """x0 of a batch, each sample from a key of its own; a single sample, without batch axes, from `key` itself.

    Args:
        source: the function of one sample.
        params_of: `(params, i) -> the parameters of sample i`; of equal value for equal flows.
        params: the flow's parameters.
        key: a random key.
        batch_shape, event_shape: of x0, [*batch, *event].
        dtype: of x0, to which the source's numbers are cast.
        event: the structure of a sample, if the source returns a tree.

    Raises:
        TypeError: if the source returns something other than one floating array, or a tree of them.
        ValueError: if it returns one of another shape than `event_shape`, or another tree.

    Examples:
        >>> x0 = draw(lambda params, key: 3.0 + jax.random.normal(key, (2,)), lambda params, i: params, None,
        ...           jax.random.key(0), (5,), (2,), jnp.float32)
        >>> x0.shape, bool(x0.mean() > 1.5)
        ((5, 2), True)
    """
    keys = jax.random.split(key, math.prod(batch_shape)) if batch_shape else key[None]
    x0 = _draw(source, params_of, event_shape, jnp.dtype(dtype), event, params, keys)
    return x0.reshape(*batch_shape, *event_shape)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _draw(source, params_of, event_shape, dtype, event, params, keys):
    def one(i, key):
        x0 = source(params_of(params, i), key)
        return _checked(x0 if event is None else event.ravel("source", x0), event_shape).astype(dtype)

    return jax.vmap(one)(jnp.arange(len(keys)), keys)


def _checked(x0: Any, event_shape: tuple[int, ...]) -> jax.Array:
    """What a source returned for one sample, if it is one floating array of this shape. Shapes are known before any compile."""
    if not hasattr(x0, "shape") or not hasattr(x0, "dtype"):
        raise TypeError(f"source: wanted one array of shape {event_shape}, got {type(x0).__name__}.")
    if x0.shape != event_shape:
        raise ValueError(
            f"source: wanted the x0 of one sample, shape {event_shape}, got {x0.shape}; a batch is drawn by calling it with one "
            "key for each sample."
        )
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise TypeError(f"source: wanted a floating dtype, got {x0.dtype}; cast with .astype(jnp.float32).")
    return jnp.asarray(x0)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def gaussian(
    key: KeyArray, shape: tuple[int, ...], dtype: DTypeLike, scheduler: Scheduler | None
) -> Float[jax.Array, "*shape"]:
    """Noise N(0, sigma_0^2), with sigma_0 = 1 without a scheduler.

    Examples:
        >>> import bespoke_jax as bj
        >>> gaussian(jax.random.key(0), (500,), jnp.float32, bj.schedulers.EDM(sigma_max=3.0)).std().round().item()
        3.0
    """
    x0 = jax.random.normal(key, shape, dtype)
    if scheduler is None:
        return x0
    # Not (x0 sigma_0) with the constants of x0 and sigma_0 multiplied first.
    return jax.lax.optimization_barrier(x0) * jnp.asarray(_sigma_0(scheduler), dtype)


def noise_std(scheduler: Scheduler | None) -> float:
    """sigma_0, the standard deviation of x0 where it is Gaussian noise; 1 without a scheduler.

    Examples:
        >>> import bespoke_jax as bj
        >>> noise_std(None), noise_std(bj.schedulers.CondOT())
        (1.0, 1.0)
    """
    return 1.0 if scheduler is None else float(_sigma_0(scheduler))


def _sigma_0(scheduler: Scheduler) -> Any:
    return scheduler.sigma(jnp.zeros((), jnp.float32))
