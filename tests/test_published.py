"""What others publish, read as grids and tables."""

import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.classic.levels import levels
from tests import zoo

classic = bj.classic

# Align Your Steps (Sabour et al. 2024), as its authors publish them: the same schedule as training steps and as noise levels.
AYS = {
    "SD 1.5": (
        [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
        [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0],
    ),
    "SDXL": (
        [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
        [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.0],
    ),
}
STABLE_DIFFUSION = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


@pytest.mark.parametrize("name", AYS)
def test_steps_are_the_levels_that_were_published_with_them(name):
    # The steps were rounded to whole ones: half a step either way; the levels to three digits after the point.
    steps, sigmas = (np.array(values, np.float64) for values in AYS[name])
    low, high = (classic.sigmas_of_steps(np.clip(steps + by, 0, 999), STABLE_DIFFUSION) for by in (-0.5, 0.5))
    assert np.all(low - 5e-4 <= sigmas[:-1]) and np.all(sigmas[:-1] <= high + 5e-4)


@pytest.mark.parametrize("scheduler", zoo.SCHEDULERS)
def test_times_have_the_levels(scheduler):
    scheduler = zoo.SCHEDULERS[scheduler]
    sigmas = AYS["SD 1.5"][1]
    times = classic.times_of_sigmas(sigmas, scheduler)
    assert times[0] == 0 and times[-1] == 1
    found = [level.noise_to_signal for level in levels(scheduler, times[1:-1])]
    np.testing.assert_allclose(found, sigmas[1:-1], rtol=1e-6)
    np.testing.assert_array_equal(classic.times_of_sigmas(sigmas[:-1], scheduler), times)  # a last 0 or not
    np.testing.assert_allclose(classic.times_of_sigmas(sigmas, scheduler, 10), times, atol=1e-9)


def test_lists_of_another_length_are_interpolated_in_the_logarithm():
    times = classic.times_of_sigmas([16.0, 4.0, 1.0], bj.schedulers.CondOT(), num_steps=5)
    np.testing.assert_allclose(1 / times[1:-1] - 1, [8, 4, 2, 1], rtol=1e-6)


def test_adams_bashforth_is_a_multistep_solver():
    weights = {2: [[3 / 2, -1 / 2]], 3: [[23 / 12, -16 / 12, 5 / 12]], 4: [[55 / 24, -59 / 24, 37 / 24, -9 / 24]]}
    for order, rows in weights.items():
        m = 6
        wanted = classic.ipndm(m, order=order)
        c = np.zeros((m, m))
        for i in range(1, m):
            row = ([[1.0]] + [weights[k][0] for k in sorted(weights)])[min(i, order - 1)]
            c[i, i - len(row) + 1 : i] = row[:0:-1]
        assert len(rows[0]) == order
        found = classic.multistep([1 / m] * m, c)
        for name in ("t", "a", "b"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(wanted, name), atol=1e-6, err_msg=f"{order} {name}"
            )


@pytest.mark.parametrize(
    "nfe", [pytest.param(n, marks=() if n in (5, 8, 15) else pytest.mark.slow) for n in classic.SEARCHED]
)
def test_searched_solvers_solve(nfe):
    table = classic.solver_search(nfe)
    assert table.nfe == nfe and classic.dedicated(nfe, bj.schedulers.CondOT())["solver_search/published"].nfe == nfe
    # Exact for a constant velocity but for the rounding of the published intervals; consistent for x' = -x.
    flow = bj.Flow(lambda p, t, x: jnp.ones_like(x), None, ())
    np.testing.assert_allclose(bj.solve(flow, table, jnp.zeros(2)), 1.0, atol=3e-4)
    decay = bj.Flow(lambda p, t, x: -x, None, ())
    searched, euler = (float(bj.solve(decay, s, jnp.ones(()))) for s in (table, classic.euler(nfe)))
    assert abs(searched - np.exp(-1)) < 0.5 * abs(euler - np.exp(-1))


def test_a_searched_solver_step_by_step():
    # The first three steps of the one with 5 evaluations, on u = x + t, with the numbers of the authors' file.
    d, c10, c20, c21 = (0.0521, 0.1475, 0.2114), -1.26, 1.38, -2.26
    x, t = 1.0, 0.0
    u0 = x + t
    x, t = x + d[0] * u0, t + d[0]
    u1 = x + t
    x, t = x + d[1] * (c10 * u0 + (1 - c10) * u1), t + d[1]
    u2 = x + t
    x = x + d[2] * (c20 * u0 + c21 * u1 + (1 - c20 - c21) * u2)
    table = classic.solver_search(5)
    row = float(table.a[2] + table.b[2, :3] @ jnp.array([u0, u1, u2]))
    np.testing.assert_allclose(row, x, rtol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: classic.times_of_sigmas([1.0, 2.0], s), "sigmas: wanted decreasing levels > 0"),
        (lambda s: classic.times_of_sigmas([2.0, -1.0], s), "sigmas: wanted decreasing"),
        (lambda s: classic.times_of_sigmas([0.0], s), "sigmas: wanted decreasing"),
        (lambda s: classic.times_of_sigmas("AYS", s), r"sigmas: wanted numbers of shape \[n\], got 'AYS'"),
        (lambda s: classic.times_of_sigmas([2.0, np.nan], s), "sigmas: wanted finite numbers, got NaN"),
        (lambda s: classic.times_of_sigmas([2.0, 1.0], None), "scheduler: wanted .* for times_of_sigmas"),
        (
            lambda s: classic.times_of_sigmas([1e9, 1e8, 1.0], bj.schedulers.EDM()),
            "sigmas: wanted levels with increasing times",
        ),
        (lambda s: classic.times_of_sigmas([2.0, 1.0], s, 0), "num_steps: wanted an integer >= 1, got 0"),
        (lambda s: classic.sigmas_of_steps([1000], STABLE_DIFFUSION), "steps: wanted steps from 0 to 999"),
        (lambda s: classic.sigmas_of_steps([10], [0.1, 1.5]), "betas: wanted a list of numbers within"),
        (lambda s: classic.multistep([0.5, 0.4], np.zeros((2, 2))), "intervals: .* of sum 0.9000"),
        (lambda s: classic.multistep([0.5, 0.5], np.zeros((3, 3))), r"coefficients: wanted shape \[2, 2\]"),
        (lambda s: classic.multistep([[0.5, 0.5]], np.zeros((2, 2))), r"intervals: wanted shape \[m\], got \[1, 2\]"),
        (lambda s: classic.multistep(["0.5", "0.5"], np.zeros((2, 2))), r"intervals: wanted numbers of shape \[m\]"),
        (lambda s: classic.multistep([1.0003, 1e-5], np.zeros((2, 2))), "intervals: wanted positive numbers of sum 1"),
        (lambda s: classic.times_of_sigmas([2.0, 1j], s), "sigmas: wanted numbers of shape"),
        (lambda s: classic.times_of_sigmas(2.0, s), r"sigmas: wanted shape \[n\], got \[\]"),
        (lambda s: classic.sigmas_of_steps([True], STABLE_DIFFUSION), "steps: wanted numbers of shape"),
        (lambda s: classic.sigmas_of_steps([10], ["0.1"]), "betas: wanted numbers of shape"),
        (lambda s: classic.solver_search(4), "nfe: wanted one of .*15.*, got 4"),
        (lambda s: classic.solver_search("5"), "nfe: wanted an integer >= 1, got '5'"),
    ],
)
def test_bad_lists(call, words):
    with pytest.raises(ValueError, match=words):
        call(bj.schedulers.CondOT())
