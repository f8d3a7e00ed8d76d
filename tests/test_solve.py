"""solve and sample: the numbers, the transformations, the dtypes, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")

N = 3
LITERAL = {"rk1": reference.euler, "rk2": reference.midpoint}


def velocity(p, t, x):
    return p[0] * jnp.sin(3 * t) * x - p[1] * x**3 + p[2] * t


PARAMS = np.array([0.8, 0.3, 1.1])


def u(t, x):
    return np.asarray(velocity(PARAMS, t, x))


@pytest.fixture(scope="module")
def flow(float64):
    return bj.Flow(velocity, jnp.asarray(PARAMS), (2,))


X0 = np.random.default_rng(0).standard_normal((4, 2))


def random_theta(base, seed=0):
    knots = reference.random_knots(base, N, seed)
    return bj.theta_from_knots(base, *knots, dtype=jnp.float64), knots


# --- The numbers. ---


def test_solve_against_numpy(base, flow):
    theta, knots = random_theta(base)
    wanted = reference.solve(base, knots, N, X0, u)
    np.testing.assert_allclose(bj.solve(flow, theta, jnp.asarray(X0)), wanted[-1], rtol=1e-11)
    path = bj.solve(flow, theta, jnp.asarray(X0), return_path=True)
    assert path.shape == (N + 1, 4, 2)
    np.testing.assert_allclose(path, wanted, rtol=1e-11)


def test_the_start_on_every_problem_is_the_base_solver(problem):
    # To machine precision, relative to the largest state on the way (EDM's noise is of size 80).
    x0 = problem.x_at_time(0.0, 2)
    found = zoo.solve(problem.flow, bj.init_theta("rk2", N, dtype=jnp.float64), jnp.asarray(x0))
    wanted = reference.midpoint(problem.velocity, x0, N)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11 * np.max(np.abs(x0)))


def test_the_start_is_the_base_solver_to_machine_precision(base, flow):
    found = bj.solve(flow, bj.init_theta(base, 5, dtype=jnp.float64), jnp.asarray(X0))
    np.testing.assert_allclose(found, LITERAL[base](u, X0, 5), rtol=4e-15, atol=4e-15)


@pytest.mark.parametrize("batch", [(), (1,), (2, 2)])
@pytest.mark.parametrize("event", [(), (3,), (2, 1, 3)])
def test_any_batch_and_event_shape(batch, event):
    flow = bj.Flow(velocity, jnp.asarray(PARAMS), event)
    x0 = np.random.default_rng(1).standard_normal((*batch, *event))
    theta, knots = random_theta("rk1")
    found = bj.solve(flow, theta, jnp.asarray(x0))
    assert found.shape == x0.shape
    np.testing.assert_allclose(found, reference.solve("rk1", knots, N, x0, u)[-1], rtol=1e-11)


def test_each_sample_of_a_batch_is_solved_on_its_own(flow):
    theta, _ = random_theta("rk2")
    whole = bj.solve(flow, theta, jnp.asarray(X0))
    for k in range(4):
        np.testing.assert_allclose(bj.solve(flow, theta, jnp.asarray(X0[k])), whole[k], rtol=1e-13)


def test_evaluations_are_the_nfe(base):
    calls, shapes = [], set()

    def counting(params, t, x):
        shapes.add((t.shape, x.shape))
        jax.debug.callback(lambda: calls.append(None))
        return -x

    theta, _ = random_theta(base)
    for solver in (theta, bj.to_table(theta)):
        calls.clear()
        bj.solve(bj.Flow(counting, None, (2,)), solver, jnp.ones((2, 2, 2)))
        jax.effects_barrier()
        assert len(calls) == theta.nfe == solver.nfe
    assert shapes == {((), (4, 2))}  # and exactly one batch axis


# --- Gradients. ---


def test_gradients_against_finite_differences(base, flow):
    theta, _ = random_theta(base)

    def value(params, raw, x0):
        return jnp.sum(jnp.cos(bj.solve(bj.Flow(velocity, params, (2,)), bj.Theta(raw, base, N), x0.reshape(2, 2))))

    arguments = [jnp.asarray(PARAMS), theta.raw, jnp.asarray(X0[:2].ravel())]
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*arguments)
    compiled_value = jax.jit(value)
    for k in range(3):

        def alone(v, k=k):
            return compiled_value(*arguments[:k], v, *arguments[k + 1 :])

        wanted = reference.finite_differences(alone, arguments[k])
        np.testing.assert_allclose(gradients[k], wanted, rtol=1e-6, atol=1e-8)


def test_gradient_is_a_flow_and_a_theta(flow):
    gradients = jax.grad(lambda flow, theta: jnp.sum(bj.solve(flow, theta, jnp.asarray(X0))), argnums=(0, 1))(
        flow, random_theta("rk1")[0]
    )
    assert isinstance(gradients[0], bj.Flow) and isinstance(gradients[1], bj.Theta)


# --- Transformations. ---


def test_sample_under_vmap_over_keys(flow):
    theta, _ = random_theta("rk1")
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.vmap(lambda key: bj.sample(flow, theta, key, dtype=jnp.float64))(keys)
    for row, key in zip(found, keys, strict=True):
        np.testing.assert_allclose(row, bj.sample(flow, theta, key, dtype=jnp.float64), rtol=1e-13)
    assert len(set(np.asarray(found[:, 0]).tolist())) == 3


def test_sample_under_jit(flow):
    theta, _ = random_theta("rk1")
    key = jax.random.key(3)
    jitted = jax.jit(lambda flow, theta, key: bj.sample(flow, theta, key, num_samples=2, dtype=jnp.float64))
    np.testing.assert_allclose(
        jitted(flow, theta, key), bj.sample(flow, theta, key, num_samples=2, dtype=jnp.float64), rtol=1e-13
    )


def test_solve_under_vmap_over_thetas_and_flows(flow):
    thetas = [random_theta("rk1", seed)[0] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)
    flows = jax.tree.map(lambda leaf: leaf * jnp.asarray([1.0, 0.5, 2.0])[:, None], flow)
    found = jax.vmap(lambda flow, theta: bj.solve(flow, theta, jnp.asarray(X0)))(flows, stacked)
    for k in range(3):
        alone = bj.solve(jax.tree.map(lambda leaf, k=k: leaf[k], flows), thetas[k], jnp.asarray(X0))
        np.testing.assert_allclose(found[k], alone, rtol=1e-12)


def test_solve_under_pmap(flow):
    theta, _ = random_theta("rk2")
    found = jax.pmap(bj.solve, in_axes=(None, None, 0))(flow, theta, jnp.asarray(X0)[None])[0]
    np.testing.assert_allclose(found, bj.solve(flow, theta, jnp.asarray(X0)), rtol=1e-13)


@pytest.mark.parametrize("kind", ["theta", "table"])
def test_a_second_call_and_new_numbers_of_the_same_shapes_are_not_compiled_again(kind):
    traces, after = [], []

    def counting(params, t, x):
        traces.append(None)
        return -params * x

    for k in range(3):
        flow = bj.Flow(counting, jnp.float64(k), (2,))
        theta, _ = random_theta("rk2", seed=k)
        bj.solve(flow, theta if kind == "theta" else bj.to_table(theta), jnp.asarray(X0) + k)
        after.append(len(traces))
    assert after[0] == after[1] == after[2] > 0


def test_a_second_sample_is_not_compiled_again():
    traces, after = [], []

    def counting(params, t, x):
        traces.append(None)
        return -params * x

    for k in range(3):
        flow = bj.Flow(counting, jnp.float32(k), (2,))
        bj.sample(flow, random_theta("rk1", k)[0], jax.random.key(k), num_samples=5)
        after.append(len(traces))
    assert after[0] == after[1] == after[2] > 0


# --- Dtypes, with x64 on. ---


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("solver_dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("kind", ["theta", "table"])
def test_the_state_keeps_its_dtype(dtype, solver_dtype, kind):
    seen = set()

    def velocity(params, t, x):
        seen.add((t.dtype, x.dtype))
        return -x

    theta = bj.init_theta("rk2", N, dtype=solver_dtype)
    solver = theta if kind == "theta" else bj.to_table(theta)
    found = jax.eval_shape(lambda x0: bj.solve(bj.Flow(velocity, None, (2,)), solver, x0), jnp.ones((2, 2), dtype))
    assert found.dtype == dtype
    # Time in the state's dtype, or float32 if that is wider: never one that would widen the network's computation.
    assert seen == {(jnp.dtype(jnp.float32 if dtype == jnp.bfloat16 else dtype), jnp.dtype(dtype))}


def test_a_network_may_compute_in_bfloat16():
    flow = bj.Flow(lambda params, t, x: -x.astype(jnp.bfloat16), None, (2,))
    found = bj.solve(flow, bj.init_theta("rk2", N), jnp.ones(2, jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.exp(-1.0), rtol=3e-2)


def test_float32_without_x64():
    with jax.enable_x64(False):
        flow = bj.Flow(velocity, jnp.asarray(PARAMS, jnp.float32), (2,))
        found = bj.solve(flow, bj.init_theta("rk2", 5), jnp.asarray(X0, jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference.midpoint(u, X0, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_samples_have_the_dtype_asked_for(dtype):
    flow = bj.Flow(lambda params, t, x: -x, None, (2,))
    assert bj.sample(flow, bj.init_theta("rk1", N), jax.random.key(0), dtype=dtype).dtype == dtype
    assert bj.sample(flow, bj.init_theta("rk1", N), jax.random.key(0)).dtype == jnp.float32


# --- sample. ---


def test_sample_is_noise_and_solve(flow):
    theta, _ = random_theta("rk1")
    key = jax.random.key(1)
    one = bj.sample(flow, theta, key, dtype=jnp.float64)
    many = bj.sample(flow, theta, key, num_samples=4, dtype=jnp.float64)
    assert one.shape == (2,) and many.shape == (4, 2)
    np.testing.assert_array_equal(one, bj.solve(flow, theta, flow.noise(key, (), jnp.float64)))
    np.testing.assert_array_equal(many, bj.solve(flow, theta, flow.noise(key, (4,), jnp.float64)))


# --- Refusals. ---


@pytest.mark.parametrize("shape", [(3,), (2, 4), ()])
def test_noise_of_another_event_shape(flow, shape):
    with pytest.raises(ValueError, match=r"x0: wanted shape \[\*batch, 2\]"):
        bj.solve(flow, bj.init_theta("rk1", N), jnp.ones(shape))


@pytest.mark.parametrize("x0", [np.ones(2, int), [1, 2], jnp.ones(2, bool)])
def test_noise_of_integers(flow, x0):
    with pytest.raises(TypeError, match="x0: wanted a floating dtype"):
        bj.solve(flow, bj.init_theta("rk1", N), np.asarray(x0))


@pytest.mark.parametrize("solver", [None, "rk2", 4, np.zeros(23), ("rk2", 4)])
def test_what_is_not_a_solver(flow, solver):
    with pytest.raises(TypeError, match="solver: wanted a learned solver or a SolverTable"):
        bj.solve(flow, solver, jnp.ones(2))
    with pytest.raises(TypeError, match="theta: wanted a learned solver or a SolverTable"):
        bj.sample(flow, solver, jax.random.key(0))


def test_what_is_not_a_flow():
    with pytest.raises(TypeError, match="flow: wanted a bespoke_jax"):
        bj.solve(velocity, bj.init_theta("rk1", N), jnp.ones(2))
    with pytest.raises(TypeError, match="params: wanted a bespoke_jax"):
        bj.sample(dict(w=jnp.ones(2)), bj.init_theta("rk1", N), jax.random.key(0))


@pytest.mark.parametrize("key", [0, None, "key", np.zeros(2), np.zeros((3, 2), np.uint32)])
def test_what_is_not_a_key(flow, key):
    with pytest.raises(TypeError, match="key: wanted one JAX random key"):
        bj.sample(flow, bj.init_theta("rk1", N), key)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, True, "4"])
def test_numbers_of_samples_that_are_not_positive_integers(flow, num_samples):
    with pytest.raises(ValueError, match="num_samples: wanted an integer >= 1"):
        bj.sample(flow, bj.init_theta("rk1", N), jax.random.key(0), num_samples=num_samples)


@pytest.mark.parametrize(
    "broken, error, message",
    [
        (lambda p, t, x: x[..., :1], ValueError, "velocity: wanted the shape of x"),
        (lambda p, t, x: x.astype(jnp.float64), TypeError, "velocity: wanted the dtype of x, .* got float64"),
        (lambda p, t, x: jnp.zeros(x.shape, int), TypeError, "velocity: wanted the dtype of x, .* got int"),
        (lambda p, t, x: (x,), TypeError, "velocity: wanted one array"),
    ],
)
def test_a_velocity_that_returns_something_else(broken, error, message):
    flow = bj.Flow(broken, None, (2,))
    theta = bj.init_theta("rk1", N)
    x0 = jnp.ones((3, 2), jnp.float32)
    for call in (
        lambda: bj.solve(flow, theta, x0),
        lambda: bj.solve(flow, bj.to_table(theta), x0),
        lambda: bj.ground_truth(flow, x0),
    ):
        with pytest.raises(error, match=message):
            call()
