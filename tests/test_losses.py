"""The losses against NumPy, the auxiliary path, that the bound bounds, and every gradient.

To compile a loss and its gradient takes seconds, so most tests share one compiled function, `everything`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import bespoke_jax as bj
from bespoke_jax.fitting import losses
from bespoke_jax.metrics import mean_square
from tests import reference, zoo
from tests.test_curvature import errors_of

pytestmark = pytest.mark.usefixtures("float64")

NAMES = list(losses.LOSSES)
N = 3


def stacked(flow, theta, paths, lipschitz=1.0):
    """All losses, in the order of NAMES."""
    bound = losses.rmse_bound(flow, theta, paths, lipschitz)
    return jnp.stack([bound, *(losses.named(name)(flow, theta, paths) for name in NAMES[1:])])


values = jax.jit(stacked)


@jax.jit
def everything(flow, theta, paths):
    """All losses [4], and their gradients in the flow [4, ...] and in theta [4, ...], backwards."""
    found, pull = jax.vjp(lambda flow, theta: stacked(flow, theta, paths), flow, theta)
    return found, *jax.vmap(pull)(jnp.eye(len(NAMES)))


def random_theta(base, seed=0):
    knots = reference.random_knots(base, N, seed)
    return bj.theta_from_knots(base, *knots, dtype=jnp.float64), knots


def velocity(p, t, x):
    return p[0] * jnp.sin(3 * t) * x - p[1] * x**3 + p[2] * t


FLOW_PARAMS = np.array([0.8, 0.3, 1.1])


@pytest.fixture(scope="module")
def flow(float64):
    return bj.Flow(velocity, jnp.asarray(FLOW_PARAMS), (2,))


@pytest.fixture(scope="module")
def paths(flow):
    return bj.ground_truth(flow, jnp.asarray(np.random.default_rng(0).standard_normal((3, 2))), 1e-7, 1e-7)


# --- Values. ---


def test_the_names_are_those_of_the_paper_and_its_ablations():
    assert NAMES == ["rmse_bound", "local", "rmse", "sqrt_rmse", "endpoint"]
    for name in NAMES:
        assert losses.named(name).name == name and callable(getattr(losses, name))


def check_against_numpy(flow, theta, knots, paths, u):
    def x_at(t):
        return np.asarray(paths.at(float(t)))

    for lipschitz in (1.0, 2.5):
        options = {"rmse_bound": dict(lipschitz=lipschitz)}
        wanted = [reference.LOSSES[name](theta.base, knots, N, x_at, u, **options.get(name, {})) for name in NAMES]
        np.testing.assert_allclose(values(flow, theta, paths, lipschitz), wanted, rtol=1e-9)


FEW = ("mixture image",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in zoo.PROBLEMS])
def test_every_loss_on_every_problem_against_numpy(name):
    problem = zoo.PROBLEMS[name]
    check_against_numpy(problem.flow, *random_theta("rk2"), problem.paths, problem.velocity)


def test_every_loss_of_both_bases_against_numpy(base, flow, paths):
    check_against_numpy(flow, *random_theta(base), paths, lambda t, x: np.asarray(velocity(FLOW_PARAMS, t, x)))


def test_the_default_lipschitz_constant_is_the_papers(flow, paths):
    theta, _ = random_theta("rk2")
    default = jax.jit(losses.rmse_bound)(flow, theta, paths)
    np.testing.assert_allclose(default, values(flow, theta, paths, 1.0)[0], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 4])
def test_weights_against_an_explicit_product(base, n):
    # Uneven steps: the product taken from the wrong end gives other numbers.
    knots = reference.random_knots(base, n, seed=3)
    theta = bj.theta_from_knots(base, *knots, dtype=jnp.float64)
    constants = reference.lipschitz_constants(base, knots, n, 1.3)
    np.testing.assert_allclose(losses.bound_weights(theta, 1.3), reference.bound_weights(constants), rtol=1e-9)


def test_a_table_can_be_scored_at_its_end(flow, paths):
    theta, _ = random_theta("rk2")

    @jax.jit
    def ends(solver):
        return jnp.stack([getattr(losses, name)(flow, solver, paths) for name in NAMES[2:]])

    np.testing.assert_allclose(ends(bj.to_table(theta)), values(flow, theta, paths)[2:], rtol=1e-9)


def test_losses_are_means_over_the_paths(flow, paths):
    theta, _ = random_theta("rk2")
    each = [values(flow, theta, paths.take(jnp.array([k, k, k]))) for k in (2, 0, 1)]
    np.testing.assert_allclose(values(flow, theta, paths), np.mean(each, axis=0), rtol=1e-10)


def test_a_batch_of_two_axes_gives_the_same_losses(flow, paths):
    theta, _ = random_theta("rk2")
    nested = dataclasses.replace(paths, batch_shape=(3, 1))
    np.testing.assert_allclose(values(flow, theta, nested), values(flow, theta, paths), rtol=1e-12)


@pytest.mark.parametrize("base", ["rk1", pytest.param("rk2", marks=pytest.mark.slow)])
def test_an_error_of_zero_has_finite_losses_and_gradients(base, paths):
    # u = 0: every path stays and the base solver is exact, but root and logarithm have no derivative at 0.
    still = dataclasses.replace(
        paths,
        states=jnp.ones_like(paths.states),
        middles=jnp.ones_like(paths.middles),
        velocities=jnp.zeros_like(paths.velocities),
    )
    start = bj.init_theta(base, N, dtype=jnp.float64)
    found = everything(bj.Flow(velocity, jnp.zeros(3), (2,)), start, still)
    np.testing.assert_allclose(found[0][:3], 0.0, atol=1e-8)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))


# --- The auxiliary path, eq. (27). ---


@pytest.mark.parametrize("t", [0.0, 0.37, 1.0])
def test_auxiliary_path_has_the_value_and_the_derivative_of_the_path(paths, t):
    x, slope = jax.jvp(lambda t: losses.auxiliary_path(paths, t), (jnp.float64(t),), (jnp.float64(1.0),))
    np.testing.assert_allclose(x, paths.at(t), rtol=1e-13)
    np.testing.assert_allclose(slope, paths.velocity(t), rtol=1e-12)


def test_auxiliary_path_is_straight(paths):
    # Its second derivative is 0: nothing but x([t]) and u([t]) is left of the solve.
    second = jax.jacfwd(jax.jacfwd(lambda t: losses.auxiliary_path(paths, t)))(jnp.float64(0.4))
    np.testing.assert_array_equal(second, np.zeros((3, 2)))


def test_no_gradient_enters_the_reference_solve(paths):
    def through(states, velocities, middles, times, t):
        changed = dataclasses.replace(paths, states=states, velocities=velocities, middles=middles, times=times)
        return jnp.sum(losses.auxiliary_path(changed, t) ** 2)

    arrays = (paths.states, paths.velocities, paths.middles, paths.times)
    *of_arrays, of_t = jax.jit(jax.grad(through, argnums=(0, 1, 2, 3, 4)))(*arrays, jnp.float64(0.4))
    for gradient in of_arrays:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    np.testing.assert_allclose(of_t, 2 * np.sum(paths.at(0.4) * paths.velocity(0.4)), rtol=1e-12)


def test_auxiliary_path_takes_every_time_that_the_path_takes(paths):
    t = jnp.array([0.2, 0.7])
    np.testing.assert_allclose(losses.auxiliary_path(paths, t), paths.at(t), rtol=1e-13)
    np.testing.assert_allclose(losses.auxiliary_path(paths, 0.2), paths.at(0.2), rtol=1e-13)
    np.testing.assert_allclose(losses.auxiliary_path(paths, jnp.float32(0.25)), paths.at(0.25), rtol=1e-13)


# --- The bound bounds. Linear fields, whose paths are matrix exponentials. ---

MATRIX = np.array([[0.3, -1.5, 0.2], [1.2, -0.4, 0.0], [0.5, 0.1, -1.0]])
LINEAR = {  # name -> (matrix, its Lipschitz constant: the spectral norm, in the RMS norm too)
    "matrix": (MATRIX, np.linalg.norm(MATRIX, 2)),
    "decay": (-3.0 * np.eye(3), 3.0),
    "growth": (np.eye(3), 1.0),
}
NOISES = np.random.default_rng(0).standard_normal((4, 3))


def linear_paths(matrix):
    """x(t) = exp(t A) x0 in 32 intervals: the quartics are off by some 1e-10."""
    times = np.linspace(0, 1, 33)

    def along(ts):
        return np.stack([NOISES @ scipy.linalg.expm(t * matrix).T for t in ts], axis=1)

    states, middles = along(times), along((times[:-1] + times[1:]) / 2)
    arrays = np.tile(times, (4, 1)), states, states @ matrix.T, middles
    return bj.Paths(*map(jnp.asarray, arrays), evaluations=jnp.zeros(4, jnp.int32), batch_shape=(4,))


def linear(params, t, x):
    return x @ params.T


@jax.jit
def bounds_and_errors(matrix, thetas, paths, lipschitz):
    flow = bj.Flow(linear, matrix, (3,))

    def both(theta):
        return losses.rmse_bound(flow, theta, paths, lipschitz), losses.rmse(flow, theta, paths)

    return jax.vmap(both)(thetas)


@pytest.mark.parametrize("name", LINEAR)
def test_the_bound_is_no_smaller_than_the_global_error(base, name):
    matrix, constant = LINEAR[name]
    raws = np.random.default_rng(1).standard_normal((200, bj.init_theta(base, 4).num_parameters))
    raws *= np.repeat([0.1, 0.5, 1.0, 2.0], 50)[:, None]  # from nearly the base solver to nothing like it
    for factor in (1.0, 1.5):
        bound, error = bounds_and_errors(
            jnp.asarray(matrix), bj.Theta(jnp.asarray(raws), base, 4), linear_paths(matrix), factor * constant
        )
        assert np.all(bound >= error * (1 - 1e-9) - 1e-9)


def test_the_bound_is_attained():
    # x' = x by Euler with uneven steps: every local error has the same sign and every step stretches by exactly L_i,
    # so the bound is the global error itself. With the product of the L_i taken from the wrong end it is not.
    h = np.array([0.1, 0.5, 0.15, 0.25])
    t = np.concatenate([[0.0], np.cumsum(h)])
    theta = bj.theta_from_knots("rk1", t, 4 * h, np.ones(5), np.zeros(4), dtype=jnp.float64)
    many = bj.Theta(jnp.tile(theta.raw, (200, 1)), "rk1", 4)
    bound, error = bounds_and_errors(jnp.eye(3), many, linear_paths(np.eye(3)), 1.0)
    wanted = np.mean([reference.rms(x) for x in NOISES]) * (np.e - np.prod(1 + h))
    np.testing.assert_allclose(error, wanted, rtol=1e-8)
    np.testing.assert_allclose(bound, wanted, rtol=1e-8)


def test_too_small_a_constant_bounds_nothing():
    # The condition of the theorem is needed: with L = 0 some theta's error is above its "bound".
    raws = 0.5 * np.random.default_rng(1).standard_normal((200, 15))
    bound, error = bounds_and_errors(jnp.eye(3), bj.Theta(jnp.asarray(raws), "rk1", 4), linear_paths(np.eye(3)), 0.0)
    assert np.any(bound < error)


# --- Gradients. ---


@pytest.mark.parametrize("base", [pytest.param("rk1", marks=pytest.mark.slow), "rk2"])
def test_gradients_in_theta_against_finite_differences(base, flow, paths):
    theta, _ = random_theta(base, seed=2)
    found = everything(flow, theta, paths)[2].raw
    wanted = reference.finite_differences(
        lambda raw: everything(flow, bj.Theta(jnp.asarray(raw), base, N), paths)[0], theta.raw
    )
    assert np.all(np.abs(wanted) > 1e-10)  # every parameter matters to every loss
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("base", [pytest.param("rk1", marks=pytest.mark.slow), "rk2"])
def test_gradients_in_the_flow_against_finite_differences(base, flow, paths):
    # With the paths held fixed.
    theta, _ = random_theta(base, seed=2)
    found = everything(flow, theta, paths)[1].params
    wanted = reference.finite_differences(
        lambda params: everything(bj.Flow(velocity, jnp.asarray(params), (2,)), theta, paths)[0], FLOW_PARAMS
    )
    assert np.all(np.abs(wanted) > 1e-10)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_sum_of_its_parts(flow, paths, name):
    # What second-order methods take apart, put together again: E sum_i phi(mean_j e_ij^2).
    theta, _ = random_theta("rk2")
    loss = losses.named(name)
    errors = jax.jit(functools.partial(errors_of, loss))(flow, theta, paths)
    assert errors.shape[1:] == (3, 2)
    whole = np.mean(np.sum(loss.phi(mean_square(errors, 1)), axis=0))
    np.testing.assert_allclose(whole, values(flow, theta, paths)[NAMES.index(name)], rtol=1e-10)


# --- Shapes and dtypes. ---


def test_the_velocity_sees_one_batch_axis_in_every_loss(base, paths):
    shapes = set()

    def velocity(params, t, x):
        shapes.add((t.shape, x.shape))
        return -x

    jax.eval_shape(stacked, bj.Flow(velocity, None, (2,)), random_theta(base)[0], paths)
    assert shapes == {((), (3, 2))}


def test_float32_stays_float32(base, paths):
    flow = bj.Flow(lambda params, t, x: -t * x, None, (2,))
    narrow = jax.tree.map(lambda v: v.astype(jnp.float32) if v.dtype == jnp.float64 else v, paths)
    for name in NAMES:
        found = jax.eval_shape(losses.named(name), flow, bj.init_theta(base, N), narrow)
        assert found.dtype == jnp.float32 and found.shape == ()
