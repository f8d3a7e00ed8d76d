"""Scale-time transformations: eq. (16), Proposition 2.1, Theorem 2.3 both ways, and curves read as thetas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.learned.scale_time import (
    Curve,
    curve_between,
    identity_curve,
    scheduler_along,
    transform_velocity,
    transform_velocity_by,
)
from bespoke_jax.learned.transfer import theta_from_curve
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")

# Both parts of it bend, s moves both up and down, s_0 = 1.
CURVE = Curve(lambda r: r + 0.25 * jnp.sin(jnp.pi * r) * r, lambda r: 1 + 0.6 * r * jnp.cos(2 * r))


def curve_numpy(r):
    """CURVE and its derivatives, by hand."""
    t = r + 0.25 * np.sin(np.pi * r) * r
    t_dot = 1 + 0.25 * (np.pi * np.cos(np.pi * r) * r + np.sin(np.pi * r))
    s = 1 + 0.6 * r * np.cos(2 * r)
    s_dot = 0.6 * np.cos(2 * r) - 1.2 * r * np.sin(2 * r)
    return t, t_dot, s, s_dot


def u(t, x):
    return (1 + t) * x - 0.3 * x**3 + t * t


def test_a_curve_knows_its_derivatives():
    for r in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(CURVE(r), curve_numpy(r), rtol=1e-12, atol=1e-15)


def test_identity_curve():
    assert [float(v) for v in identity_curve()(0.3)] == [0.3, 1.0, 1.0, 0.0]
    x = jnp.array([0.5, -1.0])
    np.testing.assert_array_equal(transform_velocity(u, identity_curve())(0.3, x), u(0.3, x))


# --- The transformed field follows the transformed path. Path: x(t) = x0 exp(-t^2), u = -2 t x. ---


def shrink(t, x):
    return -2 * t * x


def derivative(f, r, h=1e-6):
    return (f(r + h) - f(r - h)) / (2 * h)


@pytest.mark.parametrize("r", [0.2, 0.5, 0.9])
def test_transformed_field_is_the_derivative_of_the_transformed_path(r):
    def path(r):  # s_r x(t_r)
        t, _, s, _ = curve_numpy(r)
        return s * 1.3 * np.exp(-(t**2))

    found = transform_velocity(shrink, CURVE)(r, jnp.float64(path(r)))
    np.testing.assert_allclose(found, derivative(path, r), rtol=1e-8)


@pytest.mark.parametrize("r", [0.2, 0.5, 0.9])
def test_any_transformation_is_the_derivative_of_its_path(r):
    # phi_r(x) = sinh((1 + r) x): neither linear in x nor constant in r.
    def path(r):
        return np.sinh((1 + r) * 1.3 * np.exp(-(curve_numpy(r)[0] ** 2)))

    ubar = transform_velocity_by(
        shrink, CURVE.t, lambda r, x: jnp.sinh((1 + r) * x), lambda r, x: jnp.arcsinh(x) / (1 + r)
    )
    np.testing.assert_allclose(ubar(r, jnp.float64(path(r))), derivative(path, r), rtol=1e-8)


def test_proposition_with_a_scaling_is_eq_16():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))
    by = transform_velocity_by(u, CURVE.t, lambda r, x: CURVE.s(r) * x, lambda r, x: x / CURVE.s(r))
    for r in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(by(r, x), transform_velocity(u, CURVE)(r, x), rtol=1e-12)


def test_transformed_field_keeps_float32():
    flow = bj.Flow(lambda params, t, x: -t * x, None, (2,))
    for transformed in (
        transform_velocity(flow, CURVE),
        transform_velocity_by(flow, CURVE.t, lambda r, x: x, lambda r, x: x),
    ):
        assert transformed(0.3, jnp.ones(2, jnp.float32)).dtype == jnp.float32


# --- Theorem 2.3. ---

PAIRS = [("CondOT", "Cosine"), ("Cosine", "CondOT"), ("VariancePreserving", "EDM"), ("CondOT", "EDM")]
MIXTURE = dict(means=[[-1.0, 0.5], [1.0, 0.0], [0.0, -1.5]], std=[0.5, 0.4, 0.3], weights=[0.3, 0.3, 0.4])


def mixture(scheduler):
    return bj.analytic.mixture(**MIXTURE, scheduler=zoo.SCHEDULERS[scheduler])


@pytest.mark.parametrize("start, target", PAIRS)
def test_the_curve_between_two_schedulers_carries_one_to_the_other(start, target):
    curve = curve_between(zoo.SCHEDULERS[start], zoo.SCHEDULERS[target])
    along = scheduler_along(zoo.SCHEDULERS[start], curve)
    # Inside: EDM's ratio alpha / sigma does not reach the ends of the others, nor theirs its own.
    r = jnp.linspace(0.1, 0.95, 12)
    wanted = np.transpose([reference.SCHEDULERS[target](float(v))[:2] for v in r])
    np.testing.assert_allclose(jax.jit(along.alpha)(r), wanted[0], rtol=1e-9)
    np.testing.assert_allclose(jax.jit(along.sigma)(r), wanted[1], rtol=1e-9)


def test_the_curve_between_schedulers_that_meet_at_both_ends():
    curve = curve_between(zoo.SCHEDULERS["CondOT"], zoo.SCHEDULERS["Cosine"])
    np.testing.assert_allclose(curve(0.0)[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(curve(1.0)[0], 1.0, atol=1e-12)
    np.testing.assert_allclose([curve.s(0.0), curve.s(1.0)], 1.0, atol=1e-12)
    # By hand: t / (1 - t) = tan(pi r / 2), so t = sin / (sin + cos) and s = sin + cos.
    for r in (0.2, 0.7):
        sine, cosine = np.sin(np.pi * r / 2), np.cos(np.pi * r / 2)
        t_dot = np.pi / 2 / (sine + cosine) ** 2
        wanted = sine / (sine + cosine), t_dot, sine + cosine, np.pi / 2 * (cosine - sine)
        np.testing.assert_allclose(curve(r), wanted, rtol=1e-9)


@pytest.mark.parametrize("start, target", PAIRS)
@pytest.mark.parametrize("r", [0.2, 0.6])
def test_the_transformed_field_is_the_field_of_the_other_scheduler(start, target, r):
    curve = curve_between(zoo.SCHEDULERS[start], zoo.SCHEDULERS[target])
    alpha, sigma, _, _ = reference.SCHEDULERS[target](r)
    x = alpha * np.asarray(MIXTURE["means"]) + sigma * np.random.default_rng(0).standard_normal((3, 2))
    found = jax.jit(transform_velocity(mixture(start), curve))(r, jnp.asarray(x))
    wanted = reference.mixture_velocity(target, **MIXTURE)(r, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_a_curve_gives_a_scheduler_and_the_transformed_field_is_its_field():
    # The other direction of the theorem, for a curve that nobody made from schedulers: finite differences of the
    # Gaussian's closed path under the scheduler it gives.
    along = scheduler_along(zoo.SCHEDULERS["CondOT"], CURVE)
    flow = bj.analytic.gaussian(jnp.array([1.0, -0.5]), 0.4, zoo.SCHEDULERS["CondOT"])

    def path(r):
        alpha, sigma = float(along.alpha(r)), float(along.sigma(r))
        x0 = np.array([0.3, -1.2])
        return alpha * np.array([1.0, -0.5]) + np.hypot(0.4 * alpha, sigma) * x0

    for r in (0.2, 0.8):
        np.testing.assert_allclose(
            transform_velocity(flow, CURVE)(r, jnp.asarray(path(r))), derivative(path, r), rtol=1e-7
        )


def test_the_transformed_field_ends_at_the_same_points():
    flow = mixture("CondOT")
    x0 = jnp.asarray(np.random.default_rng(1).standard_normal((4, 2)))
    transformed = bj.Flow(lambda params, t, x: transform_velocity(flow, CURVE)(t, x), None, (2,))
    paths = bj.ground_truth(flow, x0, rtol=1e-8, atol=1e-8)
    bent = bj.ground_truth(transformed, CURVE.s(0.0) * x0, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(bent.x1, CURVE.s(1.0) * paths.x1, atol=1e-6)
    # And on the way there: xbar(r) = s_r x(t_r).
    np.testing.assert_allclose(bent.at(0.4), CURVE.s(0.4) * paths.at(CURVE.t(0.4)), atol=1e-6)


# --- A curve read as a theta. ---


def test_knots_are_read_off_the_curve(base):
    n = 3
    t, dt, s, ds = theta_from_curve(base, n, CURVE, dtype=jnp.float64).knots()
    r = np.linspace(0, 1, reference.INTERVALS[base] * n + 1)
    wanted = curve_numpy(r)
    np.testing.assert_allclose(t, wanted[0], atol=1e-12)
    np.testing.assert_allclose(dt, wanted[1][:-1], rtol=1e-12)
    np.testing.assert_allclose(s, wanted[2], rtol=1e-12)
    np.testing.assert_allclose(ds, wanted[3][:-1], atol=1e-12)


def test_a_curve_that_misses_the_ends_is_stretched_and_divided_by_its_first_scale():
    off = Curve(lambda r: 0.1 + 0.8 * CURVE.t(r), lambda r: 3.0 * CURVE.s(r))
    found, wanted = (theta_from_curve("rk2", 3, curve, dtype=jnp.float64).raw for curve in (off, CURVE))
    np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.parametrize("curve", [CURVE, curve_between(zoo.SCHEDULERS["CondOT"], zoo.SCHEDULERS["Cosine"])])
def test_theta_of_a_curve_is_the_base_solver_on_the_transformed_field_step_for_step(base, curve):
    n, flow = 4, mixture("CondOT")
    x0 = np.random.default_rng(2).standard_normal((3, 2))
    theta = theta_from_curve(base, n, curve, dtype=jnp.float64)
    states = zoo.solve(flow, theta, jnp.asarray(x0), return_path=True)
    ubar = jax.jit(transform_velocity(flow, curve))
    literal = {"rk1": reference.euler, "rk2": reference.midpoint}[base]
    xbar = x0  # s_0 = 1
    for i in range(n):
        # One step of length 1/n from r_i, written as the textbook's one step from 0 to 1.
        xbar = literal(lambda p, x, i=i: np.asarray(ubar((i + p) / n, jnp.asarray(x))) / n, xbar, 1)
        np.testing.assert_allclose(curve.s((i + 1) / n) * states[i + 1], xbar, atol=1e-11)


@pytest.mark.parametrize("order, tolerance", [(1, 0.15), (2, 0.2)])
def test_order_of_convergence(order, tolerance):
    base = {1: "rk1", 2: "rk2"}[order]
    flow = bj.Flow(lambda params, t, x: jnp.sin(3 * t) * x - 0.3 * x**3 + jnp.cos(2 * x), None, (2,))
    x0 = jnp.array([0.7, -1.1])

    def u(t, x):
        return np.sin(3 * t) * x - 0.3 * x**3 + np.cos(2 * x)

    truth = reference.rk4(u, np.asarray(x0), 400)
    ns = [16, 32, 64, 128]
    errors = [
        reference.rms(zoo.solve(flow, theta_from_curve(base, n, CURVE, dtype=jnp.float64), x0) - truth) for n in ns
    ]
    assert reference.order_of(errors, ns) == pytest.approx(order, abs=tolerance)
    assert errors[-1] > 1e-9  # still above the truth's own error: the slope is not that of noise


@pytest.mark.parametrize("source, target", [("CondOT", "Cosine"), ("Cosine", "CondOT"), ("CondOT", "CondOT")])
@pytest.mark.parametrize("learned", ["both", "time"])
@pytest.mark.parametrize("base", [pytest.param("rk1", marks=pytest.mark.slow), "rk2"])
def test_a_theta_is_the_same_solver_of_the_same_model_under_another_scheduler(base, source, target, learned):
    means = [[-1.0, 0.3], [1.0, 0.5], [0.0, -1.0]]
    flows = [bj.analytic.mixture(means, 0.4, scheduler=zoo.SCHEDULERS[name]) for name in (source, target)]
    theta = bj.init_theta(base, 4, dtype=jnp.float64).learning(learned)
    theta = theta.with_raw(0.3 * jnp.sin(1.0 + jnp.arange(theta.num_parameters, dtype=jnp.float64)))
    there = bj.transfer(theta, flows[0].scheduler, flows[1].scheduler)
    assert (there.base, there.num_steps, there.learned, there.raw.dtype) == (base, 4, learned, jnp.float64)
    x0 = jnp.array([[0.3, -1.2], [2.0, 0.1], [-0.7, 0.7]])
    wanted = zoo.solve(flows[0], theta, x0)
    np.testing.assert_allclose(zoo.solve(flows[1], there, x0), wanted, rtol=1e-6, atol=1e-6)
    if source != target:  # and it is not so by itself
        assert float(jnp.max(jnp.abs(zoo.solve(flows[1], theta, x0) - wanted))) > 1e-3


def test_a_table_is_not_transferred():
    with pytest.raises(TypeError, match="theta: wanted a theta of rk1 or rk2, got SolverTable"):
        bj.transfer(bj.classic.euler(4), zoo.SCHEDULERS["CondOT"], zoo.SCHEDULERS["Cosine"])


def test_what_is_no_curve_and_no_scheduler():
    with pytest.raises(TypeError, match=r"Curve\.s: wanted a function of r, got float"):
        Curve(lambda r: r, 1.0)
    with pytest.raises(TypeError, match=r"curve: wanted a scale_time\.Curve, got function"):
        theta_from_curve("rk1", 4, lambda r: r)
    with pytest.raises(TypeError, match=r"target: wanted a bespoke_jax\.schedulers\.Scheduler, got str"):
        bj.transfer(bj.init_theta("rk1", 4), bj.schedulers.CondOT(), "cosine")
    with pytest.raises(TypeError, match=r"scheduler: wanted a bespoke_jax\.schedulers\.Scheduler, got str"):
        bj.scale_time.curve_between("vp", bj.schedulers.CondOT())
    with pytest.raises(TypeError, match="dtype: wanted a floating dtype"):
        theta_from_curve("rk1", 4, CURVE, dtype=jnp.int32)


def test_a_curve_that_turns_back_is_refused():
    with pytest.raises(ValueError, match="t: wanted times increasing"):
        theta_from_curve("rk1", 8, Curve(lambda r: r + 0.5 * jnp.sin(2 * jnp.pi * r), jnp.ones_like))


def test_a_curve_without_positive_scale_is_refused():
    with pytest.raises(ValueError, match="s: wanted"):
        theta_from_curve("rk1", 4, Curve(lambda r: r, lambda r: 1 - 2 * r))


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match="base: wanted one of"):
        theta_from_curve("rk3", 4, CURVE)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, True, "4"])
def test_a_number_of_steps_that_is_none(num_steps):
    with pytest.raises(ValueError, match="num_steps: wanted an integer >= 1"):
        theta_from_curve("rk2", num_steps, CURVE)
