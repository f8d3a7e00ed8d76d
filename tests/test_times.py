"""Networks of other libraries: times that run from data to noise, noise levels, discrete steps, a time for each sample."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow.times import scheduler_of, time_of
from tests import zoo

pytestmark = pytest.mark.usefixtures("float64")

PREDICTIONS = ("noise", "data", "score", "v", "velocity")
X = np.random.default_rng(0).standard_normal((4, 2))


def mixture(scheduler):
    return bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], 0.5, scheduler=scheduler)


def exact(flow, prediction):
    """`(params, t, x) -> the exact prediction` of a flow in closed form."""

    def network(params, t, x):
        u, (alpha, sigma, alpha_dot, sigma_dot) = flow.velocity(params, t, x), flow.scheduler.at(t)
        area = alpha_dot * sigma - alpha * sigma_dot
        x1, x0 = (sigma * u - sigma_dot * x) / area, (alpha_dot * x - alpha * u) / area
        return {"velocity": u, "noise": x0, "data": x1, "score": -x0 / sigma, "v": alpha * x0 - sigma * x1}[prediction]

    return network


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scheduler", ["CondOT", "Cosine", "VariancePreserving"])
def test_a_copy_in_reversed_time_is_the_same_flow(scheduler, prediction):
    flow = mixture(zoo.SCHEDULERS[scheduler])
    network = exact(flow, prediction)
    sign = -1 if prediction == "velocity" else 1  # theirs is dx/ds

    def theirs(params, s, x):
        return sign * network(params, 1 - s, x)

    args = flow.params, (2,), flow.scheduler, prediction
    copy = bj.Flow.from_prediction(theirs, *args, time="noise_at_1")
    same = bj.Flow.from_prediction(network, *args)
    for t in (0.25, 0.5, 0.9):
        np.testing.assert_allclose(copy(t, X), flow(t, X), rtol=1e-9)
        np.testing.assert_allclose(same(t, X), flow(t, X), rtol=1e-9)
    assert copy.time_range == same.time_range


def test_solvers_end_where_those_of_the_original_do():
    flow = mixture(bj.schedulers.CondOT())
    copy = bj.Flow.from_prediction(
        lambda params, s, x: -flow.velocity(params, 1 - s, x),
        flow.params,
        (2,),
        flow.scheduler,
        "velocity",
        time="noise_at_1",
    )
    solver = bj.classic.midpoint(8)
    np.testing.assert_allclose(
        zoo.solve(copy, solver, jnp.asarray(X)), zoo.solve(flow, solver, jnp.asarray(X)), rtol=1e-6
    )


@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_the_noise_level_of_edm(prediction):
    flow = mixture(bj.schedulers.EDM(0.1, 10.0, 7.0))
    means = flow.params["means"]

    def denoiser(params, sigma, x):  # E[x1 | x1 + sigma x0 = x], of equal weights
        variance = 0.5**2 + sigma**2
        weights = jax.nn.softmax(-0.5 * jnp.sum((x[:, None] - means) ** 2, -1) / variance)
        return weights @ means + 0.5**2 / variance * (x - weights @ means)

    def network(params, sigma, x):
        found = denoiser(params, sigma, x)
        return found if prediction == "data" else (x - found) / sigma  # EDM's dx/dsigma

    theirs = bj.Flow.from_prediction(network, None, (2,), flow.scheduler, prediction, time="sigma")
    for t in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(theirs(t, X), flow(t, X), rtol=1e-9)


def test_noise_to_signal_is_the_ratio_and_its_velocity_has_its_slope():
    vp = bj.schedulers.VariancePreserving()
    flow = bj.Flow.from_prediction(lambda p, level, x: level * x, None, (2,), vp, "velocity", time="noise_to_signal")
    level = lambda t: float(vp.sigma(jnp.float64(t)) / vp.alpha(jnp.float64(t)))  # noqa: E731
    slope = (level(0.5 + 1e-6) - level(0.5 - 1e-6)) / 2e-6
    np.testing.assert_allclose(flow(0.5, X), slope * level(0.5) * X, rtol=1e-6)
    with pytest.raises(ValueError, match="time: wanted another than 'noise_to_signal'"):
        time_of("noise_to_signal", bj.schedulers.CondOT(), "data")


def test_steps_are_those_of_ddpm():
    betas = np.linspace(1e-4, 0.02, 1000)
    vp = bj.schedulers.VariancePreserving()
    of_scheduler, of_betas = (time_of(time, vp, "noise") for time in ("steps_of_1000", betas))
    np.testing.assert_allclose(of_scheduler.levels, of_betas.levels, rtol=1e-9)
    np.testing.assert_allclose(of_betas.levels, np.sqrt(1 / np.cumprod(1 - betas) - 1), rtol=1e-9)
    # The preconditioning of a diffusers network reads its steps off in the same way.
    own = bj.models.Preconditioning.ddpm(betas)
    for t in (0.1, 0.5, 0.95):
        level = vp.sigma(t) / vp.alpha(t)
        np.testing.assert_allclose(of_scheduler(jnp.float64(t)), own.coefficients(level)[3], rtol=1e-6)
        np.testing.assert_allclose(of_scheduler(jnp.float64(t)), 1000 * (1 - t), atol=6)
    assert 990 < of_betas(jnp.float64(0.0)) <= 999 and of_betas(jnp.float64(1.0)) == 0
    # Other betas, under a scheduler that does not know them.
    other = time_of(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, bj.schedulers.Cosine(), "v")
    step = other(jnp.float64(0.5))  # alpha = sigma
    np.testing.assert_allclose(np.interp(step, np.arange(1000), np.log(other.levels)), 0.0, atol=1e-6)


def test_a_network_of_steps_is_the_flow():
    flow = mixture(bj.schedulers.VariancePreserving())
    network, levels = exact(flow, "noise"), time_of("steps_of_1000", flow.scheduler, "noise").levels

    def theirs(params, step, x):  # knows its levels alone
        level = jnp.exp(jnp.interp(step, jnp.arange(1000.0), jnp.log(jnp.array(levels))))
        return network(params, flow.scheduler.time_of(jnp.ones(()), level), x)

    found = bj.Flow.from_prediction(theirs, flow.params, (2,), flow.scheduler, "noise", time="steps_of_1000")
    for t in (0.05, 0.5, 0.9):
        np.testing.assert_allclose(found(t, X), flow(t, X), rtol=1e-5)
    matched = bj.Flow.from_prediction(
        lambda params, step, x: step * x, None, (2,), bj.schedulers.CondOT(), "velocity", time="steps_of_1000"
    )
    np.testing.assert_allclose(matched(0.75, X), -250 * X, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_a_time_for_each_sample_is_found_out(prediction):
    shapes = []

    def network(params, s, x):
        shapes.append(s.shape)
        return s[:, None] * x

    args = network, None, (2,), bj.schedulers.CondOT(), prediction
    plain = bj.Flow.from_prediction(lambda params, s, x: s * x, *args[1:], time="noise_at_1")
    for flag in (None, True):
        flow = bj.Flow.from_prediction(*args, time="noise_at_1", per_sample_time=flag)
        np.testing.assert_allclose(flow(0.25, X), plain(0.25, X), rtol=1e-12)
        assert shapes[-1] == (4,)
    with pytest.raises(ValueError, match=r"(network|velocity): wanted a function of a scalar t"):
        bj.Flow.from_prediction(*args, per_sample_time=False)(0.25, X)
    # Either serves this one, which says nothing of its own mistake.
    wrong = bj.Flow.from_prediction(lambda params, s, x: x @ jnp.ones(3), *args[1:])
    with pytest.raises(TypeError, match="dot_general"):
        wrong(0.25, X)


class Schedule:
    """A schedule as another library has it: its time is 0 at data, and it refuses scalars."""

    def alpha(self, time):
        assert time.ndim, "a scalar"
        return jnp.cos(0.5 * jnp.pi * time)

    @staticmethod
    @jax.custom_vjp
    def sigma(time):
        assert time.ndim, "a scalar"
        return jnp.sin(0.5 * jnp.pi * time)


Schedule.sigma.defvjp(
    lambda time: (jnp.sin(0.5 * jnp.pi * time), time),
    lambda time, slope: (0.5 * jnp.pi * jnp.cos(0.5 * jnp.pi * time) * slope,),
)


def test_another_librarys_schedule():
    theirs, cosine = Schedule(), bj.schedulers.Cosine()
    found = scheduler_of(theirs)
    assert (
        found == scheduler_of(theirs) and hash(found) == hash(scheduler_of(theirs)) and scheduler_of(cosine) is cosine
    )
    for t in (jnp.float64(0.3), jnp.linspace(0.1, 0.9, 3)):
        for value, wanted in zip(found.at(t), cosine.at(t), strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-12)
    forward = types.SimpleNamespace(alpha=cosine.alpha, sigma=cosine.sigma)
    assert float(scheduler_of(forward).alpha(jnp.float32(0))) == 0
    flow = mixture(cosine)
    network = exact(flow, "noise")
    copy = bj.Flow.from_prediction(
        lambda params, s, x: network(params, 1 - s, x), flow.params, (2,), theirs, time="noise_at_1"
    )
    np.testing.assert_allclose(copy(0.5, X), flow(0.5, X), rtol=1e-9)
    table = bj.init_theta("table", 2).suited(copy)
    assert table.reference.xi is not None and len(table.starts(copy)) > 10


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(time="s"), ValueError, r"time: wanted one of \['noise_at_0', "),
        (dict(time="steps_of_1000"), ValueError, r"scheduler: wanted alpha\^2 \+ sigma\^2 = 1"),
        (
            dict(time="steps_of_1000", scheduler=bj.schedulers.Cosine()),
            ValueError,
            "time: wanted 'steps_of_1000' under",
        ),
        (
            dict(time=[0.1, 2.0], scheduler=bj.schedulers.Cosine()),
            ValueError,
            r"time: wanted one of .* or betas \(betas",
        ),
        (
            dict(time=[0.1, 0.2], prediction="velocity"),
            ValueError,
            "time: wanted .* for a network that predicts a velocity",
        ),
        (dict(time=None, scheduler=bj.schedulers.Cosine()), ValueError, "time: wanted one of .* or betas"),
        (dict(per_sample_time="yes"), ValueError, "per_sample_time: wanted True or False, got 'yes'"),
        (dict(scheduler=types.SimpleNamespace(alpha=3, sigma=4)), TypeError, "or another library's schedule"),
        (dict(scheduler=bj.schedulers.Scheduler), TypeError, "or another library's schedule"),
    ],
)
def test_wrong_times(change, error, message):
    arguments = dict(network=lambda p, t, x: x, params=None, event_shape=(2,), scheduler=bj.schedulers.CondOT())
    with pytest.raises(error, match=message):
        bj.Flow.from_prediction(**(arguments | change))
