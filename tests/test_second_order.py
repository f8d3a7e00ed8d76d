"""Levenberg-Marquardt on problems whose minimum is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting import stages
from bespoke_jax.fitting.gauss_newton import Quadratic

pytestmark = pytest.mark.usefixtures("float64")


def quadratic_of(residual, params):
    """The loss sum residual^2 near `params`, with its exact Gauss-Newton matrix."""
    error, jacobian = residual(params), jax.jacfwd(residual)(params)
    return Quadratic(jnp.sum(error**2), 2 * jacobian.T @ error, 2 * jacobian.T @ jacobian)


def minimise(residual, start, steps, **options):
    """(parameters, all values) of `steps` steps on sum residual^2."""
    method = bj.LevenbergMarquardt(**{"averaging": bj.Forgetting(0.0)} | options)

    @jax.jit
    def value_fn(params):
        return jnp.sum(residual(params) ** 2)

    near = jax.jit(lambda params: quadratic_of(residual, params))
    params, values = start, []
    state = method.init(params)
    for _ in range(steps):
        quadratic = near(params)
        params, state, _ = method.update(quadratic, state, params, value_fn)
        values.append(float(quadratic.value))
    return params, [*values, float(value_fn(params))]


def rosenbrock(p):
    return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


START = jnp.asarray(np.array([-1.2, 1.0]))


def test_linear_least_squares():
    rng = np.random.default_rng(0)
    matrix, target = rng.standard_normal((8, 3)), rng.standard_normal(8)
    found, _ = minimise(lambda p: jnp.asarray(matrix) @ p - target, jnp.zeros(3), 12)
    np.testing.assert_allclose(found, np.linalg.lstsq(matrix, target)[0], atol=1e-9)


def test_rosenbrock():
    found, values = minimise(rosenbrock, START, 40)
    np.testing.assert_allclose(found, [1.0, 1.0], atol=1e-6)
    assert values[-1] < 1e-12


def test_without_tries_the_loss_is_never_asked_for_and_the_damping_falls_by_itself():
    method = bj.LevenbergMarquardt(damping=8.0, scaling=0.0, tries=0, shrink=2.0, averaging=bj.Forgetting(0.0))
    state, start = method.init(jnp.zeros(1)), jnp.ones(1)

    def ask(params):
        raise AssertionError("asked for the loss")

    # (1 + damping) step = -1, for the matrix is 1 and the gradient 1, then half of the damping.
    moved, state, _ = method.update(Quadratic(0.0, jnp.ones(1), jnp.eye(1)), state, start, ask)
    np.testing.assert_allclose(moved, 1 - 1 / 9, atol=1e-5)
    moved, state, _ = method.update(Quadratic(0.0, jnp.ones(1), jnp.eye(1)), state, start, ask)
    np.testing.assert_allclose(moved, 1 - 1 / 5, atol=1e-5)
    assert state.damping == 2.0
    still, state, _ = method.update(Quadratic(0.0, jnp.full(1, jnp.nan), jnp.eye(1)), state, start, ask)
    assert still is start and state.damping > 2.0


@pytest.mark.parametrize("power", [0, 1, 3])
def test_powers_weigh_the_steps_so_far(power):
    # The weights are those of the rising factorials: 1 all, then j / k, ..., j (j + 1) (j + 2) / (k (k + 1) (k + 2)).
    rng = np.random.default_rng(4)
    factors = 1.0 + rng.random(7)
    method, params = bj.LevenbergMarquardt(tries=0, damping=1e6, averaging=bj.PowerLaw(power, 1)), jnp.zeros(2)
    state = method.init(params)
    for factor in factors:
        params, state, _ = method.update(Quadratic(0.0, factor * jnp.ones(2), factor * jnp.eye(2)), state, params, None)
    rising = np.array([math.prod(range(j, j + power)) for j in range(1, 8)])
    np.testing.assert_allclose(
        state.memory.matrix[0, 0] / state.memory.weight, np.average(factors, weights=rising), rtol=1e-6
    )
    linear = np.average(factors, weights=np.arange(1, 8))
    np.testing.assert_allclose(state.memory.gradient / state.memory.gradient_weight, linear, rtol=1e-6)


def test_a_growing_memory_ends_nearer_to_the_minimum_of_many_noisy_steps():
    # Gradients p + noise of variance 1: the minimum is 0. A memory of 0.5 averages three of them, powers of 2 a third of 200.
    def distance(averaging):
        rng = np.random.default_rng(5)
        method, params = (
            bj.LevenbergMarquardt(tries=0, damping=1e-6, shrink=1.0, limit=10.0, averaging=averaging),
            jnp.ones(50),
        )
        state = method.init(params)
        for _ in range(200):
            noisy = Quadratic(0.0, params + rng.standard_normal(50), jnp.eye(50))
            params, state, _ = method.update(noisy, state, params, None)
        return np.sqrt(np.mean(np.square(params)))

    assert distance(bj.PowerLaw(2, 2)) < 0.3 * distance(bj.Forgetting(0.5, 0.5))


@pytest.mark.parametrize(
    "residual, start",
    [
        (rosenbrock, [-1.2, 1.0]),
        (lambda p: jnp.stack([jnp.exp(p[0]) - 2, jnp.sin(5 * p[1]) + p[0] * p[1], p[1] ** 3]), [3.0, -2.0]),
        (lambda p: jnp.stack([jnp.tanh(20 * p[0]), jnp.cos(9 * p[1]) + 2, p[0] * p[1]]), [0.3, 0.1]),
    ],
)
def test_the_value_never_grows(residual, start):
    _, values = minimise(residual, jnp.asarray(start), 25)
    assert np.all(np.diff(values) <= 0) and values[-1] < values[0]


def test_no_parameter_moves_further_than_the_limit():
    found, _ = minimise(lambda p: p - 100.0, jnp.zeros(2), 3, limit=0.5)
    np.testing.assert_allclose(found, 1.5, rtol=1e-6)


def one_step(matrix, target, scaling):
    """A step of damping 1 on |matrix p - target|^2, from 0."""

    def residual(p):
        return jnp.asarray(matrix) @ p - target

    method, params = bj.LevenbergMarquardt(damping=1.0, scaling=scaling, limit=100.0), jnp.zeros(matrix.shape[1])
    given = quadratic_of(residual, params)
    return method.update(given, method.init(params), params, lambda p: jnp.sum(residual(p) ** 2))[0]


def test_what_scaling_leaves_unchanged():
    rng = np.random.default_rng(3)
    matrix, target = rng.standard_normal((6, 3)) * [1.0, 0.5, 2.0], rng.standard_normal(6)
    # Marquardt's: parameters in other units take the same step.
    units = np.array([2.0, 3.0, 0.5])
    np.testing.assert_allclose(one_step(matrix * units, target, 1.0) * units, one_step(matrix, target, 1.0), rtol=1e-3)
    # Levenberg's: turned axes take the same step.
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    np.testing.assert_allclose(turn @ one_step(matrix @ turn, target, 0.0), one_step(matrix, target, 0.0), rtol=1e-3)
    gram = 2 * matrix.T @ matrix
    diagonal = np.diag(gram)
    for scaling in (0.0, 0.5, 1.0):
        damped = gram + np.diag(diagonal.mean() * (diagonal / diagonal.mean()) ** scaling)
        wanted = np.linalg.solve(damped, 2 * matrix.T @ target)
        np.testing.assert_allclose(one_step(matrix, target, scaling), wanted, rtol=1e-3)


@pytest.mark.parametrize("tries", [0, 2])
def test_a_step_in_directions_is_that_of_the_problem_in_lengths_along_them(tries):
    rng = np.random.default_rng(5)
    matrix, target, directions = (rng.standard_normal(shape) for shape in ((6, 4), 6, (4, 2)))
    method = bj.LevenbergMarquardt(tries=tries, limit=100.0)

    def updated(matrix, directions=None):
        def residual(p):
            return jnp.asarray(matrix) @ p - target

        params = jnp.zeros(matrix.shape[1])
        value_fn = None if tries == 0 else lambda p: jnp.sum(residual(p) ** 2)
        return method.update(quadratic_of(residual, params), method.init(params), params, value_fn, directions)[0]

    lengths = updated(matrix @ directions)
    assert np.all(np.abs(lengths) > 0.01)
    np.testing.assert_allclose(updated(matrix, directions), directions @ lengths, rtol=1e-9)


def test_a_parameter_that_moves_nothing_stays():
    found, _ = minimise(lambda p: jnp.stack([p[0] - 0.5, 2 * p[0] - 1.0]), jnp.asarray([0.0, 0.3]), 8)
    np.testing.assert_allclose(found, [0.5, 0.3], atol=1e-8)


def test_no_step_into_nan():
    # log of a negative number is NaN: a full Gauss-Newton step would go there.
    found, values = minimise(lambda p: jnp.log(p) + 3, jnp.asarray([2.0]), 30, limit=10.0)
    np.testing.assert_allclose(found, np.exp(-3.0), rtol=1e-6)
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize("what", ["value", "gradient", "matrix", "judge"])
def test_nan_anywhere_means_standing_still(what):
    method, params = bj.LevenbergMarquardt(), jnp.asarray([1.0, -2.0])
    nan = jnp.float64(jnp.nan)
    given = Quadratic(jnp.float64(5.0), 2 * params, 2 * jnp.eye(2))
    if what != "judge":
        given = given._replace(**{what: nan * getattr(given, what)})
    found, state, _ = method.update(
        given, method.init(params), params, lambda p: nan if what == "judge" else jnp.sum(p**2)
    )
    np.testing.assert_array_equal(found, params)
    assert np.isfinite(state.damping) and np.all(np.isfinite(state.memory.matrix))


def test_a_matrix_of_nan_is_forgotten():
    method, params = bj.LevenbergMarquardt(limit=10.0), jnp.asarray([1.0, -2.0])
    good = Quadratic(jnp.float64(5.0), 2 * params, 2 * jnp.eye(2))
    _, state, _ = method.update(good._replace(matrix=jnp.nan * good.matrix), method.init(params), params, jnp.sum)
    found, _, _ = method.update(good, state, params, lambda p: jnp.sum(p**2))
    np.testing.assert_allclose(found, 0.0, atol=0.2)


def test_standing_still_damps_more_and_success_less():
    method, params = bj.LevenbergMarquardt(damping=1e-2), jnp.asarray([1.0, -2.0])

    def next_damping(value):
        quadratic = Quadratic(jnp.float64(value), 2 * params, 2 * jnp.eye(2))
        return float(method.update(quadratic, method.init(params), params, lambda p: jnp.sum(p**2))[1].damping)

    assert next_damping(5.0) < 1e-2 < next_damping(-1.0)


def test_no_more_evaluations_than_tries():
    calls = []
    method, params = bj.LevenbergMarquardt(tries=3), jnp.asarray([1.0, -2.0])

    def worse(params):
        calls.append(params)
        return 9.0

    method.update(Quadratic(jnp.float64(5.0), 2 * params, 2 * jnp.eye(2)), method.init(params), params, worse)
    assert len(calls) == 3
    # Each try is damped more than the last: shorter.
    lengths = [float(jnp.linalg.norm(params - call)) for call in calls]
    assert lengths == sorted(lengths, reverse=True)


def test_noisy_matrices_are_averaged():
    # Matrices that scatter about the true one, gradients that do not: averaging brings the steps nearer to Newton's.
    rng = np.random.default_rng(0)
    true = np.diag([1.0, 30.0])

    def last(memory):
        method, params = bj.LevenbergMarquardt(averaging=bj.Forgetting(memory), damping=1e-8), jnp.ones(2)
        state = method.init(params)
        for _ in range(30):
            rows = rng.standard_normal((4, 2)) @ np.sqrt(true)
            params, state, _ = method.update(
                Quadratic(jnp.float64(1e9), jnp.asarray(true @ np.ones(2)), jnp.asarray(rows.T @ rows / 4)), state, params,
                lambda p: 0.0,
            )  # fmt: skip
        return np.asarray(state.memory.matrix / state.memory.weight)

    def distance(memory):
        return np.mean([np.linalg.norm(np.linalg.solve(true, last(memory)) - np.eye(2)) for _ in range(20)])

    assert distance(0.9) < 0.6 * distance(0.0)


def test_with_nothing_forgotten_batches_seen_once_give_the_solution_of_all():
    # Least squares with the same rows and other targets in each batch: the solution of all has their mean target.
    rng = np.random.default_rng(0)
    rows, targets = rng.standard_normal((5, 3)), rng.standard_normal((6, 5))

    def found(memory):
        method = bj.LevenbergMarquardt(averaging=bj.Forgetting(gradient=memory), damping=1e-8, limit=1e3)
        looks = iter(range(0, -1000, -100))  # each better than promised: every step is taken
        params = jnp.zeros(3)
        state = method.init(params)
        for target in targets:
            quadratic = Quadratic(100.0, 2 * rows.T @ (rows @ params - target), 2 * rows.T @ rows)
            params, state, _ = method.update(quadratic, state, params, lambda _: float(next(looks)))
        return np.asarray(params)

    np.testing.assert_allclose(found(1.0), np.linalg.lstsq(rows, np.mean(targets, axis=0))[0], atol=1e-4)
    np.testing.assert_allclose(found(0.0), np.linalg.lstsq(rows, targets[-1])[0], atol=1e-4)  # the last batch alone


def in_turn(parts, averaging, steps):
    """Parameters after undamped, untested steps on sum_i parts_i(p)^2, each on the next part alone."""
    method = bj.LevenbergMarquardt(damping=1e-8, tries=0, shrink=1.0, limit=1e3, averaging=averaging)
    near = [jax.jit(lambda p, part=part: quadratic_of(part, p)) for part in parts]
    params, found = jnp.zeros(2), []
    state = method.init(params)
    for number in range(steps):
        params, state, _ = method.update(near[number % len(parts)](params), state, params, None)
        found.append(np.asarray(params))
    return found


def test_a_quadratic_of_each_part_gives_the_solution_of_all_wherever_each_was_taken():
    # Least squares with other rows in each part: no part determines p, and the places where they were taken differ.
    rng = np.random.default_rng(1)
    rows, targets = rng.standard_normal((6, 1, 2)), rng.standard_normal((6, 1))
    parts = [lambda p, r=r, b=b: r @ p - b for r, b in zip(rows, targets, strict=True)]
    wanted = np.linalg.lstsq(rows[:, 0], targets[:, 0])[0]
    found = in_turn(parts, bj.Recent(6, 1.0), 14)
    for p in found[5:]:  # from where each has been seen
        np.testing.assert_allclose(p, wanted, atol=1e-4)
    assert all(np.linalg.norm(p - wanted) > 0.05 for p in in_turn(parts, bj.Recent(3, 1.0), 14))


def test_a_quadratic_of_each_part_leaves_no_scatter_where_a_fading_memory_does():
    # Curved parts whose minima differ: exp(p1) + a p2 and so on. The minimum of the sum is that of many plain steps.
    rng = np.random.default_rng(2)
    factors, targets = rng.uniform(0.5, 1.5, (8, 2)), rng.uniform(0.5, 1.5, 8)
    parts = [
        lambda p, f=f, b=b: (jnp.exp(f[0] * p[0]) + f[1] * p[1] - b)[None]
        for f, b in zip(factors, targets, strict=True)
    ]
    wanted, _ = minimise(lambda p: jnp.concatenate([part(p) for part in parts]), jnp.zeros(2), 60)
    recent, fading = (
        in_turn(parts, averaging, 64)[-1] for averaging in (bj.Recent(8, 1.0), bj.Forgetting(matrix=0.9, gradient=0.9))
    )
    assert np.linalg.norm(recent - wanted) < 1e-4 < 1e-2 < np.linalg.norm(fading - wanted)


def test_recent_quadratics_weigh_by_their_age():
    factors, method = np.arange(1.0, 8.0), bj.LevenbergMarquardt(tries=0, averaging=bj.Recent(3, 0.5))
    memory, params = method.init(jnp.zeros(2, jnp.float32)).memory, np.zeros(2)
    for count, factor in enumerate(factors, 1):
        memory, matrix, gradient = method.averaging.add(
            memory, Quadratic(0.0, factor * np.ones(2), factor * np.eye(2)), params
        )
        last = factors[max(0, count - 3) : count]
        mean = np.average(last, weights=0.5 ** np.arange(len(last))[::-1])
        np.testing.assert_allclose((matrix[0, 0], *gradient), mean, rtol=1e-6)
    assert memory.count == 7 and memory.matrices.dtype == np.float32


@pytest.mark.parametrize("num_paths, size", [(32, 8), (20, 8), (5, 5)])
def test_paths_are_taken_in_turn(num_paths, size):
    stage = bj.Stage(batch_size=size, optimizer=bj.LevenbergMarquardt(averaging=bj.Recent()))
    taken = np.concatenate([stages._drawn(stage, num_paths, jax.random.key(3), i) for i in range(15)])
    assert sorted(taken[:num_paths]) == list(range(num_paths))  # each once, and again in the same order
    np.testing.assert_array_equal(taken[num_paths:], taken[: len(taken) - num_paths])
    assert taken[:num_paths].tolist() != list(range(num_paths))
    others = bj.Stage(batch_size=size, optimizer=bj.SMALL_STEPS)
    assert stage.takes_turns and not others.takes_turns and not bj.Stage(optimizer=optax.adam(1e-2)).takes_turns


def test_the_parameters_may_be_a_theta():
    theta = bj.init_theta("rk1", 2, dtype=jnp.float64)
    method = bj.LevenbergMarquardt()

    def value_fn(theta):
        return jnp.sum((theta.raw - 0.2) ** 2)

    quadratic = Quadratic(value_fn(theta), jax.grad(value_fn)(theta).raw, 2 * jnp.eye(theta.num_parameters))
    found, _, _ = method.update(quadratic, method.init(theta), theta, value_fn)
    assert isinstance(found, bj.Theta)
    np.testing.assert_allclose(found.raw, 0.2, atol=1e-2)


def test_float32_stays_float32():
    method, params = bj.LevenbergMarquardt(), jnp.asarray([1.0, -2.0], jnp.float32)
    quadratic = Quadratic(jnp.float32(5.0), 2 * params, 2 * jnp.eye(2, dtype=jnp.float32))
    found, state, _ = method.update(quadratic, method.init(params), params, lambda p: jnp.sum(p**2))
    assert found.dtype == state.damping.dtype == state.memory.matrix.dtype == jnp.float32


def test_half_precision_is_learned_in():
    flow = bj.analytic.gaussian([1.0, 2.0], 0.5)
    recipe = bj.Recipe(stages=(bj.Stage("endpoint", 8),), num_paths=16, num_validation=16, choose_start=False)
    result = bj.fit(flow, bj.init_theta("rk2", 3, dtype=jnp.float16), jax.random.key(0), recipe)
    assert result.theta.raw.dtype == jnp.float16
    assert result.best["rmse"] < 0.2 * result.history[0]["rmse"]
