"""Tables with evaluations added: the same samples, and a start from which a fit goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj

pytestmark = pytest.mark.usefixtures("float64")

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)


def velocity(params, t, x):
    return jnp.tanh(x) + t * params["condition"][..., :2] - params["condition"][..., 2:]


def of_classes():
    one = bj.Flow(velocity, {"condition": jnp.zeros(3)}, (2,), bj.schedulers.CondOT())
    return bj.given(one, jnp.eye(3)[jnp.array([2, 0, 1, 1])])


def table(m, *, image=None, fields=None, **corrections):
    """A random table, with a first row of its own where there is an image, and random corrections."""
    rng = np.random.default_rng(m)
    numbers = dict(t=np.sort(rng.uniform(size=m)), a=rng.normal(size=m), b=np.tril(rng.normal(size=(m, m))))
    if image is not None:
        numbers |= dict(first=rng.normal(), c=rng.normal(size=m + 1), xi=rng.normal(size=image))
    plain = bj.SolverTable(**jax.tree.map(jnp.asarray, numbers), fields=fields)
    if not corrections:
        return plain
    own = bj.corrected(plain, **corrections)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), own.corrections)
    return dataclasses.replace(own, corrections=dataclasses.replace(drawn, b=jnp.tril(drawn.b)))


KINDS = {
    "plain": lambda: (FLOW, table(4)),
    "one evaluation": lambda: (FLOW, table(1)),
    "general": lambda: (FLOW, table(5, image=(3,))),
    "of classes": lambda: (of_classes(), table(4, image=(3, 2), num_classes=3)),
    "of classes, plain": lambda: (of_classes(), table(3, num_classes=3)),
    "of scales": lambda: (bj.guided(of_classes(), [0.5, 1.0, 1.5, 2.0]), table(3, scales=(0.0, 2.0))),
    "calls": lambda: (bj.guided(of_classes(), 1.5), table(6, image=(2,), fields=(0, 1, 0, 1, 0, 1))),
    "single calls": lambda: (bj.guided(of_classes(), 1.5), table(5, fields=(0, 1, 0, 0, 1))),
    "calls, unconditional first": lambda: (bj.guided(of_classes(), 1.5), table(4, fields=(1, 0, 0, 1))),
}


@pytest.mark.parametrize("more", [0, 2, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_it_solves_as_before(kind, more):
    flow, short = KINDS[kind]()
    long = bj.lengthened(short, short.nfe + more)
    long.check("table")
    assert long.nfe == short.nfe + more and long.t.dtype == short.t.dtype
    x0 = jax.random.normal(jax.random.key(0), (4, *flow.event_shape))
    np.testing.assert_allclose(bj.solve(flow, long, x0), bj.solve(flow, short, x0), rtol=1e-12, atol=1e-12)


def test_new_evaluations_lie_between_their_neighbours_and_have_no_factors():
    short = table(4, image=(3,))
    long = bj.lengthened(short, 6)
    old, new = [0, 1, 3, 5], [2, 4]
    np.testing.assert_allclose(long.t[np.array(old)], short.t)
    np.testing.assert_allclose(long.t[np.array(new)], (short.t[1:3] + short.t[2:]) / 2)
    assert not np.any(long.b[:, np.array(new)])
    # The state of evaluation 2 is half way between those of its neighbours.
    found, before, after = long.b[1], long.b[0], long.b[2]
    np.testing.assert_allclose(found, (before + after) / 2)
    # Several in one gap divide it evenly.
    np.testing.assert_allclose(bj.lengthened(bj.classic.euler(1), 4).t, [0, 0.25, 0.5, 0.75])


def test_calls_are_added_in_pairs():
    fields = {"pairs": (0, 1, 0, 1, 0, 1), "single": (0, 1, 0, 0, 1), "unconditional first": (1, 0, 0, 1)}
    found = {name: bj.lengthened(table(len(f), fields=f), len(f) + 2).fields for name, f in fields.items()}
    assert found["pairs"] == (0, 1) * 4
    assert found["single"] == (0, 1, 0, 0, 1, 0, 1)
    assert found["unconditional first"] == (1, 0, 0, 1, 0, 1)
    with pytest.raises(ValueError, match="nfe: wanted 6 calls and pairs of them, got 7"):
        bj.lengthened(table(6, fields=fields["pairs"]), 7)


@pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is")
def test_a_fit_goes_on_from_there():
    key, recipe = jax.random.key(1), bj.Recipe(stages=(bj.Stage(num_iterations=16),), num_paths=64)
    short = bj.fit(FLOW, bj.init_theta("table", 3), key, recipe)
    start = bj.LearnedTable.of(bj.lengthened(short.theta, 4))
    result = bj.fit(FLOW, start, key, dataclasses.replace(recipe, choose_start=False))
    assert result.history[0]["mean_psnr"] == pytest.approx(short.best["mean_psnr"], abs=1e-4)
    assert result.best["mean_psnr"] > short.best["mean_psnr"] + 3


@pytest.mark.parametrize(
    "work, error, words",
    [
        (lambda: bj.lengthened(bj.classic.euler(4), 3), ValueError, r"nfe: wanted an integer >= 4, got 3"),
        (lambda: bj.lengthened(bj.in_blocks(bj.classic.euler(4), 2), 10), ValueError, r"solver: .* blocks of 2"),
        (lambda: bj.lengthened([1.0], 3), TypeError, r"solver: wanted a learned solver or a SolverTable"),
    ],
)
def test_bad_input_is_named(work, error, words):
    with pytest.raises(error, match=words):
        work()
