"""Parallel evaluations: tables in blocks, each one call of the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.learned.blocks import in_blocks

pytestmark = pytest.mark.usefixtures("float64")

KEY = jax.random.key(0)


def mixture():
    return bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)


def blocked(m, size, seed=0):
    """A random table in blocks, with a first row and an image."""
    rng = np.random.default_rng(seed)
    table = bj.SolverTable(*map(jnp.asarray, (rng.uniform(0, 1, m), rng.normal(size=m), np.zeros((m, m)))), block=size)
    others = dict(first=rng.normal(), c=rng.normal(size=m + 1), xi=rng.normal(size=2))
    b = np.where(table.uses, 0.3 * rng.normal(size=(m, m)), 0.0)
    return dataclasses.replace(table, b=jnp.asarray(b), **{name: jnp.asarray(value) for name, value in others.items()})


@pytest.mark.parametrize(
    "m, size", [(8, 2), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((6, 3), (4, 4))), (3, 1)]
)
def test_blocks_run_at_once_end_where_they_end_one_after_the_other(m, size):
    flow, table = mixture(), blocked(m, size)
    x0 = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)))
    wanted = bj.solve(flow, dataclasses.replace(table, block=1), x0)
    np.testing.assert_allclose(bj.solve(flow, table, x0), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table.end(flow, x0), wanted, rtol=0, atol=1e-12)
    assert (table.nfe, table.latency) == (m, m // size)
    slopes = jax.grad(lambda table: jnp.sum(bj.solve(flow, table, x0) ** 2))
    found, one = slopes(table), slopes(dataclasses.replace(table, block=1))
    np.testing.assert_allclose(found.t, one.t, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.where(table.uses, found.b, 0), np.where(table.uses, one.b, 0), rtol=1e-10, atol=1e-12)


def test_a_block_is_one_call_of_the_network():
    flow = bj.Flow(lambda params, t, x: -x @ params, jnp.eye(2), (2,))
    program = str(jax.make_jaxpr(lambda x0: bj.solve(flow, blocked(8, 2), x0))(jnp.zeros((3, 2))))
    # Four passes of a loop, each with one product of the network for the six states of its block.
    assert "length=4" in program and "length=8" not in program
    products = [line for line in program.splitlines() if "dot_general" in line and "[2,3,2]" in line]
    assert len(products) == 1


@pytest.mark.parametrize("name", ["heun", "rk4", "ipndm"])
def test_the_blocks_of_a_solver_solve_as_it_does(name):
    flow, x0 = mixture(), jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)))
    for table in (
        getattr(bj.classic, name)(4, dtype=jnp.float64),
        bj.classic.known_first_call(getattr(bj.classic, name)(4, dtype=jnp.float64), flow.scheduler, jnp.zeros(2)),
    ):
        many = in_blocks(table, 3)
        assert (many.nfe, many.latency) == (3 * table.nfe, table.nfe)
        np.testing.assert_allclose(bj.solve(flow, many, x0), bj.solve(flow, table, x0), rtol=0, atol=1e-12)


def test_every_number_of_a_learned_table_moves_an_entry_that_may_be_used():
    learned = bj.LearnedTable.of(blocked(6, 2))
    numbers = 6 + 6 + int(learned.reference.uses.sum()) + 1 + 7
    assert learned.num_parameters == numbers and learned.reference.uses.sum() == 6 * 7 // 2 - 3
    moved = learned.with_raw(jnp.ones(numbers)).table()
    moved.check("table")
    assert np.array_equal(moved.b != learned.reference.b, learned.reference.uses)


@pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is")
@pytest.mark.slow
def test_a_fit_gains_by_calls_that_wait_for_nothing():
    with jax.enable_x64(False):
        flow = mixture()
        paths, validation = (
            bj.ground_truth(flow, flow.noise(jax.random.key(s), (number,)), rtol=1e-6)
            for s, number in ((1, 256), (2, 128))
        )
        recipe, options = bj.Recipe(stages=(bj.Stage(num_iterations=48),)), dict(paths=paths, validation=validation)
        single = bj.fit(flow, bj.init_theta("table", 3), KEY, recipe, **options)
        double = bj.fit(flow, bj.LearnedTable.of(in_blocks(bj.classic.euler(3), 2)), KEY, recipe, **options)
        assert (double.theta.nfe, double.theta.latency) == (6, 3) == (2 * single.theta.nfe, single.theta.latency)
        assert double.best["mean_psnr"] > single.best["mean_psnr"] + 2


def test_the_two_calls_of_a_pair_at_once(tmp_path):
    with jax.enable_x64(False):
        solver = bj.LearnedCalls.euler(6, at_once=True)
        assert (solver.nfe, solver.latency, solver.num_parameters) == (6, 3, 5 + 6 + 21 - 3)
        bj.save_solver(tmp_path / "s.json", solver)
        assert bj.load_solver(tmp_path / "s.json").block == 2


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (
            lambda: bj.solve(mixture(), dataclasses.replace(blocked(6, 2), block=4), jnp.zeros((1, 2))),
            "block: wanted a divisor",
        ),
        (
            lambda: bj.solve(mixture(), dataclasses.replace(blocked(6, 1), block=2), jnp.zeros((1, 2))),
            "b: wanted no factors",
        ),
        (lambda: bj.solve(mixture(), dataclasses.replace(blocked(6, 2), block=0), jnp.zeros((1, 2))), "block"),
        (lambda: in_blocks(blocked(4, 2), 2), "table: wanted one evaluation after the other"),
        (lambda: in_blocks(bj.classic.euler(2), 0), "size"),
        (lambda: bj.LearnedCalls.euler(5, without=[1], at_once=True), "at_once"),
    ],
)
def test_what_is_no_block_order_is_named(work, words):
    with pytest.raises(ValueError, match=words):
        work()
