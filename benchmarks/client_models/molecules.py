"""Molecules of several sizes by an equivariant graph network."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_EXACT, NUM_SAMPLES, Client
from benchmarks.client_models.training import layers, trained

ROOM, KINDS, WIDTH = 7, 2, 24  # atoms of the largest molecule, kinds of atoms, of the network's features
SHAPES = {"positions": (ROOM, 3), "kinds": (ROOM, KINDS)}

_TRIANGLE = [[np.cos(a), np.sin(a), 0.0] for a in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)]
_AXIS = [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
_AROUND = [
    _AXIS, _TRIANGLE, np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5, _TRIANGLE + _AXIS,
    [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], *_AXIS],
]  # fmt: skip
# of molecules of 3 to 7 atoms: the positions, and the smallest distance of two atoms around the centre
_PLACES = np.stack(
    [np.pad(np.array([[0.0] * 3, *around]), ((0, ROOM - 1 - len(around)), (0, 0))) for around in _AROUND]
)
_APART = np.array([2.0, 3**0.5, (8 / 3) ** 0.5, 2**0.5, 2**0.5])


def molecules(key, number: int) -> tuple[dict[str, jax.Array], jax.Array]:
    """(molecules, masks [number, ROOM]): a centre and two to six atoms of another kind at distance 1 around it, turned anyhow."""
    keys = jax.random.split(key, 3)
    size = jax.random.randint(keys[0], (number,), 0, len(_AROUND))
    mask = jnp.float32(jnp.arange(ROOM) < size[:, None] + 3)
    turned = jnp.linalg.qr(jax.random.normal(keys[1], (number, 3, 3)))[0]
    positions = jnp.einsum("bij,bnj->bni", turned, jnp.asarray(_PLACES, jnp.float32)[size])
    positions = centred(positions + 0.04 * jax.random.normal(keys[2], positions.shape), mask)
    kinds = jax.nn.one_hot(jnp.minimum(jnp.arange(ROOM), 1), KINDS) * mask[..., None]
    return {"positions": positions, "kinds": kinds}, mask


def centred(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Positions [..., ROOM, 3] of the molecule's atoms with their centre at 0, and 0 for those that are not there."""
    mask = mask[..., None]
    return (x - jnp.sum(x * mask, axis=-2, keepdims=True) / jnp.sum(mask, axis=-2, keepdims=True)) * mask


def network(weights: dict, t, x: dict[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """An equivariant graph network with a mask [B, ROOM]: messages from distances and features, moves along the differences."""
    ones = jnp.ones((*mask.shape, 1))
    features, places = jnp.concatenate([x["kinds"], t * ones], axis=-1) @ weights["in"], x["positions"]
    pairs = (mask[:, :, None] * mask[:, None, :] * (1 - jnp.eye(ROOM)))[..., None]
    for layer in weights["layers"]:
        apart = places[:, :, None] - places[:, None, :]
        square = jnp.sum(apart**2, axis=-1, keepdims=True)
        to, of = (features @ layer[name] for name in ("to", "of"))
        message = jax.nn.silu(to[:, :, None] + of[:, None, :] + square * layer["square"])
        message = jax.nn.silu(message @ layer["message"]) * pairs
        places = places + jnp.sum(apart / (1 + jnp.sqrt(square + 1e-6)) * (message @ layer["move"]), axis=2) / ROOM
        heard = jnp.concatenate([features, jnp.sum(message, axis=2)], axis=-1)
        features = features + jax.nn.silu(heard @ layer["heard"]) @ layer["change"]
    kinds = (features @ weights["out"]) * mask[..., None]
    return {"positions": centred(places - x["positions"], mask), "kinds": kinds}


def _weights() -> dict:
    def matrix(number, rows, columns):
        return layers((rows, columns), jax.random.key(number))[0][0]

    def layer(number):
        sizes = {"to": WIDTH, "of": WIDTH, "message": WIDTH, "heard": 2 * WIDTH, "change": WIDTH}
        found = {name: matrix(number + i, rows, WIDTH) for i, (name, rows) in enumerate(sizes.items())}
        return found | {"square": matrix(number + 6, 1, WIDTH)[0], "move": matrix(number + 7, WIDTH, 1)}

    return {
        "in": matrix(0, KINDS + 1, WIDTH), "out": matrix(1, WIDTH, KINDS), "layers": [layer(n) for n in (10, 20, 30)]
    }  # fmt: skip


def source(params: dict, key) -> dict[str, jax.Array]:
    """Noise of one molecule: its centre at 0, and 0 for the atoms that are not there."""
    keys, mask = jax.random.split(key), params["condition"]
    positions = centred(jax.random.normal(keys[0], SHAPES["positions"]), mask)
    return {"positions": positions, "kinds": jax.random.normal(keys[1], SHAPES["kinds"]) * mask[:, None]}


def atoms(params: dict) -> dict[str, jax.Array]:
    """The weights of the norm: of the atoms that are there."""
    return dict.fromkeys(SHAPES, params["condition"][:, None])


def velocity(params: dict, t, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of a batch, the mask of each sample being its condition."""
    return network(params["network"], t, x, params["condition"])


def stable(samples: np.ndarray, masks: np.ndarray) -> float:
    """The share with one centre, atoms at distances of 1 +- 0.15 from it, no two of them nearer than 0.8 of their distance."""
    split = KINDS * ROOM  # leaves are in the order of their names
    kinds, positions = samples[:, :split].reshape(-1, ROOM, KINDS), samples[:, split:].reshape(-1, ROOM, 3)
    masks, count = masks[: len(samples)] > 0, 0
    for place, kind, mask in zip(positions, kinds, masks, strict=True):
        centre = mask & (kind[:, 0] > kind[:, 1])
        if centre.sum() == 1:
            around = place[mask & ~centre]
            between = np.linalg.norm(around[:, None] - around[None], axis=2)[np.triu_indices(len(around), 1)]
            right = np.abs(np.linalg.norm(around - place[centre], axis=1) - 1) < 0.15
            count += bool(np.all(right) and np.min(between) > 0.8 * _APART[mask.sum() - 3])
    return count / len(samples)


def egnn() -> Client:
    """Positions and kinds of up to seven atoms, a tree with a mask, the noise with its centre at 0; steps of Euler."""

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        x1, mask = molecules(keys[0], 128)
        x0 = jax.vmap(source)({"condition": mask}, jax.random.split(keys[1], 128))
        t = jax.random.uniform(keys[2], (128, 1, 1))
        xt = jax.tree.map(lambda a, b: a + t * (b - a), x0, x1)
        off = jax.tree.map(lambda u, a, b: jnp.sum((u - (b - a)) ** 2), network(weights, t, xt, mask), x0, x1)
        return (off["positions"] + off["kinds"]) / jnp.sum(mask)

    weights = trained(loss, _weights(), 2000)
    one = bj.Flow(velocity, {"network": weights}, SHAPES, bj.schedulers.CondOT(), source=source, weights=atoms)
    fitted, masks = molecules(jax.random.key(2), 256)[1], molecules(jax.random.key(3), NUM_SAMPLES)[1]
    flow, everything = (bj.given(one, of, batched=True) for of in (fitted, masks))
    noise = everything.noise(jax.random.key(4), (NUM_SAMPLES,))

    def run(evaluations):
        drawn = jax.jit(lambda weights, masks, x: one.ravel(evaluations(weights, masks, x)))
        return lambda: drawn(weights, masks, noise)  # as arguments: XLA would work constants out beforehand

    def euler(steps):
        def evaluations(weights, masks, x):
            def step(i, x):
                return jax.tree.map(lambda x, u: x + u / steps, x, network(weights, i / steps, x, masks))

            return jax.lax.fori_loop(0, steps, step, x)

        return steps, run(evaluations)

    def with_table(theta):
        return run(
            lambda weights, masks, x: bj.solve(
                everything.replace(params={"network": weights, "condition": masks}), theta, x
            )
        )

    return Client(
        model="molecules of three to seven atoms by an equivariant graph network with masks",
        flow=flow, test=bj.given(one, masks[:NUM_EXACT], batched=True), x0=one.ravel(noise), with_table=with_table,
        default="Euler 100", own={"Euler 8": euler(8), "Euler 100": euler(100)},
        merit=("stable", lambda samples: stable(samples, np.asarray(masks))),
    )  # fmt: skip
