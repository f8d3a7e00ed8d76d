"""check_solver: the figures it reports are those of the solvers, and the verdict follows from them."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax import compare

KEY = jax.random.key(3)
FLOW = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)


def scores(solver, num_paths=8):
    """(PSNR, mean PSNR) by the definition."""
    x0 = FLOW.noise(KEY, (num_paths,))
    x1 = bj.ground_truth(FLOW, x0, batch_size=64).x1
    error = np.linalg.norm(bj.adjoint.end_points(FLOW, solver, x0) - x1, axis=1) / 2**0.5
    return 20 * np.log10(2 / error.mean()), (20 * np.log10(2 / error)).mean()


def test_the_figures_are_those_of_the_solvers():
    found = bj.check_solver(FLOW, bj.init_theta("rk1", 4), KEY, num_paths=8)
    assert (found.nfe, found.num_paths) == (4, 8)
    # A theta that is Euler's method ends where Euler's does.
    assert found.solver[1:] == pytest.approx(found.euler[1:], abs=1e-3)
    for score, solver in ((found.euler, bj.classic.euler(4)), (found.midpoint, bj.classic.midpoint(4))):
        assert score[1:3] == pytest.approx(scores(solver), abs=1e-3)
    tables = bj.classic.dedicated(4, FLOW.scheduler)
    assert found.dedicated[1:3] == pytest.approx(scores(tables[found.dedicated.name]), abs=1e-3)
    every = bj.check_solver(FLOW, tables["ddim/karras"], KEY, num_paths=8, others=tables)
    assert every.dedicated == found.dedicated and every.solver.mean_psnr < found.dedicated.mean_psnr
    assert not found.fits
    best_other = max(found.euler.mean_psnr, found.midpoint.mean_psnr, found.dedicated.mean_psnr)
    assert found.gain == pytest.approx(found.solver.mean_psnr - best_other)


def test_a_solver_better_than_all_others_fits():
    better, worse = bj.classic.ipndm(8), {"heun": bj.classic.heun(8), "ddim": bj.classic.ddim(8, FLOW.scheduler)}
    found = bj.check_solver(FLOW, better, KEY, num_paths=8, others=worse)
    assert found.fits and found.gain > 0
    assert found.dedicated.name == "heun"
    assert not bj.check_solver(FLOW, better, KEY, num_paths=8, others={"same": better}).fits


@pytest.mark.parametrize(
    "solver", [bj.init_theta("rk1", 3), bj.LearnedTable.of(bj.classic.euler(3)), bj.classic.euler(3)], ids=type
)
def test_every_kind_of_solver(solver):
    found = bj.check_solver(FLOW, solver, KEY, num_paths=8, others={})
    assert found.midpoint is None and found.dedicated is None  # 3 is odd
    assert found.gain == pytest.approx(0, abs=1e-3)


def test_a_solver_that_blows_up_is_the_worst():
    table = bj.classic.euler(4)
    broken = bj.SolverTable(table.t, table.a, table.b * 1e30)
    found = bj.check_solver(FLOW, broken, KEY, num_paths=8, others={"broken": broken})
    assert found.solver.psnr == found.solver.mean_psnr == found.gain == -np.inf and not found.fits
    assert "below" in str(found)


def test_it_prints_a_table():
    found = bj.check_solver(FLOW, bj.classic.ipndm(8), KEY, num_paths=8, others={"heun": bj.classic.heun(8)})
    verdict, head, *lines = str(found).splitlines()
    error = found.gain_standard_error
    assert verdict.startswith(f"fits: {found.gain:.1f} ± {error:.1f} dB above") and "NFE 8" in verdict
    assert head.split() == ["PSNR", "mean", "PSNR", "RMSE"]
    assert [line.split("  ")[0] for line in lines[:4]] == ["this solver", "euler", "midpoint", "heun"]
    assert re.fullmatch(r"this solver  +\d+\.\d ± \d\.\d  +\d+\.\d ± \d\.\d  +[\d.e-]+", lines[0])
    assert float(lines[0].split()[-1]) == pytest.approx(found.solver.rmse, rel=6e-3)


def test_the_gain_has_the_standard_error_of_differences_path_by_path():
    better, worse = bj.classic.heun(8), bj.classic.midpoint(8)
    found = bj.check_solver(FLOW, better, KEY, num_paths=8, others={"worse": worse})
    x0 = FLOW.noise(KEY, (8,))
    x1 = bj.ground_truth(FLOW, x0, batch_size=64).x1
    mine, other = (bj.metrics.rmse(bj.solve(FLOW, s, x0), x1, 1) for s in (better, worse))
    assert found.gain_standard_error == pytest.approx(np.std(20 * np.log10(other / mine), ddof=1) / 8**0.5, abs=1e-3)
    close = found._replace(gain=0.1, gain_standard_error=0.3)
    assert "0.1 ± 0.3 dB" in str(close) and "less than two standard errors" in str(close)


def test_one_path_has_no_standard_error():
    found = bj.check_solver(FLOW, bj.classic.heun(8), KEY, num_paths=1, others={})
    of_score = found.solver.standard_error, found.solver.psnr_standard_error, found.solver.mean_psnr_standard_error
    assert np.isnan([found.gain_standard_error, *of_score]).all()
    assert "±" not in str(found) and "nan" not in str(found)


def test_a_solver_hardly_better_than_the_mean_sample_is_warned_of():
    with pytest.warns(UserWarning, match="check_solver: the solver's RMSE is .* the solver is of no use"):
        bj.check_solver(FLOW, bj.classic.euler(1), KEY, num_paths=8, others={})
    wide = bj.analytic.gaussian([100.0, -50.0], 30.0)  # where decibels alone say nothing
    assert bj.check_solver(wide, bj.classic.midpoint(12), KEY, num_paths=8, others={}).solver.psnr < 20


def test_a_few_samples_that_make_up_most_of_the_mean_rmse_are_warned_of():
    flow = bj.Flow(lambda p, t, x: jnp.where(x > 1.5, -3 * x * jnp.cos(9 * t), 0.01 * t - 0.01 * x), None, (1,))
    with pytest.warns(UserWarning, match=r"check_solver: psnr is .* a few of 64 samples .* may be off by more than"):
        found = bj.check_solver(flow, bj.classic.euler(4), KEY, num_paths=64, others={})
    assert found.solver.mean_psnr > found.solver.psnr + 10


def test_without_a_scheduler_and_without_compiling_the_network_for_each_solver(monkeypatch):
    monkeypatch.setattr(compare, "ground_truth", lambda flow, x0, *_, **__: bj.Paths.of_ends(flow, x0, x0 / math.e))
    monkeypatch.setattr(compare, "truth_of", lambda *_, **__: (compare.Truth(math.inf, math.inf, 0.0), 0))
    traces = []

    def velocity(params, t, x):
        traces.append(None)
        return -params * x

    flow = bj.Flow(velocity, jnp.float32(1.0), ())
    bj.check_solver(flow, bj.classic.euler(2), KEY, num_paths=8)
    before = len(traces)
    found = bj.check_solver(flow, bj.classic.euler(4), KEY, num_paths=8)
    assert found.dedicated.name in bj.classic.dedicated(4, None)
    assert len(traces) == before == 1


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(flow=None), TypeError, "flow: wanted a bespoke_jax.Flow, got NoneType"),
        (dict(solver="rk2"), TypeError, "solver: wanted a learned solver or a SolverTable, got str"),
        (dict(key=3), TypeError, "key: wanted one JAX random key"),
        (dict(num_paths=0), ValueError, "num_paths: wanted an integer >= 1, got 0"),
        (dict(num_paths=2.0), ValueError, "num_paths: wanted an integer >= 1, got 2.0"),
        (dict(batch_size=0), ValueError, "batch_size: wanted an integer >= 1, got 0"),
        (dict(data_range=0), ValueError, "data_range: wanted a finite number > 0, got 0"),
        (dict(rtol=-1.0), ValueError, "rtol: wanted a finite number > 0"),
        (dict(others=[1]), TypeError, "others: wanted a dict of solvers by name, got list"),
        (dict(others={"mine": 1}), TypeError, r"others\['mine'\]: wanted a learned solver or a SolverTable, got int"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        bj.check_solver(**dict(flow=FLOW, solver=bj.classic.euler(2), key=KEY, others={}) | change)
