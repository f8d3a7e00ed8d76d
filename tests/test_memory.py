"""The memory that XLA gives what is compiled, in states of one batch: no copy and no history that is not needed."""

import importlib

import jax
import jax.numpy as jnp
import pytest

import bespoke_jax as bj

solve = importlib.import_module("bespoke_jax.run.solve")

WEIGHTS = jnp.ones((64, 256)) / 64


def velocity(weights, t, x):
    return jnp.tanh(jnp.tanh(x @ weights) @ weights.T) * (1 - t)


FLOW = bj.Flow(velocity, WEIGHTS, (64,))
X0 = jax.ShapeDtypeStruct((256, 64), jnp.float32)
STATE = 256 * 64 * 4


def memory(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis()


def in_states(function, *args) -> float:
    """Beyond arguments and result."""
    return memory(function, *args).temp_size_in_bytes / STATE


@pytest.mark.parametrize("solver", [bj.init_theta("rk2", 4), bj.classic.midpoint(8)])
def test_samples_take_the_memory_of_the_noise(solver):
    kept = solve._solve.lower(FLOW, solver, X0, False).compile().memory_analysis()
    given = solve._solve_in_place.lower(FLOW, solver, X0).compile().memory_analysis()
    assert (kept.alias_size_in_bytes, given.alias_size_in_bytes) == (0, STATE)
    assert given.temp_size_in_bytes <= kept.temp_size_in_bytes


def test_a_theta_keeps_no_history():
    few, many = (in_states(lambda x0, n=n: bj.solve(FLOW, bj.init_theta("rk2", n), x0), X0) for n in (2, 16))
    assert many < few + 1


def test_a_table_keeps_the_states_to_come_and_no_copy():
    few, many = (in_states(lambda x0, m=m: bj.solve(FLOW, bj.classic.midpoint(m), x0), X0) for m in (8, 32))
    assert many - few < 24 + 1


def gradient_memory(loss, theta) -> float:
    paths = jax.eval_shape(
        lambda: bj.Paths(
            times=jnp.zeros((256, 5)),
            states=jnp.zeros((256, 5, 64)),
            velocities=jnp.zeros((256, 5, 64)),
            middles=jnp.zeros((256, 4, 64)),
            evaluations=jnp.zeros(256, jnp.int32),
            batch_shape=(256,),
        )
    )
    gradient = jax.grad(lambda raw, flow, paths: loss(flow, theta.with_raw(raw), paths))
    return in_states(gradient, theta.raw, FLOW, paths)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [bj.losses.rmse_bound, bj.losses.local])
def test_a_step_of_the_bound_is_flat_in_n(loss):
    few, many = (gradient_memory(loss, bj.init_theta("rk2", n)) for n in (2, 16))
    assert many < few + 1


@pytest.mark.parametrize(
    ("base", "evaluations_a_step"),
    [*(pytest.param(base, calls, marks=pytest.mark.slow) for base, calls in (("rk1", 1), ("rk2", 2))), ("table", 1)],
)
def test_the_gradient_of_the_end_keeps_states_alone(base, evaluations_a_step):
    few, many = (gradient_memory(bj.losses.endpoint, bj.init_theta(base, n)) for n in (4, 16))
    # Of each evaluation the state, the sum that the next one comes from, and their cotangents; the network's activations would
    # be another eight.
    assert many - few < 5 * 12 * evaluations_a_step
