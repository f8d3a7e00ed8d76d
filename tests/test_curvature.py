"""Gradients and Gauss-Newton matrices by forward mode, against reverse mode and the whole Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax import losses
from bespoke_jax.curvature import linearise
from tests import reference

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


def whole_matrix(errors, jacobian, phi_slope):
    """2 E_b sum_i phi'(m_ib) mean_j (de_ibj/dtheta)(de_ibj/dtheta)^T, by loops."""
    terms, batch, size = errors.shape
    matrix = np.zeros((jacobian.shape[-1],) * 2)
    for i in range(terms):
        for b in range(batch):
            slope = phi_slope(float(np.mean(errors[i, b] ** 2)))
            for j in range(size):
                row = jacobian[i, b, j]
                matrix += 2 * slope * np.outer(row, row) / (batch * size)
    return matrix


SLOPES = {"rmse_bound": lambda m: 0.5 / np.sqrt(m), "local": lambda m: 0.5 / np.sqrt(m)}
SLOPES |= {"rmse": SLOPES["local"], "endpoint": lambda m: 1 / m}


@pytest.mark.parametrize("name", NAMES)
def test_matrix_against_the_whole_jacobian(base, name, flow, paths):
    theta = random_theta(base)
    options = dict(lipschitz=1.7) if name == "rmse_bound" else {}

    @jax.jit
    def errors(raw):
        return losses.LOSSES[name].errors(flow, bj.Theta(raw, base, N), paths, **options)

    jacobian = reference.finite_differences(errors, theta.raw)
    found = jax.jit(lambda theta: linearise(name, flow, theta, paths, **options)[1])(theta)
    wanted = whole_matrix(np.asarray(errors(theta.raw)), jacobian, SLOPES[name])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("name", NAMES)
def test_the_forward_mode_gradient_is_the_gradient_of_the_loss(base, name, flow, paths):
    theta, options = random_theta(base), dict(lipschitz=1.7) if name == "rmse_bound" else {}
    found = jax.jit(lambda theta: linearise(name, flow, theta, paths, **options)[0])(theta)
    wanted = jax.jit(jax.grad(lambda theta: losses.LOSSES[name].function(flow, theta, paths, **options)))(theta).raw
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * float(jnp.max(jnp.abs(wanted))))


def test_a_table_has_a_matrix_too(flow, paths):
    table = bj.classic.midpoint(4, dtype=jnp.float64)
    matrix = jax.jit(lambda table: linearise("rmse", flow, table, paths)[1])(table)
    assert matrix.shape == (4 + 4 + 16,) * 2
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-10)
    assert np.min(np.linalg.eigvalsh(matrix)) > -1e-10 * np.max(matrix)
