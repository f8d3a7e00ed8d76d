"""The learned table: it starts as its reference, stays a table whatever is learned, and learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bespoke_jax as bj
from bespoke_jax.fitting.starts import start_groups

pytestmark = [
    # Few paths of a mixture: some end between its components.
    pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is"),
]

REFERENCES = [bj.classic.midpoint(4), bj.classic.rk4(4), bj.classic.heun(4), bj.classic.ddim(5, bj.schedulers.Cosine())]


@pytest.mark.parametrize("reference", REFERENCES, ids=["midpoint", "rk4", "heun", "ddim"])
def test_it_starts_as_its_reference(reference):
    learned = bj.LearnedTable.of(reference)
    for found, wanted in zip(jax.tree.leaves(bj.to_table(learned)), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    m = reference.nfe
    assert learned.num_parameters == m * (m + 5) // 2 - 1 and learned.nfe == m


def test_every_number_moves_one_entry():
    # Of a table with inner times the derivative has full rank: no two numbers do the same, none does nothing.
    m = 4
    reference = bj.SolverTable(jnp.linspace(0, 0.9, m), jnp.ones(m), jnp.tril(jnp.ones((m, m))))
    learned = bj.LearnedTable.of(reference)
    jacobian = jax.jacobian(
        lambda raw: jnp.concatenate([jnp.ravel(v) for v in jax.tree.leaves(learned.with_raw(raw).table())])
    )(learned.raw)
    assert np.linalg.matrix_rank(jacobian) == learned.num_parameters
    # The first time stays; factors of velocities that are not there yet stay 0.
    table = learned.with_raw(jnp.ones_like(learned.raw)).table()
    assert table.t[0] == 0 and np.array_equal(table.b, np.tril(table.b))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=17, max_size=17))
def test_times_stay_between_the_ends(raw):
    learned = bj.init_theta("table", num_steps=4).with_raw(jnp.asarray(raw, jnp.float32))
    times = np.asarray(bj.to_table(learned).t)
    assert np.all((times >= 0) & (times <= 1)) and times[0] == 0
    slopes = jax.jacobian(lambda raw: learned.with_raw(raw).table().t)(learned.raw)
    assert np.all(np.isfinite(slopes))


def test_a_time_moves_by_its_angle_and_comes_back_from_the_end():
    reference = bj.SolverTable(jnp.array([0.0, 0.25, 1.0]), jnp.ones(3), jnp.tril(jnp.ones((3, 3))))
    learned = bj.LearnedTable.of(reference)

    def times(angle):
        return np.asarray(learned.with_raw(learned.raw.at[0].set(angle).at[1].set(angle)).table().t, np.float64)

    # sin^2 of 30 degrees is 1/4; of 60, 3/4; 90 degrees beyond the end is the other end.
    for degrees in (-60, -30, -10, 0, 15, 30, 60):
        wanted = np.sin(np.radians([30 + degrees, 90 + degrees])) ** 2
        np.testing.assert_allclose(times(np.radians(degrees))[1:], wanted, atol=3e-7)
    # Past the end it is on its way back.
    assert times(np.radians(-31))[1] > times(np.radians(-30))[1] < times(np.radians(-29))[1]
    # A time at an end, and the reference itself, have finite derivatives.
    gradient = jax.grad(lambda learned: jnp.sum(learned.table().t))(learned)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_the_reference_is_carried_and_not_learned():
    learned = bj.init_theta("table", num_steps=3)
    state = bj.init_state(learned)
    assert state.opt_states[0].memory.matrices.shape == (8, 11, 11)
    assert len(jax.tree.leaves(learned)) == 4


def test_a_fit_beats_the_dedicated_solver_that_it_starts_from():
    flow = bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)
    paths, validation, fresh = (bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))
    given = bj.init_theta("table", num_steps=5)
    recipe = bj.Recipe(stages=(dataclasses.replace(bj.DEFAULT_STAGES[0], num_iterations=32),))
    result = bj.fit(flow, given, jax.random.key(0), recipe, paths=paths, validation=validation)
    starts = {name: start for group in start_groups(flow, given.suited(flow)) for name, start in group.items()}
    reference, _ = starts[result.start].with_samples(flow, paths.x0, paths.x1, 64)
    before, after = (float(bj.losses.rmse(flow, bj.to_table(s), fresh)) for s in (reference, result.theta))
    assert result.start != "given" and 20 * np.log10(before / after) > 9


def test_solve_takes_it_as_it_is():
    flow = bj.Flow(lambda p, t, x: -x, None, (2,))
    x0 = jnp.ones((3, 2))
    wanted = bj.solve(flow, bj.classic.midpoint(4), x0)
    np.testing.assert_allclose(bj.solve(flow, bj.LearnedTable.of(bj.classic.midpoint(4)), x0), wanted, rtol=1e-6)


def test_a_reference_that_is_no_table_is_named():
    with pytest.raises(TypeError, match=r"reference.*Theta"):
        bj.LearnedTable.of(bj.init_theta("rk2", 2))


def test_it_is_a_frozen_tree():
    with pytest.raises(dataclasses.FrozenInstanceError):
        bj.init_theta("table", 2).raw = 0
