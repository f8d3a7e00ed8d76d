"""Running a solver: one scan over its steps."""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from bespoke_jax.checks import check_count, check_flag, check_key, check_type
from bespoke_jax.flow.conditions import check_size, in_turn
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.types import Array, DTypeLike, KeyArray, State

__all__ = ["sample", "solve"]


def solve(flow: Flow, solver: Solver, x0: State, *, return_path: bool = False) -> State:
    """x1 from given noise x0, by `solver.nfe` velocity evaluations.

    Differentiable in the flow's parameters, the solver and x0; works under jit, vmap and pmap.

    Args:
        flow: the velocity field.
        solver: a theta, a table or a `classic.TaylorSolver`.
        x0: noise, [*batch, *event_shape], or a tree of [*batch, *leaf]; as many samples as a `given` flow has conditions. States
            keep its dtype.
        return_path: return all states, x0 included, instead of the last one.

    Returns:
        x1, [*batch, *event_shape]; with `return_path` the states, [steps + 1, *batch, *event_shape]. A tree, if x0 is one.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, shape or dtype.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> float(solve(flow, bj.init_theta("rk1", num_steps=2), jnp.float32(1.0)))
        0.25
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    check_solver_arrays("solver", solver, needs_table=False).check_flow(flow)
    x0, as_given = flow.as_array("x0", x0)
    check_size(flow, math.prod(flow.batch_shape(x0, "x0")), "x0")
    check_flag("return_path", return_path)
    return as_given((_solve_outside if _runs_outside(flow, solver, x0) else _solve)(flow, solver, x0, return_path))


def _runs_outside(*args: Any) -> bool:
    """Whether the velocity runs outside JAX, and nothing is traced."""
    return args[0].outside_jax and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))


def _solve_outside(flow: Flow, solver: Solver, x0: Array, return_path: bool = False) -> jax.Array:
    """`_run` as a loop in Python, for a velocity that runs outside JAX."""
    start = jnp.asarray(x0)
    carry, step, num_steps = solver.program(flow, start)
    path = [start]
    for i in range(num_steps):
        carry = step(jnp.asarray(i), carry)
        path.append(carry[0])
    return jnp.stack(path) if return_path else path[-1]


def _run(flow: Flow, solver: Solver, x0: jax.Array, return_path: bool = False) -> jax.Array:
    start, step, num_steps = solver.program(flow, x0)

    # Differentiation stores each step's state and recomputes the network's activations, whose memory so does not grow with n.
    step = jax.checkpoint(step, prevent_cse=False)

    def body(carry: Any, i: jax.Array) -> Any:
        carry = step(i, carry)
        return carry, carry[0] if return_path else None

    (x1, _), path = jax.lax.scan(body, start, jnp.arange(num_steps))
    return jnp.concatenate([x0[None], path]) if return_path else x1


_solve = jax.jit(_run, static_argnums=3)
_solve_in_place = jax.jit(_run, donate_argnums=2)  # reuses the noise's memory


def sample(
    params: Flow, theta: Solver, key: KeyArray, *, num_samples: int | None = None, dtype: DTypeLike = jnp.float32
) -> State:
    """Draw noise and solve.

    Args:
        params: the flow (its leaves are the network's parameters).
        theta: a learned theta or a table.
        key: one JAX random key.
        num_samples: the size of the batch; None for one sample without a batch axis.
        dtype: of the states.

    Returns:
        [num_samples, *event_shape], or [*event_shape] for one sample; a tree of such arrays for a flow of trees. A `given` flow's
        conditions are used in turn.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, or a dtype that is not floating.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.1)
        >>> bj.sample(flow, bj.init_theta("rk2", num_steps=4), jax.random.key(0), num_samples=5).shape
        (5, 2)
    """
    check_key(key)
    if num_samples is not None:
        num_samples = check_count("num_samples", num_samples)
    check_type("params", params, Flow, "a bespoke_jax.Flow (its leaves are the parameters)")
    check_solver_arrays("theta", theta, needs_table=False).check_flow(params)
    flow = in_turn(params, num_samples or 1)
    x0 = flow.ravel(flow.noise(key, () if num_samples is None else (num_samples,), dtype))
    x0 = x0 if num_samples is None else spread(params, x0)
    x1 = (_solve_outside if _runs_outside(flow, theta, x0) else _solve_in_place)(flow, theta, x0)
    return flow.unravel(x1)
