"""What several clients share: data, a network, a training loop, a distance."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

KEY = jax.random.key(0)


def moons(rng: np.random.Generator, number: int) -> np.ndarray:
    """Two moons of noise 0.05, centred, with a standard deviation near one."""
    upper = rng.random(number) < 0.5
    angle = np.pi * rng.random(number)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(upper[:, None], points, [1.0, 0.5] - points)
    return np.float32(1.5 * (points - [0.5, 0.25]) + 0.05 * rng.standard_normal((number, 2)))


def energy_distance(reference: np.ndarray):
    """A function of samples: the square root of their energy distance to `reference`, on 2,000 of each."""
    reference = reference[:2000]

    def apart(a, b):
        return np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)).mean()

    def of(samples):
        samples = np.float64(samples[:2000])
        return float(
            max(0, 2 * apart(samples, reference) - apart(samples, samples) - apart(reference, reference)) ** 0.5
        )

    return of


def trained(loss, params, num_steps: int, rate: float = 2e-3):
    """The parameters after Adam on `loss(params, key)`, in one compiled loop."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

    def update(state, key):
        params, moments = state
        change, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, change), moments), None

    keys = jax.random.split(KEY, num_steps)
    return jax.jit(lambda state: jax.lax.scan(update, state, keys))((params, optimizer.init(params)))[0][0]


def layers(sizes: tuple[int, ...], key=KEY) -> list:
    """The weights of a network of dense layers."""
    keys = jax.random.split(key, len(sizes))
    pairs = zip(keys[1:], sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(key, pair) / pair[0] ** 0.5, jnp.zeros(pair[1])) for key, *pair in pairs]


def dense(weights: list, x: jax.Array) -> jax.Array:
    """The network of dense layers."""
    for weight, bias in weights[:-1]:
        x = jax.nn.silu(x @ weight + bias)
    return x @ weights[-1][0] + weights[-1][1]


def column(t, x: jax.Array) -> jax.Array:
    """t for each sample of x, [B, 1]."""
    return jnp.broadcast_to(jnp.reshape(t, (-1, 1)), (len(x), 1))
