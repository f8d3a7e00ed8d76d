"""Samples are cut and joined alike on the host, on a mesh and in a compiled function; on the host without a program."""

import contextlib

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.run import rows

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
STATES = np.stack([X, 2 * X, -X], axis=1)
FLOW = bj.Flow(lambda p, t, x: -p * x, jax.device_put(np.ones(3, np.float32)), (3,))
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if name.endswith("backend_compile_duration") else None
)


@contextlib.contextmanager
def nothing_compiled():
    before = len(COMPILED)
    yield
    assert len(COMPILED) == before


def everything(flow, x, states):
    """The results of all functions, for comparing."""
    return (
        rows.cut(flow, x, slice(2, 5)),
        rows.cut(flow, x, np.array([3, 0, 3])),
        rows.cut(flow, x, slice(0, 6)),
        rows.joined(flow, [x, x[:0], x]),
        rows.joined(flow, [x]),
        *rows.ends(flow, states, slice(1, 4)),
        *rows.between_ends(flow, x, 3 * x),
    )


def wanted():
    times = np.tile(np.array([0, 1], np.float32), (6, 1))
    joined = np.concatenate([X, X])
    return (X[2:5], X[[3, 0, 3]], X, joined, X, X[1:4], -X[1:4], times, np.stack([X, 3 * X], axis=1))


def assert_wanted(found):
    for one, other in zip(found, wanted(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_on_one_device_without_a_program():
    x, states = jax.device_put((X, STATES))
    parts = jax.device_put((X, X[:0]))
    with nothing_compiled():
        rows.cut(FLOW, x, slice(1, 3))
        rows.joined(FLOW, [parts[0], parts[1], x])
        rows.ends(FLOW, states, slice(0, 2))
        rows.between_ends(FLOW, x, x)
    assert_wanted(everything(FLOW, x, states))


def test_the_count_can_fail():
    with pytest.raises(AssertionError), nothing_compiled():
        jax.jit(lambda x: x[1:3])(X)


@pytest.mark.parametrize("number", [1, 2])
def test_on_a_mesh(number):
    flow = bj.sharding.replicate(FLOW, jax.devices()[:number])
    x, states = bj.sharding.spread(flow, (jax.device_put(X), jax.device_put(STATES)))
    found = everything(flow, x, states)
    assert_wanted(found)
    assert found[5].sharding.device_set == set(jax.devices()[:number])  # the ends: where the states are


def test_in_a_compiled_function():
    assert_wanted(jax.jit(lambda x, states: everything(FLOW, x, states))(X, STATES))
    assert_wanted(everything(FLOW, jnp.asarray(X), jnp.asarray(STATES)))
