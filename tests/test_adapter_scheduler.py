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
