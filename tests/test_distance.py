"""Distances of the user's own: value, gradient and matrix, and a fit to them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.gauss_newton import evaluate, linearise
from bespoke_jax.fitting.losses import Distance

KEY = jax.random.key(0)
SOLVER = bj.init_theta("rk1", 4)
MIXING = np.random.default_rng(5).standard_normal((2, 5)).astype(np.float32)


def squares(x, x1):
    return jnp.mean((x - x1) ** 2, axis=-1)


def weighted(x, x1):
    """No mean square, but like one near 0."""
    return jnp.sum((x - x1) ** 2 * jnp.array([1.0, 3.0]) + (x - x1) ** 4, axis=-1)


def identity(x):
    return x


def features(x):
    return jnp.tanh(x @ MIXING).reshape(len(x), 5, 1)


def feature_squares(x, x1):
    return jnp.mean((features(x) - features(x1)) ** 2, axis=(1, 2))


@pytest.fixture(scope="module")
def flow():
    return bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)


@pytest.fixture(scope="module")
def paths(flow):
    return tuple(bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 3))


@pytest.fixture(scope="module")
def end_and_jacobian(flow, paths):
    """x_n of SOLVER [B, 2] and its derivatives in the numbers [B, 2, P]."""

    @jax.jit
    def end(raw):
        return bj.solve(flow, SOLVER.with_raw(raw), paths[0].x0)

    return end(SOLVER.raw), np.asarray(jax.jit(jax.jacfwd(end))(SOLVER.raw), np.float64)


def test_of_mean_squares_it_is_the_loss_of_the_library(flow, paths):
    wanted = linearise(bj.losses.Endpoint(), flow, SOLVER, paths[0], KEY)
    for distance in (Distance(squares), Distance(features=identity)):
        found = linearise(distance, flow, SOLVER, paths[0], KEY)
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)
        np.testing.assert_allclose(found.gradient, wanted.gradient, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(evaluate(distance, flow, SOLVER, paths[0]), wanted.value, rtol=1e-5)
        np.testing.assert_allclose(distance(flow, SOLVER, paths[0]), wanted.value, rtol=1e-5)
        if distance.features is not None:  # the same probes, too
            np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-5, atol=1e-5)


SLOPES = {"log": lambda d: 1 / d, "root": lambda d: 0.5 / np.sqrt(d), "mean": np.ones_like}


@pytest.mark.parametrize("average", SLOPES)
def test_a_function_has_the_matrix_of_its_root(flow, paths, end_and_jacobian, average):
    found = linearise(Distance(weighted, average=average), flow, SOLVER, paths[0], KEY)
    end, jacobian = end_and_jacobian
    error = np.asarray(end - paths[0].x1, np.float64)
    values = np.asarray(weighted(end, paths[0].x1), np.float64)
    rows = np.einsum("be,bep->bp", 2 * np.array([1.0, 3.0]) * error + 4 * error**3, jacobian)
    slopes = SLOPES[average](values)
    wanted = np.mean(slopes[:, None] * rows, axis=0)
    np.testing.assert_allclose(found.gradient, wanted, rtol=1e-3, atol=1e-4 * np.max(np.abs(wanted)))
    by_root = rows / (2 * np.sqrt(values))[:, None]
    wanted = np.einsum("b,bp,bq->pq", 2 * slopes, by_root, by_root) / len(rows)
    np.testing.assert_allclose(found.matrix, wanted, rtol=1e-3, atol=1e-4 * np.max(np.abs(wanted)))


def test_features_have_the_whole_matrix_in_expectation(flow, paths, end_and_jacobian):
    found = linearise(Distance(features=features, average="mean"), flow, SOLVER, paths[0], KEY, probes=200)
    end, jacobian = end_and_jacobian
    pushed = (1 - np.asarray(features(end)) ** 2) * MIXING.T  # d features / dx, [B, 5, 2]
    rows = np.einsum("bfe,bep->bfp", pushed, jacobian)
    difference = np.asarray(features(end) - features(paths[0].x1))[..., 0]
    wanted = 2 / 5 * np.mean(np.einsum("bf,bfp->bp", difference, rows), axis=0)
    np.testing.assert_allclose(found.gradient, wanted, rtol=1e-3, atol=1e-4 * np.max(np.abs(wanted)))
    wanted = 2 / 5 * np.einsum("bfp,bfq->pq", rows, rows) / len(rows)
    scale = np.sqrt(np.diag(wanted))
    assert np.max(np.abs(np.asarray(found.matrix) - wanted) / np.outer(scale, scale)) < 0.05


def test_an_error_of_0_harms_nothing(flow, paths):
    ends = bj.adjoint.end_points(flow, SOLVER, paths[0].x0)
    there = bj.Paths.of_ends(flow, paths[0].x0, ends)
    for distance in (Distance(squares), Distance(features=identity), Distance(squares, average="root")):
        assert all(np.all(np.isfinite(part)) for part in linearise(distance, flow, SOLVER, there, KEY))


@pytest.mark.parametrize(
    "distance", [Distance(features=features), Distance(feature_squares)], ids=["features", "function"]
)
def test_a_fit_lowers_the_distance_on_fresh_noise(flow, paths, distance):
    result = bj.fit(
        flow,
        SOLVER,
        KEY,
        bj.Recipe(stages=(bj.Stage(distance, 8),), choose_start=False),
        paths=paths[0],
        validation=paths[0],
    )
    before, after = (float(evaluate(distance, flow, solver, paths[1])) for solver in (SOLVER, result.theta))
    assert 10 / np.log(10) * (before - after) > 6  # dB
    assert result.history[1]["stage"] == "distance"


def test_it_costs_no_probes_where_there_are_none(flow, paths):
    spent = []
    for distance in (Distance(features=identity), Distance(squares)):
        stage = bj.Stage(distance, 1, batch_size=64)
        state = stage.optimizer.init(SOLVER.raw)
        spent.append(stage.update(flow, SOLVER, state, paths[0], KEY, 0, 1)[-1])
    assert spent == [64 * 4 * (3 + stage.probes + 1), 64 * 4 * (3 + 1)]


def test_stages_of_either_order_take_it():
    distance = Distance(features=features, name="mixed")
    assert bj.Stage(distance).is_second_order and bj.Stage(distance, optimizer=optax.adam(1e-2)).name == "mixed"
    assert hash(distance) == hash(Distance(features=features, name="mixed"))


ONES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Distance(), TypeError, r"Distance.*function.*features.*\{\}"),
        (lambda: Distance(squares, identity), TypeError, "Distance.*one function"),
        (lambda: Distance("lpips"), TypeError, "Distance.*'lpips'"),
        (lambda: Distance(squares, average="median"), ValueError, r"average.*'log'.*'median'"),
        (lambda: Distance(lambda x, x1: jnp.sum(x - x1)).between(ONES, ONES), ValueError, r"function.*\(3,\).*\(\)"),
        (lambda: Distance(features=jnp.sum).between(ONES, ONES), ValueError, r"features.*\[3, \.\.\.\].*\(\)"),
        (lambda: Distance(squares, name=3), TypeError, "Distance.name: wanted a name, got int"),
        (lambda: Distance(features=lambda x: x > 0).between(ONES, ONES), TypeError, "Distance.features: .* got bool"),
        (lambda: Distance(features=lambda x: x * 1j).between(ONES, ONES), TypeError, "features: .* got complex64"),
        (lambda: Distance(features=list).between(ONES, ONES), TypeError, "features: wanted a floating array, got list"),
        (lambda: Distance(lambda x, x1: jnp.arange(3)).between(ONES, ONES), TypeError, "function: .* got int32"),
        (lambda: Distance(lambda x, x1: 0.5).between(ONES, ONES), TypeError, "function: .* got float"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
