"""fit: what it reaches, what it returns, that it resumes to the bit, what it refuses."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting import gauss_newton
from bespoke_jax.fitting.starts import start_groups
from bespoke_jax.run import probe
from bespoke_jax.run.truth import truth_of

pytestmark = [
    # Few paths of a mixture: some end between its components.
    pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is"),
]

data_module = sys.modules["bespoke_jax.fitting.data"]

KEY = jax.random.key(0)
# One family and one batch size wherever they do not matter: what is compiled is shared.
SHORT = (bj.Stage("rmse_bound", 1, batch_size=32), bj.Stage("endpoint", 3, batch_size=32))
IN_TURN = (
    bj.Stage(
        "endpoint", 5, bj.LevenbergMarquardt(averaging=bj.Recent(2)), batch_size=24, chunk_size=32, validate_every=2
    ),
)
START = bj.init_theta("rk1", 3)
ADAM = optax.adam(1e-2)  # one, for two are not equal and share nothing compiled


@pytest.fixture(scope="module")
def flow():
    return bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)


@pytest.fixture(scope="module")
def paths(flow):
    return tuple(bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))


def gain(flow, theta, start, paths):
    """dB of `theta` over `start` on these paths."""
    errors = [float(jax.jit(bj.losses.rmse)(flow, solver, paths)) for solver in (start, theta)]
    return 20 * np.log10(errors[0] / errors[1])


@pytest.mark.parametrize("base, num_steps", [pytest.param("rk1", 6, marks=pytest.mark.slow), ("rk2", 4)])
def test_the_default_stages_beat_the_base_solver_on_fresh_noise(flow, paths, base, num_steps):
    start = bj.init_theta(base, num_steps)
    result = bj.fit(flow, start, KEY, paths=paths[0], validation=paths[1])
    assert gain(flow, result.theta, start, paths[2]) > 6
    assert result.history[-1]["iteration"] == sum(stage.num_iterations for stage in bj.DEFAULT_STAGES)


@pytest.mark.slow
def test_a_variance_preserving_flow_begins_from_a_scheduler_change(paths):
    flow = bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5]], 0.3, scheduler=bj.schedulers.VariancePreserving())
    start = bj.init_theta("rk2", 4)
    result = bj.fit(flow, start, KEY, bj.Recipe(stages=SHORT[1:], num_paths=64, num_validation=64))
    assert result.start != "given"
    fresh = bj.ground_truth(flow, flow.noise(jax.random.key(9), (64,)))
    assert gain(flow, result.theta, start, fresh) > 10


def test_the_papers_recipe_lowers_the_bound(flow, paths):
    start = bj.init_theta("rk2", 2)
    result = bj.fit(
        flow,
        start,
        KEY,
        bj.paper(200, 1e-2),
        paths=paths[0],
        validation=paths[1],
    )
    before, after = (float(bj.losses.rmse_bound(flow, theta, paths[2])) for theta in (start, result.theta))
    assert after < 0.8 * before


def test_any_function_may_be_the_loss_of_a_first_order_optimiser(flow, paths):
    def absolute(flow, theta, paths):
        return jnp.mean(jnp.abs(bj.solve(flow, theta, paths.x0) - paths.x1))

    start = bj.init_theta("rk2", 3)
    stage = bj.Stage(absolute, 50, optax.adam(1e-2), validate_every=25)
    result = bj.fit(
        flow, start, KEY, bj.Recipe(stages=(stage,), choose_start=False), paths=paths[0], validation=paths[1]
    )
    assert float(absolute(flow, result.theta, paths[2])) < 0.8 * float(absolute(flow, start, paths[2]))
    assert [record["iteration"] for record in result.history] == [0, 25, 50]


def test_the_best_on_held_out_paths_is_returned(flow, paths):
    # A learning rate that ruins theta: the start must come back.
    start = bj.init_theta("rk2", 3)
    stages = (bj.Stage("endpoint", 2, optax.sgd(5.0)),)
    recipe = bj.Recipe(stages=stages, choose_start=False)
    with pytest.warns(UserWarning, match="fit: no update improved on the start"):
        result = bj.fit(flow, start, KEY, recipe, paths=paths[0], validation=paths[1])
    best = max(result.history, key=lambda record: record["mean_psnr"])
    reached = float(jnp.mean(bj.metrics.rmse(bj.solve(flow, result.theta, paths[1].x0), paths[1].x1, 1)))
    np.testing.assert_allclose(reached, best["rmse"], rtol=1e-5)
    assert result.best == best
    # Worse, or no number at all.
    assert not result.history[-1]["rmse"] <= best["rmse"]


@pytest.mark.parametrize(
    "learned, held, moves",
    [("time", ("s", "ds"), "t"), pytest.param("scale", ("t", "dt"), "s", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "loss, optimizer",
    [("endpoint", bj.LevenbergMarquardt()), pytest.param("rmse_bound", ADAM, marks=pytest.mark.slow)],
)
def test_what_is_held_stays_to_the_bit(flow, paths, learned, held, moves, loss, optimizer):
    start = bj.theta_from_curve("rk1", 3, bj.scale_time.curve_between(bj.schedulers.CondOT(), bj.schedulers.Cosine()))
    start = start.learning(learned)
    stages = (bj.Stage(loss, 3, optimizer, batch_size=32),)
    result = bj.fit(flow, start, KEY, bj.Recipe(stages=stages, choose_start=False), paths=paths[0], validation=paths[1])
    before, after = start.knots(), result.state.theta.knots()
    for name in held:
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert not np.allclose(getattr(after, moves), getattr(before, moves), atol=1e-3)
    assert (result.theta.learned, result.theta.num_parameters) == (learned, start.num_parameters)


@pytest.mark.parametrize("learned", ["time", "scale"])
def test_starts_leave_what_is_held(flow, learned):
    given = bj.theta_from_knots("rk1", np.array([0, 0.2, 1.0]), [0.5, 0.7], [1.0, 1.5, 2.0], [0.3, -0.2]).learning(
        learned
    )
    starts = start_groups(flow, given)[0]
    assert len({starts[name].raw.tobytes() for name in starts}) > 3
    for name, start in starts.items():
        assert np.array_equal(start.held, given.held) and start.learned == learned, name


@pytest.mark.parametrize("stages", [SHORT, IN_TURN])
def test_a_fit_resumed_from_any_state_ends_with_the_same_bits(flow, paths, stages):
    states = []
    recipe, options = bj.Recipe(stages=stages), dict(paths=paths[0], validation=paths[1])
    whole = bj.fit(flow, START, KEY, recipe, **options, callback=lambda state, record: states.append(state))
    for state in states:
        resumed = bj.fit(flow, START, KEY, recipe, **options, state=state)
        assert np.array_equal(resumed.theta.raw, whole.theta.raw)
        assert (resumed.cost, resumed.start) == (whole.cost, whole.start)
        # The history comes back through float32.
        for old, new in zip(whole.history, resumed.history, strict=True):
            assert old["stage"] == new["stage"] and old["evaluations"] == new["evaluations"]
            np.testing.assert_allclose(old["rmse"], new["rmse"], rtol=1e-5)


def test_a_fit_is_a_function_of_its_key(flow, paths):
    recipe, options = bj.Recipe(stages=SHORT), dict(paths=paths[0], validation=paths[1])
    fits = [bj.fit(flow, START, jax.random.key(k), recipe, **options) for k in (4, 4, 5)]
    assert np.array_equal(fits[0].theta.raw, fits[1].theta.raw)
    assert not np.array_equal(fits[0].theta.raw, fits[2].theta.raw)


@pytest.mark.parametrize("stages", [SHORT, IN_TURN])
def test_init_state_has_the_shapes_of_every_state_of_the_fit(flow, paths, stages):
    states = []
    bj.fit(
        flow,
        START,
        KEY,
        bj.Recipe(stages=stages),
        paths=paths[0],
        validation=paths[1],
        callback=lambda s, _: states.append(s),
    )
    wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), bj.init_state(START, stages))
    for state in states:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == wanted


def cost_of_truth(flow, paths):
    """Of the paths, of a look at the velocity of 16 noises, and of 16 paths of either set solved again."""
    solved = sum(int(some.evaluations.sum()) + truth_of(some, flow)[1] for some in paths[:2])
    return solved + 16 * probe.EVALUATIONS


def test_cost_counts_paths_updates_and_validation(flow, paths):
    stage = bj.Stage("endpoint", 5, optax.adam(1e-3), batch_size=8, validate_every=5)
    result = bj.fit(
        flow, START, KEY, bj.Recipe(stages=(stage,), choose_start=False), paths=paths[0], validation=paths[1]
    )
    truth = cost_of_truth(flow, paths)
    # 5 gradients of 8 paths at 3 passes of 3 evaluations; one validation of 64 paths after the first look.
    assert result.cost == truth + 5 * 8 * 3 * 3 + 64 * 3


@pytest.mark.parametrize("keep, passes", [(False, 3 + 2), (True, 2 + 2)])
def test_cost_of_second_order_counts_tries(flow, paths, monkeypatch, keep, passes):
    tries = []
    evaluate = gauss_newton.evaluate
    monkeypatch.setattr(
        gauss_newton, "evaluate", lambda *args, **options: tries.append(0) or evaluate(*args, **options)
    )
    stage = bj.Stage("endpoint", 3, bj.LevenbergMarquardt(), batch_size=32, probes=2, keep_activations=keep)
    result = bj.fit(
        flow, START, KEY, bj.Recipe(stages=(stage,), choose_start=False), paths=paths[0], validation=paths[1]
    )
    truth = cost_of_truth(flow, paths)
    assert result.cost == truth + 3 * 32 * 3 * passes + len(tries) * 32 * 3 + 64 * 3


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(paths):
    flow = bj.Flow(lambda p, t, x: jnp.where(t > 0.4, jnp.nan, -x), None, (2,))
    with pytest.raises(bj.FitError, match=r"iteration 1\. .*not finite at t = 0\.\d+ .*state\.best") as caught:
        bj.fit(flow, START, KEY, bj.Recipe(stages=SHORT[1:], choose_start=False), paths=paths[0], validation=paths[1])
    assert np.array_equal(caught.value.state.best.raw, START.raw)


def test_of_many_updates_in_one_call_the_first_that_failed_is_named(flow, paths):
    """The first moves theta to no number, of which the second finds the loss."""
    stage = bj.Stage("endpoint", 5, optax.sgd(np.nan), validate_every=5)
    with pytest.raises(bj.FitError, match=r"in iteration 2\. .*the update went too far"):
        bj.fit(flow, START, KEY, bj.Recipe(stages=(stage,), choose_start=False), paths=paths[0], validation=paths[1])


@pytest.mark.filterwarnings("ignore:.*they end")  # they are another flow's
def test_a_derivative_that_is_not_finite_stops_too(paths):
    """The root of what is 0 in one component: a velocity like any other, with a slope of 0 / 0."""

    def velocity(params, t, x):
        return -x + jnp.sqrt(jnp.square(jnp.where(t > 0.4, x * jnp.array([1.0, 0.0]), 1.0)))

    flow = bj.Flow(velocity, None, (2,))
    with pytest.raises(bj.FitError, match=r"gradient is not finite in iteration 1.* derivative .*at t = 0\.\d+ "):
        bj.fit(flow, START, KEY, bj.Recipe(stages=SHORT[1:], choose_start=False), paths=paths[0], validation=paths[1])


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(flow=3), TypeError, "flow"),
        (dict(solver="rk2"), TypeError, "solver"),
        (dict(key=0), TypeError, "key"),
        (dict(recipe=bj.Stage("endpoint")), TypeError, "recipe"),
        (dict(state=bj.init_state(bj.init_theta("rk1", 9))), ValueError, "state"),
        (
            dict(state=bj.init_state(bj.init_theta("rk2", 3).learning("time"))),
            ValueError,
            "state: wanted .* 23 learned, got .* 11 l",
        ),
    ],
)
def test_bad_arguments_are_named(flow, change, error, message):
    arguments = dict(flow=flow, solver=bj.init_theta("rk2", 3), key=KEY) | change
    with pytest.raises(error, match=message):
        bj.fit(**arguments)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(stages=()), TypeError, "stages"),
        (dict(stages=("endpoint",)), TypeError, "stages"),
        (dict(num_paths=0), ValueError, "num_paths"),
        (dict(num_validation=True), ValueError, "num_validation"),
        (dict(rtol=0.0), ValueError, "rtol"),
        (dict(best_bye="psnr"), TypeError, "best_bye"),
    ],
)
def test_a_recipe_refuses_what_it_cannot_be(change, error, message):
    with pytest.raises(error, match=message):
        bj.Recipe(**change)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(loss="rmse_bond"), ValueError, r"loss.*rmse_bound.*'rmse_bond'"),
        (dict(num_iterations=0), ValueError, "num_iterations"),
        (dict(batch_size=2.5), ValueError, "batch_size"),
        (dict(optimizer="adam"), TypeError, "optimizer"),
    ],
)
def test_a_stage_refuses_what_it_cannot_run(change, error, message):
    with pytest.raises(error, match=message):
        bj.Stage(**change)


def test_second_order_fitting_of_a_loss_without_curvature_is_refused():
    with pytest.raises(ValueError, match=r"Stage\.optimizer: wanted a first-order one.*optax\.adam"):
        bj.Stage(bj.losses.endpoint, 2)


def test_a_ladder_is_its_fits_with_paths_solved_once(flow, monkeypatch):
    thetas = (START, bj.init_theta("table", 2))
    recipe = bj.Recipe(stages=SHORT[1:], num_paths=32, num_validation=32)
    alone = [bj.fit(flow, theta, KEY, recipe) for theta in thetas]
    solved = []
    monkeypatch.setattr(data_module, "ground_truth", lambda *a, **b: solved.append(1) or bj.ground_truth(*a, **b))
    for together, wanted in zip(bj.fit_ladder(flow, thetas, KEY, recipe), alone, strict=True):
        assert np.array_equal(together.theta.raw, wanted.theta.raw)
        assert together.cost == wanted.cost and together.start == wanted.start
    assert len(solved) == 2  # to fit to, and to hold out
    with pytest.raises(TypeError, match="solver: wanted"):
        bj.fit_ladder(flow, (START, 4), KEY)
    assert len(solved) == 2
