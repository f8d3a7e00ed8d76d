"""Learned times: they start as the grid, cannot collide whatever the numbers, and learn. The tables: test_tables_of_times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bespoke_jax as bj
from bespoke_jax import classic
from bespoke_jax.fitting.starts import start_groups

VP = bj.schedulers.VariancePreserving()
DEDICATED = {
    ("midpoint", "quadratic"): classic.midpoint(12, grid="quadratic"),
    ("dpm_solver_pp-3m", "log_snr"): classic.dpm_solver_pp(6, VP, 3, grid="log_snr"),
    ("deis-3", "karras"): classic.deis(6, VP, 3, grid="karras"),
}


@pytest.mark.parametrize("method, grid", DEDICATED)
def test_it_starts_as_its_solver_on_the_reference_grid(method, grid):
    solver = bj.LearnedTimes.of(method, 6, VP, grid=grid)
    np.testing.assert_allclose(solver.times(), classic.time_grid(grid, 6, VP), atol=3e-7)
    wanted = DEDICATED[method, grid]
    for found, entries in zip(jax.tree.leaves(jax.jit(bj.to_table)(solver)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, entries, rtol=1e-3, atol=2e-6 * np.max(np.abs(entries)))


NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)
STEEP = bj.LearnedTimes.of("dpm_solver_pp-3m", 4, VP, grid="log_snr")


@jax.jit
def times_table_and_slopes(raw):
    def entries(raw):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(STEEP.with_raw(raw).table())])

    return STEEP.with_raw(raw).times(), entries(raw), jax.jacfwd(entries)(raw)


@given(NUMBERS)
def test_any_numbers_give_increasing_times_and_finite_tables(raw):
    times, entries, slopes = times_table_and_slopes(jnp.asarray(raw, jnp.float32))
    assert times[0] == 0 and times[-1] == 1 and np.all(np.diff(times) > 0)
    assert np.all(np.isfinite(entries)) and np.all(np.isfinite(slopes))


@pytest.mark.slow
def test_a_fit_gains_decibels_with_five_numbers():
    flow = bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)
    paths, validation, fresh = (bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))
    start = bj.init_theta("times", num_steps=6)
    result = bj.fit(flow, start, jax.random.key(0), bj.Recipe(choose_start=False), paths=paths, validation=validation)
    before, after = (
        np.mean(bj.metrics.rmse(bj.adjoint.end_points(flow, solver, fresh.x0), fresh.x1, 1))
        for solver in (start, result.theta)
    )
    assert result.theta.num_parameters == 5
    assert 20 * np.log10(before / after) > 8


def test_starts_are_the_same_solver_on_every_grid():
    flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=VP)
    given = bj.LearnedTimes.of("dpm_solver_pp-2m", 4, VP)
    starts = start_groups(flow, given)[0]
    assert set(starts) == {"given", *classic.GRIDS}
    assert {jax.tree.structure(start) for start in starts.values()} == {jax.tree.structure(given)}
    np.testing.assert_allclose(starts["karras"].times(), classic.time_grid("karras", 4, VP), atol=3e-7)
    unknown = bj.Flow(lambda p, t, x: x, None, ())
    assert set(start_groups(unknown, bj.init_theta("times", 4))[0]) == {"given", "uniform", "quadratic"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("ipndm-5", 4), r"method.*ipndm-4.*'ipndm-5'"),
        (("ipndm-2", 1), r"num_steps.*>= 2.*1"),
        (("ddim", 4), r"scheduler.*'ddim'.*None"),
        (("euler", 4, "vp"), r"scheduler.*'vp'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bj.LearnedTimes.of(*arguments)


def test_a_grid_whose_gaps_are_too_small_is_refused():
    with pytest.raises(ValueError, match=r"grid.*2\.4e-05.*float32.*1\.0e-05"):
        bj.LearnedTimes.of("euler", 2, grid=[0.0, 1e-5, 1.0])
