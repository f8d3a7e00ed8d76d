"""The memory of compiled programs, on the shipped flow with 16 paths, and of true paths: `python -m benchmarks.memory`.

The first table has the MiB that XLA takes beyond arguments and result (`memory_analysis().temp_size_in_bytes`), on one device,
without running anything. The second has the GiB that the true paths of a default fit take for events of all sizes, predicted and
measured, on a field that costs nothing.
"""

import resource

import jax
import jax.numpy as jnp

import bespoke_jax as bj
from bespoke_jax.fitting import memory

BATCH_SIZE = 16
STEPS = (4, 8, 16, 32)
KNOTS = 20
EVENTS = ((32, 32, 3), (64, 64, 4), (256, 256, 3), (512, 512, 3))
NUM_PATHS = 128 + 64


def mebibytes(function, *args) -> str:
    return f"{jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes / 2**20:.1f}"


def shapes_of_paths(event_shape) -> bj.Paths:
    def of(*shape):
        return jax.ShapeDtypeStruct((BATCH_SIZE, *shape), jnp.float32)

    knots, middles = of(KNOTS, *event_shape), of(KNOTS - 1, *event_shape)
    evaluations = jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.int32)
    return bj.Paths(of(KNOTS), knots, knots, middles, evaluations, batch_shape=(BATCH_SIZE,))


def main():
    flow = bj.models.load_flow("fashion_fmot")
    paths = shapes_of_paths(flow.event_shape)
    x0 = paths.states.update(shape=(BATCH_SIZE, *flow.event_shape))

    def gradient(loss):
        def of(theta, flow, paths):
            return jax.grad(lambda raw: loss(flow, theta.with_raw(raw), paths))(theta.raw)

        return lambda theta: mebibytes(of, theta, flow, paths)

    def solved(theta):
        return mebibytes(bj.solve, flow, theta, x0)

    print(
        f"One state of the batch: {4 * x0.size / 2**20:.2f} MiB; one velocity: {mebibytes(lambda x: flow(0.5, x), x0)} MiB\n"
    )
    print("| rk2, steps n | " + " | ".join(map(str, STEPS)) + " |")
    print("|---" * (1 + len(STEPS)) + "|")
    rows = {
        "solve": solved,
        "solve, as a table": lambda theta: solved(jax.jit(bj.to_table)(theta)),
        "gradient of the RMSE-Bound": gradient(bj.losses.rmse_bound),
        "gradient of the end-point loss": gradient(bj.losses.endpoint),
    }
    for name, of in rows.items():
        print(f"| {name} | " + " | ".join(of(bj.init_theta("rk2", n)) for n in STEPS) + " |", flush=True)

    print("\n| event | ends, predicted | ends | whole, predicted | whole | peak of solving the ends |")
    print("|---" * 6 + "|")
    for event in EVENTS:
        print(f"| {' x '.join(map(str, event))} | " + " | ".join(of_true_paths(event)) + " |", flush=True)


def of_true_paths(event) -> list[str]:
    """GiB of the paths of a default fit; those of whole paths are scaled up from 4 paths, since they grow in proportion."""
    flow = bj.Flow(towards, jnp.linspace(-1, 1, event[-1]), event)

    def gibibytes(size):
        return f"{size / 2**30:.3f}"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ends = bj.ground_truth(flow, flow.noise(jax.random.key(0), (NUM_PATHS,)), ends_only=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    kept, count = sum(leaf.nbytes for leaf in jax.tree.leaves(ends)), 4
    del ends
    few = bj.ground_truth(flow, flow.noise(jax.random.key(0), (count,)))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(few)) * NUM_PATHS // count
    predicted = [memory.of_paths(flow, NUM_PATHS, ends_only) for ends_only in (True, False)]
    return [gibibytes(size) for size in (predicted[0], kept, predicted[1], whole, peak)]


def towards(params, t, x):
    return (params - 0.9 * x) / (1.05 - t)


if __name__ == "__main__":
    main()
