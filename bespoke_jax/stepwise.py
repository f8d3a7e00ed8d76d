"""A solver run evaluation by evaluation from Python, and its adjoint: what fitting needs.

`solve` compiles a whole solver into one program, which is what sampling wants. A fit looks at many solvers with few samples
each, and compiling the network anew for every one of them costs more than running it. Here the compiled programs hold one
velocity evaluation and know nothing of solvers: they are shared by all of them, whatever their family and NFE. The adjoint
is written by hand (a table is linear in all but the velocity), and keeps the states alone.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import Flow
from bespoke_jax.sharding import spread
from bespoke_jax.table import SolverTable, table_row, to_table

__all__ = ["Trace", "chunks", "end_points", "run", "table_gradients"]


class Trace(NamedTuple):
    """A solve of B samples by a table of m evaluations.

    Attributes:
        x1: [B, *event] where it ends.
        states: x_0 to x_{m-1}, each [B, *event].
        velocities: [m, B, *event] u at those.
    """

    x1: jax.Array
    states: list[jax.Array]
    velocities: jax.Array


def run(flow: Flow, table: SolverTable, x0) -> Trace:
    """Run a table from noise x0 [B, *event], keeping what the adjoint needs.

    Example:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> run(flow, bj.classic.euler(2), jnp.ones(3, jnp.float32)).x1.tolist()
        [0.25, 0.25, 0.25]
    """
    x0 = spread(flow, x0)
    x, states = x0, []
    velocities = jnp.zeros((table.nfe, *x0.shape), x0.dtype)
    times = _times(table, x0)
    for i in range(table.nfe):
        states.append(x)
        x, velocities = _next_state(table, i, x0, velocities, _velocity(flow, times[i], x))
    return Trace(x, states, velocities)


def table_gradients(flow: Flow, table: SolverTable, trace: Trace, cotangents) -> SolverTable:
    """Gradients of <c, x1> in the numbers of the table, of every sample and cotangent c by itself.

    With lambda_i = d<c, x1>/dx_i and w_i = sum_{k >= i} b_ki lambda_{k+1}, the factor of u_{t_i}(x_i) in what follows,
        lambda_i = w_i^T du/dx,   d/dt_i = w_i^T du/dt,   d/da_i = <lambda_{i+1}, x_0>,   d/db_ij = <lambda_{i+1}, u_j>, j <= i.

    Args:
        flow, table: what was run.
        trace: its run.
        cotangents: [K, B, *event].

    Returns:
        A `SolverTable` of gradients: t and a [K, B, m], b [K, B, m, m].

    Each evaluation costs two passes of the network and one more per cotangent.
    """
    m = table.nfe
    times = _times(table, trace.x1)
    after = _put(jnp.zeros((m, *cotangents.shape), cotangents.dtype), m - 1, cotangents)  # after[i] is lambda_{i+1}
    by_time: list = [None] * m
    for i in reversed(range(m)):
        factors = _factor(table.b, i, after)
        pullback, by_t = _linearised(flow, times[i], trace.states[i])
        by_time[i] = _in_time(factors, by_t)
        if i:
            # One cotangent after the other: on CPUs a batch of them takes half as long again, and more.
            after = _put(after, i - 1, jnp.stack([_apply(pullback, factors[k]) for k in range(len(factors))]))
    by_a, by_b = _products(after, trace.states[0], trace.velocities)
    return SolverTable(jnp.stack(by_time, axis=-1), by_a, by_b)


def end_points(flow: Flow, solver, x0, batch_size: int | None = None):
    """`solve(flow, solver, x0)` of noise [B, *event] in chunks of `batch_size`, without compiling anything for `solver`."""
    table = _table(solver)
    return jnp.concatenate([run(flow, table, x0[part]).x1 for part in chunks(len(x0), batch_size)])


def chunks(size: int, batch_size: int | None) -> Iterator[slice]:
    """Slices that cover range(size), each of at most `batch_size`."""
    step = batch_size or size
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


# The only programs that hold the network.


@jax.jit
def _velocity(flow, t, x):
    return flow(t, x)


@jax.jit
def _linearised(flow, t, x):
    """(w -> w^T du/dx with what it keeps of the network's activations, du/dt).

    All samples share t, so du/dt comes by forward mode: the reverse would sum over them.
    """
    _, pullback = jax.vjp(lambda x: flow(t, x), x)
    return pullback, jax.jvp(lambda t: flow(t, x), (t,), (jnp.ones_like(t),))[1]


@jax.jit
def _apply(pullback, w):
    return pullback(w)[0]


# Small programs around it.

_table = jax.jit(to_table)


@functools.partial(jax.jit, donate_argnums=3)
def _next_state(table, i, x0, velocities, velocity):
    velocities = velocities.at[i].set(velocity)
    return table_row(table, i, x0, velocities), velocities


@jax.jit
def _factor(b, i, after):
    return jnp.tensordot(b[:, i].astype(after.dtype), after, axes=1)


@jax.jit
def _in_time(w, by_t):
    return jnp.sum((w * by_t).reshape(*w.shape[:2], -1), axis=-1)


@functools.partial(jax.jit, donate_argnums=0)
def _put(array, i, value):
    return array.at[i].set(value)


@jax.jit
def _products(after, x0, velocities):
    after, x0, velocities = (
        array.reshape(*array.shape[:axes], -1) for array, axes in ((after, 3), (x0, 1), (velocities, 2))
    )
    return jnp.einsum("ikbe,be->kbi", after, x0), jnp.tril(jnp.einsum("ikbe,jbe->kbij", after, velocities))


def _times(table, x):
    """The times as host scalars of the dtype in which `solve` hands them to the flow."""
    return np.asarray(table.t.astype(promote(table.t.dtype, x.dtype)))
