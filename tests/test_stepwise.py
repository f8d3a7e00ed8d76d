"""Running a solver from Python, and its adjoint, against `solve` and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.run import adjoint

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (2, 1)


@pytest.fixture(scope="module")
def flow(float64):
    return bj.Flow(lambda p, t, x: p * jnp.sin(3 * t) * x[:, ::-1] - 0.3 * x**3 + t, jnp.float64(0.8), SHAPE)


@pytest.fixture(scope="module")
def table(float64):
    rng = np.random.default_rng(0)
    b = np.tril(rng.standard_normal((4, 4)))
    return bj.SolverTable(*(jnp.asarray(v) for v in (rng.uniform(size=4), rng.uniform(0.5, 1.5, 4), b)))


@pytest.fixture(scope="module")
def x0(float64):
    return jnp.asarray(np.random.default_rng(1).standard_normal((5, *SHAPE)))


def test_it_ends_where_solve_ends(flow, table, x0):
    np.testing.assert_allclose(adjoint.run(flow, table, x0).x1, bj.solve(flow, table, x0), rtol=1e-12)


def test_thetas_run_too_and_in_chunks(base, flow, x0):
    theta = bj.init_theta(base, 3, dtype=jnp.float64)
    wanted = bj.solve(flow, theta, x0)
    for batch_size in (None, 2, 5, 9):
        np.testing.assert_allclose(adjoint.end_points(flow, theta, x0, batch_size), wanted, rtol=1e-12)


def test_the_adjoint_is_the_gradient(flow, table, x0):
    cotangents = jnp.asarray(np.random.default_rng(2).standard_normal((3, *x0.shape)))
    found = adjoint.table_gradients(flow, table, adjoint.run(flow, table, x0), list(cotangents))

    @jax.jit
    def gradient(x0, cotangent):
        return jax.grad(lambda table: jnp.sum(cotangent * bj.solve(flow, table, x0)))(table)

    for k, of_samples in enumerate(cotangents):
        for sample, cotangent in enumerate(of_samples):
            wanted = gradient(x0[sample], cotangent)
            for name in ("t", "a", "b"):
                got, want = getattr(found, name)[k, sample], getattr(wanted, name)
                np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_kept_activations_give_the_same_gradients_for_a_pass_less(x0):
    runs = []

    def velocity(params, t, x):
        jax.debug.callback(lambda: runs.append(None))
        return params * jnp.sin(3 * t) * x

    flow, table = bj.Flow(velocity, jnp.float64(0.8), SHAPE), bj.classic.euler(3, dtype=jnp.float64)
    found, passes = [], []
    for keep in (False, True):
        before = len(runs)
        trace = adjoint.run(flow, table, x0, keep_activations=keep)
        gradients = adjoint.table_gradients(flow, table, trace, [x0])
        found.append((trace.x1, gradients.t, gradients.a, gradients.b))
        jax.effects_barrier()
        passes.append(len(runs) - before)
    for recomputed, kept in zip(*found, strict=True):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-12)
    assert passes[0] - passes[1] == table.nfe


def test_another_solver_compiles_no_network(x0):
    traces = []

    def velocity(params, t, x):
        traces.append(None)
        return -params * x

    flow = bj.Flow(velocity, jnp.float64(1.0), SHAPE)
    for nfe in (2, 3, 4):
        trace = adjoint.run(flow, bj.classic.euler(nfe, dtype=jnp.float64), x0)
        adjoint.table_gradients(flow, bj.classic.euler(nfe, dtype=jnp.float64), trace, [x0])
        traced = len(traces) if nfe == 2 else traced
    assert len(traces) == traced


def test_taylor_solvers_run_too(x0):
    flow = bj.analytic.mixture(jnp.asarray(np.ones((1, *SHAPE))), 0.5)
    solver = bj.classic.genie(6, flow.scheduler, dtype=jnp.float64)
    np.testing.assert_allclose(adjoint.end_points(flow, solver, x0, 2), bj.solve(flow, solver, x0), rtol=1e-12)
