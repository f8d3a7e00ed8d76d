"""One program on 1, 2, 4 and 8 simulated CPU devices, on the shipped flow: `python -m benchmarks.devices`.

Prints the seconds for the true paths of 32 noises (tolerance 1e-3) and for a second-order update of rk2 (n = 5) on all 32, each
the least of two runs after one that compiles, with the ratio to one device in brackets. Then the largest difference of the
results from one device's. More devices than cores cannot be faster; the check is in the last columns.
"""

import os
import time

import jax
import numpy as np

import bespoke_jax as bj

SIZES = (1, 2, 4, 8)
NUM_PATHS = 32


def timed(function):
    """(the least of two times, the last result), after a first call that compiles."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), found


def main():
    jax.config.update("jax_num_cpu_devices", max(SIZES))
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as in experiments.run.command_line
    flow, key = bj.models.load_flow("fashion_fmot"), jax.random.key(0)
    x0, theta = flow.noise(key, (NUM_PATHS,)), bj.init_theta("rk2", 5)
    stage = bj.Stage("endpoint", 1, batch_size=NUM_PATHS)
    given = bj.ground_truth(flow, x0, 1e-3, 1e-3)
    print(f"{len(os.sched_getaffinity(0))} cores\n")
    print("| devices | true paths, s | update, s | difference of x1 | of theta |")
    print("|---|---|---|---|---|")
    first = None
    for size in SIZES:
        many = bj.sharding.replicate(flow, jax.devices()[:size])
        paths = bj.sharding.everywhere(many, given)  # the same for all: the third column compares them
        state = stage.optimizer.init(theta.raw)
        of_paths, solved = timed(lambda many=many: bj.ground_truth(many, x0, 1e-3, 1e-3))
        of_update, updated = timed(
            lambda many=many, state=state, paths=paths: stage.update(many, theta, state, paths, key, 0, 1)[0].raw
        )
        found = of_paths, of_update, np.asarray(solved.x1), np.asarray(updated)
        first = first or found
        cells = [f"{now:.2f} ({now / alone:.2f})" for now, alone in zip(found[:2], first[:2], strict=True)]
        cells += [f"{np.max(np.abs(now - alone)):.1e}" for now, alone in zip(found[2:], first[2:], strict=True)]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
