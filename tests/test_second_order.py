"""Levenberg-Marquardt on problems whose minimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.second_order import levenberg_marquardt
from tests import quick

pytestmark = pytest.mark.usefixtures("float64")


def minimise(residual, start, steps, **options):
    """(parameters, all values) of `steps` steps on sum residual^2."""
    method = levenberg_marquardt(**options)

    def value_fn(params):
        return jnp.sum(residual(params) ** 2)

    def curvature(params):
        jacobian = jax.jacfwd(residual)(params)
        return 2 * jacobian.T @ jacobian

    @quick.jit
    def step(params, state):
        value, slope = jax.value_and_grad(value_fn)(params)
        update, state = method.update(slope, state, params, value=value, value_fn=value_fn, curvature=curvature(params))
        return optax.apply_updates(params, update), state, value

    params, values = start, []
    state = method.init(params)
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
    return params, [*values, float(value_fn(params))]


def rosenbrock(p):
    return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


START = jnp.asarray(np.array([-1.2, 1.0]))


def test_linear_least_squares():
    rng = np.random.default_rng(0)
    matrix, target = rng.standard_normal((8, 3)), rng.standard_normal(8)
    found, _ = minimise(lambda p: jnp.asarray(matrix) @ p - target, jnp.zeros(3), 12)
    np.testing.assert_allclose(found, np.linalg.lstsq(matrix, target)[0], atol=1e-9)


def test_rosenbrock():
    found, values = minimise(rosenbrock, START, 40)
    np.testing.assert_allclose(found, [1.0, 1.0], atol=1e-6)
    assert values[-1] < 1e-12


@pytest.mark.parametrize(
    "residual, start",
    [
        (rosenbrock, [-1.2, 1.0]),
        (lambda p: jnp.stack([jnp.exp(p[0]) - 2, jnp.sin(5 * p[1]) + p[0] * p[1], p[1] ** 3]), [3.0, -2.0]),
        (lambda p: jnp.stack([jnp.tanh(20 * p[0]), jnp.cos(9 * p[1]) + 2, p[0] * p[1]]), [0.3, 0.1]),
    ],
)
def test_the_value_never_grows(residual, start):
    _, values = minimise(residual, jnp.asarray(start), 25)
    assert np.all(np.diff(values) <= 0) and values[-1] < values[0]


def test_no_parameter_moves_further_than_the_limit():
    found, _ = minimise(lambda p: p - 100.0, jnp.zeros(2), 3, limit=0.5)
    np.testing.assert_allclose(found, 1.5, rtol=1e-6)


def test_a_parameter_that_moves_nothing_stays():
    found, _ = minimise(lambda p: jnp.stack([p[0] - 0.5, 2 * p[0] - 1.0]), jnp.asarray([0.0, 0.3]), 8)
    np.testing.assert_allclose(found, [0.5, 0.3], atol=1e-8)


def test_no_step_into_nan():
    # log of a negative number is NaN: a full Gauss-Newton step would go there.
    found, values = minimise(lambda p: jnp.log(p) + 3, jnp.asarray([2.0]), 30, limit=10.0)
    np.testing.assert_allclose(found, np.exp(-3.0), rtol=1e-6)
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize("what", ["value", "slope", "curvature", "judge"])
def test_nan_anywhere_means_standing_still(what):
    method = levenberg_marquardt()
    params = jnp.asarray([1.0, -2.0])
    nan = jnp.float64(jnp.nan)
    given = dict(value=jnp.float64(5.0), slope=2 * params, curvature=2 * jnp.eye(2), judge=lambda p: jnp.sum(p**2))
    given[what] = (lambda p: nan) if what == "judge" else nan * given[what]
    step, state = method.update(
        given["slope"],
        method.init(params),
        params,
        value=given["value"],
        value_fn=given["judge"],
        curvature=given["curvature"],
    )
    np.testing.assert_array_equal(step, np.zeros(2))
    assert np.isfinite(state.damping)


def test_standing_still_damps_more_and_success_less():
    method = levenberg_marquardt(damping=1e-2)
    params = jnp.asarray([1.0, -2.0])
    state = method.init(params)

    def next_damping(value):
        options = dict(value=value, value_fn=lambda p: jnp.sum(p**2), curvature=2 * jnp.eye(2))
        return float(method.update(2 * params, state, params, **options)[1].damping)

    assert next_damping(jnp.float64(5.0)) < 1e-2 < next_damping(jnp.float64(-1.0))


def test_the_parameters_may_be_a_theta():
    theta = bj.init_theta("rk1", 2, dtype=jnp.float64)
    method = levenberg_marquardt()

    def value_fn(theta):
        return jnp.sum((theta.raw - 0.2) ** 2)

    step, _ = method.update(
        jax.grad(value_fn)(theta),
        method.init(theta),
        theta,
        value=value_fn(theta),
        value_fn=value_fn,
        curvature=2 * jnp.eye(theta.num_parameters),
    )
    assert isinstance(step, bj.Theta)
    np.testing.assert_allclose(optax.apply_updates(theta, step).raw, 0.2, atol=1e-3)


def test_float32_stays_float32():
    method = levenberg_marquardt()
    params = jnp.asarray([1.0, -2.0], jnp.float32)
    step, state = method.update(
        2 * params,
        method.init(params),
        params,
        value=jnp.float32(5.0),
        value_fn=lambda p: jnp.sum(p**2),
        curvature=2 * jnp.eye(2, dtype=jnp.float32),
    )
    assert step.dtype == state.damping.dtype == jnp.float32
