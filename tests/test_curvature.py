"""Gradients and Gauss-Newton matrices, against reverse mode and the whole Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting import losses
from bespoke_jax.fitting.gauss_newton import _ends, evaluate, linearise
from tests import reference

pytestmark = pytest.mark.usefixtures("float64")

N = 3


@pytest.fixture(scope="module")
def flow(float64):
    return bj.Flow(lambda p, t, x: p * jnp.sin(3 * t) * x - 0.3 * x**3 + t, jnp.float64(0.8), (2,))


@pytest.fixture(scope="module")
def paths(flow):
    return bj.ground_truth(flow, jnp.asarray(np.random.default_rng(0).standard_normal((3, 2))), 1e-7, 1e-7)


def random_theta(base):
    return bj.theta_from_knots(base, *reference.random_knots(base, N, 2), dtype=jnp.float64)


def whole(errors, jacobian, phi_slope):
    """Gradient and matrix by loops: 2 E_b sum_i phi'(m_ib) mean_j of e_ibj de_ibj/dp and of de_ibj/dp de_ibj/dq."""
    terms, batch, size = errors.shape
    gradient, matrix = np.zeros(jacobian.shape[-1]), np.zeros((jacobian.shape[-1],) * 2)
    for i in range(terms):
        for b in range(batch):
            factor = 2 * phi_slope(float(np.mean(errors[i, b] ** 2))) / (batch * size)
            for j in range(size):
                row = jacobian[i, b, j]
                gradient += factor * errors[i, b, j] * row
                matrix += factor * np.outer(row, row)
    return gradient, matrix


SLOPES = {"rmse_bound": lambda m: 0.5 / np.sqrt(m), "local": lambda m: 0.5 / np.sqrt(m)}
SLOPES |= {"rmse": SLOPES["local"], "endpoint": lambda m: 1 / m}
KEY = jax.random.key(0)


def errors_of(loss, flow, solver, paths):
    """The error vectors of a loss, [terms, B, *event]: its mean squares go through phi."""
    if loss.of_ends:
        return (bj.solve(flow, bj.to_table(solver), paths.x0) - paths.x1)[None]
    errors = losses.step_errors(flow, solver, paths)
    return loss.weights(solver).reshape(-1, *(1,) * (errors.ndim - 1)) * errors


def wanted(name, base, flow, paths, **options):
    """(theta, value, gradient, matrix) from the errors, and their Jacobian by finite differences."""

    @jax.jit
    def errors(raw):
        return errors_of(losses.LOSSES[name](**options), flow, bj.Theta(raw, base, N), paths)

    theta = random_theta(base)
    found, jacobian = np.asarray(errors(theta.raw)), reference.finite_differences(errors, theta.raw)
    value = losses.LOSSES[name](**options)(flow, theta, paths)
    return theta, value, *whole(found, jacobian, SLOPES[name])


def assert_near(found, wanted, rtol):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=0.1 * rtol * np.max(np.abs(wanted)))


@pytest.mark.parametrize("base", [pytest.param("rk1", marks=pytest.mark.slow), "rk2"])
@pytest.mark.parametrize("name", ["rmse_bound", pytest.param("local", marks=pytest.mark.slow)])
def test_losses_of_steps_against_the_whole_jacobian(base, name, flow, paths):
    options = dict(lipschitz=1.7) if name == "rmse_bound" else {}
    theta, *parts = wanted(name, base, flow, paths, **options)
    for found, part in zip(linearise(losses.LOSSES[name](**options), flow, theta, paths, KEY), parts, strict=True):
        assert_near(found, part, 1e-6)


@pytest.mark.parametrize(
    "base, name",
    [*(pytest.param(base, "rmse", marks=pytest.mark.slow) for base in ("rk1", "rk2")), ("rk1", "endpoint")],
)
def test_losses_of_ends_against_the_whole_jacobian(base, name, flow, paths):
    theta, value, gradient, matrix = wanted(name, base, flow, paths)
    draws = [
        linearise(losses.named(name), flow, theta, paths, key, probes=50, batch_size=2)
        for key in jax.random.split(KEY, 10)
    ]
    for found in draws[:2]:
        assert_near(found.value, value, 1e-10)
        assert_near(found.gradient, gradient, 1e-6)
    # The matrix is an estimate: 10 times 50 probes for each of 3 samples leave some 5 % of its size.
    scale = np.sqrt(np.diag(matrix))
    estimate = np.mean([found.matrix for found in draws], axis=0)
    assert np.max(np.abs(estimate - matrix) / np.outer(scale, scale)) < 0.2
    assert_near(evaluate(losses.named(name), flow, theta, paths, batch_size=2), value, 1e-10)


def test_along_the_error_the_matrix_is_exact():
    """So is all of it where there is no other direction, whatever the probes, and even without any error."""
    flow = bj.Flow(lambda p, t, x: p * jnp.sin(3 * t) * x - 0.3 * x**3 + t, jnp.float64(0.8), (1,))
    paths = bj.ground_truth(flow, jnp.asarray([[-1.0], [0.3], [2.0]]), 1e-7, 1e-7)
    _, _, gradient, matrix = wanted("rmse", "rk2", flow, paths)
    for key in jax.random.split(KEY, 2):
        found = linearise(losses.Rmse(), flow, random_theta("rk2"), paths, key, probes=1)
        assert_near(found.gradient, gradient, 1e-6)
        assert_near(found.matrix, matrix, 1e-6)


def test_without_an_error_the_probes_go_everywhere():
    (squares, values, slopes), (along, *across) = _ends(losses.Rmse(), jnp.ones((2, 3)), jnp.ones((2, 3)), KEY, 4)
    assert np.all(squares == 0) and np.all(np.isfinite([values, slopes])) and np.all(along == 0)
    np.testing.assert_allclose(np.abs(across), 3**-0.5)


def test_the_probes_belong_to_the_key(flow, paths):
    theta = random_theta("rk1")
    one, same, other = (linearise(losses.Endpoint(), flow, theta, paths, jax.random.key(k)).matrix for k in (1, 1, 2))
    assert np.array_equal(one, same) and not np.allclose(one, other)


def test_a_table_has_a_matrix_too(flow, paths):
    table = bj.classic.midpoint(4, dtype=jnp.float64)
    found = linearise(losses.Rmse(), flow, table, paths, KEY)
    assert found.matrix.shape == (4 + 4 + 16,) * 2
    slope = jax.grad(lambda table: losses.rmse(flow, table, paths))(table)
    np.testing.assert_allclose(
        found.gradient, np.concatenate([np.ravel(v) for v in (slope.t, slope.a, slope.b)]), rtol=1e-8
    )
    np.testing.assert_allclose(found.matrix, found.matrix.T, rtol=1e-10)
    assert np.min(np.linalg.eigvalsh(found.matrix)) > -1e-10 * np.max(found.matrix)


@pytest.mark.parametrize("base, name", [pytest.param("rk1", "rmse_bound", marks=pytest.mark.slow), ("rk2", "endpoint")])
def test_the_curvature_of_a_part_is_that_part_of_the_curvature(base, name, flow, paths):
    theta = random_theta(base)
    whole, num_of_time = linearise(losses.named(name), flow, theta, paths, KEY), theta.learning("time").num_parameters
    for learned, rows in (("time", slice(num_of_time)), ("scale", slice(num_of_time, None))):
        part = linearise(losses.named(name), flow, theta.learning(learned), paths, KEY)
        for found, wanted in zip(part, (whole.value, whole.gradient[rows], whole.matrix[rows, rows]), strict=True):
            assert_near(found, wanted, 1e-8)
