"""A denoiser by diffusionlab."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import KEY, column, dense, energy_distance, layers, moons, trained


def diffusionlab() -> Client:
    """A denoiser under diffusionlab's EDM process, with EDM's preconditioning."""
    from diffusionlab.processes.gaussian import EDM
    from diffusionlab.sampling import DDMSampler, EulerSampler, sample, uniform_schedule
    from diffusionlab.typing import Prediction

    from bespoke_jax.adapters import diffusionlab

    process, data = EDM(data_shape=(2,)), jnp.asarray(moons(np.random.default_rng(0), 20_000))

    def denoised(weights, x, sigma):
        inside = jnp.concatenate([x / jnp.sqrt(1 + sigma**2), jnp.log(sigma) / 4], axis=1)
        return x / (1 + sigma**2) + sigma / jnp.sqrt(1 + sigma**2) * dense(weights, inside)

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        x0 = jax.random.choice(keys[0], data, (256,))
        sigma = jnp.exp(1.2 * jax.random.normal(keys[1], (256, 1)) - 0.8)
        xt = x0 + sigma * jax.random.normal(keys[2], x0.shape)
        return jnp.mean((1 + 1 / sigma**2) * (denoised(weights, xt, sigma) - x0) ** 2)

    weights = trained(loss, layers((3, 128, 128, 2)), 3000)

    def predictor(x, s, t, cond, aux):
        return Prediction(value=denoised(weights, x, column(process.sigma(t), x)), kind="x_0")

    def run(sampler, schedule):
        drawn = jax.jit(lambda key: sample(key, sampler, predictor, NUM_SAMPLES, schedule))
        return lambda: drawn(KEY)

    def own(kind, calls):
        return calls, run(kind(process), uniform_schedule(calls, NUM_SAMPLES))

    def network(weights, t, x):
        return denoised(weights, x, column(scheduler.sigma(t), x))

    scheduler = bj.schedulers.EDM()  # the library's levels, at 1 - t
    flow = bj.Flow.from_prediction(network, weights, (2,), scheduler, prediction="data")
    return Client(
        model="two moons under the EDM process",
        flow=flow, test=flow, default="Euler 100",
        x0=process.sample_from_terminal(jax.random.split(KEY, 3)[1], NUM_SAMPLES)[0],
        own={"DDIM 8": own(DDMSampler, 8), "Euler 8": own(EulerSampler, 8), "Euler 100": own(EulerSampler, 100)},
        with_table=lambda theta: run(
            diffusionlab.sampler(theta, process), diffusionlab.schedule(theta, NUM_SAMPLES)
        ),
        merit=("energy distance", energy_distance(moons(np.random.default_rng(1), 2000))),
    )  # fmt: skip
