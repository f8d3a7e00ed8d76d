"""The memory of what is compiled, on the shipped flow, 16 paths: `python -m benchmarks.memory`.

MiB that XLA takes beyond arguments and result (`memory_analysis().temp_size_in_bytes`), on one device: nothing is run.
"""

import jax
import jax.numpy as jnp

import bespoke_jax as bj

BATCH_SIZE = 16
STEPS = (4, 8, 16, 32)
KNOTS = 20


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


if __name__ == "__main__":
    main()
