"""The memory of large conditions, a cached prefix of keys and values: `python -m benchmarks.conditions`.

Of one prefix that is the flow's own condition, of one that samples are `given`, and of four: what a fit keeps for its 192 paths,
and what XLA takes beyond arguments and results (`memory_analysis().temp_size_in_bytes`) for 16 samples and for 4. Nothing is run.
"""

import jax
import jax.numpy as jnp

import bespoke_jax as bj
from bespoke_jax.flow import conditions, kernels

PREFIX = (2**15, 2**9)  # keys, and values: 128 MiB
NUM_PATHS = 128 + 64
PROBES = 4


def attention(params, t, x):
    """x [B, D] attends to a prefix of keys and values [N, D]."""
    c = params["condition"]
    return jax.nn.softmax((x + c["text"] + t) @ c["keys"].T) @ c["values"] - x


def no_text(condition):
    return condition | {"text": 0 * condition["text"]}


def pulled(flow, x, cotangents):
    """Cotangents of an update: one pass back for each probe."""
    return jax.vmap(jax.vjp(lambda x: flow(0.3, x), x)[1])(cotangents)


def mebibytes(function, *args) -> str:
    return f"{jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes / 2**20:.0f}"


def row(flow: bj.Flow, batch_size: int) -> list[str]:
    """MiB kept for the paths; MiB of a velocity, of its slope in time, of probes, and of a guided velocity."""
    paths = conditions.dealt(flow, jax.random.key(0), NUM_PATHS)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(conditions.stored_conditions(paths) or paths.params))
    some = conditions.of_samples(paths, slice(batch_size))
    guided = conditions.of_samples(bj.guided(paths, 0.5, no_text), slice(batch_size))
    x = jax.ShapeDtypeStruct((batch_size, *flow.event_shape), jnp.float32)
    cotangents = jax.ShapeDtypeStruct((PROBES, *x.shape), jnp.float32)
    return [
        f"{kept / 2**20:.0f}",
        mebibytes(kernels.velocity, some, 0.3, x),
        mebibytes(kernels.velocity_and_slope, some, jnp.float32(0.3), x),
        mebibytes(pulled, some, x, cotangents),
        mebibytes(kernels.velocity, guided, 0.3, x),
    ]


def main():
    one = {"keys": jnp.ones(PREFIX), "values": jnp.ones(PREFIX), "text": jnp.zeros(PREFIX[-1])}
    flow = bj.Flow(attention, {"condition": one}, PREFIX[-1:])
    print(f"A prefix: {2 * one['keys'].nbytes / 2**20:.0f} MiB. {NUM_PATHS} paths.\n")
    print(f"| conditions | samples | kept for the paths | a velocity | and its slope | {PROBES} probes | guided |")
    print("|---" * 7 + "|")
    for count, batch_size in ((0, 16), (1, 16), (4, 16), (4, 4)):
        of_samples = {name: jnp.stack([leaf] * count) for name, leaf in one.items()} if count else None
        name = f"{count}, given" if count else "the flow's own"
        found = row(bj.given(flow, of_samples) if count else flow, batch_size)
        print(f"| {name} | {batch_size} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
