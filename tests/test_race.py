"""Fits of general tables: starts of two structures, the race between them, and what a flow has to offer for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.starts import best_start, race, start_groups
from bespoke_jax.run.adjoint import end_points, ends_of_each

pytestmark = [
    # Few paths of a mixture: some end between its components.
    pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is"),
]

KEY = jax.random.key(0)
MEANS = [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]
FLOW = bj.analytic.mixture(MEANS, 0.3)
UNKNOWN = bj.Flow(FLOW.velocity, FLOW.params, FLOW.event_shape)  # the same field without a scheduler
STAGE = bj.Stage("endpoint", 16, validate_every=4)
RECIPE = bj.Recipe(stages=(STAGE,))


@pytest.fixture(scope="module")
def paths():
    return tuple(bj.ground_truth(FLOW, FLOW.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))


def mean_log_rmse(solver, paths):
    ends = end_points(FLOW, solver, paths.x0)
    return float(jnp.mean(jnp.log(bj.metrics.rmse(ends, paths.x1, 1))))


@pytest.mark.slow
def test_the_first_call_saved_is_worth_decibels(paths, monkeypatch):
    recipe, options = bj.Recipe(stages=(bj.Stage("endpoint"),)), dict(paths=paths[0], validation=paths[1])
    fitted = bj.fit(FLOW, bj.init_theta("table", 4), KEY, recipe, **options)
    assert fitted.start.startswith("known_first/") and fitted.theta.nfe == 4
    monkeypatch.setattr(bj.LearnedTable, "suited", lambda self, flow: self)
    plain = bj.fit(FLOW, bj.init_theta("table", 4), KEY, recipe, **options)
    assert not plain.start.startswith("known_first/") and bj.to_table(plain.theta).c is None
    gained = mean_log_rmse(plain.theta, paths[2]) - mean_log_rmse(fitted.theta, paths[2])
    assert 20 * np.log10(np.exp(gained)) > 3


def test_a_flow_without_a_scheduler_keeps_the_plain_table(paths):
    fitted = bj.fit(UNKNOWN, bj.init_theta("table", 3), KEY, RECIPE, paths=paths[0], validation=paths[1])
    table = bj.to_table(fitted.theta)
    assert table.first is None and table.c is None and table.t[0] == 0
    assert len(start_groups(UNKNOWN, bj.init_theta("table", 3))) == 1


def test_every_start_is_in_one_form():
    theta = bj.init_theta("table", 4).suited(FLOW)
    groups = start_groups(FLOW, theta)
    shapes = {str(jax.tree.map(jnp.shape, start)) for group in groups for start in group.values()}
    assert len(groups) == 2 and len(shapes) == 1 and not groups[0].keys() & groups[1].keys()
    assert all(start.nfe == 4 for group in groups for start in group.values())
    # The plain ones are what they were.
    x0 = FLOW.noise(KEY, (5,))
    for name, table in list(bj.classic.dedicated(4, FLOW.scheduler).items())[:3]:
        np.testing.assert_allclose(bj.solve(FLOW, groups[0][name], x0), bj.solve(FLOW, table, x0), atol=1e-5)


def test_it_takes_its_image_from_the_ends():
    theta = bj.init_theta("table", 2).suited(FLOW)
    x1 = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    assert _image(theta, FLOW, x1).tolist() == [2.0, 4.0]
    # One for each class, drawn to the mean of all by two samples; a class without samples has that mean.
    flow = bj.Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.int32(0)}, (), bj.schedulers.CondOT())
    each = bj.given(flow, [0, 0, 2])
    image = _image(bj.init_theta("table", 2).suited(each), each, jnp.array([1.0, 3.0, 8.0]))
    np.testing.assert_allclose(image, [(1 + 3 + 2 * 4) / 4, 4.0, (8 + 2 * 4) / 3], rtol=1e-3)
    # A plain table has none.
    plain = bj.init_theta("table", 2)
    assert plain.with_samples(FLOW, x1, x1, 2) == (plain, 0)


def _image(theta, flow, x1):
    found, spent = theta.with_samples(flow, jnp.zeros_like(x1), x1, 2)
    assert spent == 0
    return found.reference.xi


@pytest.mark.parametrize(
    "scheduler", [bj.schedulers.Cosine(), bj.schedulers.CondOT()]
)  # of slopes 0 and -1 in the noise
def test_the_image_of_a_guided_flow_is_what_its_velocities_are_affine_in(scheduler):
    means, w = jnp.array([0.5, -1.0, 2.0]), 1.5

    def velocity(params, t, x):  # of Gaussian data; class 0 stands for no class
        return bj.analytic.gaussian(means[params["condition"]][None], 0.1, scheduler)(t, x)

    flow = bj.Flow(velocity, {"condition": jnp.int32(1)}, (1,), scheduler)
    flow = bj.given(bj.guided(flow, w, unconditional=jnp.int32(0)), [1, 2, 2, 1] * 16)
    x0 = flow.noise(KEY, (64,))
    theta, spent = bj.LearnedCalls.euler(4).suited(flow).with_samples(flow, x0, 100 + x0, 16)
    assert spent == 64
    wanted, image = (1 + w) * means - w * means[0], theta.reference.xi[:, 0]
    mean, own = wanted[1:].mean(), 32 / (32 + 2)  # each class is drawn to the mean of all by two samples
    np.testing.assert_allclose(image[1:], own * wanted[1:] + (1 - own) * mean, rtol=2e-3)


def test_images_too_large_for_a_file():
    def zero(params, t, x):
        return 0 * x

    large = bj.Flow(zero, None, (4096, 2048), bj.schedulers.CondOT())
    assert bj.init_theta("table", 2).suited(large).reference.c is None
    many = bj.Flow(lambda p, t, x: 0 * x, {"condition": jnp.int32(0)}, (512, 512), bj.schedulers.CondOT())
    assert bj.init_theta("table", 2).suited(bj.given(many, [0, 99])).reference.xi.shape == (512, 512)


@pytest.mark.slow
def test_a_fit_resumed_from_any_state_ends_with_the_same_bits(paths):
    states, options = [], dict(paths=paths[0], validation=paths[1])
    theta = bj.init_theta("table", 3)
    whole = bj.fit(FLOW, theta, KEY, RECIPE, **options, callback=lambda state, record: states.append(state))
    wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), bj.init_state(theta.suited(FLOW), RECIPE.stages))
    for state in states:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == wanted
        resumed = bj.fit(FLOW, theta, KEY, RECIPE, **options, state=state)
        assert np.array_equal(resumed.theta.raw, whole.theta.raw)
        assert (resumed.cost, resumed.start) == (whole.cost, whole.start)
        for found, wanted_record in zip(resumed.history, whole.history, strict=True):
            np.testing.assert_equal(found, wanted_record)  # in which NaN is NaN


def of_a_class(params, t, x):
    return bj.analytic.gaussian(params["condition"], 0.3)(t, x)


CLASSES = bj.Flow(of_a_class, {"condition": jnp.zeros(2)}, (2,), bj.schedulers.CondOT())
GIVEN = bj.given(CLASSES, jnp.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.5], [3.0, 0.0]]))


@pytest.mark.parametrize("flow", [FLOW, GIVEN, bj.guided(GIVEN, jnp.linspace(0, 2, 5))], ids=["one", "given", "guided"])
def test_samples_with_a_table_each_end_where_that_table_takes_them(flow):
    image = dict(first=jnp.float32(0.9), c=jnp.linspace(0, 0.3, 5), xi=jnp.array([1.0, -2.0]))
    tables = [bj.SolverTable(t.t, t.a, t.b, **image) for t in map(bj.classic.ipndm, [4] * 3, [1, 2, 4])]
    each = [tables[i] for i in (0, 2, 1, 1, 0)]
    x0 = flow.noise(KEY, (5,))
    wanted = jnp.stack([bj.solve(flow, table, x0)[i] for i, table in enumerate(each)])
    np.testing.assert_allclose(ends_of_each(flow, each, x0), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "flow, num_paths", [pytest.param(FLOW, 8, marks=pytest.mark.slow), (GIVEN, 5)], ids=["one", "given"]
)
def test_starts_tried_together_are_ranked_as_apart(flow, num_paths):
    paths = bj.ground_truth(flow, flow.noise(KEY, (num_paths,)))
    theta, _ = bj.init_theta("table", 3).suited(flow).with_samples(flow, paths.x0, paths.x1, 16)
    group = dict(list(start_groups(flow, theta)[0].items())[:23])  # more than 12: in two rounds
    apart, spent = best_start(flow, group, paths, num_paths=num_paths)
    assert spent == 3 * (23 * 4 + 6 * num_paths)
    said = []
    together = best_start(flow, group, paths, None, num_paths, 16, said.append, together=True)
    # In batches of 16: four starts on four paths, then two on eight or three on five, which leave a row.
    batches = 6 + {8: 3, 5: 2}[num_paths]
    assert together == (apart, 3 * 16 * batches) and len(said) == batches
    assert said[0] == "trying starts 1 to 4 of 23 on 4 paths" and said[5] == "trying starts 21 to 23 of 23 on 4 paths"


def test_starts_with_corrections_are_tried_one_by_one():
    own = {
        name: bj.corrected(solver(3), num_classes=2)
        for name, solver in (("a", bj.classic.euler), ("b", bj.classic.ipndm))
    }
    flow = bj.given(CLASSES, jnp.eye(2))
    paths, said = bj.ground_truth(flow, flow.noise(KEY, (2,))), []
    best_start(flow, own, paths, None, 2, 16, said.append, together=True)
    assert len(said) == 2


def test_the_race_is_won_by_what_is_better_after_its_updates(paths):
    theta, _ = bj.init_theta("table", 3).suited(FLOW).with_samples(FLOW, paths[0].x0, paths[0].x1, 16)
    groups = start_groups(FLOW, theta)
    racers = {name: group[name] for group in groups for name in [best_start(FLOW, group, paths[0])[0]]}
    name, blocks, spent = race(FLOW, racers, paths[0], STAGE, KEY)
    few, values = paths[0].take(jnp.arange(32)), {}
    evaluations = 0
    for racer, start in racers.items():
        moved, _, losses, cost = STAGE.update(FLOW, start, STAGE.optimizer.init(start.raw), paths[0], KEY, 0, 12)
        values[racer] = mean_log_rmse(moved, few)
        evaluations += cost + 32 * 3
        if racer == name:
            assert np.array_equal(moved.raw, blocks[-1].theta.raw) and len(blocks) == 3
            assert np.array_equal(losses, np.concatenate([block.losses for block in blocks]))
            own = cost
    assert name == min(values, key=values.get) and spent == evaluations - own


def test_a_racer_that_is_not_finite_loses(paths):
    good = bj.LearnedTable.of(bj.classic.euler(3))
    table = bj.classic.euler(3)
    bad = bj.LearnedTable.of(bj.SolverTable(table.t, 1e30 * table.a, 1e30 * table.b))
    assert race(FLOW, {"bad": bad, "good": good}, paths[0], STAGE, KEY)[0] == "good"


@pytest.mark.slow  # test_frugal.py has budgets
def test_the_frugal_budget_holds_with_a_race():
    fitted = bj.fit(FLOW, bj.init_theta("table", 3), KEY, bj.frugal(6000))
    assert 5400 < fitted.cost <= 6000
