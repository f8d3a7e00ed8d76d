"""The general table: a first evaluation of its own, and an image in every state; the first call that is known beforehand."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.classic.first_call import known_first_call
from bespoke_jax.flow.classes import class_weights, num_classes
from bespoke_jax.learned.blocks import in_blocks
from bespoke_jax.run import adjoint

pytestmark = pytest.mark.usefixtures("float64")

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)


def general(seed, m, *, first=True, image=(3,), dtype=jnp.float64):
    """A random table with every part switched on, or without some."""
    rng = np.random.default_rng(seed)
    parts = rng.uniform(0, 1, m), rng.normal(size=m), np.tril(0.3 * rng.normal(size=(m, m)))
    others = dict(first=rng.normal()) if first else {}
    if image is not None:
        others |= dict(c=rng.normal(size=m + 1), xi=rng.normal(size=image))
    named = {name: jnp.asarray(value, dtype) for name, value in others.items()}
    return bj.SolverTable(*(jnp.asarray(part, dtype) for part in parts), **named)


def literal(flow, table, x0, image):
    """The equation of the docstring, term by term in NumPy."""
    t, a, b = (np.asarray(part) for part in (table.t, table.a, table.b))
    c = np.zeros(table.nfe + 1) if table.c is None else np.asarray(table.c)
    x = (1.0 if table.first is None else float(table.first)) * x0 + c[0] * image
    velocities = []
    for i in range(len(t)):
        velocities.append(np.asarray(flow(t[i], jnp.asarray(x))))
        x = a[i] * x0 + c[i + 1] * image
        for j in range(i + 1):
            x = x + b[i, j] * velocities[j]
    return x


def with_every_part() -> dict[str, bj.SolverTable]:
    whole = general(3, 4)
    return {
        "plain": general(1, 3, first=False, image=None),
        "one evaluation": bj.classic.euler(1),
        "general": whole,
        "of classes": bj.corrected(whole, num_classes=3),
        "of scales": bj.corrected(whole, scales=(0.0, 2.0)),
        "in blocks": in_blocks(general(5, 2), 2),
    }


@pytest.mark.parametrize("name", ["plain", "one evaluation", "general", "of classes", "of scales", "in blocks"])
def test_the_written_out_derivative_of_a_table_is_the_automatic_one(name):
    learned = bj.LearnedTable.of(with_every_part()[name])
    learned = learned.with_raw(0.1 * jax.random.normal(jax.random.key(1), learned.raw.shape, learned.raw.dtype))
    table, found = learned.table_and_jacobian()
    wanted = jax.jacfwd(lambda raw: learned.with_raw(raw).table().factors)(learned.raw)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), found, wanted)
    jax.tree.map(np.testing.assert_array_equal, table, jax.device_get(bj.to_table(learned)))


@pytest.mark.parametrize("parts", [{}, dict(first=False), dict(image=None)], ids=["all", "image", "first"])
def test_solve_is_the_literal_loop(parts):
    table = general(1, 5, **parts)
    x0 = np.random.default_rng(2).normal(size=(4, 3))
    wanted = literal(FLOW, table, x0, np.zeros(3) if table.xi is None else np.asarray(table.xi))
    for found in (bj.solve(FLOW, table, jnp.asarray(x0)), table.end(FLOW, jnp.asarray(x0))):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    with jax.disable_jit():
        one = jax.vmap(lambda x: bj.solve(FLOW, table, x))(jnp.asarray(x0))
    np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-12)


def test_a_plain_table_written_in_general_form_ends_at_the_same_point():
    plain = bj.classic.rk4(8, dtype=jnp.float64)
    same = dataclasses.replace(plain, first=jnp.ones(()), c=jnp.zeros(9), xi=jnp.ones(3))
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    np.testing.assert_allclose(bj.solve(FLOW, same, x0), bj.solve(FLOW, plain, x0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("keep", [False, True], ids=["recomputed", "kept"])
def test_the_adjoint_is_that_of_the_solve(keep):
    table, rng = general(3, 4), np.random.default_rng(4)
    x0, cotangents = (jnp.asarray(rng.normal(size=shape)) for shape in ((4, 3), (2, 4, 3)))
    trace = adjoint.run(FLOW, table, x0, keep_activations=keep)
    found = adjoint.table_gradients(FLOW, table, trace, list(cotangents))

    def products(raw):
        return jnp.einsum("kbe,be->kb", cotangents, bj.solve(FLOW, table.with_raw(raw), x0))

    wanted = jax.vmap(jax.vmap(lambda row: table.with_raw(row).factors))(jax.jacobian(products)(table.raw))
    for name in ("t", "a", "first", "c"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.b, np.tril(wanted.b), rtol=1e-10, atol=1e-12)
    # And of central differences along random factors.
    move = jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), table.factors)
    move = dataclasses.replace(move, b=jnp.tril(move.b))
    ends = [products(table.raw + sign * 1e-6 * move.raw) for sign in (1, -1)]
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(move), strict=True)
    slope = sum(np.sum(gradient * part, axis=tuple(range(2, gradient.ndim))) for gradient, part in pairs)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scheduler", [bj.schedulers.CondOT(), bj.schedulers.Cosine()], ids=["condot", "cosine"])
def test_one_call_is_exact_on_gaussian_data(scheduler):
    # The paths are x(t) = alpha_t mean + s_t x0, s_t^2 = (0.3 alpha_t)^2 + sigma_t^2: the state of the call can be the true one,
    # its velocity is alphadot_t mean + sdot_t x0, and any share of it can be completed to the end, mean + 0.3 x0.
    mean, t, share = jnp.array([1.0, -2.0]), jnp.asarray(0.4), 0.7
    flow = bj.analytic.gaussian(mean=mean, std=0.3, scheduler=scheduler)
    level = scheduler.at(t)
    s, slope = jax.value_and_grad(lambda t: jnp.hypot(0.3 * scheduler.alpha(t), scheduler.sigma(t)))(t)
    table = bj.SolverTable(
        t[None],
        (0.3 - share * slope)[None],
        jnp.array([[share]]),
        first=s,
        c=jnp.stack([level.alpha, 1 - share * level.alpha_dot]),
        xi=mean,
    )
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    np.testing.assert_allclose(bj.solve(flow, table, x0), mean + 0.3 * x0, atol=1e-12)


@pytest.mark.parametrize("scheduler", [bj.schedulers.CondOT(), bj.schedulers.Cosine()], ids=["condot", "cosine"])
def test_the_known_first_call_changes_nothing_on_an_ideal_field(scheduler):
    flow = bj.analytic.mixture([[1.0, -1.0], [0.5, 1.0]], std=0.4, scheduler=scheduler)
    mean = jnp.array([0.75, 0.0])
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    for name, table in bj.classic.dedicated(5, scheduler, jnp.float64).items():
        known = known_first_call(table, scheduler, mean)
        assert known.nfe == 4, name
        # The field at t = 0 is the formula's, to rounding, so that the saved call is the only difference.
        np.testing.assert_allclose(bj.solve(flow, known, x0), bj.solve(flow, table, x0), atol=1e-9, err_msg=name)


def test_images_of_classes():
    flow = bj.Flow(lambda p, t, x: 0 * x + p["condition"].sum(), {"condition": jnp.zeros(2)}, (3,))
    table = dataclasses.replace(bj.classic.euler(1), c=jnp.array([0.0, 1.0]), xi=jnp.array([[1.0, 2, 3], [3.0, 2, 5]]))
    each = bj.given(flow, jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.5, 0.5]]))
    wanted = np.array([[1, 2, 3], [3, 2, 5], [2, 2, 4], [2, 2, 4]], np.float32)
    np.testing.assert_allclose(table.image(each), wanted)
    np.testing.assert_allclose(table.image(flow), wanted[2])
    zero = jnp.zeros((4, 3))
    np.testing.assert_allclose(bj.solve(each, table, zero), wanted + np.array([1, 1, 0, 1])[:, None])
    np.testing.assert_allclose(adjoint.end_points(each, table, zero, 3), bj.solve(each, table, zero))
    index = bj.Flow(lambda p, t, x: 0 * x, {"condition": jnp.int32(1)}, (3,))
    np.testing.assert_allclose(table.image(index), wanted[1])
    assert num_classes(bj.given(index, [1, 0])) == 2 and num_classes(each) is None and num_classes(flow) is None
    assert class_weights(FLOW, 2) is None and class_weights(flow, 3) is None


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (dict(first=jnp.ones(1)), ValueError, "first"),
        (dict(c=jnp.ones(4)), ValueError, "c without xi"),
        (dict(xi=jnp.ones(3)), ValueError, "xi without c"),
        (dict(c=jnp.ones(3), xi=jnp.ones(3)), ValueError, "solver.c"),
        (dict(c=jnp.ones(4), xi=jnp.full(3, jnp.nan)), ValueError, "solver.xi.*finite"),
        (dict(c=jnp.ones(4), xi=jnp.ones(4)), ValueError, "solver.xi.*event shape"),
        (dict(c=jnp.ones(4), xi=jnp.ones((2, 3))), ValueError, "solver.xi.*class"),
    ],
)
def test_what_is_no_table_is_named(wrong, error, words):
    table = dataclasses.replace(bj.classic.euler(3), **wrong)
    with pytest.raises(error, match=words):
        bj.solve(FLOW, table, jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    "table",
    [
        bj.classic.euler(1),
        dataclasses.replace(bj.classic.euler(3), t=jnp.array([0.1, 0.2, 0.3])),
        dataclasses.replace(bj.classic.euler(3), first=jnp.ones(())),
    ],
    ids=["one", "late", "general"],
)
def test_a_first_call_that_is_not_the_noise_is_refused(table):
    with pytest.raises(ValueError, match="table"):
        known_first_call(table, bj.schedulers.CondOT(), jnp.zeros(3))
    with pytest.raises(ValueError, match="scheduler"):
        known_first_call(bj.classic.euler(3), None, jnp.zeros(3))
