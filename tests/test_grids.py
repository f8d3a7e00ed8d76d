"""Time grids and the float64 reading of schedulers. No x64 here: it must not matter."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.classic.levels import level_at_snr, levels, times_of_snr
from tests import reference, zoo

time_grid = bj.classic.time_grid


@pytest.mark.parametrize("name", zoo.SCHEDULERS)
@pytest.mark.parametrize("grid", bj.classic.GRIDS)
def test_every_grid_increases_from_0_to_1_on_every_scheduler(grid, name):
    for n in (1, 2, 7, 100):
        t = time_grid(grid, n, zoo.SCHEDULERS[name])
        assert t.dtype == np.float64 and t.shape == (n + 1,)
        assert t[0] == 0.0 and t[-1] == 1.0 and np.all(np.diff(t) > 0)


def test_uniform_and_quadratic_need_no_scheduler():
    np.testing.assert_allclose(time_grid("uniform", 5), [0, 0.2, 0.4, 0.6, 0.8, 1], rtol=1e-15)
    np.testing.assert_allclose(time_grid("quadratic", 5), 1 - np.array([1, 0.64, 0.36, 0.16, 0.04, 0]), rtol=1e-15)


@pytest.mark.parametrize("grid, scheduler", [("karras", bj.schedulers.EDM()), ("cosine", bj.schedulers.Cosine())])
def test_a_grid_is_uniform_on_the_scheduler_it_is_named_after(grid, scheduler):
    np.testing.assert_allclose(time_grid(grid, 9, scheduler), np.arange(10) / 9, atol=1e-12)


def test_log_snr_steps_are_equal():
    t = time_grid("log_snr", 8, bj.schedulers.CondOT())
    np.testing.assert_allclose(np.diff(np.log(t[1:-1] / (1 - t[1:-1]))), math.log(100 * 160) / 8, rtol=1e-9)
    # A scheduler within the limits: from its own end to its own end.
    narrow = bj.schedulers.EDM(sigma_min=0.05, sigma_max=40.0)
    sigma = [reference.edm(float(time), 0.05, 40.0)[1] for time in time_grid("log_snr", 8, narrow)]
    np.testing.assert_allclose(np.diff(np.log(sigma)), math.log(0.05 / 40) / 8, rtol=1e-9)


@pytest.mark.parametrize("kind", [list, tuple, np.array, jnp.array])
def test_times_may_be_given(kind):
    np.testing.assert_array_equal(time_grid(kind([0.0, 0.25, 1.0]), 2), [0.0, 0.25, 1.0])


@pytest.mark.parametrize(
    "grid, n, words",
    [
        ("linear", 4, "grid: wanted one of .*'uniform'.* got 'linear'"),
        (None, 4, "grid: wanted one of .* or 5 times"),
        (["a", "b"], 1, "grid: wanted one of .* or 2 times"),
        ([0.0, 0.5, 1.0], 3, r"grid: wanted 4 times for 3 steps, got 3"),
        ([[0.0, 1.0]], 1, "grid: wanted one of .* or 2 times for 1 steps"),
        (0.5, 1, "grid: wanted one of .* or 2 times"),
        (["0", "1"], 1, "grid: wanted one of .* or 2 times"),
        ([0, 1j], 1, "grid: wanted one of .* or 2 times"),
        ([0.0, 0.6, 0.5, 1.0], 3, r"grid: wanted times that increase from exactly 0 to exactly 1, got \[0.0, 0.6"),
        ([0.0, 0.5, 0.5, 1.0], 3, "increase"),
        ([0.1, 0.5, 1.0], 2, "from exactly 0"),
        ([0.0, 0.5, 0.99], 2, "to exactly 1"),
        ([0.0, math.nan, 1.0], 2, "grid: wanted one of .* or 3 times for 2 steps, finite numbers"),
        ("uniform", 0, "num_steps: wanted an integer >= 1, got 0"),
        ("uniform", 2.0, "num_steps: wanted an integer >= 1, got 2.0"),
        ("uniform", True, "num_steps: .* got True"),
        ("log_snr", 4, "scheduler: wanted a bespoke_jax.schedulers.Scheduler for the grid 'log_snr', got None"),
    ],
)
def test_bad_grids(grid, n, words):
    with pytest.raises(ValueError, match=words):
        time_grid(grid, n)


def test_a_scheduler_whose_snr_does_not_grow():
    flat = bj.schedulers.Scheduler(lambda t: 1.0 + 0 * t, lambda t: 0.5 + 0 * t)
    with pytest.raises(ValueError, match="signal-to-noise ratio that grows"):
        time_grid("log_snr", 4, flat)
    with pytest.raises(ValueError, match=r"growing signal-to-noise ratio"):
        bj.classic.ddim(4, flat)


FALLING = {
    "falling": bj.schedulers.Scheduler(lambda t: 1.1 - t, lambda t: 0.1 + t),
    "reversed": bj.schedulers.Scheduler(lambda t: 1 - t, lambda t: t),
    "hump": bj.schedulers.Scheduler(lambda t: 0.1 + t, lambda t: 1.05 - t * (2.2 - 1.2 * t)),
    "late": bj.schedulers.Scheduler(lambda t: t, lambda t: 1.01 - t + 2 * jnp.maximum(t - 0.99, 0)),
}


@pytest.mark.parametrize("name", FALLING)
def test_a_scheduler_whose_snr_falls_somewhere(name):
    scheduler = FALLING[name]
    builders = [partial(time_grid, grid, 4, scheduler) for grid in ("log_snr", "karras", "cosine")]
    builders += [partial(f, 2, scheduler) for f in (bj.classic.ddim, bj.classic.deis, bj.classic.dpm_solver_pp)]
    builders += [partial(f, 2, scheduler, grid="uniform") for f in (bj.classic.ddim, bj.classic.unipc)]
    builders += [partial(bj.classic.ipndm, 2, scheduler=scheduler)]
    for build in builders:
        with pytest.raises(
            ValueError, match=r"scheduler: wanted a growing signal-to-noise ratio for .*, got one that falls"
        ):
            build()


def test_a_level_at_which_the_snr_falls_is_not_read():
    level = levels(FALLING["falling"], [0.5])[0]
    with pytest.raises(ValueError, match=r"growing signal-to-noise ratio at t=0\.5"):
        level.predictions(1.0, 0.0)


def test_a_scheduler_that_interpolates_in_float32_and_rests_is_no_fall():
    t = jnp.linspace(0, 1, 500, dtype=jnp.float32)
    alpha, sigma = jnp.minimum(t, 0.95), jnp.sqrt(1 - jnp.minimum(t, 0.95) ** 2)
    table = bj.schedulers.Scheduler(lambda s: jnp.interp(s, t, alpha), lambda s: jnp.interp(s, t, sigma))
    assert bj.classic.ddim(4, table, grid="uniform").nfe == 4


# --- Levels. ---


@pytest.mark.parametrize("name", zoo.SCHEDULERS)
def test_levels_are_read_in_float64(name):
    times = np.array([0.0, 0.1, 0.55, 0.98])
    for level, t in zip(levels(zoo.SCHEDULERS[name], times), times, strict=True):
        found = level.alpha, level.sigma, level.alpha_dot, level.sigma_dot
        np.testing.assert_allclose(found, reference.SCHEDULERS[name](t), rtol=1e-9, atol=1e-12)
        h = 1e-5
        if t > 0:  # second derivatives from the reference's first
            before, after = (reference.SCHEDULERS[name](t + shift)[2:] for shift in (-h, h))
            slopes = (np.array(after) - np.array(before)) / (2 * h)
            np.testing.assert_allclose((level.alpha_ddot, level.sigma_ddot), slopes, rtol=1e-5, atol=1e-7)
        data, noise = level.predictions(1.7, -0.3)
        assert level.alpha * data + level.sigma * noise == pytest.approx(1.7, rel=1e-9)
        assert level.alpha_dot * data + level.sigma_dot * noise == pytest.approx(-0.3, rel=1e-9)


@pytest.mark.parametrize("name", zoo.SCHEDULERS)
def test_times_of_snr_inverts(name):
    # More of them than go through at once.
    times = np.linspace(0.001, 0.99, 150)
    snr = [level.snr for level in levels(zoo.SCHEDULERS[name], times)]
    np.testing.assert_allclose(times_of_snr(zoo.SCHEDULERS[name], snr), times, rtol=1e-9)


def test_ends_are_infinite_or_stand_for_it():
    start, end = levels(bj.schedulers.CondOT(), [0.0, 1.0])
    assert (start.snr, start.noise_to_signal, start.log_snr) == (0.0, math.inf, -math.inf)
    assert (end.snr, end.noise_to_signal, end.log_snr) == (math.inf, 0.0, math.inf)
    start, end = levels(bj.schedulers.VariancePreserving(), [0.0, 1.0])
    assert start.log_snr == pytest.approx(math.log(0.00657), abs=1e-3)
    assert end.log_snr == math.inf and end.sigma == pytest.approx(1e-6)
    assert level_at_snr(bj.schedulers.CondOT(), 3.0).t == pytest.approx(0.75)


def test_an_end_rounded_below_zero_is_zero():
    scheduler = bj.schedulers.Scheduler(jnp.sin, lambda t: jnp.cos(math.pi / 2 * (1 + 1e-9) * t))
    assert levels(scheduler, [1.0])[0].sigma == 0.0


def test_a_constant_may_be_a_python_number():
    scheduler = bj.schedulers.Scheduler(lambda t: 1.0, lambda t: 2.0 - t)
    assert levels(scheduler, [0.5])[0].snr == pytest.approx(2 / 3)


def test_tables_are_made_at_once_even_while_jax_traces():
    @jax.jit
    def traced(x):
        return x * bj.classic.ddim(3, bj.schedulers.Cosine(), grid="log_snr").b[2, 0]

    wanted = bj.classic.ddim(3, bj.schedulers.Cosine(), grid="log_snr").b[2, 0]
    np.testing.assert_allclose(traced(jnp.float32(1.0)), wanted, rtol=1e-6)
