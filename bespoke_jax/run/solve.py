"""Run a solver: one scan over its steps."""

import math

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_count, check_key
from bespoke_jax.flow.conditions import check_size, in_turn
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.table import Solver, check_solver_arrays

__all__ = ["sample", "solve"]


def solve(flow: Flow, solver: Solver, x0, *, return_path: bool = False):
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
    check_solver_arrays("solver", solver, needs_table=False)
    check_size(flow, math.prod(flow.batch_shape(x0, "x0")), "x0")
    return _solve(flow, solver, x0, return_path)


def _run(flow, solver, x0, return_path=False):
    start, step, num_steps = solver.program(flow, x0)

    # Differentiating keeps each step's state and computes the network's activations again: memory does not grow with n.
    step = jax.checkpoint(step, prevent_cse=False)

    def body(carry, i):
        carry = step(i, carry)
        return carry, carry[0] if return_path else None

    (x1, _), path = jax.lax.scan(body, start, jnp.arange(num_steps))
    return jnp.concatenate([x0[None], path]) if return_path else x1


_solve = jax.jit(_run, static_argnums=3)
_solve_in_place = jax.jit(_run, donate_argnums=2)  # the samples take the noise's memory


def sample(params: Flow, theta: Solver, key, *, num_samples: int | None = None, dtype=jnp.float32):
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
    check_solver_arrays("theta", theta, needs_table=False)
    x0 = params.noise(key, () if num_samples is None else (num_samples,), dtype)
    flow = in_turn(params, num_samples or 1)
    return _solve_in_place(flow, theta, x0 if num_samples is None else spread(params, x0))
