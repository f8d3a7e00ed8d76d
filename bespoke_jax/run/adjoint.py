"""Running a solver evaluation by evaluation from Python, and its adjoint: what fitting needs.

`solve` compiles a whole solver into one program, which suits sampling. A fit runs many solvers on few samples each, and compiling
the network anew for each solver would cost more than running it. The functions here call small compiled programs that all solvers
share (see `flow.kernels`), whatever their family and NFE. The adjoint is written by hand, because a table is linear in everything
but the velocity; it keeps only the states, or the network's activations as well.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import check_size, each_at_its_time, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.kernels import combine
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.run.paths import slices
from bespoke_jax.run.rows import cut, joined
from bespoke_jax.solver import Solver
from bespoke_jax.stepping import broadcast, time_dtype
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array

__all__ = ["Trace", "end_points", "ends_of_each", "finite", "run", "table_gradients"]


class Trace(NamedTuple):
    """A solve of B samples by a table of m evaluations.

    Attributes:
        x1: [B, *event] the final states.
        x0: the noise, [B, *event].
        image: the samples' image, [B, *event]; None without one.
        states: those of the evaluations, each [B, *event].
        velocities: u at these states, each [B, *event].
        pullbacks: the pullback of u in (t, x) at each of these states; None to compute them again.
    """

    x1: jax.Array
    x0: Array
    image: jax.Array | None
    states: list[jax.Array]
    velocities: list[jax.Array]
    pullbacks: list[Callable] | None = None


def run(flow: Flow, table: SolverTable, x0: Float[Array, "B *event"], keep_activations: bool = False) -> Trace:
    """Run a table, and keep what the adjoint needs.

    Args:
        flow: the velocity field.
        table: the solver.
        x0: noise, [B, *event].
        keep_activations: keep the network's activations of every evaluation too, which saves the adjoint one pass for each.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> run(flow, bj.classic.euler(2), jnp.ones(3, jnp.float32)).x1.tolist()
        [0.25, 0.25, 0.25]
    """
    states, velocities, pullbacks = [], [], []

    def recorded(i, time, x):
        of_call = table.flow_of(flow, i)
        if keep_activations:
            velocity, pullback = _linearised(of_call, _for_each(time, x), x)
            pullbacks.append(pullback)
        else:
            velocity = kernels.velocity(of_call, time, x)
        states.append(x)
        velocities.append(velocity)
        return velocity

    x0, image = spread(flow, x0), table.image(flow)
    image = None if image is None else broadcast(image, x0)
    x1 = table.of_samples(flow).walk_calls(recorded, x0, image)
    return Trace(x1, x0, image, states, velocities, pullbacks if keep_activations else None)


def table_gradients(
    flow: Flow, table: SolverTable, trace: Trace, cotangents: Sequence[Float[jax.Array, "B *event"]]
) -> SolverTable:
    """Gradients of <c, x1> in the table's numbers, for each sample and each of K cotangents c.

    With lambda_i = d<c, x1>/dx_i and w_i = sum_{k >= i} b_ki lambda_{k+1}, the cotangent of u_{t_i}(x_i),
        lambda_i = w_i^T du/dx,   d/dt_i = w_i^T du/dt,   d/da_i = <lambda_{i+1}, x_0>,   d/db_ij = <lambda_{i+1}, u_j>, j <= i.
    The factor of the noise in the first state has the gradient <lambda_0, x_0>, those of the image have <lambda_i, xi>.

    Each evaluation costs one pass of the network per cotangent, and one more unless `run` has kept the activations.

    Args:
        flow, table: the flow and the solver that were run.
        trace: the result of `run`.
        cotangents: each [B, *event].

    Returns:
        A `SolverTable` of gradients of `table.factors`, NumPy arrays: t and a [K, B, m], b [K, B, m, m], first [K, B],
        c [K, B, m + 1], corrections [K, B, R, ...].
    """
    m, b = table.nfe, np.asarray(table.of_samples(flow).b)
    times = np.asarray(table.t).astype(time_dtype(table, trace.x1))
    after = [[c] for c in cotangents]  # lambda_{i+1} to lambda_m, of each
    by_t, by_a, by_b = [], [], []
    for i in reversed(range(m)):
        by_a.append([_inner(rest[0], trace.x0) for rest in after])
        by_b.append([[_inner(rest[0], velocity) for velocity in trace.velocities[: i + 1]] for rest in after])
        if trace.pullbacks is None:
            _, pullback = _linearised(table.flow_of(flow, i), _for_each(times[i], trace.states[i]), trace.states[i])
        else:
            pullback = trace.pullbacks[i]
        in_t, in_x = zip(*(_pulled(flow, pullback, combine(b[i:, i], rest)) for rest in after), strict=True)
        by_t.append(in_t)
        after = [[cotangent, *rest] for cotangent, rest in zip(in_x, after, strict=True)]
    first = None if table.first is None else [_inner(rest[0], trace.x0) for rest in after]
    by_c = None if trace.image is None else [[_inner(c, trace.image) for c in rest] for rest in after]
    by_t, by_a, by_b, first, by_c = jax.device_get(gather(flow, (by_t[::-1], by_a[::-1], by_b[::-1], first, by_c)))
    rows = np.zeros((len(after), len(trace.x0), m, m), trace.x1.dtype)
    for i, row in enumerate(by_b):
        rows[:, :, i, : i + 1] = np.moveaxis(row, 1, -1)
    c = None if by_c is None else np.moveaxis(by_c, 1, -1)
    first = None if first is None else np.stack(first)
    numbers: Any = np.stack(by_t, axis=-1), np.stack(by_a, axis=-1), rows, first, c  # NumPy arrays, not JAX's
    gradients = SolverTable(*numbers)
    if table.corrections is None:
        return gradients
    return dataclasses.replace(gradients, corrections=table.corrections.of_gradients(gradients, flow))


def finite(
    flow: Flow, t: Float[Array, ""], x: Float[Array, "B *event"], velocity: Float[Array, "B *event"]
) -> Bool[jax.Array, "2"]:
    """Whether the velocities [B, *event] at (t, x) are all finite, and whether their derivatives in t and x are."""
    _, pullback = _linearised(flow, _for_each(np.asarray(t, promote(t.dtype, x.dtype)), x), x)
    return _all_finite((velocity,), _pulled(flow, pullback, jnp.ones_like(x)))


def end_points(
    flow: Flow, solver: Solver, x0: Float[Array, "B *event"], batch_size: int | None = None
) -> Float[jax.Array, "B *event"]:
    """`solve(flow, solver, x0)` of noise [B, *event] in chunks of `batch_size`, without compiling anything for `solver`."""
    check_size(flow, len(x0), "x0")
    if solver.has_table:
        solver = solver.unrolled()
    parts = slices(len(x0), batch_size)
    return joined(flow, [solver.end(of_samples(flow, part), cut(flow, x0, part)) for part in parts])


def ends_of_each(
    flow: Flow, tables: Sequence[SolverTable], x0: Float[Array, "B *event"]
) -> Float[jax.Array, "B *event"]:
    """x1 of samples, each solved by a table of its own, without compiling anything for the tables.

    The velocities come from the program of the adjoint, whose pullbacks are dropped: compiling the network again takes longer.

    Args:
        flow: the velocity field.
        tables: one for each sample, [B], all of one structure and without corrections.
        x0: noise, [B, *event].

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> ends_of_each(flow, [bj.classic.euler(2), bj.classic.midpoint(2)], jnp.ones(2, jnp.float32)).tolist()
        [0.25, 0.5]
    """
    rows = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *(table.factors for table in tables))
    each = dataclasses.replace(rows, xi=tables[0].xi)

    def velocity(i, times, x):
        return _linearised(each.flow_of(flow, i), times, x)[0]

    return each.walk_calls(velocity, spread(flow, x0), each.image(flow))


@kernels.Kernel
def _linearised(flow: Flow, t: Float[Array, "B"], x: Array) -> tuple[jax.Array, Callable]:
    """u [B, *event], and its pullback w -> (w^T du/dt [B], w^T du/dx), which holds the network's activations.

    Each sample has its own t, because reverse mode sums over samples that share one; forward mode would cost another pass.
    """
    return jax.vjp(functools.partial(each_at_its_time, flow), t, x)


def _for_each(t, x):
    """A copy of t for each sample, on the host."""
    return np.full(x.shape[0], t)


def _pulled(flow, pullback, cotangent):
    """The pullback of a cotangent [B, *event]: (in t [B], in x [B, *event]).

    One call for each: on CPUs a batch of them takes at least half as long again, and a loop in one program several times as long.
    """
    return pullback(cotangent) if flow.outside_jax else _apply(pullback, cotangent)


@jax.jit
def _apply(pullback, cotangent):
    return pullback(cotangent)


@jax.jit
def _inner(cotangent: jax.Array, x: jax.Array) -> jax.Array:
    """<c, x> for each sample, [B]."""
    return jnp.sum((cotangent * x).reshape(len(cotangent), -1), axis=-1)


@jax.jit
def _all_finite(*groups):
    return jnp.stack([jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in group])) for group in groups])
