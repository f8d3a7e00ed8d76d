"""A policy in the manner of pi0."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_EXACT, NUM_SAMPLES, Client
from benchmarks.client_models.training import column, dense, layers, trained


def chunks(key, number: int) -> tuple[jax.Array, jax.Array]:
    """(observations [number, 3], chunks of eight positions [number, 8, 2]): around an obstacle on the left or on the right.

    The way leads from (-1, 0) to (1, height of the goal); the obstacle is a disc at the observed centre.
    """
    keys = jax.random.split(key, 3)
    low, high = jnp.array([-0.4, -0.3, -0.5]), jnp.array([0.4, 0.3, 0.5])
    seen = jax.random.uniform(keys[0], (number, 3), minval=low, maxval=high)
    centre, goal = seen[:, None, :2], seen[:, None, 2:]
    along = jnp.linspace(-0.75, 1, 8)[None, :, None]
    side = jnp.where(jax.random.bernoulli(keys[1], 0.5, (number, 1, 1)), 1.0, -1.0)
    straight = goal * (along + 1) / 2
    over = jnp.exp(-(((along - centre[..., :1]) / 0.35) ** 2))
    across = straight + over * (centre[..., 1:] + 0.55 * side - straight)
    way = jnp.concatenate([jnp.broadcast_to(along, across.shape), across], axis=2)
    return seen, way + 0.02 * jax.random.normal(keys[2], way.shape)


def policy() -> Client:
    """A policy in the manner of pi0: chunks of actions, time 1 at the noise, ten Euler steps."""

    def expert(weights, seen, s, x):
        flat = jnp.concatenate([x.reshape(len(x), -1), seen, column(s, x)], axis=1)
        return dense(weights, flat).reshape(x.shape)

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        seen, way = chunks(keys[0], 256)
        noise, s = jax.random.normal(keys[1], way.shape), jax.random.uniform(keys[2], (256, 1, 1))
        return jnp.mean((expert(weights, seen, s, way + s * (noise - way)) - (noise - way)) ** 2)

    weights = trained(loss, layers((20, 128, 128, 128, 16)), 3000)

    def velocity(params, t, x):
        seen = jnp.broadcast_to(params["condition"], (len(x), 3))
        return -expert(params["network"], seen, 1 - t, x)

    fitted, test = chunks(jax.random.key(2), 256)[0], chunks(jax.random.key(3), NUM_SAMPLES)[0]
    flow = bj.Flow(velocity, {"network": weights, "condition": fitted[0]}, (8, 2), bj.schedulers.CondOT())
    noise = jax.random.normal(jax.random.key(4), (NUM_SAMPLES, 8, 2))

    def act(evaluations):
        drawn = jax.jit(evaluations)
        return lambda: drawn(weights, test, noise)  # as arguments: XLA would work constants out beforehand

    def euler(steps):
        def evaluations(weights, seen, x):
            for i in range(steps):
                x = x - expert(weights, seen, 1 - i / steps, x) / steps
            return x

        return steps, act(evaluations)

    def with_table(theta):
        table = bj.to_table(theta)

        def evaluations(weights, seen, x):
            carry = table.begin(x)
            for i, s in enumerate(table.times("noise_at_1")):
                carry, x = table.step(i, carry, -expert(weights, seen, s, carry.x))
            return x

        return act(evaluations)

    def collisions(samples):
        apart = samples.reshape(-1, 8, 2) - np.asarray(test)[: len(samples), None, :2]
        return float(np.mean(np.any(np.sum(apart**2, axis=2) < 0.2**2, axis=1)))

    return Client(
        model="chunks of eight actions around an obstacle",
        flow=bj.given(flow, fitted), test=bj.given(flow, test[:NUM_EXACT]), x0=noise, with_table=with_table, default="Euler 10",
        own={"Euler 5": euler(5), "Euler 10": euler(10), "Euler 50": euler(50)}, calls=(4, 5, 8),
        merit=("collisions", collisions),
    )  # fmt: skip
