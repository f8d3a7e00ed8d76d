"""Posteriors of the benchmark of simulation-based inference, as sbibm-jax has it."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import column, dense, layers, trained

TASKS = ("two_moons", "gaussian_linear_uniform", "gaussian_mixture", "slcp")
_SIMULATIONS, _FITTED, _COMPARED = 50_000, 256, 2000


def sbibm(name: str) -> Client:
    """A small flow trained on simulations of a task, at the task's first observation; C2ST to its reference posterior."""
    import sbibm_jax.tasks
    from gensbi.diagnostics.metrics import c2st

    task = sbibm_jax.tasks.get_task(name)
    theta = task.get_prior(jax.random.key(1), _SIMULATIONS)
    seen = task.get_simulator(jax.random.key(2))(jax.random.key(3), theta)
    observed = jnp.asarray(task.get_observation(1)).reshape(1, -1)
    reference = np.asarray(task.get_reference_posterior_samples(1))
    inside = _Standard(theta)
    data, conditions, observed = inside(theta), *(_tamed(x, seen) for x in (seen, observed))
    num, size = data.shape[1], data.shape[1] + conditions.shape[1] + 1

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        kept = jax.random.randint(keys[0], (256,), 0, _SIMULATIONS)
        x0, t = jax.random.normal(keys[1], (256, num)), jax.random.uniform(keys[2], (256, 1))
        xt = jnp.concatenate([x0 + t * (data[kept] - x0), conditions[kept], t], axis=1)
        return jnp.mean((dense(weights, xt) - (data[kept] - x0)) ** 2)

    weights = trained(loss, layers((size, 128, 128, 128, num)), 8000)

    def velocity(params, t, x):
        of = jnp.broadcast_to(params["condition"], (len(x), conditions.shape[1]))
        return dense(params["network"], jnp.concatenate([x, of, column(t, x)], axis=1))

    flow = bj.Flow(velocity, {"network": weights, "condition": observed[0]}, (num,), bj.schedulers.CondOT())
    noise = jax.random.normal(jax.random.key(4), (NUM_SAMPLES, num))

    def run(evaluations):
        drawn = jax.jit(evaluations)
        return lambda: drawn(flow, noise)  # as arguments: XLA would work constants out beforehand

    def euler(steps):
        def evaluations(flow, x):
            return jax.lax.fori_loop(0, steps, lambda i, x: x + flow(i / steps, x) / steps, x)

        return steps, run(evaluations)

    def merit(samples):
        return float(c2st(reference[:_COMPARED], np.asarray(inside.back(samples[:_COMPARED]))))

    return Client(
        model=f"the posterior of {task.name_display} at its first observation; the tables learned from {_FITTED} others",
        flow=bj.given(flow, conditions[:_FITTED]), test=flow, x0=noise, default="Euler 100",
        own={"Euler 8": euler(8), "Euler 100": euler(100)},
        with_table=lambda theta: run(lambda flow, x: bj.solve(flow, theta, x)), merit=("C2ST", merit),
    )  # fmt: skip


class _Standard:
    """Parameters with mean 0 and standard deviation 1 under the prior, and back."""

    def __init__(self, theta):
        self.mean, self.std = jnp.mean(theta, axis=0), jnp.std(theta, axis=0)

    def __call__(self, theta):
        return (theta - self.mean) / self.std

    def back(self, samples):
        return samples * self.std + self.mean


def _tamed(x, seen):
    """Observations by the median and spread of all, their tails bent."""
    low, middle, high = jnp.quantile(seen, jnp.array([0.16, 0.5, 0.84]), axis=0)
    return jnp.arcsinh(2 * (x - middle) / (high - low))
