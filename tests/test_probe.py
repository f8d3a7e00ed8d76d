"""What a few looks at a velocity tell before a fit: chance, batches that are not independent, time that runs backwards."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bespoke_jax as bj
from bespoke_jax.probe import EVALUATIONS, check_velocity

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


def test_chance_is_told():
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


def test_a_time_reversed_as_one_might_think_is_warned_of_by_fit():
    their = bj.Flow(
        lambda params, s, x: -MIXTURE.velocity(params, 1 - s, x), MIXTURE.params, (2,)
    )  # dx/ds, s = 1 at noise
    args = MIXTURE.params, (2,), bj.schedulers.CondOT(), "velocity"
    naive = bj.Flow.from_prediction(lambda params, t, x: their.velocity(params, 1 - t, x), *args)
    right = bj.Flow.from_prediction(lambda params, t, x: -their.velocity(params, 1 - t, x), *args)
    few = dict(stages=(bj.Stage("endpoint", 1, batch_size=4),), num_paths=4, num_validation=4, choose_start=False)
    with pytest.warns(UserWarning, match="slope in x is 1, and that of the flow's scheduler -1"):
        bj.fit(naive, bj.init_theta("rk1", 2), KEY, **few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bj.fit(right, bj.init_theta("rk1", 2), KEY, **few)


def test_the_looks_are_counted():
    calls = []

    def velocity(params, t, x):
        jax.debug.callback(lambda: calls.append(len(x)))
        return -x

    flow = bj.Flow(velocity, None, (2,), bj.schedulers.CondOT())
    check_velocity(flow, noises(flow))
    jax.effects_barrier()
    assert sum(calls) == EVALUATIONS * 8
