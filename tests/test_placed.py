"""Calls placed on true paths: the search among sets of them, and the factors by least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow.conditions import dealt, of_samples
from bespoke_jax.learned.placed import NUM_TIMES, Design, _even_calls, _is_in_order

W = 1.5
KEY = jax.random.key(0)
CLASSES = np.array([[1.0, -1.0, 0.5], [-1.0, 0.5, 1.0], [0.3, 1.2, -1.0]])


def gaussian(params, t, x):
    """The velocity for Gaussian data of deviation 0.3 around the condition."""
    mean, variance = params["condition"], (0.3 * t) ** 2 + (1 - t) ** 2
    return mean + (0.09 * t - (1 - t)) / variance * (x - t * mean)


def wavy(params, t, x):
    return gaussian(params, t, x) + jnp.sin(3 * x + params["condition"]) * t * (1 - t)


def flow_of(velocity, scheduler=None):
    one = bj.Flow(velocity, {"condition": CLASSES[0].astype(np.float32)}, (3,), scheduler or bj.schedulers.CondOT())
    return bj.guided(bj.given(one, CLASSES.astype(np.float32)), W)


def test_an_affine_flow_is_exact_with_any_calls():
    flow = flow_of(gaussian)
    solver = bj.LearnedCalls.on_paths(flow, 2, KEY)
    few = dealt(flow, jax.random.key(1), 12)
    x0 = few.noise(jax.random.key(1), (12,))
    x1 = bj.ground_truth(few, x0, rtol=1e-6).x1
    np.testing.assert_allclose(solver.end(few, x0), x1, atol=2e-3)


def test_the_error_of_a_set_is_that_of_literal_least_squares():
    rng, times = np.random.default_rng(0), 4
    vectors = rng.normal(size=(2 + 2 * times + times + 1, 50))
    design = Design(vectors @ vectors.T / 50, 2)
    calls = [0, 1, 4, 7]  # both networks at time 0, the first at 2, the second at 3
    terms, noise = list(vectors[:2]), [0.0, 0.0]
    velocities, states = vectors[2:-5].reshape(2, times, 50), vectors[-5:]
    for call in [*calls, None]:
        state = states[-1] if call is None else states[call // 2]
        # Noise of a variance in a term is one more row for each number, sqrt(50 variance) times the term's factor.
        matrix = np.concatenate([np.stack(terms, 1), np.diag(np.sqrt(50 * (np.array(noise) + 1e-9)))])
        factors = np.linalg.lstsq(matrix, np.concatenate([state, np.zeros(len(terms))]))[0]
        value = np.sum((state - np.stack(terms, 1) @ factors) ** 2) + 50 * np.sum(factors**2 * (np.array(noise) + 1e-9))
        noise.append(value / 50)
        if call is not None:
            terms.append(velocities[call % 2, call // 2])
    np.testing.assert_allclose(design.errors(np.array([calls])), noise[-1], rtol=1e-9)
    improved = design.improved(np.array(calls))
    assert design.errors(improved[None])[0] <= noise[-1] and _is_in_order(improved[None])[0]


@pytest.fixture(scope="module")
def placed():
    """A flow, and six calls on its paths."""
    flow = flow_of(wavy)
    return flow, bj.LearnedCalls.on_paths(flow, 6, KEY)


def test_the_end_is_the_nearest_that_its_velocities_allow(placed):
    flow, solver = placed
    table = solver.table()
    assert table.fields[0] == 0 and "11" not in "".join(map(str, table.fields))
    some = dealt(flow, KEY, 128)
    x0 = some.noise(KEY, (128,))[:32]
    few = of_samples(some, slice(0, 32))
    reference = bj.classic.unipc(NUM_TIMES, flow.scheduler, grid="log_snr")
    left = bj.solve(few, reference, x0) - table.end(few, x0)
    trace = bj.adjoint.run(few, table, x0)
    for term in (x0, jnp.broadcast_to(trace.image, x0.shape), *trace.velocities):
        assert abs(float(jnp.vdot(left, term))) < 5e-3 * float(jnp.linalg.norm(left) * jnp.linalg.norm(term))


def test_it_is_a_better_start_than_eulers(placed):
    flow, solver = placed
    few = dealt(flow, jax.random.key(1), 24)
    x0 = few.noise(jax.random.key(1), (24,))
    x1 = bj.ground_truth(few, x0, rtol=1e-5).x1
    error, of_euler = (bj.metrics.rmse(each.end(few, x0), x1, 1) for each in (solver, bj.LearnedCalls.euler(6)))
    assert float(jnp.mean(error)) < 0.2 * float(jnp.mean(of_euler))


def test_without_a_scheduler_there_is_no_image():
    flow = flow_of(wavy).replace(scheduler=None)
    table = bj.LearnedCalls.on_paths(flow, 4, KEY).table()
    assert table.xi is None and table.c is None and table.nfe == 4


def test_even_calls_are_in_order():
    for m in (2, 3, 7, 12):
        found = _even_calls(m)
        assert all(len(calls) == m for calls in found) and _is_in_order(np.stack(found)).all()


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (lambda: bj.LearnedCalls.on_paths(bj.analytic.gaussian([1.0], 0.3), 4, KEY), ValueError, "guided"),
        (lambda: bj.LearnedCalls.on_paths("flow", 4, KEY), TypeError, "flow"),
        (lambda: bj.LearnedCalls.on_paths(flow_of(wavy), 1, KEY), ValueError, "num_calls"),
        (lambda: bj.LearnedCalls.on_paths(flow_of(wavy), 4, 3), TypeError, "key"),
    ],
)
def test_bad_input_is_named(work, error, words):
    with pytest.raises(error, match=words):
        work()
