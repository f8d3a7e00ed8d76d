"""A posterior by GenSBI."""

import functools
import itertools
import tempfile

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import KEY, column


def two_moons(key, theta: jax.Array) -> jax.Array:
    """The simulator: x [B, 2] for parameters [B, 2]."""
    keys = jax.random.split(key)
    angle = jnp.pi * (jax.random.uniform(keys[0], (len(theta),)) - 0.5)
    radius = 0.1 + 0.01 * jax.random.normal(keys[1], (len(theta),))
    moon = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) + jnp.array([0.25, 0.0])
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return moon + jnp.stack([-jnp.abs(total), difference], axis=1) / 2**0.5


def two_moons_posterior(rng: np.random.Generator, number: int) -> np.ndarray:
    """Exact samples of the posterior at x = 0, whose prior is uniform on [-1, 1]^2."""
    angle, radius = np.pi * (rng.random(number) - 0.5), 0.1 + 0.01 * rng.standard_normal(number)
    total = np.where(rng.random(number) < 0.5, 1, -1) * 2**0.5 * (radius * np.cos(angle) + 0.25)
    difference = -(2**0.5) * radius * np.sin(angle)
    return np.stack([total - difference, total + difference], axis=1) / 2


def gensbi() -> Client:
    """Two moons by GenSBI's `ConditionalPipeline` with its `FlowMatchingMethod` and a small NNX network."""
    from flax import nnx
    from gensbi.core.flow_matching import FlowMatchingMethod
    from gensbi.diagnostics.metrics import c2st
    from gensbi.recipes.conditional_pipeline import ConditionalPipeline

    from bespoke_jax.adapters import nnx as from_nnx
    from bespoke_jax.adapters.diffrax import TableSolver

    class Net(nnx.Module):
        def __init__(self, rngs):
            sizes = (5, 128, 128, 128, 2)
            self.parts = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

        def __call__(self, t, obs, obs_ids, cond, cond_ids, conditioned=True, guidance=None):
            cond = jnp.broadcast_to(cond, (len(obs), 2, 1))[..., 0]
            x = jnp.concatenate([obs[..., 0], cond, column(t, obs)], axis=1)
            for part in self.parts[:-1]:
                x = nnx.silu(part(x))
            return self.parts[-1](x)[..., None]

    theta = jax.random.uniform(KEY, (20_000, 2), minval=-1, maxval=1)
    x = two_moons(jax.random.key(1), theta)

    def batches(seed):
        rng, pairs = np.random.default_rng(seed), (np.asarray(theta), np.asarray(x))
        while True:
            kept = rng.integers(len(theta), size=256)
            yield tuple(jnp.asarray(array[kept])[..., None] for array in pairs)

    config = ConditionalPipeline.get_default_training_config()
    config |= dict(max_lr=2e-3, min_lr=1e-5, ema_decay=0.99, early_stopping=False, warmup_steps=100)
    config |= dict(nsteps=4000, checkpoint_dir=tempfile.mkdtemp())
    method = FlowMatchingMethod()
    pipeline = ConditionalPipeline(
        Net(nnx.Rngs(0)), batches(0), batches(1), dim_obs=2, dim_cond=2, method=method, training_config=config
    )
    pipeline.train(nnx.Rngs(0, val_step=1), save_model=False)

    def run(**options):
        sampler = pipeline.get_sampler(jnp.zeros((1, 2, 1)), **options)
        return lambda: sampler(KEY, NUM_SAMPLES)

    def call(net, t, x, seen):
        return net(t, x, None, seen, None)

    pipeline.ema_model.eval()
    make = functools.partial(from_nnx.flow, pipeline.ema_model, (2, 1), bj.schedulers.CondOT(), call=call)
    posterior = two_moons_posterior(np.random.default_rng(0), 2000)
    return Client(
        model="the posterior of two moons at x = 0; the tables learned from 256 other observations",
        flow=bj.given(make(condition=jnp.zeros((2, 1))), x[:256, :, None]), test=make(condition=jnp.zeros((2, 1))),
        x0=pipeline.method.sample_init(jax.random.split(KEY)[1], NUM_SAMPLES), default="Euler 100",
        own={"Euler 8": (8, run(step_size=1 / 8)), "midpoint 4": (8, run(step_size=1 / 4, method=diffrax.Midpoint())),
             "Euler 100": (100, run())},
        with_table=lambda theta: run(method=TableSolver(theta), step_size=1.0),
        merit=("C2ST", lambda samples: float(c2st(posterior, samples[:2000]))),
    )  # fmt: skip
