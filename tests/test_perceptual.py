"""The recipe for looks: learning by features, and the features that come with the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.gauss_newton import evaluate
from bespoke_jax.fitting.losses import Distance
from bespoke_jax.fitting.relax import relaxed

KEY = jax.random.key(0)
SOLVER = bj.init_theta("rk1", 1)


def identity(x):
    return x


def mostly_first(x):
    """Features that hardly see the other two coordinates."""
    return x * jnp.array([1.0, 0.02, 0.02], x.dtype)


@pytest.fixture(scope="module")
def flow():
    """Three rates, which one step cannot serve together: it takes each x0 to (A + B rate) x0."""
    return bj.Flow(lambda rates, t, x: rates * x, jnp.array([1.0, -1.0, -3.0]), (3,))


@pytest.fixture(scope="module")
def paths(flow):
    return tuple(bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))


def fitted(flow, paths, recipe, **options):
    return bj.fit(flow, SOLVER, KEY, recipe, paths=paths[0], validation=paths[1], **options)


def test_by_identical_features_it_is_the_end_point_recipe_bit_for_bit(flow, paths):
    wanted = fitted(flow, paths, bj.Recipe(stages=(bj.Stage("endpoint", 16),)))
    found = fitted(flow, paths, bj.perceptual(identity, 16, endpoint_iterations=0))
    assert found.start == wanted.start and found.cost == wanted.cost
    np.testing.assert_array_equal(found.theta.raw, wanted.theta.raw)
    np.testing.assert_array_equal(found.state.theta.raw, wanted.state.theta.raw)


def test_it_lowers_the_distance_of_features_on_fresh_noise(flow, paths):
    by_end = fitted(flow, paths, bj.Recipe(stages=(bj.Stage("endpoint", 32),)))
    by_features = fitted(flow, paths, bj.perceptual(mostly_first, 16, endpoint_iterations=16))
    distance = Distance(features=mostly_first)
    values = [float(evaluate(distance, flow, found.theta, paths[2])) for found in (by_end, by_features)]
    assert values[1] < values[0] - np.log(10)  # 10 dB


def test_the_loss_on_held_out_paths_chooses_the_solver(flow, paths):
    recipe = bj.perceptual(mostly_first, 16, endpoint_iterations=8)
    result = fitted(flow, paths, recipe)
    losses = [record["held_out_loss"] for record in result.history]
    assert result.best["held_out_loss"] == min(losses) < losses[0]
    found = float(evaluate(recipe.stages[-1].loss, flow, result.theta, paths[1]))
    np.testing.assert_allclose(found, result.best["held_out_loss"], rtol=1e-5)
    assert result.lost == max(record["mean_psnr"] for record in result.history) - result.best["mean_psnr"] >= 0
    plain = fitted(flow, paths, bj.Recipe(stages=(bj.Stage("endpoint", 8),)))
    assert np.isnan([record["held_out_loss"] for record in plain.history]).all()


def test_a_resumed_fit_is_the_same_fit(flow, paths):
    states, recipe = [], bj.perceptual(mostly_first, 16, endpoint_iterations=8)
    whole = fitted(flow, paths, recipe, callback=lambda state, _: states.append(state))
    again = fitted(flow, paths, recipe, state=states[2])
    np.testing.assert_array_equal(again.theta.raw, whole.theta.raw)
    assert again.best == whole.best


def test_the_classifiers_features_are_one_function_with_a_gradient():
    features = bj.models.classifier_features("fashion_classifier", layers=[1, 2])
    assert features is bj.models.classifier_features(layers=(1, 2)) is not bj.models.classifier_features(layers=(2,))
    assert bj.perceptual(features) == bj.perceptual(bj.models.classifier_features(layers=(1, 2)))
    x = jax.random.uniform(KEY, (3, 28, 28, 1), minval=-1.0)
    found = jax.jit(features)(x)
    assert found.shape == (3, 14 * 14 * 24 + 7 * 7 * 48)
    np.testing.assert_allclose(jax.jit(features)(x[1:2])[0], found[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(found[:, : 14 * 14 * 24] ** 2, axis=-1), 1, rtol=1e-4)
    assert np.any(np.asarray(jax.jit(jax.grad(lambda x: features(x)[0, 0]))(x)))


def test_the_last_layer_averages_to_what_a_distance_measures():
    classifier = bj.models.load_classifier("fashion_classifier")
    x = jnp.round(jax.random.uniform(KEY, (2, 28, 28, 1)) * 255) / 127.5 - 1
    averages = bj.models.classifier_features(layers=(3,))(x).reshape(2, -1, 64).mean(1)
    wanted = classifier.features(x)
    ratio = averages / jnp.linalg.norm(averages, axis=-1, keepdims=True)
    np.testing.assert_allclose(ratio, wanted / jnp.linalg.norm(wanted, axis=-1, keepdims=True), rtol=1e-3, atol=1e-4)


def test_a_relaxed_target_moves_each_noise_within_its_ball_and_lowers_its_distance(flow, paths):
    loss = Distance(features=mostly_first)
    before = loss.between(bj.solve(flow, SOLVER, paths[0].x0), paths[0].x1)
    for radius in (1e-3, 0.1):
        moved = relaxed(loss, flow, SOLVER, paths[0], radius)
        np.testing.assert_array_equal(moved.x1, paths[0].x1)
        by = np.sqrt(np.mean(np.square(moved.x0 - paths[0].x0), axis=-1))
        assert 0 < by.min() and by.max() <= 1.0001 * radius
        after = loss.between(bj.solve(flow, SOLVER, moved.x0), moved.x1)
        assert np.mean(after < before) > 0.9
    np.testing.assert_allclose(relaxed(loss, flow, SOLVER, paths[0], 0.0).x0, paths[0].x0)


def test_a_fit_takes_a_relaxed_target(flow, paths):
    recipe = bj.perceptual(identity, 8, endpoint_iterations=0, noise_radius=0.05)
    found = fitted(flow, paths, recipe)
    plain = fitted(flow, paths, bj.perceptual(identity, 8, endpoint_iterations=0))
    assert found.best["held_out_loss"] < found.history[0]["held_out_loss"]
    assert found.cost - plain.cost == 8 * 16 * 3  # three passes more for each evaluation
    assert np.any(found.theta.raw != plain.theta.raw)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: bj.perceptual("vgg"), TypeError, "features: wanted a function of samples, got 'vgg'"),
        (lambda: bj.perceptual(identity, 0), ValueError, "num_iterations: .* 0"),
        (lambda: bj.perceptual(identity, endpoint_iterations=-1), ValueError, "endpoint_iterations: .* -1"),
        (lambda: bj.perceptual(identity, average="median"), ValueError, "average.*'median'"),
        (lambda: bj.perceptual(identity, probes=0), ValueError, "probes: .* 0"),
        (lambda: bj.perceptual(identity, noise_radius=-1.0), ValueError, "noise_radius: .* -1"),
        (lambda: bj.Stage("local", noise_radius=0.1), ValueError, "noise_radius: .*0.1 for 'local'"),
        (lambda: bj.Recipe(stages=(bj.Stage("local"),), best_by="loss"), ValueError, "best_by: .*'local'.*'loss'"),
        (lambda: bj.models.classifier_features(layers=2), TypeError, "layers: wanted the numbers .* got 2"),
        (lambda: bj.models.classifier_features(layers=(4,)), ValueError, "layers: .* 4"),
        (lambda: bj.models.classifier_features("nothing"), ValueError, "'nothing'"),
        (lambda: bj.models.classifier_features(3), TypeError, "name: wanted a name or a path, got int"),
        (lambda: bj.models.inception_features(3), TypeError, "path: wanted a path, got int"),
        (lambda: bj.models.inception_features("nowhere.pth"), FileNotFoundError, "nowhere.pth"),
        (lambda: bj.models.inception_features("nowhere.pth", "mine"), ValueError, "convention.*'mine'"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
