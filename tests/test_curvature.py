"""Gradients and Gauss-Newton matrices by forward mode, against reverse mode and the whole Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax import losses
from bespoke_jax.curvature import linearise
from tests import quick, reference

pytestmark = pytest.mark.usefixtures("float64")

NAMES = list(losses.LOSSES)
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


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_matrix_against_the_whole_jacobian(base, name, flow, paths):
    options = dict(lipschitz=1.7) if name == "rmse_bound" else {}

    @quick.jit
    def errors_and_linear(raw):
        theta = bj.Theta(raw, base, N)
        errors = losses.LOSSES[name].errors(flow, theta, paths, **options)
        return errors, linearise(name, flow, theta, paths, **options)

    raw = random_theta(base).raw
    errors, found = errors_and_linear(raw)
    jacobian = reference.finite_differences(lambda raw: errors_and_linear(raw)[0], raw)
    for part, wanted in zip(found, whole(np.asarray(errors), jacobian, SLOPES[name]), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-6, atol=1e-7 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("name", NAMES)
def test_the_forward_mode_gradient_is_the_gradient_of_the_loss(name, flow, paths):
    @quick.jit
    def both(theta):
        backwards = jax.grad(lambda theta: losses.LOSSES[name].function(flow, theta, paths))(theta)
        return linearise(name, flow, theta, paths)[0], backwards.raw

    found, wanted = both(random_theta("rk1"))
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * float(jnp.max(jnp.abs(wanted))))


def test_a_table_has_a_matrix_too(flow, paths):
    table = bj.classic.midpoint(4, dtype=jnp.float64)
    matrix = quick.jit(lambda table: linearise("rmse", flow, table, paths)[1])(table)
    assert matrix.shape == (4 + 4 + 16,) * 2
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-10)
    assert np.min(np.linalg.eigvalsh(matrix)) > -1e-10 * np.max(matrix)
