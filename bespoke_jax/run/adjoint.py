"""A solver run evaluation by evaluation from Python, and its adjoint: what fitting needs.

`solve` compiles a whole solver into one program, which is what sampling wants. A fit looks at many solvers with few samples
each, and compiling the network anew for every one of them costs more than running it. Here everything is put together from
programs that all solvers share (see `programs`), whatever their family and NFE. The adjoint is written by hand (a table is
linear in all but the velocity), and keeps the states alone, or what the network computed as well.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import check_size, each_at_its_time, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.kernels import combine
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.run.paths import slices
from bespoke_jax.table import SolverTable

__all__ = ["Trace", "end_points", "finite", "run", "table_gradients"]


class Trace(NamedTuple):
    """A solve of B samples by a table of m evaluations.

    Attributes:
        x1: [B, *event] where it ends.
        states: x_0 to x_{m-1}, each [B, *event].
        velocities: u at those, each [B, *event].
        pullbacks: of u in (t, x) at those, or None where they are to be computed again.
    """

    x1: jax.Array
    states: list[jax.Array]
    velocities: list[jax.Array]
    pullbacks: list[Callable] | None = None


def run(flow: Flow, table: SolverTable, x0, keep_activations: bool = False) -> Trace:
    """Run a table from noise x0 [B, *event], keeping what the adjoint needs.

    With `keep_activations` that is the network's activations at every evaluation too, which saves the adjoint a pass for each.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> run(flow, bj.classic.euler(2), jnp.ones(3, jnp.float32)).x1.tolist()
        [0.25, 0.25, 0.25]
    """
    states, velocities, pullbacks = [], [], []

    def recorded(time, x):
        if keep_activations:
            velocity, pullback = _linearised(flow, time, x)
            pullbacks.append(pullback)
        else:
            velocity = kernels.velocity(flow, time, x)
        states.append(x)
        velocities.append(velocity)
        return velocity

    x1 = table.walk(recorded, spread(flow, x0))
    return Trace(x1, states, velocities, pullbacks if keep_activations else None)


def table_gradients(flow: Flow, table: SolverTable, trace: Trace, cotangents) -> SolverTable:
    """Gradients of <c, x1> in the numbers of the table, of every sample and cotangent c by itself.

    With lambda_i = d<c, x1>/dx_i and w_i = sum_{k >= i} b_ki lambda_{k+1}, the factor of u_{t_i}(x_i) in what follows,
        lambda_i = w_i^T du/dx,   d/dt_i = w_i^T du/dt,   d/da_i = <lambda_{i+1}, x_0>,   d/db_ij = <lambda_{i+1}, u_j>, j <= i.

    Args:
        flow, table: what was run.
        trace: its run.
        cotangents: [K, B, *event].

    Returns:
        A `SolverTable` of gradients, NumPy's: t and a [K, B, m], b [K, B, m, m].

    Each evaluation costs a pass of the network per cotangent, and one more unless `run` has kept the activations.
    """
    m = table.nfe
    b, times = np.asarray(table.b), np.asarray(table.t)
    times = times.astype(promote(times.dtype, trace.x1.dtype))
    after = [cotangents]  # lambda_{i+1} to lambda_m
    by_t, by_a, by_b = [], [], []
    for i in reversed(range(m)):
        by_a.append(_inner(after[0], trace.states[0]))
        by_b.append([_inner(after[0], velocity) for velocity in trace.velocities[: i + 1]])
        factors = combine(b[i:, i], after)
        if trace.pullbacks is None:
            _, pullback = _linearised(flow, times[i], trace.states[i])
        else:
            pullback = trace.pullbacks[i]
        # One cotangent after the other: on CPUs a batch of them takes half as long again, and more.
        in_t, in_x = zip(*(_apply(pullback, w) for w in _unstacked(factors)), strict=True)
        by_t.append(_stacked(in_t))
        after.insert(0, _stacked(in_x))
    by_t, by_a, by_b = jax.device_get(gather(flow, (by_t[::-1], by_a[::-1], by_b[::-1])))
    rows = np.zeros((*cotangents.shape[:2], m, m), cotangents.dtype)
    for i, row in enumerate(by_b):
        rows[:, :, i, : i + 1] = np.stack(row, axis=-1)
    return SolverTable(np.stack(by_t, axis=-1), np.stack(by_a, axis=-1), rows)


def finite(flow: Flow, t, x, velocity):
    """Whether the velocities [B, *event] at (t, x) are all finite, and whether their derivatives in t and x are: [2]."""
    _, pullback = _linearised(flow, np.asarray(t, promote(t.dtype, x.dtype)), x)
    return _all_finite((velocity,), _apply(pullback, jnp.ones_like(x)))


def end_points(flow: Flow, solver, x0, batch_size: int | None = None):
    """`solve(flow, solver, x0)` of noise [B, *event] in chunks of `batch_size`, without compiling anything for `solver`."""
    check_size(flow, len(x0), "x0")
    parts = slices(len(x0), batch_size)
    return jnp.concatenate([solver.end(of_samples(flow, part), x0[part]) for part in parts])


@jax.jit
def _linearised(flow, t, x):
    """u [B, *event], and w -> (w^T du/dt [B], w^T du/dx) with what it keeps of the network's activations.

    Each sample has a copy of t, for reverse mode sums over whatever shares one; forward mode would take a pass more.
    """
    return jax.vjp(functools.partial(each_at_its_time, flow), jnp.broadcast_to(t, x.shape[:1]), x)


@jax.jit
def _apply(pullback, w):
    return pullback(w)


@jax.jit
def _inner(cotangents, x):
    """<c, x> of each cotangent and sample, [K, B]."""
    return jnp.sum((cotangents * x).reshape(*cotangents.shape[:2], -1), axis=-1)


@jax.jit
def _all_finite(*groups):
    return jnp.stack([jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in group])) for group in groups])


_stacked = jax.jit(jnp.stack)
_unstacked = jax.jit(list)
