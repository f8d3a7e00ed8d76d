"""Parameters split over devices give the numbers of whole ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.files.fingerprint import fingerprint
from bespoke_jax.flow.sharding import mesh_of, on_one_device, shard_params
from tests.test_sharding import fit


def wide_velocity(params, t, x):
    return jnp.tanh(x @ params["in"] + t * params["bias"]) @ params["out"] - x


@pytest.fixture(scope="module")
def wide():
    drawn = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 64)) / 4, jnp.float32)
    return bj.Flow(wide_velocity, {"in": drawn[0], "out": drawn[1].T, "bias": jnp.ones(64)}, (4,))


@pytest.fixture(scope="module", params=[2, *(pytest.param(number, marks=pytest.mark.slow) for number in (4, 8))])
def split(request, wide):
    return shard_params(wide, jax.devices()[: request.param], min_size=256)


def test_large_parameters_are_split_and_small_ones_are_not(split, wide):
    size = mesh_of(split).size
    shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in split.params.items()}
    assert shapes == {"in": (4, 64 // size), "out": (64 // size, 4), "bias": (64,)}
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in split.params.values())
    assert held == 4 * (2 * 256 // size + 64)
    odd = shard_params(bj.Flow(wide_velocity, jnp.ones((9, 7)), (4,)), jax.devices()[:2], min_size=1)
    assert odd.params.is_fully_replicated  # no axis that the devices divide
    jax.tree.map(np.testing.assert_array_equal, on_one_device(split).params, wide.params)
    assert mesh_of(on_one_device(split)) is None
    with pytest.raises(ValueError, match="min_size: wanted an integer >= 1, got 0"):
        shard_params(wide, min_size=0)


@pytest.fixture(scope="module")
def wide_paths(wide):
    return bj.ground_truth(wide, wide.noise(jax.random.key(2), (16,)))


@pytest.fixture(scope="module")
def wide_fitted(wide, wide_paths):
    return fit(wide, wide_paths)


def test_split_parameters_give_the_same_numbers(split, wide, wide_paths):
    size, key = mesh_of(split).size, jax.random.key(1)
    several = bj.ground_truth(split, wide_paths.x0)
    assert several.states.addressable_shards[0].data.shape[0] == 16 // size
    np.testing.assert_allclose(several.x1, wide_paths.x1, atol=3e-4)
    for solver in (bj.init_theta("rk2", 3), bj.classic.midpoint(6)):
        samples = bj.sample(split, solver, key, num_samples=16)
        np.testing.assert_allclose(samples, bj.sample(wide, solver, key, num_samples=16), atol=1e-5)
        assert samples.addressable_shards[0].data.shape == (16 // size, 4)  # samples are spread as ever
    stored, here = (fingerprint(flow) for flow in (split, wide))
    np.testing.assert_allclose(stored["projections"], here["projections"], atol=1e-4)


@pytest.mark.slow  # test_sharding.py has fits on many devices
def test_split_parameters_are_fitted_alike(split, wide_paths, wide_fitted):
    found = fit(split, wide_paths)
    np.testing.assert_allclose(found.theta.raw, wide_fitted.theta.raw, atol=2e-4)
    assert found.cost == wide_fitted.cost
