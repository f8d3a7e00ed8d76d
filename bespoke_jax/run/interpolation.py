"""Reading a path between its knots, and giving all paths the same number of knots."""

import jax.numpy as jnp

__all__ = ["padded", "quartic"]


def quartic(times, states, velocities, middles, t):
    """Value at t of one path: the quartic through both ends with their velocities and the middle of t's interval."""
    t = jnp.asarray(t, times.dtype)
    # side="left" finds the last real interval for t = 1, where the padding has none.
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
    return sum(b.astype(v.dtype) * v for b, v in zip(basis, values, strict=True))


def padded(part, length: int):
    """The arrays of `Paths`, the end of each path repeated up to `length` knots: batches of different steps fit together."""
    *arrays, evaluations = part
    grown = []
    for array, knots in zip(arrays, (length, length, length, length - 1), strict=True):
        tail = [array[:, -1:]] * (knots - array.shape[1])
        grown.append(jnp.concatenate([array, *tail], axis=1) if tail else array)
    return (*grown, evaluations)
