"""Tables: a theta unrolled, and the classical methods against literal loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")

N = 3
CLASSIC = {  # name -> (stages, order)
    "euler": (1, 1),
    "midpoint": (2, 2),
    "heun": (2, 2),
    "rk4": (4, 4),
}


def velocity(params, t, x):
    return params * jnp.sin(3 * t) * x - 0.3 * x**3 + jnp.cos(2 * x)


def u(t, x):
    return np.sin(3 * t) * x - 0.3 * x**3 + np.cos(2 * x)


@pytest.fixture(scope="module")
def flow(float64):
    return bj.Flow(velocity, jnp.float64(1.0), (2,))


X0 = np.array([[0.7, -1.1], [0.1, 2.0]])


def random_theta(base):
    return bj.theta_from_knots(base, *reference.random_knots(base, N), dtype=jnp.float64)


def test_a_theta_and_its_table_solve_alike(base, flow):
    theta = random_theta(base)
    table = bj.to_table(theta)
    assert table.nfe == theta.nfe and table.t.dtype == jnp.float64
    found, wanted = (bj.solve(flow, solver, jnp.asarray(X0)) for solver in (table, theta))
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


def test_a_theta_and_its_table_solve_alike_on_every_problem(problem):
    theta = random_theta("rk2")
    x0 = jnp.asarray(problem.x_at_time(0.0, 2))
    found, wanted = (zoo.solve(problem.flow, solver, x0) for solver in (bj.to_table(theta), theta))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12 * float(jnp.max(jnp.abs(x0))))


def test_the_table_passes_through_the_states_of_the_theta(base, flow):
    # After every step, not only at the end: every nfe / n-th row.
    theta = random_theta(base)
    of_theta = bj.solve(flow, theta, jnp.asarray(X0), return_path=True)
    of_table = bj.solve(flow, bj.to_table(theta), jnp.asarray(X0), return_path=True)
    np.testing.assert_allclose(of_table[:: theta.nfe // N], of_theta, rtol=1e-13, atol=1e-14)


def test_tables_are_lower_triangular_and_start_at_0(base):
    table = bj.to_table(random_theta(base))
    np.testing.assert_array_equal(table.b, np.tril(table.b))
    assert float(table.t[0]) == 0.0 and np.all(np.diff(table.t) > 0)


@pytest.mark.parametrize("name, base", [("euler", "rk1"), ("midpoint", "rk2")])
def test_the_start_is_the_classical_table(name, base):
    theta = bj.init_theta(base, N, dtype=jnp.float64)
    classic = getattr(bj.classic, name)(theta.nfe, dtype=jnp.float64)
    for found, wanted in zip(jax.tree.leaves(bj.to_table(theta)), jax.tree.leaves(classic), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-15)


def test_to_table_under_jit_and_grad(base):
    theta = random_theta(base)
    for found, wanted in zip(
        jax.tree.leaves(jax.jit(bj.to_table)(theta)), jax.tree.leaves(bj.to_table(theta)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)
    gradient = jax.jit(jax.grad(lambda theta: jnp.sum(bj.to_table(theta).b ** 2)))(theta)
    assert np.all(np.isfinite(gradient.raw)) and np.any(gradient.raw != 0)


def test_a_row_is_eq_11(flow):
    # x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_{t_j}(x_j), for any numbers.
    rng = np.random.default_rng(0)
    t, a, b = rng.uniform(size=3), rng.standard_normal(3), np.tril(rng.standard_normal((3, 3)))
    states, slopes = [X0], []
    for i in range(3):
        slopes.append(u(t[i], states[i]))
        states.append(a[i] * X0 + sum(b[i, j] * slopes[j] for j in range(i + 1)))
    table = bj.SolverTable(*map(jnp.asarray, (t, a, b)))
    np.testing.assert_allclose(bj.solve(flow, table, jnp.asarray(X0), return_path=True), states, rtol=1e-12)


# --- Classical methods. ---


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("steps", [1, 3])
def test_classical_methods_against_literal_loops(name, steps, flow):
    table = getattr(bj.classic, name)(steps * CLASSIC[name][0], dtype=jnp.float64)
    wanted = getattr(reference, name)(u, X0, steps)
    np.testing.assert_allclose(zoo.solve(flow, table, jnp.asarray(X0)), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", CLASSIC)
def test_classical_methods_converge_at_their_order(name, flow):
    stages, order = CLASSIC[name]
    truth = reference.rk4(u, X0, 1000)
    ns = [8, 16, 32]
    errors = []
    for n in ns:
        table = getattr(bj.classic, name)(stages * n, dtype=jnp.float64)
        errors.append(reference.rms(zoo.solve(flow, table, jnp.asarray(X0)) - truth))
    assert reference.order_of(errors, ns) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("nfe", [0, -4, 2.5, True, "4", None])
def test_a_number_of_evaluations_that_is_none(name, nfe):
    with pytest.raises(ValueError, match=f"nfe: wanted a positive multiple of {CLASSIC[name][0]} for {name}"):
        getattr(bj.classic, name)(nfe)


@pytest.mark.parametrize("name, nfe", [("midpoint", 3), ("heun", 5), ("rk4", 6)])
def test_a_number_of_evaluations_that_makes_no_whole_step(name, nfe):
    with pytest.raises(ValueError, match="nfe"):
        getattr(bj.classic, name)(nfe)
