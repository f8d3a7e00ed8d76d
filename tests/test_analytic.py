"""The closed-form flows: against loops, against the continuity equation, and where formulas divide by 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.8])
def test_velocity_of_every_problem_against_loops(problem, t):
    x = problem.x_at_time(t, 3)
    found = zoo.call(problem.flow, t, jnp.asarray(x))
    np.testing.assert_allclose(found, problem.velocity(t, x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scheduler", zoo.SCHEDULERS)
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_velocity_moves_the_density(scheduler, t):
    # The continuity equation on the line, dp/dt + d(p u)/dx = 0: nothing in it knows how the velocity was derived.
    data = dict(means=[-1.0, 1.5], std=[0.3, 0.6], weights=[0.4, 0.6])
    flow = bj.analytic.mixture(data["means"], jnp.asarray(data["std"]), data["weights"], zoo.SCHEDULERS[scheduler])
    alpha, sigma, _, _ = reference.SCHEDULERS[scheduler](t)
    x = np.linspace(-2 * (alpha + sigma), 2.5 * (alpha + sigma), 40)
    h, step = 1e-5, 1e-5 * (alpha + sigma)

    def density(t, x):
        return reference.mixture_density(scheduler, **data, t=t, x=x)

    def flux(x):
        return density(t, x) * np.asarray(flow(t, jnp.asarray(x)))

    gain = (density(t + h, x) - density(t - h, x)) / (2 * h)
    loss = (flux(x + step) - flux(x - step)) / (2 * step)
    np.testing.assert_allclose(gain, -loss, atol=1e-6 * np.max(np.abs(gain)))


def test_velocity_is_finite_at_both_ends_and_far_away(problem):
    for t in (0.0, 1.0):
        for dtype in (jnp.float32, jnp.float64):
            for scale in (1.0, 1e3):
                x = jnp.asarray(scale * problem.x_at_time(0.5, 3), dtype)
                u = zoo.call(problem.flow, t, x)
                assert u.dtype == dtype and np.all(np.isfinite(u))


def test_float32_agrees_with_float64(problem):
    x = problem.x_at_time(0.5, 3)
    wide, narrow = (zoo.call(problem.flow, 0.5, jnp.asarray(x, dtype)) for dtype in (jnp.float64, jnp.float32))
    np.testing.assert_allclose(narrow, wide, rtol=2e-4, atol=2e-4 * float(jnp.max(jnp.abs(wide))))


def test_straight_gaussian_by_hand():
    # CondOT, one Gaussian N(m, s^2): u = m + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (x - t m).
    mean, std, t, x = 2.0, 0.5, 0.3, 1.7
    wanted = mean + (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)
    np.testing.assert_allclose(bj.analytic.gaussian(mean, std)(t, jnp.float64(x)), wanted, rtol=1e-12)


def test_a_gaussian_is_a_mixture_of_one():
    mean = np.array([1.0, -2.0])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    np.testing.assert_array_equal(bj.analytic.gaussian(mean, 0.4)(0.3, x), bj.analytic.mixture(mean[None], 0.4)(0.3, x))


def test_equal_components_are_one():
    mean = np.array([1.0, -2.0])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    np.testing.assert_allclose(
        bj.analytic.mixture([mean] * 3, 0.4)(0.3, x), bj.analytic.gaussian(mean, 0.4)(0.3, x), rtol=1e-12
    )


def test_weights_are_normalised_and_equal_if_not_given():
    means = [[-1.0], [2.0]]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 1)))
    once, tenfold = (bj.analytic.mixture(means, 0.5, weights)(0.4, x) for weights in ([1.0, 3.0], [10.0, 30.0]))
    np.testing.assert_allclose(once, tenfold, rtol=1e-13)
    plain, equal = (bj.analytic.mixture(means, 0.5, weights)(0.4, x) for weights in (None, [1.0, 1.0]))
    np.testing.assert_array_equal(plain, equal)
    assert not np.allclose(plain, once)


def test_finite_data_is_the_weighted_mean_of_the_points():
    # Eq. (23), CondOT: E[x1 | x] weighs x1 by exp(-|x - t x1|^2 / (2 (1 - t)^2)), and u = (E[x1 | x] - x) / (1 - t).
    points = np.array([[-1.0, 0.5], [1.0, 0.0], [0.0, -1.5]])
    t, x = 0.4, np.array([0.3, -0.2])
    chances = np.exp(-np.sum((x - t * points) ** 2, axis=1) / (2 * (1 - t) ** 2))
    mean = chances @ points / np.sum(chances)
    found = bj.analytic.finite_data(points)(t, jnp.asarray(x))
    np.testing.assert_allclose(found, (mean - x) / (1 - t), rtol=1e-5)


def test_finite_data_ends_at_its_points():
    points = np.array([[-1.0, 0.5], [1.0, 0.0], [0.0, -1.5]])
    flow = bj.analytic.finite_data(points)
    x0 = np.random.default_rng(0).standard_normal((6, 2))
    ends = np.asarray(bj.ground_truth(flow, jnp.asarray(x0), rtol=1e-4, atol=1e-4).x1)
    distances = np.linalg.norm(ends[:, None] - points, axis=-1)
    assert np.all(np.min(distances, axis=1) < 0.02)
    assert len(set(np.argmin(distances, axis=1).tolist())) > 1


def test_flows_of_one_scheduler_share_what_is_compiled():
    # The velocity is one function per scheduler: data are parameters.
    one, two = (bj.analytic.gaussian(mean, 0.4) for mean in ([1.0, 2.0], [3.0, -1.0]))
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_the_scheduler_is_told_and_is_condot_if_not_given(problem):
    assert problem.flow.scheduler == zoo.SCHEDULERS[problem.scheduler]
    assert bj.analytic.gaussian([0.0], 1.0).scheduler == bj.schedulers.CondOT()


def test_means_without_components():
    for means in (1.0, np.zeros((0, 2))):
        with pytest.raises(ValueError, match=r"means: wanted shape \[K, \*event_shape\]"):
            bj.analytic.mixture(means, 0.1)


def test_weights_for_other_components():
    with pytest.raises(ValueError, match=r"weights: wanted shape \(2,\)"):
        bj.analytic.mixture([[0.0], [1.0]], 0.1, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(means=[["a"]]), "means: wanted finite real numbers, got"),
        (dict(means=[[1j], [0.0]]), "means: wanted finite real numbers, got"),
        (dict(means=[[np.nan], [0.0]]), "means: wanted finite real numbers, got"),
        (dict(means=[[1.0], [0.0, 1.0]]), "means: wanted finite real numbers, got"),
        (dict(std=-0.1), r"std: wanted numbers >= 0, got -0\.1"),
        (dict(std=np.nan), "std: wanted finite real numbers, got nan"),
        (dict(std=[0.1, 0.2, 0.3]), r"std: wanted one number, or shape \(2,\), one for each mean, got \(3,\)"),
        (dict(std=[0.1]), r"std: wanted one number, or shape \(2,\)"),
        (dict(std="0.1"), "std: wanted finite real numbers"),
        (dict(weights=[1.0, 0.0]), "weights: wanted numbers > 0, got"),
        (dict(weights=[1.0, -1.0]), "weights: wanted numbers > 0, got"),
        (dict(weights=[1.0, np.inf]), "weights: wanted finite real numbers, got"),
    ],
)
def test_what_is_no_mixture(arguments, message):
    with pytest.raises(ValueError, match=message):
        bj.analytic.mixture(**(dict(means=[[0.0], [1.0]], std=0.5) | arguments))


def test_the_name_of_the_argument_is_the_callers():
    with pytest.raises(ValueError, match="mean: wanted finite real numbers"):
        bj.analytic.gaussian([np.nan], 1.0)
    with pytest.raises(ValueError, match="points: wanted finite real numbers"):
        bj.analytic.finite_data([[np.inf]])


def test_data_may_be_traced():
    def velocity(mean, std):
        return bj.analytic.mixture([mean, -mean], std, [1.0, 2.0])(0.4, jnp.ones(2))

    mean, std = jnp.array([1.0, 0.5]), jnp.asarray(0.3)
    np.testing.assert_allclose(jax.jit(velocity)(mean, std), velocity(mean, std), rtol=1e-12)
