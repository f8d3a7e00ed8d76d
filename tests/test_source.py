"""Sources of x0 that are not the scheduler's Gaussian noise: the closed form of affine flows, and everything that draws noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting.starts import start_groups
from bespoke_jax.flow import conditions
from bespoke_jax.flow.guided import of_call
from bespoke_jax.run.probe import check_velocity

KEY = jax.random.key(0)
MEAN, STD = jnp.array([1.0, -2.0]), 0.5  # of the data
CENTRE, SPREAD = jnp.array([6.0, 3.0]), 2.0  # of the off-centre source


def affine(centre, spread, t, x):
    """The velocity of x = t x1 + (1 - t) x0 with independent Gaussian x0, x1: it keeps mean and standard deviation right."""
    mean, mean_slope = t * MEAN + (1 - t) * centre, MEAN - centre
    variance = t**2 * STD**2 + (1 - t) ** 2 * spread**2
    return mean_slope + (t * STD**2 - (1 - t) * spread**2) / variance * (x - mean)


def off_centre_velocity(params, t, x):
    return affine(CENTRE, SPREAD, t, x)


def off_centre(params, key):
    return CENTRE + SPREAD * jax.random.normal(key, (2,))


OFF_CENTRE = bj.Flow(off_centre_velocity, None, (2,), bj.schedulers.CondOT(), source=off_centre)


def masked_velocity(params, t, x):
    c = params["condition"]
    return jnp.where(c["known"], 0.0, affine(0.0, 1.0, t, x))


def masked(params, key):
    """Noise where nothing is known, and what is known elsewhere."""
    c = params["condition"]
    return jnp.where(c["known"], c["value"], jax.random.normal(key, (2,)))


MASKS = {
    "known": np.array([[True, False], [False, True], [False, False]]),
    "value": np.array([[5.0, 0], [0, 7.0], [0, 0]]),
}
MASKED = bj.given(
    bj.Flow(masked_velocity, {"condition": {"known": jnp.zeros(2, bool), "value": jnp.zeros(2)}}, (2,), source=masked),
    MASKS,
)

CELLS = jax.random.normal(KEY, (5, 2)) + 4


def cell(params, key):
    return params["condition"]["x0"]


OF_CELLS = bj.given(bj.Flow(off_centre_velocity, {"condition": {"x0": CELLS[0]}}, (2,), source=cell), {"x0": CELLS})


def test_the_flow_of_an_off_centre_source_is_affine():
    x0 = OFF_CENTRE.noise(KEY, (512,))
    np.testing.assert_allclose(x0.mean(0), CENTRE, atol=0.3)
    np.testing.assert_allclose(x0.std(0), [SPREAD, SPREAD], atol=0.2)
    wanted = MEAN + STD / SPREAD * (x0 - CENTRE)
    np.testing.assert_allclose(bj.ground_truth(OFF_CENTRE, x0, 1e-6, 1e-6).x1, wanted, atol=1e-4)


def test_each_sample_has_a_key_of_its_own_and_a_single_one_the_key_itself():
    x0 = OFF_CENTRE.noise(KEY, (2, 3))
    wanted = [off_centre(None, key) for key in jax.random.split(KEY, 6)]
    np.testing.assert_allclose(x0, jnp.stack(wanted).reshape(2, 3, 2), rtol=1e-6)
    np.testing.assert_allclose(OFF_CENTRE.noise(KEY), off_centre(None, KEY), rtol=1e-6)
    raw = jax.random.PRNGKey(0)
    np.testing.assert_allclose(OFF_CENTRE.noise(raw), off_centre(None, raw), rtol=1e-6)
    assert OFF_CENTRE.noise(KEY, (3,), jnp.bfloat16).dtype == jnp.bfloat16


def test_a_masked_source_sees_each_samples_mask_wherever_noise_is_drawn():
    x0 = MASKED.noise(KEY, (3,))
    np.testing.assert_array_equal(np.where(MASKS["known"], x0, 0), MASKS["value"])
    wanted = np.where(MASKS["known"], MASKS["value"], MEAN + STD * x0)
    np.testing.assert_allclose(bj.solve(MASKED, bj.classic.rk4(80), x0), wanted, atol=1e-4)
    # Seven samples of three masks, in turn; known values stay where they are.
    x1 = bj.sample(MASKED, bj.classic.euler(3), KEY, num_samples=7)
    which = np.arange(7) % 3
    np.testing.assert_allclose(np.where(MASKS["known"][which], x1, 0), MASKS["value"][which], atol=1e-6)
    dealt = conditions.dealt(MASKED, KEY, 11)
    known, value = (conditions.condition_of(dealt)[name] for name in ("known", "value"))
    np.testing.assert_array_equal(np.where(known, dealt.noise(KEY, (11,)), 0), np.where(known, value, 0))
    with pytest.raises(ValueError, match=r"batch_shape: wanted as many samples as the flow has conditions, 3, got 4"):
        MASKED.noise(KEY, (4,))


def test_cells_as_x0():
    np.testing.assert_array_equal(OF_CELLS.noise(KEY, (5,)), CELLS)
    solver = bj.classic.midpoint(8)
    wanted = bj.solve(OF_CELLS, solver, CELLS)
    np.testing.assert_allclose(bj.sample(OF_CELLS, solver, KEY, num_samples=5), wanted, rtol=1e-6)
    np.testing.assert_allclose(bj.sample(OF_CELLS, solver, KEY), wanted[0], rtol=1e-6)


def towards(params, t, x):
    return params["speed"] * (params["condition"]["x0"] - x)


def test_the_source_of_a_guided_flow_sees_the_networks_parameters():
    def source(params, key):
        return params["speed"] * params["condition"]["x0"] + 0 * jax.random.normal(key, (2,))

    params = {"speed": jnp.float32(2.0), "condition": {"x0": CELLS[0]}}
    flow = bj.Flow(towards, params, (2,), source=source)
    many = bj.given(flow, {"x0": CELLS})
    np.testing.assert_allclose(bj.guided(flow, 0.5).noise(KEY), 2 * CELLS[0], rtol=1e-6)
    for guided in (
        bj.guided(many, 0.5),
        bj.given(bj.guided(flow, 0.5), {"x0": CELLS}),
        bj.guided(bj.guided(many, 1.0), 0.5, {"x0": jnp.ones(2)}),
    ):
        np.testing.assert_allclose(guided.noise(KEY, (5,)), 2 * CELLS, rtol=1e-6)
    for field in (0, 1):
        assert of_call(bj.guided(many, 0.5), field).source == source


def test_what_is_made_of_a_flow_keeps_its_source():
    for flow in (
        bj.sharding.replicate(OFF_CENTRE),
        jax.tree.map(lambda leaf: leaf, OFF_CENTRE),
        OFF_CENTRE.replace(params=3),
    ):
        assert flow.source == off_centre and flow == flow
        assert flow.noise(KEY, (2,)).shape == (2, 2)
    assert "source=off_centre" in repr(OFF_CENTRE)
    some = conditions.of_samples(MASKED, slice(2))
    assert conditions.like_any(some).source == some.source == masked
    data = bj.Flow.from_prediction(lambda p, t, x: x, None, (2,), bj.schedulers.CondOT(), "data", source=off_centre)
    np.testing.assert_array_equal(data.noise(KEY, (4,)), OFF_CENTRE.noise(KEY, (4,)))


def test_formulas_for_gaussian_noise_are_not_offered():
    plain = OFF_CENTRE.replace(source=None)
    table = bj.init_theta("table", 2)
    assert table.suited(plain).reference.xi is not None
    assert table.suited(OFF_CENTRE) is table
    general = table.suited(plain)
    assert {"known_first"} == {name.split("/")[0] for name in general.rivals(plain)} and not general.rivals(OFF_CENTRE)
    # A general table stays one; all of its starts have its form.
    (group,) = start_groups(OFF_CENTRE, general)
    assert len({jax.tree.structure(solver) for solver in group.values()}) == 1 and len(group) > 10
    check_velocity(OFF_CENTRE, OFF_CENTRE.noise(KEY, (8,)))  # a slope that is not the scheduler's would warn
    with pytest.warns(UserWarning, match="slope in x"):
        wrong = plain.replace(velocity=lambda params, t, x: 5.0 * (x + CENTRE))
        check_velocity(wrong, wrong.noise(KEY, (8,)))


def hill(params, t, x):
    """Towards MEAN, and not linearly: Euler's method has something to learn."""
    return 2 * jnp.tanh(MEAN - x) * (1 + jnp.sin(3 * t) * jnp.cos(x))


def test_a_fit_draws_from_the_source():
    flow = bj.Flow(hill, None, (2,), bj.schedulers.CondOT(), source=off_centre)
    stages = (bj.Stage("endpoint", 12, batch_size=16),)
    recipe = bj.Recipe(stages=stages, num_paths=32, num_validation=16, rtol=1e-4, atol=1e-4, choose_start=False)
    result = bj.fit(flow, bj.init_theta("table", 3), KEY, recipe)
    assert result.theta.reference.xi is None
    x0 = flow.noise(jax.random.key(1), (64,))
    true = bj.ground_truth(flow, x0, 1e-4, 1e-4).x1
    found, euler = (
        float(bj.metrics.rmse(bj.solve(flow, solver, x0), true, 1).mean())
        for solver in (result.theta, bj.classic.euler(3))
    )
    assert found < 0.7 * euler
    check = bj.check_solver(flow, result.theta, jax.random.key(2), num_paths=16, others={})
    assert check.fits and 0.4 < check.solver.rmse / found < 2.5
    with pytest.raises(ValueError, match=r"source: wanted the x0 of one sample, shape \(2,\), got \(\)"):
        bj.fit(flow.replace(source=lambda params, key: jax.random.normal(key)), result.theta, KEY, recipe)


def test_files_say_that_the_source_is_not_in_them(tmp_path):
    bj.save_sampler(tmp_path / "sampler", OFF_CENTRE, bj.classic.euler(2))
    sampler = bj.load_sampler(tmp_path / "sampler")
    assert sampler.noise_std is None
    x0 = OFF_CENTRE.noise(KEY, (4,))
    np.testing.assert_allclose(sampler(x0), bj.solve(OFF_CENTRE, bj.classic.euler(2), x0), rtol=1e-5)
    bj.save_solver(tmp_path / "solver.json", bj.classic.euler(2), flow=OFF_CENTRE)
    bj.load_solver(tmp_path / "solver.json", flow=OFF_CENTRE)  # warns of other flows
    bj.save_solver(tmp_path / "given.json", bj.classic.euler(2), flow=MASKED)
    bj.load_solver(tmp_path / "given.json", flow=MASKED)
    nearer = OFF_CENTRE.replace(source=lambda params, key: 0.1 * off_centre(params, key))
    for other, message in (
        (OFF_CENTRE.replace(source=None), "one of its own stored, Gaussian noise found"),
        (nearer, "source: mean"),
    ):
        with pytest.warns(UserWarning, match=message):
            bj.load_solver(tmp_path / "solver.json", flow=other)
    content = json.loads((tmp_path / "solver.json").read_text())
    for wrong in ([1.0], [1.0, 2.0, 3.0], 3.0):
        content["flow"]["source"] = wrong
        (tmp_path / "edited.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"flow\.source: wanted finite numbers of shape \[2\]"):
            bj.load_solver(tmp_path / "edited.json")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda p, k: (k, k), TypeError, r"source: wanted one array of shape \(2,\), got tuple"),
        (lambda p, k: jnp.zeros(3), ValueError, r"source: wanted the x0 of one sample, shape \(2,\), got \(3,\)"),
        (lambda p, k: jnp.zeros((1, 2)), ValueError, r"got \(1, 2\); a batch is drawn by calling it"),
        (lambda p, k: jnp.zeros(2, int), TypeError, "source: wanted a floating dtype, got int32"),
        (lambda p, k: jnp.zeros(2, complex), TypeError, "source: wanted a floating dtype, got complex64"),
    ],
)
def test_a_source_of_another_kind_is_refused_before_anything_is_compiled(source, error, message):
    flow = OFF_CENTRE.replace(source=source, velocity=lambda params, t, x: pytest.fail("the velocity was traced"))
    for use in (
        lambda: flow.noise(KEY, (4,)),
        lambda: bj.sample(flow, bj.classic.euler(2), KEY, num_samples=4),
        lambda: bj.check_solver(flow, bj.classic.euler(2), KEY),
    ):
        with pytest.raises(error, match=message):
            use()


def test_what_is_no_source_is_refused_at_once():
    class Unhashable:
        __hash__ = None

        def __call__(self, params, key):
            return jnp.zeros(2)

    for wrong, message in ((3, "got int"), (jnp.zeros(2), "got ArrayImpl"), (Unhashable(), "that can be hashed")):
        with pytest.raises(TypeError, match=f"source: wanted a function.*{message}"):
            OFF_CENTRE.replace(source=wrong)
