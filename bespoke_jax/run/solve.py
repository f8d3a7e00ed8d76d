"""Run a solver: one scan over its steps."""

import math

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_count, check_key
from bespoke_jax.classic.genie import TaylorSolver
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import check_size, in_turn
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.learned.families import LearnedSolver, check_solver_arrays
from bespoke_jax.learned.steps import step_from_knots
from bespoke_jax.learned.theta import Theta
from bespoke_jax.table import SolverTable, to_table

__all__ = ["sample", "solve"]


def solve(flow: Flow, solver: LearnedSolver | SolverTable, x0, *, return_path: bool = False):
    """x1 from given noise x0: `solver.nfe` velocity evaluations.

    Args:
        flow: the velocity field.
        solver: a theta, a table or a `classic.TaylorSolver`.
        x0: noise, [*batch, *event_shape], as many as a `given` flow has conditions; the state keeps its dtype.
        return_path: give all states, [steps + 1, *batch, *event_shape], x0 among them, instead of the last.

    Differentiable in the flow's parameters, the solver and x0; works under jit, vmap and pmap.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda p, t, x: -x, None, event_shape=())
        >>> float(solve(flow, bj.init_theta("rk1", num_steps=2), jnp.float32(1.0)))
        0.25
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    check_solver_arrays("solver", solver, taylor=True)
    check_size(flow, math.prod(flow.batch_shape(x0, "x0")), "x0")
    return _solve(flow, solver, x0, return_path)


def _run(flow, solver, x0, return_path=False):
    by_kind = {Theta: _theta_program, TaylorSolver: _taylor_program}
    start, step, num_steps = by_kind.get(type(solver), _table_program)(flow, solver, x0)

    # Differentiating keeps each step's state and computes the network's activations again: memory does not grow with n.
    step = jax.checkpoint(step, prevent_cse=False)

    def body(carry, i):
        carry = step(i, carry)
        return carry, carry[0] if return_path else None

    (x1, _), path = jax.lax.scan(body, start, jnp.arange(num_steps))
    return jnp.concatenate([x0[None], path]) if return_path else x1


_solve = jax.jit(_run, static_argnums=3)
_solve_in_place = jax.jit(_run, donate_argnums=2)  # the samples take the noise's memory


def _theta_program(flow, theta, x0):
    knots = theta.knots()

    def step(i, carry):
        return step_from_knots(theta, knots, i, carry[0], flow)[1], None

    return (x0, None), step, theta.num_steps


def _table_program(flow, solver, x0):
    """Eq. (11) of arXiv:2403.01329 column by column: a velocity is added to all states to come, and then forgotten.

    The states are summed in place, where XLA copies a history of velocities that is read and written in the same step; and
    the gradient in b needs no velocity but the step's own.
    """
    table, dtype = to_table(solver), promote(x0.dtype, jnp.float32)

    def along_states(numbers):
        return numbers.astype(dtype).reshape(-1, *(1,) * x0.ndim)

    def step(i, carry):
        x, coming = carry
        velocity = flow(table.t[i].astype(_time_dtype(table, x)), x)
        coming = coming + along_states(table.b[:, i]) * velocity.astype(dtype)
        return jax.lax.dynamic_index_in_dim(coming, i, keepdims=False).astype(x.dtype), coming

    return (x0, along_states(table.a) * x0.astype(dtype)), step, table.nfe


def _taylor_program(flow, solver, x0):
    def step(i, carry):
        x = carry[0]
        t, c = solver.t[i].astype(_time_dtype(solver, x)), solver.c[i].astype(x.dtype)
        velocity, slope = kernels.velocity_and_slope(flow, t, x)
        return c[0] * x + c[1] * velocity + c[2] * slope, None

    return (x0, None), step, solver.num_steps


def _time_dtype(table, x):
    return promote(table.t.dtype, x.dtype)


def sample(params: Flow, theta: LearnedSolver | SolverTable, key, *, num_samples: int | None = None, dtype=jnp.float32):
    """Draw noise and solve: one sample [*event_shape], or [num_samples, *event_shape].

    Args:
        params: the flow (its leaves are the network's parameters).
        theta: a learned theta or a table.
        key: one JAX random key.
        num_samples: how many, as a batch.
        dtype: of the state.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.1)
        >>> bj.sample(flow, bj.init_theta("rk2", num_steps=4), jax.random.key(0), num_samples=5).shape
        (5, 2)
    """
    check_key(key)
    if num_samples is not None:
        num_samples = check_count("num_samples", num_samples)
    if not isinstance(params, Flow):
        raise TypeError(
            f"params: wanted a bespoke_jax.Flow (its leaves are the parameters), got {type(params).__name__}."
        )
    check_solver_arrays("theta", theta, taylor=True)
    x0 = params.noise(key, () if num_samples is None else (num_samples,), dtype)
    flow = in_turn(params, num_samples or 1)
    return _solve_in_place(flow, theta, x0 if num_samples is None else spread(params, x0))
