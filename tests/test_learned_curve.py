"""The learned curve: smooth whatever its numbers, values and slopes of one mind, one fit for every number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bespoke_jax as bj
from bespoke_jax.fitting.starts import start_groups
from bespoke_jax.learned.scale_time import Curve, start_curves
from bespoke_jax.learned.transfer import theta_from_curve
from tests import reference


@pytest.fixture
def double():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


def bent(method="rk2", num_steps=5):
    """A curve with nothing trivial about it, in float64."""
    plain = bj.LearnedCurve.identity(method, num_steps, dtype=jnp.float64)
    return plain.with_raw(jnp.asarray(0.3 * np.random.default_rng(0).standard_normal(plain.raw.shape)))


def end(table, u, x0):
    """Where a table ends, in NumPy."""
    t, a, b = (np.asarray(leaf, np.float64) for leaf in (table.t, table.a, table.b))
    x, velocities = x0, []
    for i in range(len(t)):
        velocities.append(u(max(t[i], 1e-9), x))
        x = a[i] * x0 + sum(b[i, j] * velocity for j, velocity in enumerate(velocities))
    return x


def test_it_starts_as_the_base_solver(base):
    wanted = {"rk1": bj.classic.euler(4), "rk2": bj.classic.midpoint(8)}[base]
    found = jax.jit(bj.to_table)(bj.LearnedCurve.identity(base, 4))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_slopes_are_those_of_the_values(double):
    learned, r = bent(), jnp.linspace(0, 1, 6)
    found, wanted = jax.jit(lambda: (learned.at(r), jax.vmap(learned.curve())(r)))()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_its_knots_are_those_of_a_theta_read_off_it(double):
    learned = bent()
    theta = theta_from_curve("rk2", 5, learned.curve(), dtype=jnp.float64)
    for one, other in zip(*jax.jit(lambda: (learned.knots(), theta.knots()))(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_more_steps_are_of_the_same_curve(double):
    few, many = jax.jit(lambda: tuple(bent().with_steps(n).knots() for n in (3, 6)))()
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(one, other[::2], rtol=1e-12)


def test_order_of_convergence_along_any_curve(double):
    numbers, wanted, errors = (16, 48), np.exp(np.sin(1.0)), []
    for n in numbers:
        table = jax.jit(bj.to_table)(bent("rk2", n))
        errors.append(abs(end(table, lambda t, x: np.cos(t) * x, 1.0) - wanted))
    assert reference.order_of(errors, numbers) == pytest.approx(2, abs=0.2), errors


def test_a_curve_of_its_kind_is_found_again(double):
    learned = bent()
    again = bj.LearnedCurve.identity("rk2", 5, dtype=jnp.float64).like(learned.curve())
    # But for the least slope, 1/1000, which is mixed in twice.
    np.testing.assert_allclose(again.raw, learned.raw, atol=0.01)


@jax.jit
def knots_and_slopes(raw):
    def numbers(raw):
        knots = bj.init_theta("curve", 4).with_raw(raw).knots()
        return jnp.concatenate(knots), knots

    slopes, knots = jax.jacfwd(numbers, has_aux=True)(raw)
    return knots, slopes


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=11, max_size=11))
def test_any_numbers_give_a_curve(raw):
    knots, slopes = knots_and_slopes(jnp.asarray(raw, jnp.float32))
    assert knots.t[0] == 0 and knots.t[-1] == 1 and np.all(np.diff(knots.t) > 0) and np.all(knots.dt > 0)
    assert knots.s[0] == 1 and np.all(knots.s > 0)
    assert all(np.all(np.isfinite(part)) for part in (*knots, slopes))


def test_starts_are_the_start_curves_or_near_them():
    flow, r = bj.analytic.gaussian([1.0, 0.0], 0.1), np.linspace(0, 1, 9)
    given = bj.LearnedCurve.identity("rk1", 4)
    starts = start_groups(flow, given)[0]
    assert {jax.tree.structure(start) for start in starts.values()} == {jax.tree.structure(given)}
    curves = start_curves(flow.scheduler)
    assert set(starts) == {"given", *curves}
    for name in ("late dense", "cosine", "edm"):
        found, wanted = jax.jit(
            lambda name: (starts[name].at(jnp.asarray(r)), jax.vmap(curves[name])(r)), static_argnums=0
        )(name)
        t = (wanted[0] - wanted[0][0]) / (wanted[0][-1] - wanted[0][0])
        assert np.max(np.abs(found[0] - t)) < 0.05, name
        assert np.max(np.abs(np.log(found[2] * wanted[2][0] / wanted[2]))) < 0.25, name


MARGINS = {4: 4.0, 5: 6.0, 8: 3.0, 10: 2.5}  # dB over rk2 with as many steps


@pytest.mark.slow
def test_one_fit_serves_every_number_of_steps():
    means, std = [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3
    flow = bj.analytic.mixture(means, std)
    u = reference.mixture_velocity("CondOT", means, [std] * 3, [1 / 3] * 3)
    paths, validation, fresh = (bj.ground_truth(flow, flow.noise(jax.random.key(seed), (64,))) for seed in (1, 2, 3))
    result = bj.fit(
        flow,
        bj.init_theta("curve", 5),
        jax.random.key(0),
        bj.Recipe(choose_start=False),
        paths=paths,
        validation=validation,
    )
    x0, x1 = (np.asarray(x, np.float64) for x in (fresh.x0, fresh.x1))

    def decibels(x):
        return -20 * np.log10(np.mean(bj.metrics.rmse(x, x1, 1)))

    gains = {}
    for n in MARGINS:
        plain = reference.midpoint(lambda t, x: u(max(t, 1e-9), x), x0, n)
        gains[n] = decibels(end(jax.jit(bj.to_table)(result.theta.with_steps(n)), u, x0)) - decibels(plain)
    assert all(gains[n] > margin for n, margin in MARGINS.items()), gains


def test_losses_of_single_steps_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"'endpoint'.*'curve'.*'rmse_bound'"):
        bj.Stage("rmse_bound", 1).update(None, bj.init_theta("curve", 4), None, None, None, 0, 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bj.LearnedCurve.identity("rk3", 4), r"base.*'rk3'"),
        (lambda: bj.LearnedCurve.identity("rk2", 0), r"num_steps.*0"),
        (lambda: bj.LearnedCurve.identity("rk2", 4, degree=0), r"degree.*0"),
        (lambda: bj.init_theta("curve", 4).with_steps(1.5), r"num_steps.*1\.5"),
        (lambda: bj.init_theta("curve", 4).like(Curve(lambda r: r, lambda r: 0.0 * r)), r"curve.*s > 0"),
        (
            lambda: bj.init_theta("curve", 4).like(Curve(lambda r: 3 * r * r - 2 * r, jnp.ones_like)),
            r"curve.*increasing",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_curve_is_named():
    with pytest.raises(TypeError, match=r"curve: wanted a scale_time\.Curve .*, got LearnedCurve\."):
        bj.init_theta("curve", 4).like(bj.init_theta("curve", 4))
