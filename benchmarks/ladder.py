"""What a ladder of solvers costs, compared with its members: `python -m benchmarks.ladder [NFE ...]`, on the shipped flow.

Fits tables of each NFE together (`bj.fit_ladder`) and one by one, compiling everything anew, and prints seconds and velocity
evaluations of single samples. The last line tells whether running the solvers' evaluations in one call would pay: it compares a
velocity of 32 samples for each solver, one after the other, with the same vmapped over solvers, timed in turns.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.sampling import seconds
from bespoke_jax.flow import kernels

STAGES = (bj.Stage("endpoint", 32),)
NUM_PATHS, NUM_VALIDATION, BATCH = 96, 64, 32
ROUNDS = 20


def fitted(flow, counts) -> tuple[float, list[bj.FitResult], int]:
    """(seconds, results, evaluations with the true paths counted once) of a ladder, with nothing compiled beforehand."""
    jax.clear_caches()
    start = time.perf_counter()
    keys = (jax.random.key(1), jax.random.key(2))
    paths = [
        bj.ground_truth(flow, flow.noise(key, (count,)))
        for key, count in zip(keys, (NUM_PATHS, NUM_VALIDATION), strict=True)
    ]
    thetas = [bj.init_theta("table", nfe) for nfe in counts]
    results = bj.fit_ladder(
        flow, thetas, jax.random.key(0), bj.Recipe(stages=STAGES), paths=paths[0], validation=paths[1]
    )
    truth = int(sum(np.sum(p.evaluations) for p in paths))
    return time.perf_counter() - start, results, truth + sum(result.cost - truth for result in results)


def together(flow, count: int) -> float:
    """Time of one velocity call for `count` solvers together, over that of a call for each."""
    x = flow.noise(jax.random.key(3), (count, BATCH))
    times = np.linspace(0.1, 0.9, count, dtype=np.float32)
    at_once = jax.jit(jax.vmap(kernels.velocity, in_axes=(None, 0, 0)))

    def vmapped():
        return at_once(flow, times, x)

    def in_turn():
        return [kernels.velocity(flow, t, part) for t, part in zip(times, x, strict=True)]

    assert jnp.allclose(vmapped(), jnp.stack(in_turn()), atol=1e-4)
    return float(np.median([seconds(vmapped) / seconds(in_turn) for _ in range(ROUNDS)]))


def main(counts):
    flow = bj.models.load_flow("fashion_fmot")
    print("| fitted | seconds | velocity evaluations | PSNR on the held-out paths |\n|---|---|---|---|")
    sums = np.zeros(2)
    for members in (*((nfe,) for nfe in counts), counts):
        took, results, evaluations = fitted(flow, members)
        if len(members) == 1:
            sums += took, evaluations
        quality = ", ".join(f"{min(r.history, key=lambda h: h['rmse'])['psnr']:.1f}" for r in results)
        name = f"table, NFE {', '.join(map(str, members))}"
        print(f"| {name} | {took:.0f} | {evaluations:,} | {quality} |", flush=True)
    print(f"| one by one | {sums[0]:.0f} | {int(sums[1]):,} | |")
    print(f"\nOne velocity call for {len(counts)} solvers / a call for each: {together(flow, len(counts)):.2f}")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or (4, 6, 8, 10, 16))
