"""One row of `benchmarks/accelerator.sh`: `python -m benchmarks.accelerator TASK [--dtype D] [--batch B]`.

At the size of the paper's CIFAR10 network, untrained, with classes. Each row is "task, dtype, batch, seconds, unit, device":

- velocity: one compiled call of the network; sample: a compiled solve by a table of 8 evaluations; guided: that under guidance.
- truth: `ground_truth` of a batch. fit: a whole frugal fit of a table of 8 evaluations.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

import bespoke_jax as bj
from bespoke_jax.flow import kernels
from experiments.configs import cifar10_fmot_pretrain

NFE, ROUNDS, BUDGET = 8, 5, 20_000
TASKS = ("velocity", "sample", "guided", "truth", "fit")


def network(dtype: str, batch: int) -> bj.Flow:
    """The flow of a batch of samples, of ten classes in turn."""
    fields = cifar10_fmot_pretrain.get_config().network.to_dict() | {"dropout": 0.0, "num_classes": 10}
    module = getattr(bj.models, fields.pop("name"))(**fields | {"dtype": jnp.dtype(dtype)})
    params = jax.jit(module.init)(jax.random.key(0), 0.5, jnp.zeros((1, 32, 32, 3)))
    flow = bj.Flow(lambda p, t, x: module.apply(p, t, x), dict(params), (32, 32, 3), bj.schedulers.CondOT())
    return bj.given(flow, {"label": jnp.eye(10)[jnp.arange(batch) % 10]})


def seconds(function) -> float:
    """The median time of a few calls, after one that compiles."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measured(task: str, flow: bj.Flow, batch: int) -> tuple[float, str]:
    """(seconds, of what)."""
    key, table = jax.random.key(0), bj.classic.midpoint(NFE)
    x0 = flow.noise(key, (batch,))
    if task == "velocity":
        return seconds(lambda: kernels.velocity(flow, jnp.float32(0.5), x0)), "one call"
    if task == "sample":
        return seconds(lambda: bj.solve(flow, table, x0)), f"{NFE} calls"
    if task == "guided":
        return seconds(lambda: bj.solve(bj.guided(flow, 1.5), table, x0)), f"{NFE} pairs of calls"
    start = time.perf_counter()
    if task == "truth":
        jax.block_until_ready(bj.ground_truth(flow, x0, ends_only=True).states)
        return time.perf_counter() - start, "true paths with compilation"
    found = bj.fit(flow, bj.init_theta("table", NFE), key, bj.frugal(BUDGET))
    return time.perf_counter() - start, f"a fit of {found.cost} evaluations with compilation"


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    found, unit = measured(options.task, network(options.dtype, options.batch), options.batch)
    print(
        f"{options.task},{options.dtype},{options.batch},{found:.5g},{unit},{jax.devices()[0].device_kind}", flush=True
    )


if __name__ == "__main__":
    main()
