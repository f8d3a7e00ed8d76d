"""One step: eqs. (17), (19)-(20) against NumPy, and how far a step stretches a distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference

pytestmark = pytest.mark.usefixtures("float64")

N = 3


def u(t, x):
    """Works on NumPy and JAX arrays alike; nothing in it is linear or autonomous."""
    return (1 + t) * x - 0.3 * x**3 + t * t


def random_theta(base, seed=0, dtype=jnp.float64):
    knots = reference.random_knots(base, N, seed)
    return bj.theta_from_knots(base, *knots, dtype=dtype), knots


POINTS = np.random.default_rng(7).standard_normal((5, 2, 3))


@pytest.mark.parametrize("seed", range(3))
def test_step_against_numpy(base, seed):
    theta, knots = random_theta(base, seed)
    for i in range(N):
        t_wanted, x_wanted = reference.STEPS[base](knots, N, i, POINTS, u)
        t, x = bj.step_theta(theta, i, jnp.asarray(POINTS), u)
        np.testing.assert_allclose(t, t_wanted, rtol=1e-12)
        np.testing.assert_allclose(x, x_wanted, rtol=1e-9)


def test_step_on_every_problem(problem, base):
    theta, knots = random_theta(base)
    x = problem.x_at_time(0.5, 2)
    step = jax.jit(lambda flow, theta, i, x: bj.step_theta(theta, i, x, flow))
    for i in range(N):
        wanted = reference.STEPS[base](knots, N, i, x, problem.velocity)[1]
        found = step(problem.flow, theta, i, jnp.asarray(x))[1]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_identity_step_is_the_base_solver(base):
    theta = bj.init_theta(base, N, dtype=jnp.float64)
    x = POINTS
    for i in range(N):
        t, x = bj.step_theta(theta, i, jnp.asarray(x), u)
        assert float(t) == pytest.approx((i + 1) / N, abs=1e-15)
    literal = {"rk1": reference.euler, "rk2": reference.midpoint}[base]
    np.testing.assert_allclose(x, literal(u, POINTS, N), rtol=1e-14)


def test_steps_end_at_time_1(base):
    theta, _ = random_theta(base)
    assert float(bj.step_theta(theta, N - 1, jnp.asarray(POINTS), u)[0]) == 1.0


def test_the_velocity_is_asked_at_the_knots(base):
    # rk1 only at t_i; rk2 at t_i and t_{i+1/2}, never at t_{i+1}.
    theta, knots = random_theta(base)
    asked = []
    for i in range(N):
        bj.step_theta(theta, i, jnp.ones(2), lambda t, x: asked.append(float(t)) or x)
    np.testing.assert_allclose(asked, knots[0][:-1], atol=1e-13)


# --- Transformations. ---


def test_vmap_over_the_step_number(base):
    theta, knots = random_theta(base)
    i = jnp.arange(N)
    t, x = jax.jit(jax.vmap(lambda i: bj.step_theta(theta, i, jnp.asarray(POINTS), u)))(i)
    for k in range(N):
        wanted = reference.STEPS[base](knots, N, k, POINTS, u)
        np.testing.assert_allclose(t[k], wanted[0], rtol=1e-12)
        np.testing.assert_allclose(x[k], wanted[1], rtol=1e-9)


def test_gradient_of_a_step_against_finite_differences(base):
    theta, _ = random_theta(base)

    def value(raw):
        return jnp.sum(jnp.sin(bj.step_theta(bj.Theta(raw, base, N), 1, jnp.asarray(POINTS), u)[1]))

    wanted = reference.finite_differences(jax.jit(value), theta.raw)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(theta.raw), wanted, rtol=1e-6, atol=1e-7)


def test_pmap(base):
    theta, knots = random_theta(base)
    # Inside pmap the theta comes as an argument, as in a data-parallel fit.
    step = jax.pmap(lambda theta, x: bj.step_theta(theta, 1, x, u)[1], in_axes=(None, 0))
    found = step(theta, jnp.asarray(POINTS)[None])[0]
    np.testing.assert_allclose(found, reference.STEPS[base](knots, N, 1, POINTS, u)[1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("theta_dtype", [jnp.float64, jnp.float32])
def test_the_state_keeps_its_dtype_whatever_the_thetas(base, dtype, theta_dtype):
    theta, _ = random_theta(base, dtype=theta_dtype)
    flow = bj.Flow(lambda params, t, x: -t.astype(x.dtype) * x, None, (3,))
    assert bj.step_theta(theta, 0, jnp.ones((2, 3), dtype), flow)[1].dtype == dtype


@pytest.mark.parametrize("i", [-1, N, 100, np.int64(N)])
def test_a_step_that_is_none(base, i):
    with pytest.raises(ValueError, match=f"i: wanted an integer from 0 to {N - 1}, got"):
        bj.step_theta(random_theta(base)[0], i, jnp.ones(2), u)


def test_a_step_that_is_no_integer(base):
    theta = random_theta(base)[0]
    for i in (1.5, 1.0, True, "1", None):
        with pytest.raises(ValueError, match=f"i: wanted an integer from 0 to {N - 1}, got"):
            bj.step_theta(theta, i, jnp.ones(2), u)
    for i in (jnp.float64(1.0), jnp.arange(2)):
        with pytest.raises(ValueError, match="i: wanted one integer, got"):
            bj.step_theta(theta, i, jnp.ones(2), u)
        with pytest.raises(ValueError, match="i: wanted one integer, got"):
            jax.jit(lambda i: bj.step_theta(theta, i, jnp.ones(2), u))(i)
    wanted = bj.step_theta(theta, 1, jnp.ones(2), u)
    for found in (
        bj.step_theta(theta, jnp.int32(1), jnp.ones(2), u),
        bj.step_theta(theta, np.int64(1), jnp.ones(2), u),
    ):
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"theta\.raw: wanted shape"):
        bj.step_theta(theta.with_raw(theta.raw[:-1]), 1, jnp.ones(2), u)
    with pytest.raises(TypeError, match="theta: wanted a theta of rk1 or rk2, got SolverTable"):
        bj.step_theta(bj.classic.euler(3), 1, jnp.ones(2), u)


# --- Lipschitz constants. ---


@pytest.mark.parametrize("lipschitz", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_lipschitz_constants_against_numpy(base, seed, lipschitz):
    theta, knots = random_theta(base, seed)
    wanted = reference.lipschitz_constants(base, knots, N, lipschitz)
    np.testing.assert_allclose(bj.step_lipschitz(theta, lipschitz), wanted, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_stretches_no_more_than_its_constant_and_can_stretch_as_much(base, seed):
    # With sdot >= 0 the field u = L x makes every inequality of the derivation an equality.
    t, dt, s, ds = reference.random_knots(base, N, seed)
    growing = bj.theta_from_knots(base, t, dt, s, np.abs(ds), dtype=jnp.float64)
    mixed = bj.theta_from_knots(base, t, dt, s, ds, dtype=jnp.float64)
    bound = 1.7

    def stretch(theta, factor):
        return np.array([bj.step_theta(theta, i, jnp.ones(1), lambda t, x: factor * x)[1][0] for i in range(N)])

    np.testing.assert_allclose(stretch(growing, bound), bj.step_lipschitz(growing, bound), rtol=1e-12)
    for factor in (-bound, 0.3, bound):
        assert np.all(np.abs(stretch(mixed, factor)) <= bj.step_lipschitz(mixed, bound) * (1 + 1e-12))


@pytest.mark.parametrize("lipschitz", [-1.0, np.nan, np.inf, "1", True, [1.0]])
def test_a_bound_that_is_none(base, lipschitz):
    with pytest.raises(ValueError, match="lipschitz: wanted a finite number >= 0, got"):
        bj.step_lipschitz(random_theta(base)[0], lipschitz)
