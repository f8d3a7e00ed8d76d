"""The two loops over a table: the traced one, of one program, and the one in Python, which calls small programs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.flow import Flow
from bespoke_jax.solver import Program
from bespoke_jax.types import Array

__all__ = ["program", "time_dtype", "walk_calls"]


def program(table: Any, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
    """The sum, column by column: each velocity is added to all later states at once and need not be kept.

    The states are summed in place. A history of velocities would be read and written in the same step, and XLA would copy
    it. The gradient in b, too, needs only the velocity of its own step.

    Args:
        table: a `SolverTable` without corrections; factors may have a last axis of samples.
        flow, x0: as for `solve`.
    """
    dtype, image, size = promote(x0.dtype, jnp.float32), table.image(flow), table.block
    batch = x0.shape[: x0.ndim - len(flow.event_shape)]

    def along_states(numbers):
        # [m] for all samples, or [m, B].
        of_samples = numbers.shape[1:] and batch
        return numbers.astype(dtype).reshape(-1, *of_samples, *(1,) * (x0.ndim - len(of_samples)))

    def along(numbers):
        return along_states(numbers[None])[0]

    def velocity(i, x):
        return table.flow_of(flow, i)(table.t[i].astype(time_dtype(table, x)), x)

    def step(i, carry):
        x, coming = carry
        coming = coming + along_states(table.b[:, i]) * velocity(i, x).astype(dtype)
        return jax.lax.dynamic_index_in_dim(coming, i, keepdims=False).astype(x.dtype), coming

    def step_of_block(i, carry):
        x, coming = carry
        first, others = i * size, jax.lax.dynamic_slice_in_dim(coming, i * size, size - 1)
        states, indices = jnp.concatenate([x[None], others.astype(x.dtype)]), first + jnp.arange(size)
        velocities = jax.vmap(velocity)(indices, states).astype(dtype)
        coming = coming + jnp.tensordot(table.b[:, indices].astype(dtype), velocities, axes=1)
        return jax.lax.dynamic_index_in_dim(coming, first + size - 1, keepdims=False).astype(x.dtype), coming

    x, coming = x0, along_states(table.a) * x0.astype(dtype)
    if table.first is not None:
        x = (along(table.first) * x0.astype(dtype)).astype(x0.dtype)
    if image is not None:
        image = like(image, x0).astype(dtype)
        x = (x.astype(dtype) + along(table.c[0]) * image).astype(x0.dtype)
        coming = coming + along_states(table.c[1:]) * image
    return Program((x, coming), step if size == 1 else step_of_block, table.latency)


def walk_calls(
    table: Any, velocity: Callable, x0: Float[Array, "*shape"], image: Float[Array, "..."] | None
) -> Float[jax.Array, "*shape"]:
    """x_m from noise x0, row by row in Python: `velocity(i, t_i, x_i)` is called m times, with concrete times.

    Args:
        table: a `SolverTable` without corrections; factors may have a last axis of samples, the first of x0.
        velocity: of (i, t_i, x_i), i the number of the evaluation.
        x0: noise, [*batch, *event].
        image: of these samples, for a table that has one.
    """
    times, a, b = (np.asarray(value) for value in (table.t, table.a, table.b))
    times = times.astype(time_dtype(table, x0))
    x = noise = jnp.asarray(x0)
    terms, factors = [noise], a[:, None]
    first = np.ones_like(a[:1]) if table.first is None else np.asarray(table.first)[None]
    if table.c is not None:
        terms.append(_broadcast(image, noise))
        c = np.asarray(table.c)
        first, factors = np.concatenate([first, c[:1]]), np.stack([a, c[1:]], axis=1)
    if table.first is not None or table.c is not None:
        x = kernels.combine(first, terms)
    for i, t in enumerate(times):
        terms.append(velocity(i, t, x))
        x = kernels.combine([*factors[i], *b[i, : i + 1]], terms)
    return x


def time_dtype(solver: Any, x: Array) -> np.dtype:
    """The dtype in which a solver's times go to the flow: the wider of theirs and the state's."""
    return promote(solver.t.dtype, x.dtype)


def like(image: Array, x: Array) -> jax.Array:
    """An image [*event] or [B, *event] in the shape of states [*batch, *event]."""
    return jnp.reshape(image, x.shape) if jnp.size(image) == x.size else jnp.broadcast_to(image, x.shape)


@jax.jit
def _broadcast(image, x):
    return like(image, x).astype(x.dtype)
