"""The weights of a sample's numbers in its norm: ||x||^2 = sum_j w_j x_j^2 / sum_j w_j.

Weights of 0 take padding out of errors, losses and tolerances, so that it does not dilute them. The library's norms are means of
squares over the D numbers of a sample: that of an error times sqrt(w D / sum w) is the weighted one.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numeric, known
from bespoke_jax.flow.trees import Event
from bespoke_jax.types import PyTree

__all__ = ["Constant", "check_weights", "error_scale"]


@dataclasses.dataclass(frozen=True)
class Constant:
    """Weights that are the same for all samples, as a function of the parameters. Frozen: equal by value.

    Attributes:
        numbers: the bytes of the float32 numbers.
        shape: theirs, that of a sample as one array.
    """

    numbers: bytes
    shape: tuple[int, ...]

    def __call__(self, params: PyTree) -> Float[np.ndarray, "..."]:
        return np.frombuffer(self.numbers, np.float32).reshape(self.shape)


def check_weights(weights: Any, event: Event | None, shape: tuple[int, ...]) -> Callable[[Any], Any] | None:
    """The weights as a function of the parameters; None for none.

    Args:
        weights: such a function, or numbers: an array that broadcasts to the sample's shape, or a tree of them.
        event: the structure of a sample; None for an array.
        shape: of a sample as one array.

    Raises:
        TypeError: for numbers that are not real, and a function that cannot be hashed.
        ValueError: for a shape that does not fit, negative weights, and weights that are all 0.
    """
    if weights is None:
        return None
    if callable(weights):
        if weights.__hash__ is None:
            raise TypeError(f"weights: wanted a function that can be hashed, got {type(weights).__name__}.")
        if isinstance(weights, Constant) and weights.shape != shape:
            raise ValueError(f"weights: wanted the event shape {shape}, got {weights.shape}.")
        return weights
    numbers = known(_as_one(weights, event, shape))
    if numbers is None:
        raise TypeError(
            "weights: wanted numbers that are known, got a traced array; give a function of the parameters."
        )
    if not np.all(np.isfinite(numbers) & (numbers >= 0)) or not np.any(numbers):
        raise ValueError("weights: wanted finite numbers >= 0, not all 0, got others.")
    return Constant(numbers.tobytes(), shape)


def _as_one(weights: Any, event: Event | None, shape: tuple[int, ...]) -> Float[jax.Array, "..."]:
    """The weights of one sample as one array of its shape, in float32."""
    if event is None or hasattr(weights, "dtype"):
        return _broadcast("weights", weights, shape)
    leaves = event.leaves("weights", weights)
    parts = [
        _broadcast(f"weights{place}", leaf, of)
        for place, leaf, of in zip(event.places, leaves, event.shapes, strict=True)
    ]
    return event.ravel("weights", jax.tree.unflatten(event.structure, parts))


def _broadcast(name: str, weights: Any, shape: tuple[int, ...]) -> jax.Array:
    found, dtype = check_numeric(name, np.asarray(weights) if isinstance(weights, list | tuple) else weights)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"{name}: wanted real numbers, got {dtype}.")
    fits = len(found) <= len(shape) and all(n in (1, of) for n, of in zip(found[::-1], shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"{name}: wanted an array that broadcasts to a sample's {shape}, got shape {found}.")
    return jnp.broadcast_to(jnp.asarray(weights, jnp.float32), shape)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def error_scale(
    weights: Callable[[Any], Any],
    event: Event | None,
    shape: tuple[int, ...],
    params_of: Callable[[Any, Any], Any] | None,
    count: int,
    params: PyTree,
) -> Float[jax.Array, "..."]:
    """sqrt(w D / sum w), [*event], or [B, *event] for samples with parameters of their own; NaN for bad weights.

    Args:
        weights: the function of the parameters.
        event, shape: as for `check_weights`.
        params_of: `(params, i) -> the parameters of sample i`; None if all samples have the same.
        count: the number of samples, B.
        params: the flow's parameters.
    """

    def one(params):
        w = _as_one(weights(params), event, shape)
        return jnp.sqrt(w) * jnp.sqrt(w.size / jnp.sum(w))  # NaN also if all are negative

    return one(params) if params_of is None else jax.vmap(lambda i: one(params_of(params, i)))(jnp.arange(count))
