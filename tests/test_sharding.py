"""The same numbers on one device, two and eight; samples where they should be, and no word too many between devices."""

import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import bespoke_jax as bj
from bespoke_jax.fitting import gauss_newton, stages
from bespoke_jax.fitting.losses import Endpoint
from bespoke_jax.flow import kernels, sharding
from bespoke_jax.flow.sharding import everywhere, gather, mesh_of, replicate, shard_params, spread
from bespoke_jax.run import adjoint

STAGES = (
    bj.Stage("rmse_bound", 1, batch_size=16),
    bj.Stage("endpoint", 2, batch_size=16),
    bj.Stage("endpoint", 2, optax.adam(1e-2), batch_size=8, validate_every=2),
)


@pytest.fixture(scope="module")
def flow():
    return bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)


def devices_of(array):
    return {shard.device for shard in array.addressable_shards}


@pytest.fixture(scope="module", params=[2, *(pytest.param(number, marks=pytest.mark.slow) for number in (4, 8))])
def many(request, flow):
    return replicate(flow, jax.devices()[: request.param])


@pytest.fixture(scope="module")
def paths(flow):
    return bj.ground_truth(flow, flow.noise(jax.random.key(3), (16,)))


def fit(flow, paths, stages=STAGES):
    theta, key = bj.init_theta("rk1", 3), jax.random.key(0)
    return bj.fit(flow, theta, key, bj.Recipe(stages=stages, choose_start=False), paths=paths, validation=paths)


@pytest.fixture(scope="module")
def fitted(flow, paths):
    return fit(flow, paths)


def test_a_flow_nobody_placed_has_no_mesh(flow):
    x = jnp.ones((8, 2))
    assert mesh_of(flow) is None and spread(flow, x) is x and gather(flow, x) is x
    assert mesh_of(bj.Flow(lambda p, t, x: -x, None, ())) is None


def test_a_fit_is_the_same_on_many_devices(many, paths, fitted):
    found = fit(many, paths)
    np.testing.assert_allclose(found.theta.raw, fitted.theta.raw, atol=2e-4)
    np.testing.assert_allclose([r["psnr"] for r in found.history], [r["psnr"] for r in fitted.history], atol=1e-2)
    assert found.start == fitted.start
    # Paths are solved again to 1e-6, which is near enough to rounding that devices take other steps.
    assert abs(found.cost - fitted.cost) < 0.1 * fitted.cost
    costs = [np.diff([r["evaluations"] for r in each.history]).tolist() for each in (found, fitted)]
    assert costs[0] == costs[1]
    # Theta goes with any flow again, and one that is tied to a device, as out of a checkpoint, with this one.
    tied = jax.device_put(found.state, jax.devices()[0])
    again = bj.fit(
        many, fitted.theta, jax.random.key(0), bj.Recipe(stages=STAGES), paths=paths, validation=paths, state=tied
    )
    np.testing.assert_array_equal(again.theta.raw, found.theta.raw)
    assert len(devices_of(found.theta.raw)) == 1 and not found.theta.raw.committed


def test_paths_and_samples_lie_on_all_devices(many, flow):
    key, size = jax.random.key(1), mesh_of(many).size
    x0 = flow.noise(key, (16,))
    one, several = bj.ground_truth(flow, x0), bj.ground_truth(many, x0)
    # The steps are chosen by errors that are rounding in good part: alike to the tolerance, not to the bit.
    assert len(devices_of(several.states)) == size and several.states.addressable_shards[0].data.shape[0] == 16 // size
    np.testing.assert_allclose(several.x1, one.x1, atol=3e-4)
    theta = bj.init_theta("rk2", 3)
    samples = bj.sample(many, theta, key, num_samples=16)
    assert samples.addressable_shards[0].data.shape == (16 // size, 2)
    np.testing.assert_allclose(samples, bj.sample(flow, theta, key, num_samples=16), atol=1e-6)


def test_a_number_of_samples_that_the_devices_do_not_divide(many, flow):
    x0 = flow.noise(jax.random.key(1), (5,))
    np.testing.assert_allclose(bj.ground_truth(many, x0).x1, bj.ground_truth(flow, x0).x1, atol=3e-4)
    theta = bj.init_theta("rk1", 3)
    np.testing.assert_allclose(
        bj.sample(many, theta, jax.random.key(1), num_samples=5),
        bj.sample(flow, theta, jax.random.key(1), num_samples=5),
        atol=1e-6,
    )


def said(function, *args):
    """What the devices say to each other in a compiled function: (kind, numbers in it) of each collective of its HLO."""
    text = function.lower(*args).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    sizes = [
        sum(math.prod(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\[([\d,]*)\]", shape))
        for shape, _ in found
    ]
    return [(kind, size) for (_, kind), size in zip(found, sizes, strict=True)]


@pytest.mark.parametrize("loss", ["endpoint", pytest.param("rmse_bound", marks=pytest.mark.slow)])
def test_an_update_says_the_gradient_of_theta_and_no_more(flow, loss):
    many, theta = replicate(flow), bj.init_theta("rk2", 3)
    paths = bj.ground_truth(many, flow.noise(jax.random.key(3), (32,)))
    stage = bj.Stage(loss, 2, optax.adam(1e-2), batch_size=16)

    def of(paths):
        state = stage.optimizer.init(theta.raw)
        drawn = np.arange(32).reshape(2, 16)
        return said(stages._first_order, stage, mesh_of(many), many, theta, state, paths, drawn)

    found = of(everywhere(many, paths))  # as `fit` holds them
    assert found and {kind for kind, _ in found} == {"all-reduce"}, found
    # The gradient, here in the knots' and weights' numbers or a table's, and scalars.
    assert sum(size for _, size in found) <= 4 * theta.raw.size, found
    # The count can fail: paths that lie spread are drawn across devices.
    assert sum(size for _, size in of(paths)) > paths.states[0].size * stage.batch_size


def test_the_programs_of_a_second_order_update_say_nothing(flow):
    many, t = replicate(flow), np.float32(0.5)
    x = spread(many, flow.noise(jax.random.key(3), (16,)))
    times = np.full(16, t)
    _, pullback = adjoint._linearised(many, times, x)
    loss, key = Endpoint(), jax.random.key(0)
    _, cotangents = gauss_newton._ends(loss, x, 2 * x, key, 4)
    assert len(cotangents) == 5
    assert all(len(devices_of(c)) == 8 and c.addressable_shards[0].data.shape == (2, 2) for c in cotangents)
    for function, *args in (
        (kernels.velocity, many, t, x),
        (kernels.velocity_and_slope, many, t, x),
        (kernels._add_scaled, x, t, x),
        (adjoint._linearised, many, times, x),
        (adjoint._apply, pullback, cotangents[1]),
        (adjoint._inner, cotangents[1], x),
        (gauss_newton._ends, loss, x, 2 * x, key, 4),
        (gauss_newton._phi_of_distance, loss, x, 2 * x, None),
    ):
        assert said(function, *args) == [], function


def test_parameters_may_be_sharded_by_their_owner():
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8)), jnp.float32)

    def velocity(weights, t, x):
        return jnp.tanh(x @ weights) * (1 - t)

    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"))
    flow = bj.Flow(velocity, weights, (8,))
    sharded = bj.Flow(velocity, jax.device_put(weights, NamedSharding(mesh, PartitionSpec(None, "model"))), (8,))
    theta, key = bj.init_theta("rk2", 3), jax.random.key(2)
    np.testing.assert_allclose(
        bj.sample(sharded, theta, key, num_samples=16), bj.sample(flow, theta, key, num_samples=16), atol=1e-5
    )


@pytest.mark.parametrize("place", [replicate, shard_params])
def test_devices_are_a_sequence(place, flow):
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"))
    for devices, error, words in (
        (mesh, TypeError, "wanted a sequence of devices, got a Mesh; list"),
        (mesh.devices, TypeError, "wanted a sequence of devices, got array"),
        (jax.devices()[0], TypeError, "wanted a sequence of devices, got "),
        (np.array(jax.devices()[0]), TypeError, "wanted a sequence of devices, got array"),
        (set(jax.devices()), TypeError, "wanted a sequence of devices, got "),  # in no order
        ("cpu", TypeError, "wanted a sequence of devices, got 'cpu'"),
        ([], ValueError, "wanted at least one"),
    ):
        with pytest.raises(error, match=f"^devices: {words}"):
            place(flow, devices)
    assert len(devices_of(place(flow, list(mesh.devices.flat)).params["means"])) == 8


@pytest.mark.parametrize("cores, devices", [(1, 1), (2, 2), (3, 2), (4, 4), (6, 4), (8, 8), (96, 8)])
def test_devices_of_cores_divide_most_numbers_of_samples(cores, devices):
    assert sharding._devices_of_cores(cores) == devices


CORES = """
import jax
import bespoke_jax as bj
bj.sharding.use_all_cores()
assert jax.device_count() == bj.sharding._devices_of_cores(bj.sharding.num_cores()), jax.devices()
bj.sharding.use_all_cores()  # a number that is set is kept
"""
LATE = """
import jax
import bespoke_jax as bj
jax.device_count()
bj.sharding.use_all_cores()
"""


def of_new_process(code):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_each_core_is_a_device_for_who_asks_first():
    assert of_new_process(CORES).stderr == ""
    words = "RuntimeError: use_all_cores: wanted a call before anything else of JAX"
    assert words in of_new_process(LATE).stderr


def test_cores_are_counted_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert sharding.num_cores() == (os.cpu_count() or 1)
