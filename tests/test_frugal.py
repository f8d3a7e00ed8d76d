"""Fits for few evaluations: the budget is kept, ends by a dedicated solver are true enough, and learning from them works."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.budget import reference
from bespoke_jax.flow.conditions import of_paths
from bespoke_jax.run import probe
from bespoke_jax.run.truth import truth_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:fit. on the held-out paths"),  # tests/test_heavy_tails.py has this warning
]

KEY = jax.random.key(0)
MEANS = [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]
SCHEDULERS = [bj.schedulers.CondOT(), bj.schedulers.Cosine(), bj.schedulers.VariancePreserving()]


@pytest.fixture(scope="module")
def flow():
    return bj.analytic.mixture(MEANS, 0.3)


def mean_psnr(flow, solver, paths):
    error = bj.metrics.rmse(bj.adjoint.end_points(flow, solver, paths.x0), paths.x1, 1)
    return float(jnp.mean(bj.metrics.psnr(jnp.maximum(error, 1e-9))))


@pytest.mark.parametrize(
    "base, num_steps, budget",
    [*(pytest.param("rk2", 2, budget, marks=pytest.mark.slow) for budget in (4000, 9000)), ("rk1", 5, 6000)],
)
def test_a_fit_spends_no_more_than_its_budget_and_most_of_it(flow, base, num_steps, budget):
    theta = bj.init_theta(base, num_steps)
    result = bj.fit(flow, theta, KEY, bj.frugal(budget))
    assert 0.9 * budget < result.cost <= budget
    fresh = bj.ground_truth(flow, flow.noise(jax.random.key(9), (256,)))
    assert mean_psnr(flow, result.theta, fresh) > mean_psnr(flow, theta, fresh) + 6


@pytest.mark.filterwarnings("ignore:fit. the solver is")  # as good as its reference
@pytest.mark.slow
def test_a_start_that_is_given_leaves_more_for_learning(flow):
    theta = bj.init_theta("rk2", 3)
    chosen, given = (bj.frugal(9000, choose_start=choose).resolve(flow, theta) for choose in (True, False))
    assert given.stages[0].num_iterations > chosen.stages[0].num_iterations
    assert bj.fit(flow, theta, KEY, given).cost <= 9000


def test_too_small_a_budget_is_refused_with_the_least(flow):
    theta = bj.init_theta("rk2", 5)
    with pytest.raises(ValueError, match=r"budget: wanted at least \d+ .* got 500") as error:
        bj.fit(flow, theta, KEY, bj.frugal(500))
    least = int(str(error.value).split("at least ")[1].split()[0])
    assert bj.frugal(least).resolve(flow, theta).stages[0].num_iterations == 1
    with pytest.raises(ValueError, match="budget"):
        bj.frugal(least - 1).resolve(flow, theta)
    with pytest.raises(TypeError, match="budget: wanted an integer, got inf"):
        bj.frugal(float("inf"))


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, None], ids=["condot", "cosine", "vp", "none"])
def test_the_reference_is_far_better_than_what_learns_from_it(scheduler):
    flow = bj.analytic.mixture(MEANS, 0.3, scheduler=scheduler)
    if scheduler is None:
        flow = bj.Flow(flow.velocity, flow.params, flow.event_shape)
    paths = bj.ground_truth(flow, flow.noise(jax.random.key(5), (128,)), 1e-6, 1e-6)
    assert mean_psnr(flow, reference(flow, 10), paths) > mean_psnr(flow, bj.init_theta("rk2", 5), paths) + 12


# --- Paths of which the ends alone are known ---


@pytest.fixture(scope="module")
def paths(flow):
    return bj.ground_truth(flow, flow.noise(jax.random.key(1), (4, 8)))


@pytest.fixture(scope="module")
def ends(flow, paths):
    return bj.Paths.of_ends(flow, paths.x0, paths.x1, evaluations=30)


@pytest.mark.parametrize("loss", [bj.losses.endpoint, bj.losses.rmse])
def test_losses_of_ends_need_no_more_than_ends(flow, paths, ends, loss):
    theta = bj.init_theta("rk2", 3)
    assert float(loss(flow, theta, ends)) == float(loss(flow, theta, paths))
    some = np.array([3, 17, 5])
    assert float(loss(flow, theta, ends.take(some))) == float(loss(flow, theta, paths.take(some)))


def test_what_is_known_of_ends(paths, ends):
    assert ends.is_of_ends and not paths.is_of_ends
    assert (ends.num_paths, ends.x0.shape, float(ends.nfe)) == (32, (4, 8, 2), 30)
    assert np.array_equal(ends.x1, paths.x1)


@pytest.mark.parametrize("loss", [bj.losses.rmse_bound, bj.losses.local])
def test_losses_of_single_steps_refuse_ends(flow, ends, loss):
    with pytest.raises(ValueError, match="the ends alone"):
        loss(flow, bj.init_theta("rk2", 3), ends)
    with pytest.raises(ValueError, match="the ends alone"):
        ends.velocity(0.5)


def test_ends_of_wrong_shapes_are_refused(flow, paths):
    with pytest.raises(ValueError, match=r"x1: wanted one for each noise, \(4, 8, 2\), got shape \(8, 2\)"):
        bj.Paths.of_ends(flow, paths.x0, paths.x1[0])
    with pytest.raises(ValueError, match="x0"):
        bj.Paths.of_ends(flow, paths.x0[..., :1], paths.x1)


def test_ends_keep_their_conditions():
    flow = bj.Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.zeros(())}, (2,))
    some = bj.given(flow, jnp.arange(4.0))
    x0 = some.noise(KEY, (4,))
    theta = bj.init_theta("rk2", 3)
    ends = bj.Paths.of_ends(some, x0, bj.solve(some, theta, x0))
    few = ends.take(np.array([2, 0]))
    assert few.condition.tolist() == [2.0, 0.0]
    # What it was solved by has no error on them, whichever conditions the flow has.
    assert float(bj.losses.rmse(of_paths(some, few), theta, few)) < 1e-6
    with pytest.raises(ValueError, match="as many samples as the flow has conditions, 4, got 3"):
        bj.Paths.of_ends(some, x0[:3], x0[:3])


def test_a_fit_with_a_reference_is_the_fit_to_its_ends(flow):
    theta, many = bj.init_theta("rk1", 3), bj.classic.rk4(40)
    stages = (bj.Stage("endpoint", 3, batch_size=32),)
    by_reference = bj.fit(flow, theta, KEY, bj.Recipe(stages=stages, num_paths=48, num_validation=32, reference=many))
    by_truth = bj.fit(flow, theta, KEY, bj.Recipe(stages=stages, num_paths=48, num_validation=32))
    np.testing.assert_allclose(by_reference.theta.raw, by_truth.theta.raw, atol=2e-2)
    start = by_reference.history[0]["evaluations"]
    assert by_truth.cost - by_reference.cost == by_truth.history[0]["evaluations"] - start
    held_out = flow.noise(jax.random.fold_in(KEY, 1), (32,))
    checked = 16 * probe.EVALUATIONS + truth_of(bj.Paths.of_ends(flow, held_out, held_out), flow)[1]
    assert start == (48 + 32) * 40 + checked + 11 * 32 * 3


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(reference="unipc"), TypeError, "reference: wanted a SolverTable"),
        (dict(reference=bj.classic.euler(6)), ValueError, "reference: .* of 6 evaluations, got one of 6"),
        (dict(reference=bj.classic.euler(40), stages=bj.paper(2).stages), ValueError, "reference: .*'rmse_bound'"),
        (dict(best_by="mean"), ValueError, "best_by: .*'mean'"),
    ],
)
def test_bad_arguments_are_named(flow, change, error, message):
    with pytest.raises(error, match=message):
        bj.fit(flow, bj.init_theta("rk2", 3), KEY, bj.Recipe(**change))


@pytest.mark.parametrize(
    "loss, best_by, figure",
    [
        ("endpoint", "psnr", "psnr"),
        ("endpoint", "mean_psnr", "mean_psnr"),
        ("endpoint", None, "mean_psnr"),
        ("rmse", None, "psnr"),
    ],
)
def test_the_best_is_chosen_by_the_figure_that_is_asked_for_or_minimised(flow, loss, best_by, figure):
    # Sixteen held-out paths and steps from batches of eight: the two figures wander, each its own way.
    seen = []
    stages = (bj.Stage(loss, 12, bj.LevenbergMarquardt(tries=1), batch_size=8, probes=1, validate_every=1),)
    result = bj.fit(
        flow,
        bj.init_theta("rk1", 3),
        jax.random.key(9),
        bj.Recipe(stages=stages, num_paths=64, num_validation=16, best_by=best_by),
        callback=lambda state, record: seen.append((record, np.asarray(state.theta.raw))),
    )
    (other,) = {"psnr", "mean_psnr"} - {figure}
    best, raw = max(seen, key=lambda pair: pair[0][figure])
    by_other, _ = max(seen, key=lambda pair: pair[0][other])
    assert best["iteration"] != by_other["iteration"], "the choice has to matter for this test"
    assert np.array_equal(result.theta.raw, raw)
    assert result.best == best and best[figure] > seen[0][0][figure]
    assert result.lost == by_other[other] - best[other] > 0


@pytest.mark.parametrize(
    "loss, figure",
    [
        ("endpoint", "mean_psnr"),
        ("rmse", "psnr"),
        ("sqrt_rmse", "mean_psnr"),
        ("rmse_bound", "psnr"),
        (bj.losses.Distance(features=jnp.tanh), "mean_psnr"),
        (bj.losses.Distance(features=jnp.tanh, average="mean"), "psnr"),
        (bj.losses.rmse, "psnr"),
    ],
)
def test_the_last_loss_says_which_figure_decides(loss, figure):
    stages = tuple(bj.Stage(some, 1, optax.adam(1e-2)) for some in ("endpoint", "rmse", loss))
    assert bj.Recipe(stages=stages).figure == figure
    for asked in ("psnr", "mean_psnr"):
        assert bj.Recipe(stages=stages, best_by=asked).figure == asked


@pytest.fixture
def classes():
    def velocity(params, t, x):
        return bj.analytic.gaussian(params["condition"], 0.3)(t, x)

    return bj.given(bj.Flow(velocity, {"condition": jnp.zeros(2)}, (2,), bj.schedulers.CondOT()), jnp.eye(2))


def test_the_image_of_a_guided_flow_costs_an_evaluation_of_each_sample(classes):
    flow, theta = bj.guided(classes, 0.5), bj.init_theta("table", 2)
    assert (theta.most_per_sample(flow), theta.suited(flow).most_per_sample(flow)) == (0, 1)
    assert theta.suited(classes).most_per_sample(classes) == 0


@pytest.mark.slow
def test_the_image_of_a_guided_flow_is_within_the_budget(classes):
    result = bj.fit(bj.guided(classes, 0.5), bj.init_theta("table", 2), jax.random.key(0), bj.frugal(4000))
    assert 3000 < result.cost <= 4000 and result.network_calls == 2 * result.cost


@pytest.mark.parametrize(
    "params, remedy", [(1.0, r"Check flow\(t, x\) near that time"), (np.nan, "the flow's params has NaN")]
)
def test_a_velocity_that_is_not_finite_is_told_with_its_time(params, remedy):
    broken = bj.Flow(lambda p, t, x: jnp.where(t > 0.5, jnp.nan, -x * p), jnp.float32(params), (2,))
    with pytest.raises(FloatingPointError, match=rf"the velocity returned NaN or infinity after t = .*{remedy}"):
        bj.fit(broken, bj.init_theta("table", 4), KEY, bj.frugal(6000))


def test_a_reference_that_diverges_is_named():
    stiff = bj.Flow(
        lambda p, t, x: -100 * x**3, None, (2,)
    )  # Dopri5 shortens its steps, three steps of Euler's method cannot
    recipe = bj.Recipe(reference=bj.classic.euler(30), num_paths=8, num_validation=8, choose_start=False)
    with pytest.raises(
        FloatingPointError, match=r"the reference of 30 evaluations ends at NaN or infinity for \d+ of 8 samples"
    ):
        bj.fit(stiff, bj.init_theta("rk2", 2), KEY, recipe)
