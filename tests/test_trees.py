"""Events that are trees of arrays, and weights in the norm: the same as one array, and as the samples without their padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.gauss_newton import evaluate, linearise
from bespoke_jax.flow.conditions import in_turn
from bespoke_jax.run.scores import distances

KEY = jax.random.key(0)
SHAPES = {"features": (3, 2), "positions": (3,)}  # leaves in the order of the one array
SOLVER = bj.classic.midpoint(4)
FEW = bj.Recipe(stages=(bj.Stage("endpoint", 2, batch_size=8),), num_paths=8, num_validation=8)


def of_tree(params, t, x):
    return {"positions": params * x["positions"] * (1 - x["positions"]) * t, "features": -params * x["features"]}


def of_array(params, t, x):
    features, positions = x[:, :6], x[:, 6:]
    return jnp.concatenate([-params * features, params * positions * (1 - positions) * t], axis=1)


TREE, ARRAY = bj.Flow(of_tree, jnp.float32(0.7), SHAPES), bj.Flow(of_array, jnp.float32(0.7), (9,))


def test_a_tree_is_the_same_as_one_array():
    x0, flat = TREE.noise(KEY, (8,)), ARRAY.noise(KEY, (8,))
    assert TREE.event_shape == (9,) and jax.tree.map(jnp.shape, x0) == {"features": (8, 3, 2), "positions": (8, 3)}
    np.testing.assert_array_equal(TREE.ravel(x0), flat)
    np.testing.assert_array_equal(TREE.ravel(TREE(0.5, x0)), ARRAY(0.5, flat))
    np.testing.assert_array_equal(TREE(0.5, flat), ARRAY(0.5, flat))  # an array comes back as one
    np.testing.assert_array_equal(TREE.ravel(bj.solve(TREE, SOLVER, x0)), bj.solve(ARRAY, SOLVER, flat))
    states = bj.solve(TREE, SOLVER, x0, return_path=True)
    assert states["positions"].shape == (5, 8, 3)  # a step of a table is an evaluation
    paths, wanted = bj.ground_truth(TREE, x0), bj.ground_truth(ARRAY, flat)
    np.testing.assert_array_equal(paths.states, wanted.states)
    np.testing.assert_array_equal(bj.Paths.of_ends(TREE, x0, TREE.unravel(paths.x1)).x1, wanted.x1)
    one = bj.sample(TREE, SOLVER, KEY)
    assert jax.tree.map(jnp.shape, one) == {"features": (3, 2), "positions": (3,)}


def test_a_solver_learned_on_a_tree_is_that_of_the_array(tmp_path):
    found, wanted = (bj.fit(flow, bj.init_theta("rk1", 2), KEY, FEW).theta for flow in (TREE, ARRAY))
    np.testing.assert_allclose(found.raw, wanted.raw, atol=1e-5)
    bj.save_solver(tmp_path / "solver.json", found, flow=TREE)
    assert bj.load_solver(tmp_path / "solver.json", flow=TREE).nfe == 2
    assert bj.load_solver(tmp_path / "solver.json", flow=ARRAY).nfe == 2  # the same field


def test_invert_gives_a_tree():
    x0 = TREE.noise(KEY, (2,))
    found = bj.invert(TREE, SOLVER, bj.solve(TREE, SOLVER, x0))
    np.testing.assert_allclose(TREE.ravel(found.x0), TREE.ravel(x0), atol=1e-3)


def test_predictions_and_sources_of_trees():
    def network(params, t, x):
        return jax.tree.map(jnp.zeros_like, x)

    def source(params, key):
        return {"features": jnp.ones((3, 2)), "positions": jnp.zeros(3)}

    flow = bj.Flow.from_prediction(network, None, SHAPES, bj.schedulers.CondOT(), prediction="data", source=source)
    x = flow.noise(KEY, (2,))
    np.testing.assert_allclose(flow(0.5, x)["features"], -2.0)
    assert flow.replace(velocity=of_tree, params=1.0)(0.5, x)["features"].shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: bj.Flow(of_tree, 1.0, {"a": (2,), "b": (2, 1.5)}),
            TypeError,
            r"event_shape\['b'\]\[0\]|event_shape\['b'\]",
        ),
        (lambda: bj.Flow(of_tree, 1.0, {"a": 3}), TypeError, r"event_shape\['a'\]: wanted a tuple"),
        (lambda: bj.Flow(of_tree, 1.0, {}), ValueError, "event_shape: wanted a tree of shapes"),
        (lambda: TREE(0.0, {"positions": jnp.ones(3)}), ValueError, r"x\['features'\]: wanted an array"),
        (lambda: TREE(0.0, TREE.noise(KEY) | {"more": 1.0}), ValueError, r"x\['more'\]: wanted no such leaf"),
        (
            lambda: TREE(0.0, TREE.noise(KEY) | {"positions": jnp.ones(4)}),
            ValueError,
            r"x\['positions'\]: wanted shape",
        ),
        (
            lambda: TREE(0.0, TREE.noise(KEY) | {"positions": jnp.ones(3, jnp.float16)}),
            TypeError,
            r"x\['positions'\]: wanted the dtype of x\['features'\], float32, got float16",
        ),
        (
            lambda: TREE(0.0, TREE.noise(KEY) | {"positions": jnp.ones(3, int)}),
            TypeError,
            r"x\['positions'\]: .*floating",
        ),
        (lambda: bj.solve(TREE, SOLVER, [1.0]), ValueError, r"x0\['features'\]"),
        (
            lambda: TREE.replace(velocity=lambda p, t, x: {"positions": x["positions"]})(0.0, TREE.noise(KEY)),
            ValueError,
            r"velocity\['features'\]: wanted an array",
        ),
        (
            lambda: TREE.replace(velocity=lambda p, t, x: x["positions"])(0.0, TREE.noise(KEY)),
            ValueError,
            "velocity: .*tree",
        ),
        (
            lambda: TREE.replace(velocity=lambda p, t, x: x | {"positions": x["positions"][:, :2]})(
                0.0, TREE.noise(KEY)
            ),
            ValueError,
            r"velocity\['positions'\]: wanted the shape",
        ),
        (lambda: TREE.replace(event_shape=(9, 1)), ValueError, "event_shape: wanted the tree of the velocity"),
        (lambda: TREE.replace(weights={"positions": 1.0}), ValueError, r"weights\['features'\]"),
        (lambda: ARRAY.replace(weights=-1.0), ValueError, "weights: wanted finite numbers >= 0"),
        (lambda: ARRAY.replace(weights=0.0), ValueError, "weights: .* not all 0"),
        (lambda: ARRAY.replace(weights=[1.0, 2.0]), ValueError, "weights: wanted an array that broadcasts"),
        (lambda: ARRAY.replace(weights=1j), TypeError, "weights"),
        (
            lambda: bj.ground_truth(ARRAY.replace(weights=lambda p: -p), ARRAY.noise(KEY)),
            ValueError,
            "weights: .* sample 0",
        ),
    ],
)
def test_other_trees_and_bad_weights_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


# Molecules of two and of five atoms, as Gaussian data N(2, 0.5^2); padded to five with zeros that do not move.
ATOMS, MEAN, STD = 5, 2.0, 0.5
MASKS = np.arange(ATOMS) < np.array([[2], [5]])


def gaussian(t, x):
    return MEAN + (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * (x - t * MEAN)


def padded(params, t, x):
    return {"positions": gaussian(t, x["positions"]) * params["condition"]["mask"][:, None]}


def atoms_alone(params, key):
    return {"positions": jax.random.normal(key, (ATOMS, 3)) * params["condition"]["mask"][:, None]}


def atoms(params):
    return {"positions": params["condition"]["mask"][:, None]}


ONE = bj.Flow(
    padded, {"condition": {"mask": jnp.ones(ATOMS, bool)}}, {"positions": (ATOMS, 3)}, source=atoms_alone, weights=atoms
)
MOLECULES = in_turn(bj.given(ONE, {"mask": MASKS}), 8)


def test_padding_does_not_dilute_errors_and_losses():
    x0 = MOLECULES.noise(KEY, (8,))
    ends, paths = bj.solve(MOLECULES, SOLVER, x0), bj.ground_truth(MOLECULES, x0)
    exact = np.where(MASKS[np.arange(8) % 2][..., None], MEAN + STD * x0["positions"], 0)
    np.testing.assert_allclose(MOLECULES.unravel(paths.x1)["positions"], exact, atol=1e-4)
    error = np.array([bj.metrics.rmse(ends["positions"][i, :n], exact[i, :n], 2) for i, n in enumerate([2, 5] * 4)])
    np.testing.assert_allclose(distances(MOLECULES, MOLECULES.ravel(ends), paths.x1), error, rtol=1e-2)
    np.testing.assert_allclose(MOLECULES.rmse(ends, {"positions": exact}), error, rtol=1e-4)
    assert np.all(MOLECULES.replace(weights=None).rmse(ends, {"positions": exact})[::2] < 0.7 * error[::2])
    for name, wanted in (("rmse", error.mean()), ("endpoint", np.log(error**2).mean())):
        loss = bj.losses.named(name)
        np.testing.assert_allclose(loss(MOLECULES, SOLVER, paths), wanted, rtol=1e-2)
        np.testing.assert_allclose(evaluate(loss, MOLECULES, SOLVER, paths, batch_size=3), wanted, rtol=1e-2)


def test_the_true_paths_of_a_padded_sample_take_about_the_steps_of_the_sample_alone():
    alone = bj.Flow(lambda p, t, x: gaussian(t, x), None, (2, 3))
    small = bj.given(ONE, {"mask": MASKS[:1]})
    x0 = small.noise(KEY, (1,))
    found, wanted = bj.ground_truth(small, x0), bj.ground_truth(alone, x0["positions"][:, :2])
    assert abs(found.nfe - wanted.nfe) <= 6  # one step
    np.testing.assert_allclose(small.unravel(found.x1)["positions"][:, :2], wanted.x1, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "endpoint",
        "rmse",
        pytest.param("rmse_bound", marks=pytest.mark.slow),
        pytest.param("local", marks=pytest.mark.slow),
    ],
)
def test_weighted_losses_have_the_gradient_of_their_value(name):
    loss, theta = bj.losses.named(name), bj.init_theta("rk1", 2)
    paths = bj.ground_truth(MOLECULES, MOLECULES.noise(KEY, (8,)))
    wanted = jax.jit(jax.grad(lambda raw: loss(MOLECULES, theta.with_raw(raw), paths)))(theta.raw)
    found = linearise(loss, MOLECULES, theta, paths, KEY, batch_size=3)
    np.testing.assert_allclose(found.gradient, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    doubled = MOLECULES.replace(weights=lambda p: {"positions": 2.0 * p["condition"]["mask"][:, None]})
    np.testing.assert_allclose(jax.jit(loss)(doubled, theta, paths), found.value, rtol=1e-5)  # only their ratios matter


def doubled(x):
    return 2.0 * x


def test_a_distance_of_ones_own_is_weighted_or_refused():
    theta, paths = bj.init_theta("rk1", 2), bj.ground_truth(MOLECULES, MOLECULES.noise(KEY, (8,)))
    wanted = 2 * bj.losses.rmse(MOLECULES, theta, paths)
    twice = bj.losses.Distance(features=doubled, average="root")
    np.testing.assert_allclose(twice(MOLECULES, theta, paths), wanted, rtol=1e-5)
    for one in (
        bj.losses.Distance(features=lambda x: x[:, :3]),
        bj.losses.Distance(lambda x, x1: jnp.mean((x - x1) ** 2, axis=1)),
    ):
        recipe = dataclasses.replace(FEW, stages=(bj.Stage(one, 1),))
        with pytest.raises(
            ValueError, match="Distance: wanted features of a sample's own shape for a flow with weights"
        ):
            bj.fit(MOLECULES, theta, KEY, recipe)


def test_the_residual_of_an_inverse_has_the_weights():
    solver, sizes = bj.classic.euler(1), np.linspace(0.5, 0.9, 8, dtype=np.float32)
    x1 = {
        "positions": np.where(MASKS[np.arange(8) % 2], 2, 1)[..., None] * sizes[:, None, None] * np.ones(3, np.float32)
    }
    with pytest.warns(UserWarning, match="8 of 8 samples did not converge"):  # one step leads all noises to the mean
        found = bj.invert(MOLECULES, solver, x1)
    np.testing.assert_allclose(MOLECULES.rmse(bj.solve(MOLECULES, solver, found.x0), x1), found.residual, rtol=1e-4)


def test_a_fit_and_a_check_of_padded_samples():
    flow = bj.given(ONE, {"mask": MASKS})
    result = bj.fit(flow, bj.init_theta("rk1", 2), KEY, FEW)
    assert result.history[-1]["psnr"] > result.history[0]["psnr"]
    start, found = (
        bj.check_solver(flow, theta, jax.random.key(1), num_paths=4, others={})
        for theta in (bj.init_theta("rk1", 2), result.theta)
    )
    assert found.solver.psnr > start.solver.psnr


def test_constant_weights_of_an_array_and_a_leaf():
    x, y = TREE.noise(KEY, (4,)), TREE.noise(jax.random.key(1), (4,))
    wanted = bj.metrics.rmse(x["positions"], y["positions"], 1)
    np.testing.assert_allclose(TREE.replace(weights=dict(features=0, positions=1.0)).rmse(x, y), wanted, rtol=1e-6)
    weights = np.arange(9) >= 6
    np.testing.assert_allclose(ARRAY.replace(weights=weights).rmse(*map(TREE.ravel, (x, y))), wanted, rtol=1e-6)
    assert hash(ARRAY.replace(weights=weights).weights) == hash(ARRAY.replace(weights=weights).weights)


def test_guided_flows_keep_their_weights():
    def velocity(params, t, x):
        c = params["condition"]
        return {"positions": (c["text"] - x["positions"]) * c["mask"][:, None]}

    one = bj.Flow(
        velocity, {"condition": {"mask": jnp.ones(ATOMS, bool), "text": jnp.float32(0)}}, ONE.event.tree, weights=atoms
    )
    flow = bj.guided(bj.given(one, {"mask": MASKS, "text": jnp.ones(2)}), 0.5, without_text)
    x = {"positions": jnp.ones((2, ATOMS, 3)) * MASKS[..., None]}
    np.testing.assert_allclose(flow.rmse(x, jax.tree.map(jnp.zeros_like, x)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(flow(0.0, x)["positions"], 0.5 * MASKS[..., None] * np.ones(3))


def without_text(condition):
    return {**condition, "text": 0 * condition["text"]}
