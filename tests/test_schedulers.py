"""Schedulers against formulas differentiated by hand, and the inverse of the signal-to-noise ratio."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")

TIMES = np.array([0.0, 0.01, 0.2, 0.5, 0.77, 0.98])


@pytest.fixture(params=zoo.SCHEDULERS)
def name(request):
    return request.param


@pytest.fixture
def scheduler(name):
    return zoo.SCHEDULERS[name]


def test_alpha_sigma_and_their_derivatives(name, scheduler):
    for t in TIMES:
        found = [f(jnp.float64(t)) for f in (scheduler.alpha, scheduler.sigma)]
        found += [jax.grad(f)(jnp.float64(t)) for f in (scheduler.alpha, scheduler.sigma)]
        np.testing.assert_allclose(found, reference.SCHEDULERS[name](t), rtol=1e-9, atol=1e-12)


def test_straight_and_cosine_paths_end_exactly():
    for kind in ("CondOT", "Cosine"):
        scheduler = zoo.SCHEDULERS[kind]
        for dtype in (jnp.float32, jnp.float64):
            ends = [f(dtype(t)) for f in (scheduler.alpha, scheduler.sigma) for t in (0, 1)]
            assert [float(v) for v in ends] == [0.0, 1.0, 1.0, 0.0]


def test_variance_preserving_preserves_variance_and_nearly_forgets_the_data():
    scheduler = bj.schedulers.VariancePreserving()
    t = jnp.linspace(0, 1, 33)
    np.testing.assert_allclose(scheduler.alpha(t) ** 2 + scheduler.sigma(t) ** 2, 1.0, rtol=1e-11)
    assert 0.0065 < float(scheduler.alpha(0.0)) < 0.0067


def test_variance_preserving_stays_finite_where_its_slope_is_not():
    # sigma ~ sqrt(1 - t): its derivative has no bound at t = 1, but sigma sigmadot = -alpha alphadot does.
    scheduler = bj.schedulers.VariancePreserving()
    for dtype in (jnp.float32, jnp.float64):
        sigma, slope = jax.value_and_grad(scheduler.sigma)(dtype(1.0))
        assert np.isfinite(slope)
        np.testing.assert_allclose(sigma * slope, -0.1 / 2, rtol=1e-5)  # -(b / 2) xi^2 at s = 0


def test_edm_runs_from_sigma_max_to_sigma_min():
    scheduler = bj.schedulers.EDM(sigma_min=0.01, sigma_max=50.0, rho=5.0)
    np.testing.assert_allclose([scheduler.sigma(0.0), scheduler.sigma(1.0)], [50.0, 0.01], rtol=1e-12)
    middle = ((50.0**0.2 + 0.01**0.2) / 2) ** 5
    np.testing.assert_allclose(scheduler.sigma(0.5), middle, rtol=1e-12)


def test_snr_grows(scheduler):
    assert np.all(np.diff(scheduler.snr(np.linspace(0, 0.999, 200))) > 0)


def test_snr_inverse_inverts_snr(scheduler):
    t = jnp.linspace(0.001, 0.999, 50)
    np.testing.assert_allclose(jax.jit(scheduler.snr_inverse)(scheduler.snr(t)), t, atol=1e-11)


def test_snr_inverse_beyond_the_range_is_the_nearer_end(scheduler):
    np.testing.assert_allclose(scheduler.snr_inverse(jnp.array([0.0, jnp.inf])), [0.0, 1.0], atol=1e-12)


def test_snr_inverse_has_the_derivative_of_an_inverse(name, scheduler):
    for t in (0.2, 0.5, 0.8):
        alpha, sigma, alpha_dot, sigma_dot = reference.SCHEDULERS[name](t)
        snr_dot = (alpha_dot * sigma - alpha * sigma_dot) / sigma**2
        np.testing.assert_allclose(jax.grad(scheduler.snr_inverse)(alpha / sigma), 1 / snr_dot, rtol=1e-7)


def test_snr_inverse_keeps_its_digits_at_both_ends_of_the_straight_path():
    for t in (1e-9, 1 - 1e-9):
        found = bj.schedulers.CondOT().snr_inverse(t / (1 - t))
        np.testing.assert_allclose([found, 1 - found], [t, 1 - t], rtol=1e-6)


def test_a_scheduler_from_two_functions():
    # alpha = t^2, sigma = 1 - t^2: snr = v at t = sqrt(v / (1 + v)).
    scheduler = bj.schedulers.Scheduler(lambda t: t**2, lambda t: 1 - t**2)
    np.testing.assert_allclose(scheduler.snr_inverse(3.0), np.sqrt(3 / 4), rtol=1e-12)


def test_dtype_of_t_is_kept(scheduler):
    for dtype in (jnp.float32, jnp.float64):
        assert scheduler.alpha(dtype(0.3)).dtype == scheduler.sigma(dtype(0.3)).dtype == dtype


def test_the_same_call_gives_an_equal_scheduler():
    # Otherwise a jitted function of a flow would be compiled again for every new flow.
    for make in (bj.schedulers.CondOT, bj.schedulers.Cosine, bj.schedulers.VariancePreserving, bj.schedulers.EDM):
        assert make() == make() and hash(make()) == hash(make())
    assert bj.schedulers.EDM(rho=7.0) != bj.schedulers.EDM(rho=5.0)


@pytest.mark.parametrize("argument", ["alpha", "sigma"])
def test_a_number_is_no_function(argument):
    functions = dict(alpha=lambda t: t, sigma=lambda t: 1 - t) | {argument: 0.5}
    with pytest.raises(TypeError, match=f"{argument}: wanted a function of t"):
        bj.schedulers.Scheduler(**functions)


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("edm", dict(sigma_min=0.0), "sigma_min: wanted a finite number > 0, got 0.0"),
        ("edm", dict(sigma_min=-1.0), "sigma_min: wanted a finite number > 0, got -1.0"),
        ("edm", dict(sigma_min=2.0, sigma_max=1.0), "sigma_min: wanted less than sigma_max=1.0, got 2.0"),
        ("edm", dict(sigma_min=1.0, sigma_max=1), "sigma_min: wanted less than sigma_max=1.0, got 1.0"),
        ("edm", dict(sigma_max=np.inf), "sigma_max: wanted a finite number > 0, got inf"),
        ("edm", dict(sigma_max="80"), "sigma_max: wanted a finite number > 0, got '80'"),
        ("edm", dict(rho=0), "rho: wanted a finite number > 0, got 0"),
        ("edm", dict(rho=np.nan), "rho: wanted a finite number > 0, got nan"),
        ("edm", dict(rho=0.01), r"rho: wanted sigma\^\(1/rho\) within the range of float32, got rho=0.01"),
        ("edm", dict(sigma_maximum=80), r"scheduler: wanted one of \['sigma_min', 'sigma_max', 'rho'\] of 'edm'"),
        ("vp", dict(beta_min=20.0, beta_max=0.1), "beta_min: wanted a number from 0 to 0.1, got 20.0"),
        ("vp", dict(beta_min=np.nan), "beta_min: wanted a number from 0 to 20.0, got nan"),
        ("vp", dict(beta_min=0, beta_max=0), "beta_max: wanted a finite number > 0, got 0"),
        ("condot", dict(rho=7), "scheduler: wanted no constants of 'condot', got 'rho'"),
        ("karras", {}, "scheduler: wanted one of .*, got 'karras'"),
        (["edm"], {}, "scheduler: wanted one of .*, got"),
    ],
)
def test_constants_that_make_no_scheduler(name, constants, message):
    with pytest.raises(ValueError, match=message):
        bj.schedulers.by_name(name, **constants)


def test_a_scheduler_in_a_config():
    wanted = bj.schedulers.VariancePreserving(0.0, 10.0)
    assert bj.schedulers.from_config(dict(name="vp", beta_min=0, beta_max=10)) == wanted
    # Its alpha is that of the formula: exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2), s = 1 - t.
    np.testing.assert_allclose(wanted.alpha(jnp.float64(0.5)), np.exp(-10 / 16), rtol=1e-12)
    for given in (3, None, {}, {"rho": 7}, {1: "edm", "name": "edm"}, ["edm"]):
        with pytest.raises(ValueError, match="scheduler: wanted a name, or a dictionary with the entry 'name', got"):
            bj.schedulers.from_config(given)


def test_a_scheduler_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        bj.schedulers.CondOT().alpha = None
