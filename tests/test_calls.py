"""Guidance by the call: tables over the single calls of a guided flow's two networks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow.guided import of_call
from bespoke_jax.run import adjoint

pytestmark = pytest.mark.usefixtures("float64")

W = 1.5
KEY = jax.random.key(0)


def velocity(params, t, x):
    """That of Gaussian data around a mean, which is the condition; 0 for no condition."""
    mean, s2 = params["condition"], 0.2 + (1 - t) ** 2
    return mean + ((0.2 * t - (1 - t)) / s2) * (x - t * mean) + params["weight"] * jnp.sin(x) * t * (1 - t)


ONE = bj.Flow(velocity, {"weight": np.float64(0.7), "condition": np.array([1.0, -1.0])}, (2,), bj.schedulers.CondOT())
CONDITIONS = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]])


def less(condition):
    return condition * 0.1


KINDS = {
    "one": lambda: bj.guided(ONE, W),
    "each": lambda: bj.guided(bj.given(ONE, CONDITIONS), W),
    "each after": lambda: bj.given(bj.guided(ONE, W), CONDITIONS),
    "tree": lambda: bj.guided(ONE, W, np.array([0.3, 0.2])),
    "function": lambda: bj.guided(bj.given(ONE, CONDITIONS), W, less),
}


def x0():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))


def random_table(fields, seed=1):
    rng, m = np.random.default_rng(seed), len(fields)
    parts = rng.uniform(0, 1, m), rng.normal(size=m), np.tril(0.3 * rng.normal(size=(m, m)))
    return bj.SolverTable(*map(jnp.asarray, parts), fields=fields)


@pytest.mark.parametrize("name", KINDS)
def test_the_two_networks_add_up_to_the_guided_flow(name):
    flow, x = KINDS[name](), x0()
    own, none = (of_call(flow, field)(0.3, x) for field in (0, 1))
    np.testing.assert_allclose((1 + W) * own - W * none, flow(0.3, x), rtol=1e-6)  # w is a float32
    traced = jax.jit(lambda field: of_call(flow, field)(0.3, x))(jnp.asarray(1))
    np.testing.assert_allclose(traced, none, rtol=1e-14)
    assert of_call(flow, 0).calls_per_evaluation == 1


@pytest.mark.parametrize("name", KINDS)
def test_solve_is_the_literal_loop(name):
    flow, table, noise = KINDS[name](), random_table((0, 1, 0, 0, 1)), x0()
    x, velocities = noise, []
    for i, field in enumerate(table.fields):
        velocities.append(of_call(flow, field)(table.t[i], x))
        x = table.a[i] * noise + sum(table.b[i, j] * velocities[j] for j in range(i + 1))
    for found in (bj.solve(flow, table, noise), table.end(flow, noise)):
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)
    walked = table.walk(lambda t, x, field: of_call(flow, field)(t, x), noise)
    np.testing.assert_allclose(walked, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["heun", "rk4", "deis"])
def test_pairs_are_the_table_over_evaluations(solver):
    make = dict(
        heun=bj.classic.heun, rk4=bj.classic.rk4, deis=lambda n, dtype: bj.classic.deis(n, ONE.scheduler, dtype=dtype)
    )
    table = make[solver](4, dtype=jnp.float64)
    for general in (table, bj.classic.known_first_call(table, ONE.scheduler, jnp.array([0.5, 2.0]))):
        calls = bj.by_call(general, np.float32(W))
        assert calls.nfe == 2 * general.nfe and calls.network_calls(KINDS["one"]()) == general.network_calls(
            KINDS["one"]()
        )
        wanted = bj.solve(KINDS["each"](), general, x0())
        np.testing.assert_allclose(bj.solve(KINDS["each"](), calls, x0()), wanted, rtol=0, atol=1e-12)


def test_a_call_left_out_is_replaced_by_the_last_difference():
    flow, noise, h = KINDS["one"](), x0(), 1 / 3
    calls = bj.by_call(bj.classic.euler(3, dtype=jnp.float64), W, without=[1])
    assert calls.fields == (0, 1, 0, 0, 1)
    own, none = (lambda t, x, field=field: of_call(flow, field)(t, x) for field in (0, 1))
    gap = own(0.0, noise) - none(0.0, noise)
    x1 = noise + h * (own(0.0, noise) + W * gap)
    x2 = x1 + h * (own(h, x1) + W * gap)
    wanted = x2 + h * ((1 + W) * own(2 * h, x2) - W * none(2 * h, x2))
    np.testing.assert_allclose(bj.solve(flow, calls, noise), wanted, rtol=0, atol=1e-12)


def test_a_table_of_a_range_is_that_of_each_scale():
    scales = np.array([0.5, 1.0, 3.0])
    flow, table = bj.guided(bj.given(ONE, CONDITIONS), scales), bj.classic.heun(4, dtype=jnp.float64)
    calls = bj.by_call(table, (0.5, 3.0), without=[2])
    found = calls.end(flow, x0())
    for i, w in enumerate(scales):
        alone = bj.guided(bj.given(ONE, CONDITIONS[i : i + 1]), w)
        wanted = bj.by_call(table, w, without=[2]).end(alone, x0()[i : i + 1])
        np.testing.assert_allclose(found[i : i + 1], wanted, atol=1e-6)
    learned = bj.LearnedCalls.euler(6, scales=(0.5, 3.0)).suited(flow)
    known = bj.classic.known_first_call(table, ONE.scheduler, jnp.zeros((3, 2)))
    start = learned.of(learned.expanded(flow, known))
    assert start.num_parameters == learned.num_parameters
    chosen = start.table().of_samples(bj.guided(ONE, 2.0))
    np.testing.assert_allclose(chosen.b, bj.by_call(known, 2.0).b, atol=1e-6)
    # It says at which scale it runs, so that another flow's is warned of.
    assert [start.table().of_samples(bj.guided(ONE, w)).scale for w in (2.0, 5.0)] == [2.0, 3.0]
    with pytest.warns(UserWarning, match="learned for the guidance scale 2, .* got a flow guided by 1;"):
        chosen.check_flow(bj.guided(ONE, 1.0))


@pytest.mark.parametrize("keep", [False, True], ids=["recomputed", "kept"])
def test_the_adjoint_is_that_of_the_solve(keep):
    flow, table, noise = KINDS["each"](), random_table((0, 1, 0, 1)), x0()
    cotangents = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3, 2)))
    found = adjoint.table_gradients(flow, table, adjoint.run(flow, table, noise, keep), list(cotangents))
    slopes = jax.jacobian(lambda raw: jnp.einsum("kbe,be->kb", cotangents, bj.solve(flow, table.with_raw(raw), noise)))
    wanted = jax.vmap(jax.vmap(lambda row: table.with_raw(row)))(slopes(table.raw))
    np.testing.assert_allclose(found.t, wanted.t, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.b, np.tril(wanted.b), rtol=1e-10, atol=1e-12)


def test_calls_are_counted_as_they_are_made():
    made = []

    def counting(params, t, x):
        jax.debug.callback(lambda: made.append(1))
        return velocity(params, t, x)

    flow = bj.guided(bj.Flow(counting, ONE.params, (2,), ONE.scheduler), 1.0)
    for solver in (bj.LearnedCalls.euler(5, without=[1]), bj.LearnedCalls.euler(4)):
        made.clear()
        bj.solve(flow, solver, x0()).block_until_ready()
        jax.effects_barrier()
        assert len(made) == solver.nfe == solver.network_calls(flow)
        assert solver.evaluations(flow) == solver.nfe / 2
    assert bj.classic.euler(4).network_calls(flow) == 8 and bj.classic.euler(4).evaluations(flow) == 4


@pytest.mark.parametrize("options", [{}, dict(without=[1, 3]), dict(at_once=True)], ids=["pairs", "dropped", "at once"])
@pytest.mark.parametrize("parts", [(), ("first",), ("c", "xi"), ("first", "c", "xi")], ids=str)
def test_the_first_directions_are_those_of_a_table_over_evaluations(parts, options):
    flow, more = KINDS["one"](), dict(first=jnp.ones(()), c=jnp.zeros(5), xi=jnp.array([0.5, 2.0]))
    plain = bj.classic.ipndm(4, dtype=jnp.float64)
    pairs = bj.LearnedTable.of(dataclasses.replace(plain, **{part: more[part] for part in parts}))
    calls = bj.LearnedCalls.euler(8 - len(options.get("without", ())), dtype=jnp.float64, **options)
    calls = bj.LearnedCalls.of(calls.expanded(flow, pairs.reference))
    numbers = 0.1 * np.random.default_rng(0).normal(size=pairs.num_parameters)
    moved = calls.with_raw(jnp.asarray(calls.first_directions(flow) @ numbers)).table()
    wanted = calls.expanded(flow, pairs.with_raw(jnp.asarray(numbers)).table())
    for found, there in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, there, rtol=0, atol=1e-6)  # w is a float32


def test_a_fit_that_chose_its_start_learns_pairs_before_the_calls_apart():
    apart = []

    def look(state, record):
        directions = state.theta.first_directions(flow)
        numbers = np.linalg.lstsq(directions, state.theta.raw, rcond=None)[0]
        apart.append(np.max(np.abs(directions @ numbers - state.theta.raw)))

    stage = bj.Stage("endpoint", 8, dataclasses.replace(bj.SMALL_STEPS, tries=0), validate_every=4)
    recipe = bj.Recipe((stage,), num_paths=16, num_validation=8)
    with jax.enable_x64(False):
        flow = KINDS["one"]()
        bj.fit(flow, bj.LearnedCalls.euler(4), KEY, recipe, callback=look)
    assert apart[0] == 0 and apart[1] < 1e-6 and apart[2] > 1e-3


@pytest.mark.slow
def test_a_fit_by_calls_beats_the_fit_in_pairs():
    with jax.enable_x64(False):
        data = jnp.array([[1.0, -1.0], [-1.0, 0.5], [0.3, 1.2], [-0.4, -1.0]])
        mixture = bj.analytic.mixture(data, 0.25)

        def conditional(params, t, x):
            # Class k weighs its own component alone; no class is the whole mixture.
            weight = params["condition"]
            one = bj.analytic.gaussian(jnp.zeros(2), 0.25)
            own = sum(weight[k] * (mean + _shifted(one, t, x, mean)) for k, mean in enumerate(data))
            return own + (1 - jnp.sum(weight)) * mixture(t, x)

        flow = bj.Flow(conditional, {"condition": jnp.zeros(4)}, (2,), bj.schedulers.CondOT())
        guided = bj.guided(bj.given(flow, jnp.eye(4)), 1.0)
        recipe = bj.Recipe(stages=(bj.Stage(num_iterations=64),), num_paths=96)
        pairs = bj.fit(guided, bj.init_theta("table", 3), KEY, recipe)
        calls = bj.fit(guided, bj.LearnedCalls.euler(6), KEY, recipe)
        assert pairs.theta.network_calls(guided) == calls.theta.network_calls(guided) == 6
        assert calls.best["mean_psnr"] > pairs.best["mean_psnr"] + 0.3
        assert calls.theta.reference.fields == (0, 1) * 3
        check = bj.check_solver(guided, calls.theta, jax.random.key(1), num_paths=16)
        assert (check.nfe, check.network_calls) == (3, 6) and check.fits


def _shifted(one, t, x, mean):
    return one(t, x - t * mean)


def test_files(tmp_path):
    learned = bj.LearnedCalls.euler(5, without=[1])
    bj.save_solver(tmp_path / "calls.json", learned)
    back = bj.load_solver(tmp_path / "calls.json")
    assert back.fields == (0, 1, 0, 0, 1) and np.array_equal(back.b, bj.to_table(learned).b)
    content = json.loads((tmp_path / "calls.json").read_text())
    assert content["format"].endswith("version 2")
    for wrong in ([0, 1], [0, 1, 0, 0, 2], "01001", [0, 1, 0, 0, True]):
        (tmp_path / "wrong.json").write_text(json.dumps(content | dict(fields=wrong)))
        with pytest.raises(ValueError, match="fields"):
            bj.load_solver(tmp_path / "wrong.json")


def test_another_guidance_scale_than_the_learned_one_is_told(tmp_path):
    network = ONE.replace(params={"weight": np.float32(0.7), "condition": np.float32([1.0, -1.0])})
    flow, noises = bj.guided(network, W), np.float32(x0())
    recipe = bj.Recipe(stages=(bj.Stage("endpoint", 2),), num_paths=16, num_validation=16)
    learned = bj.fit(flow, bj.LearnedCalls.euler(4), KEY, recipe).theta
    assert learned.reference.scale == W
    bj.save_solver(tmp_path / "calls.json", learned, flow=flow)
    for solver in (learned, bj.to_table(learned), bj.load_solver(tmp_path / "calls.json")):
        bj.solve(flow, solver, noises)
        with pytest.warns(
            UserWarning, match=rf"solver: learned for the guidance scale {W:g}, .* guided by 3; samples are"
        ):
            bj.solve(bj.guided(network, 3.0), solver, noises)
    with pytest.raises(ValueError, match="flow: wanted a guided flow"):
        bj.save_solver(tmp_path / "other.json", learned, flow=network)
    with pytest.raises(ValueError, match="scale: wanted finite numbers"):
        content = json.loads((tmp_path / "calls.json").read_text())
        (tmp_path / "wrong.json").write_text(json.dumps(content | dict(scale="1.5")))
        bj.load_solver(tmp_path / "wrong.json")


def test_a_solver_of_a_range_holds_no_scale():
    table = bj.by_call(bj.classic.euler(2), (0.0, 2.0))
    assert table.scale is None and bj.by_call(bj.classic.euler(2), W).scale == W
    other = bj.LearnedCalls.of(bj.by_call(bj.classic.euler(2), W)).suited(bj.guided(ONE, 3.0))
    assert other.reference.scale == 3.0  # what it is to learn


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (lambda: bj.solve(ONE, bj.LearnedCalls.euler(4), x0()), ValueError, "flow: wanted a guided flow"),
        (lambda: bj.fit(ONE, bj.LearnedCalls.euler(4), KEY), ValueError, "flow: wanted a guided flow"),
        (lambda: bj.solve(KINDS["one"](), random_table((0, 2)), x0()), ValueError, "solver.fields: wanted 0 or 1"),
        (
            lambda: bj.solve(
                KINDS["one"](),
                bj.SolverTable(*(random_table((0, 1, 0)).t,) * 2, random_table((0, 1, 0)).b, fields=(0,)),
                x0(),
            ),
            ValueError,
            "fields",
        ),
        (lambda: bj.LearnedCalls.euler(5, without=[]), ValueError, "num_calls"),
        (lambda: bj.LearnedCalls.euler(4, scales=(2.0, 1.0)), ValueError, "guidance_scale: wanted a number, or"),
        (lambda: bj.LearnedCalls.euler(4, scales=1.0), ValueError, "scales"),
        (
            lambda: bj.LearnedCalls.euler(4).suited(bj.guided(bj.given(ONE, CONDITIONS), [1.0, 2.0, 3.0])),
            ValueError,
            "scales=",
        ),
        (lambda: bj.LearnedCalls.of(bj.classic.euler(4)), ValueError, "reference: wanted one over calls"),
        (
            lambda: bj.by_call(bj.classic.euler(3), W, without=[0]),
            ValueError,
            "without: wanted evaluations from 1 to 2",
        ),
        (lambda: bj.by_call(bj.by_call(bj.classic.euler(3), W), W), ValueError, "over calls already"),
        (lambda: bj.by_call(bj.init_theta("rk1", 3), W), TypeError, "table"),
    ],
)
def test_bad_input_is_named(work, error, words):
    with pytest.raises(error, match=words):
        work()


@pytest.mark.parametrize("scale", [W, (0.0, 2.0)])
def test_corrections_are_for_calls_that_are_apart_already(scale):
    with pytest.raises(
        ValueError, match="table: wanted one for all samples, got one with corrections for each class or scale"
    ):
        bj.by_call(bj.corrected(bj.classic.euler(2), num_classes=3), scale)
