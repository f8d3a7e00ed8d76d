"""True paths against closed forms, their cost, and their errors.

Compiling a solve takes seconds, so tests share shapes and tolerances where they can.
"""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.run import controller
from bespoke_jax.run.truth import truth_of
from tests import reference, zoo

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=zoo.GAUSSIANS)
def gaussian(request):
    """Each problem whose paths are known in closed form; there is one under every scheduler."""
    return zoo.GAUSSIANS[request.param]


def closed_path(problem, t):
    return reference.gaussian_path(
        problem.scheduler, np.asarray(problem.means[0]), problem.std[0], t, np.asarray(problem.paths.x0)
    )


def test_there_is_a_closed_path_under_every_scheduler():
    assert {problem.scheduler for problem in zoo.GAUSSIANS.values()} == set(zoo.SCHEDULERS)


def test_paths_of_a_gaussian_are_the_closed_ones(gaussian):
    for t in (0.0, 0.1, 0.37, 0.5, 0.83, 0.99, 1.0):
        x, _ = zoo.path_and_velocity(gaussian.paths, t)
        np.testing.assert_allclose(x, closed_path(gaussian, t), rtol=3e-6, atol=3e-6)


def test_paths_of_every_problem_follow_the_field(problem):
    # The defect of the stored curve: its derivative against the field, computed by loops.
    for t in (0.15, 0.5, 0.85):
        x, velocity = zoo.path_and_velocity(problem.paths, t)
        np.testing.assert_allclose(velocity, problem.velocity(t, np.asarray(x)), rtol=1e-3, atol=1e-3)


def test_velocity_is_the_derivative_of_the_stored_curve(problem):
    h = 1e-6
    for t in (0.21, 0.5, 0.83):
        up, down = (np.asarray(zoo.path_and_velocity(problem.paths, t + sign * h)[0]) for sign in (1, -1))
        velocity = zoo.path_and_velocity(problem.paths, t)[1]
        np.testing.assert_allclose(velocity, (up - down) / (2 * h), rtol=1e-5, atol=1e-5)


def test_both_ends_are_exact(problem):
    np.testing.assert_array_equal(problem.paths.x0, problem.x_at_time(0.0, 3))
    np.testing.assert_allclose(zoo.path_and_velocity(problem.paths, 0.0)[0], problem.paths.x0, rtol=1e-14)
    np.testing.assert_allclose(zoo.path_and_velocity(problem.paths, 1.0)[0], problem.paths.x1, rtol=1e-14)


def test_shapes_and_accepted_times(problem):
    paths, event = problem.paths, problem.event_shape
    assert paths.x0.shape == paths.x1.shape == (3, *event) and paths.num_paths == 3
    times = np.asarray(paths.times)
    assert np.all(times[:, 0] == 0) and np.all(times[:, -1] == 1) and np.all(np.diff(times) > 0)
    assert paths.states.shape == paths.velocities.shape == (*times.shape, *event)
    assert paths.middles.shape == (3, times.shape[1] - 1, *event)


# --- A linear field, x' = -rate x. ---


def decay(params, t, x):
    return -params * x


DECAY = bj.Flow(decay, np.float64(2.0), (2,))
NOISES = np.random.default_rng(0).standard_normal((3, 1, 2))


def solve(x0, rtol=1e-6, atol=1e-6, **options):
    return bj.ground_truth(DECAY, jnp.asarray(x0), rtol=rtol, atol=atol, **options)


@pytest.fixture(scope="module")
def decays(float64):
    return solve(NOISES)


def test_any_batch_shape(decays):
    assert decays.x0.shape == decays.x1.shape == decays.at(0.5).shape == decays.velocity(0.5).shape == (3, 1, 2)
    assert decays.num_paths == 3
    np.testing.assert_allclose(decays.x1, NOISES * np.exp(-2), atol=1e-5)


def test_one_noise_without_a_batch_axis():
    paths = solve(NOISES[0, 0])
    assert paths.x1.shape == paths.at(0.5).shape == paths.velocity(0.5).shape == (2,)
    np.testing.assert_allclose(paths.x1, NOISES[0, 0] * np.exp(-2), atol=1e-5)


def test_many_times_at_once(decays):
    t = jnp.array([0.0, 0.3, 1.0])
    for many, one in ((decays.at(t), decays.at), (decays.velocity(t), decays.velocity)):
        assert many.shape == (3, 3, 1, 2)
        for row, time in zip(many, t, strict=True):
            np.testing.assert_allclose(row, one(time), rtol=1e-12, atol=1e-12)


def test_tighter_tolerances_give_smaller_errors_and_cost_more():
    found = [solve(NOISES[0, 0], tolerance, min(tolerance, 1e-6)) for tolerance in (1e-3, 1e-6, 1e-9)]
    errors = [np.max(np.abs(paths.x1 - NOISES[0, 0] * np.exp(-2))) for paths in found]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert found[0].nfe < found[1].nfe < found[2].nfe
    assert errors[1] < 1e-5 and errors[2] < 1e-8


def test_rtol_counts_for_large_states_and_atol_for_small_ones():
    # The same two pairs as above: rtol 1e-3 or 1e-6, atol 1e-6.
    large, small = np.full(2, 1e3), np.full(2, 1e-2)
    assert solve(large, 1e-3, 1e-6).nfe < 0.7 * solve(large, 1e-6, 1e-6).nfe
    assert solve(small, 1e-3, 1e-6).nfe >= 0.7 * solve(small, 1e-6, 1e-6).nfe


def test_chunks_give_the_same_paths(decays):
    # Each chunk takes its own steps, so the paths agree to the tolerance and no further. The last chunk is smaller.
    chunked = solve(NOISES, batch_size=2)
    assert chunked.x1.shape == (3, 1, 2)
    for t in (0.0, 0.3, 0.9, 1.0):
        np.testing.assert_allclose(chunked.at(t), decays.at(t), atol=1e-5)


def test_chunks_that_need_different_numbers_of_steps_fit_together():
    x0 = np.array([[1e-3, 1e-3], [50.0, -80.0]])
    paths = solve(x0, batch_size=1)
    used = [len(set(times)) for times in np.asarray(paths.times).tolist()]
    assert used[0] < used[1] and paths.evaluations[0] < paths.evaluations[1]
    for t in (0.5, 1.0):
        np.testing.assert_allclose(paths.at(t), x0 * np.exp(-2 * t), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(paths.velocity(t), -2 * x0 * np.exp(-2 * t), rtol=1e-3, atol=1e-5)


def test_every_path_of_a_batch_meets_the_tolerance():
    # One hard path among easy ones must not be averaged away.
    flow = bj.Flow(lambda params, t, x: 5 * x * jnp.cos(20 * t), None, (1,))
    x0 = np.concatenate([np.full((15, 1), 1e-6), [[1.0]]])
    paths = bj.ground_truth(flow, jnp.asarray(x0), rtol=1e-12, atol=1e-6)
    np.testing.assert_allclose(paths.x1[-1], np.exp(np.sin(20.0) / 4), atol=2e-5)


def test_take_counts_over_the_flattened_batch(decays):
    picked = decays.take(jnp.array([2, 0]))
    assert picked.num_paths == 2 and picked.batch_shape == picked.evaluations.shape == (2,)
    np.testing.assert_array_equal(picked.x0, NOISES.reshape(3, 2)[[2, 0]])
    np.testing.assert_array_equal(picked.at(0.4), decays.at(0.4).reshape(3, 2)[jnp.array([2, 0])])


def test_paths_are_a_tree_of_arrays(decays):
    moved = jax.tree.map(lambda leaf: leaf, decays)
    assert moved.batch_shape == (3, 1)
    np.testing.assert_allclose(jax.jit(lambda paths: paths.at(0.5))(moved), decays.at(0.5), rtol=1e-14)


# --- Evaluations. ---


@pytest.fixture(scope="module")
def spied(float64):
    """For each of two solves: (paths, the number of evaluations that ran, shapes of t and x at every trace so far)."""
    calls, shapes = [], []

    def velocity(params, t, x):
        shapes.append((t.shape, x.shape))
        jax.debug.callback(lambda: calls.append(None))
        # Flat at first, then steep: the first step tried is too long.
        return 1 + params * jnp.maximum(t - 0.011, 0) - x / 5

    def run(rate):
        calls.clear()
        flow = bj.Flow(velocity, jnp.float64(rate), (2, 1))
        paths = bj.ground_truth(flow, jnp.ones((2, 3, 2, 1)), rtol=1e-6, atol=1e-6)
        jax.effects_barrier()
        return paths, len(calls), list(shapes)

    return run(0.0), run(1e4)


def test_nfe_is_what_was_spent(spied):
    for paths, calls, _ in spied:
        assert paths.evaluations.tolist() == [calls] * 6
        assert float(paths.nfe) == calls
    # The second solve did reject steps: more were paid for than the paths hold.
    paths, calls, _ = spied[1]
    assert calls > 6 * (paths.times.shape[1] - 1) + 3


def test_the_velocity_sees_one_batch_axis(spied):
    (_, _, shapes), _ = spied
    assert set(shapes) == {((), (6, 2, 1))}


def test_a_new_flow_of_the_same_shapes_is_not_compiled_again(spied):
    (_, _, first), (_, _, second) = spied
    assert 0 < len(first) == len(second)


def test_float32_stays_float32():
    flow = bj.Flow(lambda params, t, x: -t * x, None, (2,))
    paths = bj.ground_truth(flow, jnp.ones((3, 2), jnp.float32))
    assert {v.dtype for v in (paths.times, paths.states, paths.velocities, paths.middles)} == {jnp.dtype(jnp.float32)}
    assert paths.at(0.5).dtype == paths.velocity(0.5).dtype == paths.x1.dtype == jnp.float32
    np.testing.assert_allclose(paths.x1, np.exp(-0.5), rtol=1e-4)


def test_a_network_may_compute_in_bfloat16():
    flow = bj.Flow(lambda params, t, x: -x.astype(jnp.bfloat16), None, (2,))
    paths = bj.ground_truth(flow, jnp.ones((3, 2), jnp.float32), rtol=1e-2, atol=1e-2)
    assert paths.x1.dtype == jnp.float32
    np.testing.assert_allclose(paths.x1, np.exp(-1.0), rtol=2e-2)


# --- Refusals. ---


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, np.ones(2)])
def test_tolerances_that_are_not_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"^{name}: wanted a finite number > 0"):
        bj.ground_truth(DECAY, jnp.ones(2), **{name: value})


@pytest.mark.parametrize("name", ["batch_size", "max_steps"])
@pytest.mark.parametrize("value", [0, -3, 2.5, "8", True])
def test_counts_that_are_not_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"^{name}: wanted an integer >= 1"):
        bj.ground_truth(DECAY, jnp.ones(2), **{name: value})


def test_noise_of_another_event_shape():
    with pytest.raises(ValueError, match=r"x0: wanted shape \[\*batch, 2\]"):
        bj.ground_truth(DECAY, jnp.ones((4, 3)))


def test_noise_of_integers():
    with pytest.raises(TypeError, match="x0: wanted a floating dtype"):
        bj.ground_truth(DECAY, jnp.ones((4, 2), int))


def test_no_noise_at_all():
    with pytest.raises(ValueError, match="x0: wanted at least one noise"):
        bj.ground_truth(DECAY, jnp.ones((0, 2)))


def nan_from(params, t, x):
    return jnp.where(t >= params, jnp.nan, -x)


@pytest.mark.parametrize("start", [0.0, 0.6])
def test_a_velocity_of_nan_says_when(start):
    with pytest.raises(FloatingPointError, match=r"NaN or infinity after t = [0-9.]+ ") as caught:
        bj.ground_truth(bj.Flow(nan_from, jnp.float64(start), (2,)), jnp.ones((3, 2)))
    told = float(str(caught.value).split("t = ")[1].split(" ")[0])
    assert told == pytest.approx(start, abs=1e-4)


def test_a_trial_step_that_overflows_is_tried_again_shorter():
    # Nothing happens until t = 1/2, so that steps grow; then one of them overflows float32, and a shorter one does not.
    flow = bj.Flow(lambda params, t, x: jnp.where(t < 0.5, 0.0, -1e3 * x**3), None, (2,))
    x1 = bj.ground_truth(flow, jnp.ones((1, 2), jnp.float32), rtol=1e-5, atol=1e-5).x1
    np.testing.assert_allclose(x1, 1 / np.sqrt(1 + 2e3 * 0.5), rtol=1e-3)


def test_a_velocity_that_overflows_beside_the_noise_leaves_the_tolerance():
    # Round-off is measured at states beside the noise; an infinite one there raised the tolerance to infinity.
    flow = bj.Flow(lambda p, t, x: jnp.where(jnp.abs(x) > 1.0002, jnp.inf, -x), None, (2,))
    x0 = np.array([[1.0, -1.0], [0.5, 1.0]], np.float32)
    np.testing.assert_allclose(bj.ground_truth(flow, x0).x1, x0 * np.exp(-1), atol=1e-5)


def test_a_field_that_is_too_stiff_names_the_time_reached():
    flow = bj.Flow(decay, jnp.float64(1e6), (2,))
    with pytest.raises(RuntimeError, match=r"20 steps reached only t = [0-9.]+e-0[56]; .*max_steps=20"):
        bj.ground_truth(flow, jnp.ones(2), rtol=1e-6, atol=1e-6, max_steps=20)


# --- Data of any scale, velocities of any precision. ---


def scaled(scale):
    """(flow, noises, exact ends) of data N(scale (1, -1), (0.3 scale)^2): x(1) = m + s x0."""
    mean, std = scale * np.array([1.0, -1.0]), 0.3 * scale
    flow = bj.analytic.gaussian(mean, std)
    x0 = np.random.default_rng(5).standard_normal((16, 2))
    return flow, jnp.asarray(x0), mean + std * x0


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_tolerances_follow_the_scale_of_the_data(scale):
    flow, x0, exact = scaled(scale)
    error = np.sqrt(np.mean((bj.ground_truth(flow, x0).x1 - exact) ** 2))
    assert error < 1e-4 * scale


def test_an_absolute_tolerance_larger_than_the_data_is_warned_of():
    flow, x0, _ = scaled(1e-5)
    with pytest.warns(UserWarning, match=r"atol: 1e-05 is .* % of the scale of the states"):
        bj.ground_truth(flow, x0, atol=1e-5)


def test_a_state_that_passes_through_zero_needs_few_steps():
    flow = bj.Flow(lambda params, t, x: jnp.full_like(x, -1.0) + 0.1 * jnp.sin(x), None, ())
    paths = bj.ground_truth(flow, jnp.array([0.5]))
    assert int(paths.evaluations[0]) <= 60
    # Fine Euler steps are accurate enough; the integral of d x / (1 - sin(x) / 10) = -d t would need bisection.
    x = 0.5
    for _ in range(200_000):
        x += (-1 + 0.1 * np.sin(x)) / 200_000
    np.testing.assert_allclose(paths.x1[0], x, atol=1e-5)


def test_a_network_in_bfloat16_is_solved_to_its_round_off():
    weights = np.random.default_rng(2).standard_normal((8, 8)) / 2

    def velocity(dtype):
        return lambda params, t, x: jnp.tanh(x.astype(dtype) @ params.astype(dtype)).astype(jnp.float32) - x

    x0 = jnp.asarray(np.random.default_rng(3).standard_normal((8, 8)), jnp.float32)
    fine, coarse = (
        bj.Flow(velocity(dtype), jnp.asarray(weights, jnp.float32), (8,)) for dtype in ("float32", "bfloat16")
    )
    true = bj.ground_truth(fine, x0)
    with pytest.warns(UserWarning, match="rounded too coarsely for rtol=1e-05"):
        found = bj.ground_truth(coarse, x0)
    assert found.nfe <= 2 * true.nfe
    np.testing.assert_allclose(found.x1, true.x1, atol=0.03)


def test_a_network_in_bfloat16_that_is_flat_at_the_noise_is_looked_at_further_on():
    mean, std = 285.0, 12.0  # of temperatures: numbers of bfloat16 are 2 apart there
    scheduler = bj.schedulers.EDM(sigma_min=0.1, sigma_max=2000.0)

    def denoiser(dtype):
        def predict(params, sigma, x):
            x, square = x.astype(dtype), jnp.square(sigma).astype(dtype)
            return ((square * dtype(mean) + dtype(std**2) * x) / (square + dtype(std**2))).astype(jnp.float32)

        return bj.Flow.from_prediction(predict, {}, (12,), scheduler, prediction="data", time="sigma")

    fine, coarse = denoiser(jnp.float32), denoiser(jnp.bfloat16)
    x0 = fine.noise(jax.random.key(0), (16,))
    true = bj.ground_truth(fine, x0)
    exact = mean + (x0 - mean) * math.hypot(std, 0.1) / math.hypot(std, 2000.0)
    np.testing.assert_allclose(true.x1, exact, atol=0.01)
    with pytest.warns(UserWarning, match=r"near t = 0\.9\d* the velocity.* good to about rtol=0\.000[5-9]"):
        found = bj.ground_truth(coarse, x0)
    assert 1 < np.sqrt(np.mean((found.x1 - exact) ** 2)) < 2
    bj.ground_truth(coarse, x0, rtol=1e-3)  # as the warning asks


def test_times_too_coarse_in_float32_are_warned_of():
    flow, x0, exact = scaled(1e-7)
    flow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), flow)
    with pytest.warns(UserWarning, match="Solve in float64"):
        bj.ground_truth(flow, x0.astype(jnp.float32))
    np.testing.assert_allclose(bj.ground_truth(*scaled(1e-7)[:2]).x1, exact, atol=1e-10)


def test_a_velocity_that_is_infinite_at_the_end_alone_says_so():
    calls = []

    def velocity(params, t, x):
        jax.debug.callback(lambda: calls.append(None))
        return (jnp.array([1.0, 2.0]) - x) / (1 - t)

    with pytest.raises(FloatingPointError, match=r"NaN or infinity at t = 1 .*time_margin"):
        bj.ground_truth(bj.Flow(velocity, None, (2,)), jnp.zeros((2, 2)))
    jax.effects_barrier()
    assert len(calls) < 100


def test_ends_alone_are_the_ends_of_the_paths(decays):
    ends = solve(NOISES, ends_only=True)
    assert ends.is_of_ends and ends.states.shape == (3, 2, 2)
    np.testing.assert_array_equal(ends.x0, decays.x0)
    np.testing.assert_array_equal(ends.x1, decays.x1)
    np.testing.assert_array_equal(ends.evaluations, decays.evaluations)


def test_under_jit_it_says_so():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x0: bj.ground_truth(DECAY, x0).x1)(jnp.ones(2))


def test_noise_that_is_not_finite():
    with pytest.raises(
        ValueError, match=r"x0: wanted finite numbers, got NaN or infinity in 1 of 2 samples, .* number 1"
    ):
        bj.ground_truth(DECAY, jnp.array([[1.0, 2.0], [np.nan, 0.0]]))


@pytest.mark.parametrize("small", [1, 8, 15])
def test_each_path_has_a_tolerance_of_its_own_scale(small):
    def velocity(params, t, x):
        mean, std = params["condition"] * jnp.array([1.0, -1.0]), 0.3 * params["condition"]
        return mean + (t * std**2 - (1 - t)) / ((t * std) ** 2 + (1 - t) ** 2) * (x - t * mean)

    scales = np.array([1e-3] * small + [1e3] * (16 - small))
    flow = bj.given(bj.Flow(velocity, {"condition": jnp.float64(1)}, (2,)), scales)
    x0 = np.random.default_rng(4).standard_normal((16, 2))
    found = bj.ground_truth(flow, jnp.asarray(x0)).x1
    exact = scales[:, None] * (np.array([1.0, -1.0]) + 0.3 * x0)
    assert np.max(np.abs(found - exact) / scales[:, None]) < 1e-3


def test_a_curved_field_of_large_states_is_not_taken_for_a_rounded_one():
    flow = bj.Flow(lambda params, t, x: jnp.sin(3 * x), None, (2,))
    x0 = jnp.asarray(np.random.default_rng(6).standard_normal((8, 2)), jnp.float32).at[0].set(1e3)
    found = bj.ground_truth(flow, x0).x1[1:]  # d log tan(3 x / 2) / dt = 3
    exact = 2 / 3 * np.arctan(np.tan(1.5 * np.asarray(x0[1:], np.float64)) * np.exp(3))
    np.testing.assert_allclose(np.tan(1.5 * np.asarray(found)), np.tan(1.5 * exact), rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_only_the_rounding_of_a_strongly_curved_field_raises_the_tolerance(dtype):
    flow = bj.Flow(lambda params, t, x: jnp.sin(20 * x.astype(dtype)).astype(x.dtype) / 5, None, (3,))
    x0 = jnp.asarray(np.random.default_rng(6).standard_normal((16, 3)))
    expected = (
        contextlib.nullcontext() if dtype == "float64" else pytest.warns(UserWarning, match="raised to [2-9]e-09")
    )
    with expected:
        found = bj.ground_truth(flow, x0, rtol=1e-9).x1
    exact = np.arctan(np.tan(10 * x0) * np.exp(4)) / 10  # d log tan(10 x) / dt = 4
    error = np.abs((found - exact + np.pi / 20) % (np.pi / 10) - np.pi / 20)
    assert error.max() < (3e-9 if dtype == "float64" else 3e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_states_of_half_precision(dtype):
    flow = bj.Flow(lambda params, t, x: -x, None, (2,))
    x0 = jnp.asarray(np.random.default_rng(7).standard_normal((16, 2)), dtype)
    paths = bj.ground_truth(flow, x0, rtol=1e-2)
    assert paths.x1.dtype == dtype
    np.testing.assert_allclose(np.asarray(paths.x1, float), np.asarray(x0, float) * np.exp(-1), atol=0.03)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_noises_of_half_precision_have_the_paths_of_the_same_numbers_in_float32(dtype):
    flow = bj.analytic.mixture([[-1.0, 0.5, 0.3], [1.0, 0.0, -1.0]], std=0.4)
    x0 = jnp.asarray(np.random.default_rng(7).standard_normal((16, 3)), dtype)
    true = bj.ground_truth(flow, x0.astype("float32"))
    for ends_only in (False, True):
        found = bj.ground_truth(flow, x0, ends_only=ends_only)
        np.testing.assert_array_equal(found.x1, true.x1.astype(dtype))
        np.testing.assert_array_equal(found.evaluations, true.evaluations)
    found = bj.ground_truth(flow, x0)
    assert {v.dtype for v in (found.states, found.velocities, found.middles)} == {jnp.dtype(dtype)}
    # Their accuracy is that of their own rounding, which is coarser than the solve.
    share = truth_of(found, flow)[0].share
    assert 0.05 < share / jnp.finfo(dtype).eps < 1


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_rms_of_states_of_any_size(scale):
    x = scale * np.random.default_rng(8).standard_normal((4, 50)).astype(np.float32)
    wanted = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=1))
    np.testing.assert_allclose(jax.jit(controller._rms)(x), wanted, rtol=1e-6)
    odd = jnp.array([[0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0], [3e38, 3e38]], jnp.float32)
    np.testing.assert_allclose(jax.jit(controller._rms)(odd), [0, np.inf, np.nan, 3e38], rtol=1e-6)


def test_states_whose_squares_overflow_are_solved_to_the_tolerance():
    flow = bj.Flow(lambda params, t, x: 60 * x, None, (2,))
    x1 = bj.ground_truth(flow, jnp.ones((1, 2), jnp.float32)).x1
    np.testing.assert_allclose(x1, np.exp(60.0), rtol=1e-3)


def test_states_that_stay_at_zero():
    np.testing.assert_array_equal(bj.ground_truth(bj.Flow(lambda p, t, x: x, None, (2,)), jnp.zeros((2, 2))).x1, 0)
