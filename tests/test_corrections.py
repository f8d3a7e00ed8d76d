"""Tables corrected for each class: the same as a table of its own for each, run together, and what they gain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.run import adjoint

pytestmark = pytest.mark.usefixtures("float64")

KEY = jax.random.key(0)
LABELS = [2, 0, 1, 2, 1]


def velocity(params, t, x):
    return jnp.tanh(params["weight"] @ x[..., None])[..., 0] + t * params["condition"][..., :1] - params["condition"][1]


FLOW = bj.Flow(
    velocity,
    {"weight": jnp.array([[0.3, -1.0], [1.2, 0.1]], jnp.float32), "condition": jnp.zeros(3)},
    (2,),
    bj.schedulers.CondOT(),
)


def flow():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), FLOW.params)
    return bj.given(bj.Flow(velocity, params, (2,), FLOW.scheduler), jnp.eye(3)[jnp.array(LABELS)])


def table(general: bool):
    rng = np.random.default_rng(0)
    m = 4
    numbers = dict(t=rng.uniform(size=m), a=rng.normal(size=m), b=np.tril(rng.normal(size=(m, m))))
    if general:
        numbers |= dict(first=rng.normal(), c=rng.normal(size=m + 1), xi=rng.normal(size=(3, 2)))
    plain = bj.SolverTable(**jax.tree.map(jnp.asarray, numbers))
    own = bj.corrected(plain, num_classes=3)
    random = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), own.corrections)
    return dataclasses.replace(own, corrections=dataclasses.replace(random, b=jnp.tril(random.b)))


def of_class(corrected, label):
    """The table of one class, by hand."""
    own = corrected.corrections
    moved = {
        name: getattr(corrected, name) + getattr(own, name)[label]
        for name in ("a", "b", "first", "c")
        if getattr(corrected, name) is not None
    }
    return dataclasses.replace(corrected, **moved, corrections=None)


@pytest.mark.parametrize("general", [pytest.param(False, marks=pytest.mark.slow), True])
def test_each_sample_is_solved_by_the_table_of_its_class(general):
    given, own = flow(), table(general)
    own.check("table")
    x0 = jax.random.normal(KEY, (5, 2), jnp.float64)
    ends = bj.solve(given, own, x0)
    for i, label in enumerate(LABELS):
        wanted = bj.solve(of_samples(given, slice(i, i + 1)), of_class(own, label), x0[i : i + 1])
        np.testing.assert_allclose(ends[i], wanted[0], rtol=1e-12)
    np.testing.assert_allclose(adjoint.end_points(given, own, x0, 2), ends, rtol=1e-12)
    # A flow of one class, and batches of any shape.
    one = bj.Flow(velocity, {**given.params, "condition": jnp.array([0.0, 1.0, 0.0])}, (2,), FLOW.scheduler)
    found = bj.solve(one, own, x0.reshape(5, 1, 2))
    np.testing.assert_allclose(found[:, 0], bj.solve(one, of_class(own, 1), x0), rtol=1e-12)


def test_calls_of_a_guided_flow_have_the_factors_of_its_class():
    guided, own = bj.guided(flow(), 1.5), dataclasses.replace(table(True), fields=(0, 1, 0, 1))
    x0 = jax.random.normal(KEY, (5, 2), jnp.float64)
    ends = bj.solve(guided, bj.LearnedCalls.of(own), x0)
    for i, label in enumerate(LABELS):
        wanted = bj.solve(of_samples(guided, slice(i, i + 1)), of_class(own, label), x0[i : i + 1])
        np.testing.assert_allclose(ends[i], wanted[0], rtol=1e-12)
    np.testing.assert_allclose(adjoint.end_points(guided, own, x0, 2), ends, rtol=1e-12)


def test_without_corrections_it_is_the_table_itself():
    given, own = flow(), table(True)
    zero = dataclasses.replace(own, corrections=jax.tree.map(jnp.zeros_like, own.corrections))
    x0 = jax.random.normal(KEY, (5, 2), jnp.float64)
    plain = dataclasses.replace(own, corrections=None)
    np.testing.assert_allclose(bj.solve(given, zero, x0), bj.solve(given, plain, x0), rtol=1e-12)


@pytest.mark.parametrize("general", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_are_those_of_the_solve(general):
    given, learned = flow(), bj.LearnedTable.of(table(general))
    raw = 0.1 * jax.random.normal(jax.random.key(1), learned.raw.shape, jnp.float64)
    learned = learned.with_raw(raw)
    x0, cotangents = (jax.random.normal(jax.random.key(seed), (5, 2), jnp.float64) for seed in (2, 3))
    from bespoke_jax.fitting.gauss_newton import _chain

    own, jacobian = learned.table_and_jacobian()
    trace = adjoint.run(given, own, x0)
    rows = _chain(adjoint.table_gradients(given, own, trace, [cotangents]), jacobian)

    def product(raw):
        return jnp.sum(cotangents * bj.solve(given, learned.with_raw(raw), x0))

    np.testing.assert_allclose(rows[0].sum(0), jax.grad(product)(raw), rtol=1e-9, atol=1e-9)


def test_a_condition_that_is_no_class_is_named():
    plain = bj.Flow(lambda p, t, x: -x, None, (2,))
    with pytest.raises(ValueError, match=r"corrections.*3 classes"):
        bj.solve(plain, table(False), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="num_classes or scales"):
        bj.corrected(bj.classic.euler(2))
    with pytest.raises(ValueError, match=r"corrections.*first"):
        added = dataclasses.replace(table(True).corrections, first=None)
        bj.solve(flow(), dataclasses.replace(table(True), corrections=added), jnp.zeros((5, 2)))


@pytest.mark.parametrize("scales", [None, (0.5, 4.0)])
def test_files(tmp_path, scales):
    own = table(True)
    if scales is not None:
        two = jax.tree.map(lambda leaf: leaf[:2], own.corrections)
        own = dataclasses.replace(own, corrections=dataclasses.replace(two, of="scale", span=scales))
    bj.save_solver(tmp_path / "solver.json", own)
    read = bj.load_solver(tmp_path / "solver.json")
    assert jax.tree.structure(read) == jax.tree.structure(own)
    for found, wanted in zip(jax.tree.leaves(read), jax.tree.leaves(own), strict=True):
        assert np.array_equal(found, wanted) and found.dtype == wanted.dtype
    text = (tmp_path / "solver.json").read_text()
    for old, new in (('"of": "class"', '"of": "sex"'), ('"of": "scale"', '"of": 3')):
        if old in text:
            (tmp_path / "bad.json").write_text(text.replace(old, new))
            with pytest.raises(ValueError, match=r"bad.json.*corrections.of"):
                bj.load_solver(tmp_path / "bad.json")


def test_each_sample_is_solved_by_the_table_of_its_guidance_scale():
    low, high = -1.0, 3.0
    plain = dataclasses.replace(table(True), corrections=None)
    own = bj.corrected(plain, scales=(low, high))
    rng = np.random.default_rng(1)
    random = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), own.corrections)
    own = dataclasses.replace(own, corrections=dataclasses.replace(random, b=jnp.tril(random.b)))
    scales, x0 = [0.5, 3.0, -1.0, 1.0, 2.0], jax.random.normal(KEY, (5, 2), jnp.float64)
    ends = bj.solve(bj.guided(flow(), scales), own, x0)
    for i, (scale, label) in enumerate(zip(scales, LABELS, strict=True)):
        z = 2 * (scale - low) / (high - low) - 1
        features = jnp.array([z, z**2])
        moved = {
            name: getattr(own, name) + jnp.tensordot(features, getattr(random, name), 1) for name in ("a", "first", "c")
        }
        b = own.b + jnp.tensordot(features, jnp.tril(random.b), 1)
        one = bj.guided(bj.given(flow(), jnp.eye(3)[jnp.array([label])]), scale)
        wanted = bj.solve(one, dataclasses.replace(plain, **moved, b=b), x0[i : i + 1])
        np.testing.assert_allclose(ends[i], wanted[0], rtol=1e-5)  # scales are float32
        # The table of one scale has no corrections left, and runs anywhere.
        alone = own.of_samples(one)
        assert alone.corrections is None and alone.b.shape == (4, 4)


def test_scales_beyond_the_learned_ones_are_those_of_the_end_and_warned_of():
    own = bj.corrected(bj.classic.euler(2), scales=(0.5, 2.0))
    with pytest.warns(UserWarning, match=r"guidance scales from 0.5 to 2, got some from 3 to 3"):
        bj.solve(bj.guided(flow(), 3.0), own, jnp.zeros((5, 2)))


def test_a_scale_outside_the_range_is_warned_of_wherever_a_solver_runs(tmp_path):
    flow = bj.guided(
        bj.Flow(lambda params, t, x: params["condition"] - x, {"condition": jnp.zeros(2, jnp.float32)}, (2,)), 3.0
    )
    solver, x, key = (
        bj.corrected(bj.classic.euler(2), scales=(0.0, 2.0)),
        jnp.ones((2, 2), jnp.float32),
        jax.random.key(0),
    )
    for run in (
        lambda: bj.solve(flow, solver, x),
        lambda: bj.sample(flow, solver, key, num_samples=2),
        lambda: bj.invert(flow, solver, x),
        lambda: bj.log_likelihood(flow, solver, x),
        lambda: bj.check_solver(flow, solver, key, num_paths=4, others={}),
        lambda: bj.save_sampler(tmp_path / "s", flow, solver),
    ):
        with pytest.warns(UserWarning, match=r"solver: learned for guidance scales from 0 to 2, got some from 3 to 3"):
            run()
