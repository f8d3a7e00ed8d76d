"""Reading a path between its knots, and giving all paths the same number of knots."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.types import Array, Scalar

__all__ = ["padded", "quartic"]


def quartic(
    times: Float[Array, "knots"],
    states: Float[Array, "knots *event"],
    velocities: Float[Array, "knots *event"],
    middles: Float[Array, "knots-1 *event"],
    t: Scalar,
) -> Float[jax.Array, "*event"]:
    """x(t) on one path: the quartic through both ends of t's interval, with their velocities, and through its middle.

    Args:
        times, states, velocities, middles: of one path, as in `Paths`.
        t: the time.
    """
    t = jnp.asarray(t, times.dtype)
    # For t = 1, side="left" finds the last interval of positive length, before the padding.
    k = jnp.clip(jnp.searchsorted(times, t, side="left") - 1, 0, len(times) - 2)
    step = times[k + 1] - times[k]
    p = (t - times[k]) / jnp.where(step > 0, step, 1)
    left, right = (1 - p) ** 2, p**2
    basis = (
        left * (1 - 2 * p) * (1 + 4 * p),
        right * (2 * p - 1) * (5 - 4 * p),
        16 * left * right,
        step * p * left * (1 - 2 * p),
        step * right * (1 - p) * (1 - 2 * p),
    )
    values = (states[k], states[k + 1], middles[k], velocities[k], velocities[k + 1])
    return jnp.asarray(sum(b.astype(v.dtype) * v for b, v in zip(basis, values, strict=True)))


def padded(fields: tuple[jax.Array, ...], num_knots: int) -> tuple[jax.Array, ...]:
    """The arrays of `Paths` with each path's end repeated up to `num_knots`, so that batches can be concatenated.

    Args:
        fields: times, states, velocities, middles and evaluations of a batch, as in `Paths`.
        num_knots: wanted number of knots, at least the batch's.
    """
    *arrays, evaluations = fields
    grown = []
    for array, length in zip(arrays, (num_knots, num_knots, num_knots, num_knots - 1), strict=True):
        grown.append(array if array.shape[1] == length else _grown(array, length))
    return (*grown, evaluations)


@functools.partial(jax.jit, static_argnums=1)
def _grown(array: jax.Array, length: int) -> jax.Array:
    last = array[:, -1:]
    return jnp.concatenate([array, *[last] * (length - array.shape[1])], axis=1)
