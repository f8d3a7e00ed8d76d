"""Loops in the manner of diffusers, with a table as their scheduler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.adapters.scheduler import TableScheduler

EDM = bj.schedulers.EDM(0.02, 20.0)
X0 = np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
GENERAL = dataclasses.replace(
    bj.classic.heun(6), first=jnp.float32(0.9), c=jnp.linspace(-0.5, 1, 7), xi=jnp.array([0.1, -2.0, 1.0])
)


def flow_of(scheduler):
    return bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3, scheduler=scheduler)


def output(flow, prediction, t, x):
    """What a network would predict, from the velocity."""
    u, level = flow(t, x), flow.scheduler.at(jnp.float32(t))
    determinant = level.alpha * level.sigma_dot - level.sigma * level.alpha_dot
    data = (level.sigma_dot * x - level.sigma * u) / determinant
    noise = (level.alpha * u - level.alpha_dot * x) / determinant
    return dict(velocity=u, data=data, noise=noise)[prediction]


CASES = {
    "noise_at_1": ("velocity", bj.schedulers.CondOT(), lambda t: 1 - t),
    "steps_of_1000": ("velocity", bj.schedulers.CondOT(), lambda t: 1 - t / 1000),
    "noise_at_0": ("velocity", bj.schedulers.CondOT(), lambda t: t),
    "sigma": ("data", EDM, lambda s: (20 ** (1 / 7) - s ** (1 / 7)) / (20 ** (1 / 7) - 0.02 ** (1 / 7))),
}


@pytest.mark.parametrize("solver", [bj.init_theta("rk2", 2), GENERAL], ids=["learned", "general"])
@pytest.mark.parametrize("convention", CASES)
def test_a_loop_ends_where_solve_does(convention, solver):
    prediction, scheduler, own_time = CASES[convention]
    flow = flow_of(scheduler)
    loop = TableScheduler(solver, convention, scheduler if convention == "sigma" else None, prediction)
    x0 = loop.init_noise_sigma * X0
    for _ in range(2):
        loop.set_timesteps(solver.nfe)
        x = x0
        for timestep in loop.timesteps:
            x = loop.scale_model_input(x, timestep)
            sign = -1 if convention in ("noise_at_1", "steps_of_1000") else 1
            x = loop.step(sign * output(flow, prediction, own_time(timestep), x), timestep, x).prev_sample
        np.testing.assert_allclose(x, bj.solve(flow, solver, x0), rtol=2e-4, atol=2e-4)


def test_a_noise_prediction_of_a_variance_preserving_network():
    scheduler = bj.schedulers.VariancePreserving()
    flow, solver = flow_of(scheduler), bj.classic.dpm_solver_pp(6, scheduler)
    loop, x = TableScheduler(solver, scheduler=scheduler, prediction="noise"), jnp.asarray(X0)
    for timestep in loop.timesteps:
        x = loop.step(output(flow, "noise", 1 - timestep, x), timestep, x).prev_sample
    np.testing.assert_allclose(x, bj.solve(flow, solver, X0), rtol=1e-3, atol=1e-3)


def exact(prediction, scheduler, t, x):
    """The prediction of x0, or the score, on data N(mean, 0.5^2)."""
    level = scheduler.at(jnp.float32(t))
    away = (x - level.alpha * jnp.array([1.0, -2.0])) / ((0.5 * level.alpha) ** 2 + level.sigma**2)
    return level.sigma * away if prediction == "noise" else -away


@pytest.mark.parametrize("convention", ["noise_at_0", "noise_at_1"])
@pytest.mark.parametrize("scheduler", [bj.schedulers.CondOT(), bj.schedulers.Cosine()], ids=["condot", "cosine"])
@pytest.mark.parametrize("prediction", ["noise", "score"])
def test_the_network_is_called_at_the_time_at_which_it_is_read(prediction, scheduler, convention):
    table, x0 = bj.classic.midpoint(8), jnp.asarray(X0[:, :2])
    flow = bj.Flow.from_prediction(
        lambda p, t, x: exact(prediction, scheduler, t, x), None, (2,), scheduler, prediction
    )
    loop, x = TableScheduler(table, convention, scheduler, prediction), x0
    for timestep in loop.timesteps:
        t = timestep if convention == "noise_at_0" else 1 - timestep
        x = loop.step(exact(prediction, scheduler, t, x), timestep, x).prev_sample
    # The network's x - t mean cancels: 1 - (1 - t) is off by 6e-8, and alpha = 1e-3 divides.
    np.testing.assert_allclose(x, bj.solve(flow, table, x0), atol=1e-5 if convention == "noise_at_0" else 2e-4)


@pytest.mark.parametrize("margin", [None, 0.05])
def test_the_margin_of_the_flow_is_the_loops(margin):
    scheduler, solver = bj.schedulers.CondOT(), bj.init_theta("rk2", 2)

    def network(params, t, x):
        return exact("noise", scheduler, t, x)

    flow = bj.Flow.from_prediction(network, None, (2,), scheduler, "noise", time_margin=margin)
    x = x0 = X0[:, :2]
    loop = TableScheduler(solver, "noise_at_0", scheduler, "noise", time_margin=margin)
    for t in loop.timesteps:
        x = loop.step(network(None, t, x), t, x).prev_sample
    np.testing.assert_allclose(x, bj.solve(flow, solver, x0), rtol=1e-5, atol=1e-5)


def test_a_table_with_an_image_for_each_class_is_given_that_of_the_samples():
    base = bj.Flow(lambda p, t, x: p["condition"] - x * t, {"condition": jnp.int32(0)}, (3,), bj.schedulers.CondOT())
    flow = bj.given(base, jnp.array([1, 0, 1, 1]))
    table = dataclasses.replace(GENERAL, xi=jnp.array([[0.1, -2.0, 1.0], [1.0, 0.5, 0.0]]))
    loop, x = TableScheduler(table, "noise_at_0", image=table.image(flow)), X0
    for t in loop.timesteps:
        x = loop.scale_model_input(x, t)
        x = loop.step(flow(t, x), t, x).prev_sample
    np.testing.assert_allclose(x, bj.solve(flow, table, X0), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"image: wanted those of these samples, as in table\.begin\(x0, table\.image\(flow"
    ):
        TableScheduler(table, "noise_at_0").scale_model_input(X0)


def test_a_noise_level_that_is_infinite_at_the_noise_is_clipped():
    loop = TableScheduler(bj.classic.euler(2), "noise_to_signal", bj.schedulers.CondOT(), "noise")
    np.testing.assert_allclose(loop.timesteps, [999, 1], rtol=1e-5)
    coarse = TableScheduler(bj.classic.euler(2, dtype=jnp.bfloat16), "noise_at_0", bj.schedulers.CondOT(), "noise")
    np.testing.assert_allclose(coarse.timesteps, [1e-3, 0.5], rtol=1e-6)


def halves(edit, table=GENERAL, x0=X0):
    loop, x = TableScheduler(table, "noise_at_0"), x0
    for timestep in loop.timesteps:
        x = loop.scale_model_input(x, timestep)
        x = edit(loop.step(-0.5 * jnp.asarray(x), timestep, x).prev_sample)
    return x


@pytest.mark.parametrize("table", [bj.classic.euler(2), GENERAL], ids=["plain", "general"])
def test_a_sample_that_was_edited_between_steps_is_refused(table):
    for edit in (lambda x: x + 5, lambda x: np.where(np.arange(3) == 0, x + 1e-4, x), lambda x: x.at[0, 0].set(np.nan)):
        with pytest.raises(
            ValueError, match=r"sample: wanted what step 0 returned, got other .* may not be edited between steps"
        ):
            halves(edit, table)
    with pytest.raises(ValueError, match=r"sample: wanted the shape of the state, \(4, 3\), got \(3,\)"):
        halves(lambda x: x[0], table)
    with pytest.raises(TypeError, match="sample: wanted a floating dtype"):
        halves(lambda x: jnp.zeros(x.shape, int), table)
    loop = TableScheduler(table, "noise_at_0")
    loop.scale_model_input(X0)
    with pytest.raises(ValueError, match="sample: wanted what scale_model_input returned"):
        loop.step(X0, 0.0, X0 + 1)


def test_a_sample_may_be_copied_or_cast_and_is_not_read_where_it_is_the_same():
    wanted = halves(lambda x: x)
    for edit in (np.array, jnp.copy, lambda x: np.asarray(x, np.float64)):
        np.testing.assert_array_equal(halves(edit), wanted)
    for dtype in (jnp.bfloat16, jnp.float16):
        np.testing.assert_allclose(halves(lambda x, dtype=dtype: x.astype(dtype)), wanted, atol=0.05)
    jitted = jax.jit(lambda x: halves(lambda x: 1.0 * x, x0=x))(X0)
    np.testing.assert_allclose(jitted, wanted, rtol=1e-4, atol=1e-5)
    broken = halves(lambda x: np.array(x), bj.classic.euler(2), np.full((4, 3), np.nan, np.float32))
    assert np.isnan(broken).all()  # of a network that fails, not of an edit
    loop, x = TableScheduler(bj.classic.euler(2), "noise_at_0"), jnp.asarray(X0)
    x = loop.step(x, 0.0, x).prev_sample
    x.delete()
    loop.step(jnp.zeros((4, 3)), 0.5, x)  # its numbers could not be read


def test_the_noise_itself_may_be_the_first_sample():
    loop = TableScheduler(GENERAL, "noise_at_0")  # as diffusers' pipelines call it
    for noise in (X0, X0.copy()):
        loop.set_timesteps()
        x = loop.scale_model_input(X0)
        loop.step(-0.5 * x, 0.0, noise)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: TableScheduler(3), TypeError, "solver: wanted"),
        (
            lambda: TableScheduler(bj.by_call(bj.classic.euler(2), 1.5)),
            ValueError,
            "solver: wanted one that evaluates one",
        ),
        (lambda: TableScheduler(GENERAL, "sigma"), TypeError, "scheduler: wanted"),
        (lambda: TableScheduler(GENERAL, "sigma", EDM), ValueError, "prediction: wanted"),
        (lambda: TableScheduler(GENERAL, "steps_of_1000", EDM, "data"), ValueError, "convention: wanted"),
        (lambda: TableScheduler(GENERAL, "backwards"), ValueError, "convention: wanted"),
        (lambda: TableScheduler(GENERAL, prediction="data"), TypeError, "scheduler: wanted"),
        (lambda: TableScheduler(GENERAL).set_timesteps(50), ValueError, "num_inference_steps: wanted 6"),
        (lambda: TableScheduler(GENERAL).step(X0, 1.0, X0), ValueError, "scale_model_input"),
        (lambda: TableScheduler(bj.classic.euler(2)).step(X0, 0.5, X0), ValueError, "timestep: wanted 1.0 in step 0"),
        (lambda: TableScheduler(bj.classic.euler(2)).step(X0[0], 1.0, X0), ValueError, "u: wanted the shape"),
    ],
)
def test_what_is_wrong_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_step_too_many_is_refused():
    loop = TableScheduler(bj.classic.euler(1))
    x = loop.step(X0, 1.0, X0).prev_sample
    np.testing.assert_allclose(x, 0 * X0)
    with pytest.raises(ValueError, match="at most 1 steps"):
        loop.step(x, 1.0, x)
