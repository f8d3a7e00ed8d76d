"""Cutting arrays of samples, and joining them.

On one device the host does it: each shape would be one more program to compile, which takes far longer than to copy a batch. On
a mesh the arrays stay where they are.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.sharding import mesh_of
from bespoke_jax.types import Array, PyTree

__all__ = ["between_ends", "cut", "ends", "joined"]


def _on_host(flow: PyTree, *arrays: Any) -> list[np.ndarray] | None:
    """The numbers of arrays of the flow's samples; None if the flow lies on a mesh, or they cannot be read."""
    if mesh_of(flow) is not None:
        return None
    numbers = [found for array in arrays if (found := known(array)) is not None]
    return numbers if len(numbers) == len(arrays) else None


def cut(flow: PyTree, x: Float[Array, "B *event"], rows: slice | np.ndarray) -> Float[Array, "R *event"]:
    """These rows of an array, by a slice or by their numbers."""
    if isinstance(rows, slice) and rows.indices(len(x)) == (0, len(x), 1):
        return x
    numbers = _on_host(flow, x)
    return x[rows] if numbers is None else jax.device_put(numbers[0][rows])


def joined(flow: PyTree, parts: Sequence[Float[jax.Array, "_ *event"]]) -> Float[jax.Array, "B *event"]:
    """Arrays one after another."""
    if len(parts) == 1:
        return parts[0]
    numbers = _on_host(flow, *parts)
    return jnp.concatenate(parts) if numbers is None else jax.device_put(np.concatenate(numbers))


def ends(
    flow: PyTree, states: Float[Array, "B knots *event"], part: slice
) -> tuple[Float[jax.Array, "R *event"], Float[jax.Array, "R *event"]]:
    """(x0, x1), the first and the last of the states of these paths."""
    numbers = _on_host(flow, states)
    if numbers is None:
        return _ends(states, np.int32(part.start), part.stop - part.start)
    return jax.device_put((numbers[0][part, 0], numbers[0][part, -1]))


@functools.partial(jax.jit, static_argnums=2)
def _ends(states, first, count):
    some = jax.lax.dynamic_slice_in_dim(states, first, count)
    return some[:, 0], some[:, -1]


def between_ends(
    flow: PyTree, x0: Float[Array, "B *event"], x1: Float[Array, "B *event"]
) -> tuple[Float[jax.Array, "B 2"], Float[jax.Array, "B 2 *event"]]:
    """(times, states) of paths known only at their ends."""
    numbers = _on_host(flow, x0, x1)
    states = _stacked(x0, x1) if numbers is None else jax.device_put(np.stack(numbers, axis=1))
    times = np.broadcast_to(np.arange(2, dtype=promote(states.dtype, jnp.float32)), (len(states), 2))
    return jax.device_put(times), states


@jax.jit
def _stacked(x0, x1):
    return jnp.stack([x0, x1], axis=1)
