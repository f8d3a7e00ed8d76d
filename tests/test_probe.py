"""The check of a velocity before a fit: chance, samples that affect each other, reversed time."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bespoke_jax as bj
from bespoke_jax.run.probe import EVALUATIONS, check_velocity

KEY = jax.random.key(0)
MIXTURE = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.1)


def noises(flow, count=8):
    return flow.noise(KEY, (count,))


class Net(nnx.Module):
    def __init__(self, deterministic):
        self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.2, deterministic=deterministic, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.dropout(self.linear(x)) - x


def flow_of(module):
    graph, state = nnx.split(module)
    return bj.Flow(lambda params, t, x: nnx.merge(graph, params)(x), state, (4,))


def test_dropout_left_on_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"velocity: .*model\.eval\(\)"):
        bj.fit(flow_of(Net(deterministic=False)), bj.init_theta("rk2", 2), KEY)
    with pytest.raises(ValueError, match=r"velocity: .*model\.eval\(\)"):
        bj.check_solver(flow_of(Net(deterministic=False)), bj.classic.euler(2), KEY)
    flow = flow_of(Net(deterministic=True))
    check_velocity(flow, noises(flow))


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("coupled", [lambda x: jnp.mean(x, axis=0) - x, lambda x: jnp.cumsum(x, axis=0) - x])
def test_a_batch_whose_samples_are_not_independent(coupled, count):
    flow = bj.Flow(lambda params, t, x: coupled(x), None, (2,))
    with pytest.raises(ValueError, match="depends on the other samples of its batch"):
        check_velocity(flow, noises(flow, count))


def test_a_velocity_that_depends_on_chance():
    calls = []

    def velocity(params, t, x):
        shift = jax.pure_callback(
            lambda: np.float32(calls.append(None) or len(calls)), jax.ShapeDtypeStruct((), np.float32)
        )
        return -x + shift

    flow = bj.Flow(velocity, None, (2,))
    with pytest.raises(ValueError, match="changes from one call to the next"):
        check_velocity(flow, noises(flow))


def test_conditions_go_with_their_samples():
    flow = bj.Flow(lambda params, t, x: params["condition"] - x, {"condition": jnp.zeros(2)}, (2,))
    given = bj.given(flow, jnp.arange(12.0).reshape(6, 2))
    check_velocity(given, noises(flow, 6))


@pytest.mark.parametrize("scheduler", [bj.schedulers.CondOT, bj.schedulers.VariancePreserving, bj.schedulers.EDM])
def test_the_right_slope_passes_and_the_wrong_sign_is_warned_of(scheduler):
    good = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.1, scheduler=scheduler())
    check_velocity(good, noises(good))
    if scheduler is bj.schedulers.VariancePreserving:
        return  # its slope at t = 0 is nearly 0, whatever the sign
    wrong = bj.Flow(lambda params, t, x: -good.velocity(params, t, x), good.params, (2,), good.scheduler)
    with pytest.warns(UserWarning, match="at t = 0 its slope in x is .* sign"):
        check_velocity(wrong, noises(wrong))


def test_fit_warns_of_a_time_reversed_without_the_sign():
    their = bj.Flow(
        lambda params, s, x: -MIXTURE.velocity(params, 1 - s, x), MIXTURE.params, (2,)
    )  # dx/ds, s = 1 at noise
    args = MIXTURE.params, (2,), bj.schedulers.CondOT(), "velocity"
    naive = bj.Flow.from_prediction(lambda params, t, x: their.velocity(params, 1 - t, x), *args)
    right = bj.Flow.from_prediction(lambda params, t, x: -their.velocity(params, 1 - t, x), *args)
    few = bj.Recipe(stages=(bj.Stage("endpoint", 1, batch_size=4),), num_paths=4, num_validation=4, choose_start=False)
    slope = pytest.warns(UserWarning, match="slope in x is 1, and that of the flow's scheduler -1")
    with slope, pytest.warns(UserWarning, match="the solver is of no use"):
        bj.fit(naive, bj.init_theta("rk1", 2), KEY, few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bj.fit(right, bj.init_theta("rk1", 2), KEY, few)


def test_its_evaluations_are_counted():
    calls = []

    def velocity(params, t, x):
        jax.debug.callback(lambda: calls.append(len(x)))
        return -x

    flow = bj.Flow(velocity, None, (2,), bj.schedulers.CondOT())
    check_velocity(flow, noises(flow))
    jax.effects_barrier()
    assert sum(calls) == EVALUATIONS * 8


@pytest.mark.parametrize("scheduler", [bj.schedulers.CondOT, bj.schedulers.Cosine, bj.schedulers.VariancePreserving])
def test_a_prediction_of_noise_may_have_a_training_error_but_not_the_wrong_sign(scheduler):
    # 0.99 times the exact E[x0 | x]: u divides the error by alpha, which is 1e-3 at the first time under CondOT.
    scheduler = scheduler()
    exact = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.1, scheduler=scheduler)

    def noise(params, t, x):
        alpha, alpha_dot = jax.jvp(scheduler.alpha, (t,), (jnp.ones_like(t),))
        sigma, sigma_dot = jax.jvp(scheduler.sigma, (t,), (jnp.ones_like(t),))
        return (alpha * exact.velocity(params, t, x) - alpha_dot * x) / (alpha * sigma_dot - alpha_dot * sigma)

    def flow(factor):
        return bj.Flow.from_prediction(
            lambda params, t, x: factor * noise(params, t, x), exact.params, (2,), scheduler, prediction="noise"
        )

    check_velocity(flow(0.99), noises(exact))
    with pytest.warns(UserWarning, match="slope in x"):
        check_velocity(flow(-1.0), noises(exact))


def test_noise_paired_with_data_is_allowed():
    for share in (0.3, 0.6):  # x1 = share x0 + 1, along straight lines
        flow = bj.Flow(
            lambda p, t, x, s=share: (s - 1) * (x - t) / (1 - t + t * s) + 1, None, (2,), bj.schedulers.CondOT()
        )
        check_velocity(flow, noises(flow))


def test_a_prediction_of_data_as_a_velocity_is_warned_of():
    def data(params, t, x):  # E[x1 | x], of slope 0 at t = 0 where the scheduler's is -1
        return x + (1 - t) * MIXTURE.velocity(params, t, x)

    wrong = MIXTURE.replace(velocity=data)
    with pytest.warns(UserWarning, match="another prediction|predicts noise, data or v, use Flow.from_prediction"):
        check_velocity(wrong, noises(MIXTURE))


def test_one_held_out_noise_is_checked_in_a_batch_of_two():
    flow = bj.Flow(lambda params, t, x: jnp.mean(x, axis=0) - 2 * x, None, (2,))
    few = bj.Recipe(num_paths=4, num_validation=1, stages=(bj.Stage("endpoint", 1, chunk_size=1),))
    with pytest.raises(ValueError, match="depends on the other samples"):
        bj.fit(flow, bj.init_theta("rk1", 2), KEY, few)
    with pytest.raises(ValueError, match="depends on the other samples"):
        bj.check_solver(flow, bj.classic.euler(2), KEY, num_paths=1, batch_size=1)


def test_a_velocity_that_is_0_in_one_batch_and_not_in_another():
    flow = bj.Flow(lambda params, t, x: jnp.mean(x, axis=0) - x, None, (2,))
    with pytest.raises(ValueError, match="depends on the other samples of its batch, from 0 to an RMS of"):
        check_velocity(flow, jnp.ones((2, 2)))  # as one held-out noise is checked
