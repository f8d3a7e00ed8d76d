"""Flow: shapes, dtypes, the pytree, other predictions, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")

SCHEDULER = bj.schedulers.Scheduler


def decay(params, t, x):
    return -params * x


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1, 1, 2)])
@pytest.mark.parametrize("event", [(), (4,), (2, 3, 1)])
def test_any_batch_and_event_shape(batch, event):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((*batch, *event)))
    np.testing.assert_array_equal(bj.Flow(decay, jnp.float64(2.0), event)(0.5, x), -2 * x)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_velocity_sees_exactly_one_batch_axis(batch):
    seen = []

    def velocity(params, t, x):
        seen.append((jnp.shape(t), x.shape))
        return x

    bj.Flow(velocity, None, (4, 2))(0.5, jnp.ones((*batch, 4, 2)))
    assert seen == [((), (int(np.prod(batch, dtype=int)), 4, 2))]


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_dtype_of_the_state_is_kept(dtype):
    flow = bj.Flow(lambda params, t, x: -x, None, (2,))
    assert flow(0.5, jnp.ones((3, 2), dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_a_network_may_compute_in_bfloat16(dtype):
    flow = bj.Flow(lambda params, t, x: -x.astype(jnp.bfloat16), None, (2,))
    out = flow(0.5, jnp.full((2,), 1.5, dtype))
    assert out.dtype == dtype and out.tolist() == [-1.5, -1.5]


def test_leaves_are_the_networks_parameters():
    params = dict(w=jnp.ones(3), b=jnp.zeros(()))
    flow = bj.Flow(decay, params, (2,), bj.schedulers.CondOT())
    assert [leaf.shape for leaf in jax.tree.leaves(flow)] == [(), (3,)]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, flow)
    assert doubled.params["w"].tolist() == [2.0, 2.0, 2.0]
    assert (doubled.velocity, doubled.event_shape, doubled.scheduler) == (decay, (2,), bj.schedulers.CondOT())
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(flow)]
    assert paths == [".params['b']", ".params['w']"]


def test_gradient_in_the_parameters():
    flow = bj.Flow(decay, jnp.float64(2.0), (3,))
    gradient = jax.jit(jax.grad(lambda flow: jnp.sum(flow(0.5, jnp.ones(3)))))(flow)
    assert isinstance(gradient, bj.Flow) and float(gradient.params) == -3.0


def test_a_new_flow_of_the_same_shapes_is_not_compiled_again():
    traces = []

    def velocity(params, t, x):
        traces.append(None)
        return params * x

    call = jax.jit(lambda flow, x: flow(0.5, x))
    for value in (1.0, 2.0, 3.0):
        assert float(call(bj.Flow(velocity, jnp.float64(value), (1,)), jnp.ones(1))[0]) == value
    assert len(traces) == 1


def test_noise_has_the_standard_deviation_of_the_scheduler_at_time_0():
    key = jax.random.key(1)
    plain = bj.Flow(decay, None, (3,)).noise(key, (2,), jnp.float64)
    edm = bj.Flow(decay, None, (3,), bj.schedulers.EDM(sigma_max=80.0)).noise(key, (2,), jnp.float64)
    np.testing.assert_allclose(edm, 80.0 * plain, rtol=1e-6)
    np.testing.assert_array_equal(plain, jax.random.normal(key, (2, 3), jnp.float64))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_noise_keeps_the_dtype_asked_for(dtype):
    flow = bj.Flow(decay, None, (3,), bj.schedulers.EDM())
    noise = flow.noise(jax.random.key(0), (2,), dtype)
    assert noise.dtype == dtype and noise.shape == (2, 3)


# --- Predictions. ---


@pytest.mark.parametrize("scheduler", zoo.SCHEDULERS)
@pytest.mark.parametrize("prediction", ["noise", "data", "score", "v"])
@pytest.mark.parametrize("t", [0.15, 0.6])
def test_velocity_from_another_prediction(scheduler, prediction, t):
    # Choose x0 and x1 and let the network tell what it would if they were the posterior means.
    rng = np.random.default_rng(3)
    x0, x1 = rng.standard_normal((2, 4, 3))
    alpha, sigma, alpha_dot, sigma_dot = reference.SCHEDULERS[scheduler](t)
    told = dict(noise=x0, data=x1, score=-x0 / sigma, v=alpha * x0 - sigma * x1)[prediction]
    flow = bj.Flow.from_prediction(
        lambda params, t, x: params, jnp.asarray(told), (3,), zoo.SCHEDULERS[scheduler], prediction
    )
    u = flow(t, jnp.asarray(alpha * x1 + sigma * x0))
    np.testing.assert_allclose(u, alpha_dot * x1 + sigma_dot * x0, rtol=1e-8, atol=1e-8)


def test_velocity_prediction_is_taken_as_it_is():
    flow = bj.Flow.from_prediction(decay, jnp.float64(3.0), (2,), bj.schedulers.Cosine(), "velocity")
    assert flow(0.0, jnp.ones(2)).tolist() == [-3.0, -3.0]


@pytest.mark.parametrize("scheduler", zoo.SCHEDULERS)
@pytest.mark.parametrize("prediction", ["noise", "data", "score", "v"])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_predictions_are_finite_at_both_ends(scheduler, prediction, dtype):
    flow = bj.Flow.from_prediction(lambda p, t, x: 0.3 * x, None, (2,), zoo.SCHEDULERS[scheduler], prediction)
    for t in (0.0, 1.0):
        u = flow(t, jnp.ones(2, dtype))
        assert u.dtype == dtype and np.all(np.isfinite(u))


def test_time_margin_stands_in_for_the_ends():
    flow = bj.Flow.from_prediction(lambda p, t, x: 0.3 * x, None, (2,), bj.schedulers.CondOT(), "data", time_margin=0.1)
    x = jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(flow(0.0, x), flow(0.1, x))
    np.testing.assert_array_equal(flow(1.0, x), flow(0.9, x))
    assert not np.allclose(flow(0.2, x), flow(0.1, x))


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("t", [0.5, np.float64(0.5), np.float32(0.5)])
def test_time_comes_in_the_dtype_of_the_state_but_never_below_float32(prediction, t):
    seen = []

    def network(params, t, x):
        seen.append(t.dtype)
        return x

    flow = bj.Flow.from_prediction(network, None, (2,), bj.schedulers.CondOT(), prediction)
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        flow(t, jnp.ones(2, dtype))
    assert seen == [jnp.float64, jnp.float32, jnp.float32]


# --- Refusals. ---


@pytest.mark.parametrize("shape", [(2,), (3, 2), (), (3, 1)])
def test_x_of_another_event_shape(shape):
    with pytest.raises(ValueError, match=r"x: wanted shape \[\*batch, 3\]"):
        bj.Flow(decay, 1.0, (3,))(0.5, jnp.ones(shape))


def test_x_of_integers():
    with pytest.raises(TypeError, match="x: wanted a floating dtype, got int"):
        bj.Flow(decay, 1.0, (3,))(0.5, jnp.ones(3, int))


def test_t_with_an_axis():
    with pytest.raises(ValueError, match="t: wanted a scalar"):
        bj.Flow(decay, 1.0, (3,))(jnp.ones(2), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    "velocity, error, message",
    [
        (lambda p, t, x: x[..., :2], ValueError, r"velocity: wanted the shape of x, \(4, 3\), got \(4, 2\)"),
        (lambda p, t, x: x[0], ValueError, r"velocity: wanted the shape of x, \(4, 3\), got \(3,\)"),
        (lambda p, t, x: x.astype(jnp.float64), TypeError, "velocity: wanted the dtype of x, float32, .* got float64"),
        (
            lambda p, t, x: jnp.ones(x.shape, jnp.int32),
            TypeError,
            "velocity: wanted the dtype of x, float32, .* got int32",
        ),
        (lambda p, t, x: (x, x), TypeError, "velocity: wanted one array .* got tuple"),
        (lambda p, t, x: None, TypeError, "velocity: wanted one array .* got NoneType"),
    ],
)
def test_velocity_that_returns_something_else(velocity, error, message):
    with pytest.raises(error, match=message):
        bj.Flow(velocity, None, (3,))(0.5, jnp.ones((4, 3), jnp.float32))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((None, 1.0, (3,)), TypeError, "velocity"),
        ((decay, 1.0, 3), TypeError, "event_shape"),
        ((decay, 1.0, (3, 0)), ValueError, "event_shape"),
        ((decay, 1.0, (3,), "CondOT"), TypeError, "scheduler"),
        (
            (decay, 1.0, (3,), SCHEDULER(lambda t: 1 - t, lambda t: t)),
            ValueError,
            r"noise at t=0 .* alpha from 1 to 0 and",
        ),
        ((decay, 1.0, (3,), SCHEDULER(lambda t: t, jnp.log)), ValueError, "sigma from -inf to 0"),
        ((decay, 1.0, (3,), SCHEDULER(lambda t: t, lambda t: jnp.nan * t)), ValueError, "sigma from nan to nan"),
        (
            (decay, 1.0, (3,), SCHEDULER(np.sin, np.cos)),
            TypeError,
            r"scheduler\.alpha: wanted a function .*TracerArray",
        ),
        (
            (decay, 1.0, (3,), SCHEDULER(lambda t: t, lambda t, s: s)),
            TypeError,
            r"scheduler\.sigma: wanted a function of one",
        ),
    ],
)
def test_wrong_arguments_of_a_flow(arguments, error, message):
    with pytest.raises(error, match=message):
        bj.Flow(*arguments)


def test_a_scheduler_of_traced_numbers_is_taken():
    def noise(slope):
        scheduler = SCHEDULER(lambda t: slope * t, lambda t: 1 - 0.5 * t)
        return bj.Flow(decay, 1.0, (3,), scheduler).noise(jax.random.key(0))

    np.testing.assert_array_equal(jax.jit(noise)(2.0), bj.Flow(decay, 1.0, (3,)).noise(jax.random.key(0)))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            dict(scheduler=SCHEDULER(lambda t: 1 - t, lambda t: t), prediction="data"),
            ValueError,
            "scheduler: wanted noise at",
        ),
        (dict(scheduler=None), TypeError, "scheduler"),
        (dict(prediction="epsilon"), ValueError, "prediction: wanted one of"),
        (dict(time_margin=0.5), ValueError, "time_margin"),
        (dict(time_margin=-0.1), ValueError, "time_margin"),
    ],
)
def test_wrong_arguments_of_from_prediction(change, error, message):
    arguments = dict(network=decay, params=1.0, event_shape=(3,), scheduler=bj.schedulers.CondOT()) | change
    with pytest.raises(error, match=message):
        bj.Flow.from_prediction(**arguments)


@pytest.mark.parametrize("key", [0, None, 1.5, np.zeros(2), np.zeros((3, 2), np.uint32)])
def test_a_key_that_is_none(key):
    with pytest.raises(TypeError, match="key: wanted one JAX random key"):
        bj.Flow(decay, 1.0, (3,)).noise(key)


def test_both_kinds_of_key_are_taken():
    flow = bj.Flow(decay, 1.0, (3,))
    np.testing.assert_array_equal(flow.noise(jax.random.key(5)), flow.noise(jax.random.PRNGKey(5)))


def test_repr_names_the_velocity_and_the_shape():
    assert "decay" in repr(bj.Flow(decay, 1.0, (3,))) and "(3,)" in repr(bj.Flow(decay, 1.0, (3,)))
