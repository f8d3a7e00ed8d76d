"""A forecast in the manner of GenCast: EDM's denoiser given the state before, noise from 80 to 0.03, in bfloat16."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_EXACT, NUM_SAMPLES, Client
from benchmarks.client_models.training import column, dense, energy_distance, layers, trained

_POINTS, _SCALE = 32, 12.0  # of a circle of latitude; the standard deviation of the fields, in their units


def fields(key, number: int) -> tuple[jax.Array, jax.Array]:
    """(fields [number, 32], the fields a step later): waves that run east, steepen, and grow at random."""
    keys = jax.random.split(key, 3)
    around = 2 * jnp.pi * jnp.arange(_POINTS) / _POINTS
    waves = jnp.concatenate([f(k * around)[None] / k for k in (1, 2, 3, 4) for f in (jnp.cos, jnp.sin)])
    before = jax.random.normal(keys[0], (number, len(waves))) @ waves / 1.2
    grown = 1 + 0.4 * jax.random.normal(keys[1], (number, 1))
    after = grown * jnp.tanh(jnp.roll(before, 3, axis=1)) * 1.4 + 0.15 * jax.random.normal(keys[2], (number, 8)) @ waves
    return _SCALE * before, _SCALE * after


def weather() -> Client:
    """The next state of a field, sampled by DPM-Solver++(2S) on 20 noise levels, as GenCast does."""
    scheduler = bj.schedulers.EDM(sigma_min=0.03, sigma_max=80.0, rho=7.0)

    def denoised(weights, before, x, sigma):
        size = jnp.sqrt(_SCALE**2 + sigma**2)
        inside = jnp.concatenate([x / size, before / _SCALE, jnp.log(sigma) / 4], axis=1)
        seen = dense(jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights), inside.astype(jnp.bfloat16))
        return _SCALE**2 / size**2 * x + sigma * _SCALE / size * seen.astype(x.dtype)

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        before, after = fields(keys[0], 256)
        sigma = jnp.exp(1.5 * jax.random.normal(keys[1], (256, 1)) + 1.0)
        x = after + sigma * jax.random.normal(keys[2], after.shape)
        weight = (sigma**2 + _SCALE**2) / (sigma * _SCALE) ** 2
        return jnp.mean(weight * (denoised(weights, before, x, sigma) - after) ** 2)

    weights = trained(loss, layers((2 * _POINTS + 1, 256, 256, _POINTS)), 3000)

    def network(params, sigma, x):
        before = jnp.broadcast_to(params["condition"], x.shape)
        return denoised(params["network"], before, x, column(sigma, x))

    fitted, (test, truth) = fields(jax.random.key(2), 256)[0], fields(jax.random.key(3), NUM_SAMPLES)
    params = {"network": weights, "condition": fitted[0]}
    flow = bj.Flow.from_prediction(network, params, (_POINTS,), scheduler, prediction="data", time="sigma")
    noise = 80.0 * jax.random.normal(jax.random.key(4), (NUM_SAMPLES, _POINTS))

    def forecast(evaluations):
        drawn = jax.jit(evaluations)
        return lambda: drawn(weights, test, noise)

    def dpm_solver_2s(steps):
        levels = np.float32(np.linspace(80.0 ** (1 / 7), 0.03 ** (1 / 7), steps + 1) ** 7)

        def evaluations(weights, before, x):
            for high, low in itertools.pairwise(levels):
                middle, start = np.sqrt(high * low), x
                for level, to in ((high, middle), (middle, low)):
                    clean = denoised(weights, before, x, column(level, x))
                    x = to / high * start + (1 - to / high) * clean
            return x

        return 2 * steps, forecast(evaluations)

    def with_table(theta):
        table = bj.to_table(theta)

        def evaluations(weights, before, x):
            given = bj.given(flow.replace(params={**params, "network": weights}), before)
            return bj.solve(given, table, x)

        return forecast(evaluations)

    return Client(
        model="the next state of a field, in bfloat16",
        flow=bj.given(flow, fitted), test=bj.given(flow, test[:NUM_EXACT]), x0=noise, with_table=with_table,
        own={"DPM-Solver++(2S) 4": dpm_solver_2s(4), "DPM-Solver++(2S) 19": dpm_solver_2s(19)}, default="DPM-Solver++(2S) 19",
        merit=("energy distance", energy_distance(np.asarray(truth[:2000]))),
    )  # fmt: skip
