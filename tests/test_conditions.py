"""A condition for each sample: what is computed in one batch is what each sample's own flow gives, in all that takes a flow."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import jit

import bespoke_jax as bj
from bespoke_jax.fitting import gauss_newton
from bespoke_jax.flow import conditions

KEY = jax.random.key(0)
CLOSE = dict(rtol=2e-5, atol=2e-5)
CENTRES = jnp.array([[1.0, 0.0], [-0.5, 2.0], [0.0, -1.5]])


def velocity(params, t, x):
    """Towards a centre, not linearly: of other samples it must know nothing."""
    return params["speed"] * jnp.tanh(params["condition"]["centre"] - x) * (1 + jnp.sin(3 * t) * x)


def at(centre) -> bj.Flow:
    return bj.Flow(velocity, {"speed": jnp.float32(1.5), "condition": {"centre": jnp.asarray(centre)}}, (2,))


FLOW = at(CENTRES[0])


def given(indices) -> bj.Flow:
    return bj.given(FLOW, {"centre": CENTRES[np.asarray(indices)]})


@pytest.fixture(scope="module")
def paths():
    """(paths of all classes, [paths of each]); the batches are cut where no class ends."""
    which = np.array([0, 1, 1, 2, 0, 2, 2])
    x0 = FLOW.noise(KEY, (len(which),))
    together = bj.ground_truth(given(which), x0, 1e-6, 1e-6, batch_size=3)
    return together, [bj.ground_truth(at(CENTRES[i]), x0[which == i], 1e-6, 1e-6) for i in range(3)], which


def test_every_sample_has_the_velocity_of_its_own_condition():
    x, which = FLOW.noise(KEY, (4,)), [2, 0, 0, 1]
    wanted = [at(CENTRES[i])(0.3, one) for i, one in zip(which, x, strict=True)]
    np.testing.assert_allclose(given(which)(0.3, x), jnp.stack(wanted), **CLOSE)
    np.testing.assert_allclose(given(which)(0.3, x.reshape(2, 2, 2)), jnp.stack(wanted).reshape(2, 2, 2), **CLOSE)
    again = bj.given(given([0]), {"centre": CENTRES[np.array(which)]})
    np.testing.assert_array_equal(again(0.3, x), given(which)(0.3, x))


def test_guided_before_or_after():
    x, which = FLOW.noise(KEY, (3,)), [2, 0, 1]
    wanted = [bj.guided(at(CENTRES[i]), 0.7)(0.3, one) for i, one in zip(which, x, strict=True)]
    before, after = bj.guided(given(which), 0.7), bj.given(bj.guided(FLOW, 0.7), given(which).params["condition"])
    for flow in (before, after):
        np.testing.assert_allclose(flow(0.3, x), jnp.stack(wanted), **CLOSE)
        assert flow.calls_per_evaluation == 2


def test_true_paths_keep_their_conditions(paths):
    together, apart, which = paths
    for i, own in enumerate(apart):
        np.testing.assert_allclose(together.x1[which == i], own.x1, **CLOSE)
        np.testing.assert_allclose(together.at(0.4)[which == i], own.at(0.4), **CLOSE)
    taken = together.take(jnp.array([3, 1]))
    np.testing.assert_array_equal(taken.condition["centre"], CENTRES[np.array([2, 1])])


@pytest.mark.parametrize("solver", [bj.init_theta("rk2", 3), bj.classic.heun(4), bj.init_theta("table", 3)])
def test_solvers_end_where_each_sample_alone_would(paths, solver):
    together, apart, which = paths
    flow, x0 = given(which), together.x0
    wanted = np.zeros((len(which), 2), np.float32)
    for i, own in enumerate(apart):
        wanted[which == i] = bj.solve(at(CENTRES[i]), solver, own.x0)
    np.testing.assert_allclose(bj.solve(flow, solver, x0), wanted, **CLOSE)
    np.testing.assert_allclose(bj.adjoint.end_points(flow, solver, x0, batch_size=2), wanted, **CLOSE)


def test_samples_go_through_the_conditions_in_turn():
    solver = bj.classic.euler(3)
    found = bj.sample(given([0, 1, 2]), solver, KEY, num_samples=5)
    np.testing.assert_array_equal(found, bj.sample(given([0, 1, 2, 0, 1]), solver, KEY, num_samples=5))
    assert bj.sample(given([1]), solver, KEY).shape == (2,)


def test_conditions_are_dealt_out_evenly():
    dealt = conditions.condition_of(conditions.dealt(given([0, 1, 2]), KEY, 11))["centre"]
    _, counts = np.unique(np.asarray(dealt), axis=0, return_counts=True)
    assert sorted(counts) == [3, 4, 4]
    few = conditions.condition_of(conditions.dealt(given([0, 1, 2]), KEY, 2))["centre"]
    assert len(np.unique(np.asarray(few), axis=0)) == 2


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(bj.losses.RmseBound(), marks=pytest.mark.slow),
        bj.losses.Endpoint(),
        pytest.param(bj.losses.Distance(features=jnp.sin, name="sine"), marks=pytest.mark.slow),
    ],
    ids=lambda loss: loss.name,
)
def test_losses_and_curvature_are_means_over_the_samples_own(paths, loss):
    together, apart, which = paths
    theta = bj.init_theta("rk1", 3)
    theta = theta.with_raw(theta.raw + 0.02 * jnp.arange(theta.raw.size))
    function = jit(loss)
    shares = np.bincount(which) / len(which)
    wanted = sum(
        share * function(at(CENTRES[i]), theta, own) for i, (share, own) in enumerate(zip(shares, apart, strict=True))
    )
    np.testing.assert_allclose(function(FLOW, theta, together), wanted, rtol=1e-4)
    np.testing.assert_allclose(function(given(which), theta, together), wanted, rtol=1e-4)
    quadratic = gauss_newton.linearise(loss, given([0, 1, 2]), theta, together, KEY, batch_size=3)
    np.testing.assert_allclose(quadratic.value, wanted, rtol=1e-4)
    gradient = jit(jax.grad(lambda raw: loss(FLOW, theta.with_raw(raw), together)))(theta.raw)
    np.testing.assert_allclose(quadratic.gradient, gradient, rtol=2e-3, atol=1e-3 * np.abs(gradient).max())
    assert gauss_newton.evaluate(loss, FLOW, theta, together, batch_size=2) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["lm", "adam"])
def test_one_solver_is_learned_for_all_conditions(optimizer):
    stage = bj.Stage("endpoint", 4, batch_size=16)
    if optimizer == "adam":
        stage = bj.Stage("rmse", 40, optax.adam(2e-2), batch_size=16, validate_every=20)
    flow = given([0, 1, 2])
    recipe = bj.Recipe(stages=(stage,), num_paths=24, num_validation=12, choose_start=False)
    theta, history, *_ = bj.fit(flow, bj.init_theta("rk1", 4), KEY, recipe)
    assert min(record["mean_psnr"] for record in history) == history[0]["mean_psnr"] < history[-1]["mean_psnr"] - 3
    # Better for each of them than the start, on noise of its own.
    for i in range(3):
        test = bj.ground_truth(at(CENTRES[i]), FLOW.noise(jax.random.key(5), (64,)))
        errors = [jit(bj.losses.endpoint)(at(CENTRES[i]), s, test) for s in (theta, bj.init_theta("rk1", 4))]
        assert errors[0] < errors[1]


@pytest.mark.slow
def test_one_device_or_two_learn_the_same():
    stage = bj.Stage("rmse", 3, optax.adam(2e-2), batch_size=16, validate_every=3)
    recipe = bj.Recipe(stages=(stage,), num_paths=24, num_validation=12, choose_start=False)
    flow, theta = given([0, 1, 2]), bj.init_theta("rk1", 4)
    one, two = (bj.fit(f, theta, KEY, recipe).theta.raw for f in (flow, bj.sharding.replicate(flow, jax.devices()[:2])))
    np.testing.assert_allclose(two, one, rtol=2e-3, atol=2e-5)


def test_check_solver_deals_them_too():
    found = bj.check_solver(given([0, 1, 2]), bj.classic.rk4(8), KEY, num_paths=8, others={})
    assert found.fits and found.num_paths == 8


def test_a_solver_learned_for_some_knows_the_flow_again_under_others(tmp_path):
    path = tmp_path / "euler.json"
    bj.save_solver(path, bj.classic.euler(2), flow=given([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flow in (given([2, 1, 0]), at(CENTRES[2]), given([0])):
            bj.load_solver(path, flow=flow)
    slower = bj.Flow(velocity, {**FLOW.params, "speed": jnp.float32(1.0)}, (2,))
    for flow in (slower, bj.given(slower, {"centre": CENTRES})):
        with pytest.warns(UserWarning, match="another flow"):
            bj.load_solver(path, flow=flow)


def test_classes_of_a_network():
    network = bj.models.UNet(channels=(8,), num_blocks=(1,), head_channels=4, num_heads=0, num_classes=3)
    x = jax.random.normal(KEY, (3, 4, 4, 1))
    shapes = jax.eval_shape(network.init, KEY, 0.5, x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)
    denoiser = bj.models.Denoiser(network, variables, (4, 4, 1), bj.models.Preconditioning("edm"))
    velocity = jit(lambda flow, x: flow(0.3, x))
    wanted = [velocity(denoiser.flow("vp", labels=i), x[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(velocity(denoiser.flow("vp", labels="all"), x), jnp.stack(wanted), rtol=1e-4, atol=1e-4)
    found = velocity(denoiser.flow("vp", labels=[2, 2, 0]), x)
    np.testing.assert_allclose(found[1], velocity(denoiser.flow("vp", labels=2), x[1:2])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: bj.given(3, CENTRES), TypeError, "flow: wanted a bespoke_jax.Flow, got int"),
        (
            lambda: bj.given(bj.Flow(lambda p, t, x: x, None, (2,)), CENTRES),
            ValueError,
            "flow: .*'condition', got None",
        ),
        (lambda: bj.given(FLOW, CENTRES), ValueError, r"conditions: wanted the shapes of the flow's own, .*\(2,\)"),
        (lambda: bj.given(FLOW, {"centre": CENTRES[0]}), ValueError, "conditions: wanted the shapes"),
        (lambda: bj.given(FLOW, {"centre": CENTRES[:0]}), ValueError, "conditions: wanted the shapes"),
        (lambda: given([0, 1])(0.5, jnp.ones((3, 2))), ValueError, "x: .* conditions, 2, got 3"),
        (
            lambda: bj.solve(given([0, 1]), bj.classic.euler(2), jnp.ones((3, 2))),
            ValueError,
            "x0: .* conditions, 2, got 3",
        ),
        (lambda: bj.ground_truth(given([0, 1]), jnp.ones((3, 2))), ValueError, "x0: .* conditions, 2, got 3"),
        (
            lambda: bj.sample(FLOW.replace(params={"speed": 1.5}), bj.classic.euler(2), KEY),
            ValueError,
            r"velocity: wanted params\['condition'\], .* got a flow without a condition. Use bespoke_jax\.given\(flow",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "own, conditions, message",
    [
        (np.int32(0), [1.7, 2.0], "wanted an integer for each sample, like the flow's own, got a float"),
        (np.int8(0), [1, 300], "wanted integers that int8 can hold"),
        (np.bool_(True), [0.3, 1.0], "wanted a boolean for each sample"),
    ],
)
def test_conditions_that_a_cast_would_change(own, conditions, message):
    flow = bj.Flow(lambda params, t, x: x, {"condition": jnp.asarray(own)}, (2,))
    with pytest.raises(ValueError, match=f"^conditions: {message}"):
        bj.given(flow, conditions)
