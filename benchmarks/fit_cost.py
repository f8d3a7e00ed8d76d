"""What a good rk2-bespoke (n = 5) costs: `python -m benchmarks.fit_cost [--converged] [flow ...]`, by default the shipped flow.

One row per way of fitting: velocity evaluations of single samples in all (forward 1, its reverse-mode gradient 2 more, true
paths, the choice of the start and held-out paths included), PSNR in dB on 128 fresh noises (of the mean RMSE, and in brackets
the mean over samples), seconds. Algorithm 3 as printed solves fresh paths at every iteration; it gets as many evaluations as
the frugal fit is allowed, and four times that. --converged adds a fit on which nothing is spared, of some 700,000 evaluations.
"""

import sys
import time

import jax
import jax.numpy as jnp
import optax

import bespoke_jax as bj
from benchmarks.fit_defaults import figure, flows
from bespoke_jax.ground_truth import padded
from experiments.command_line import use_all_cores

BUDGET = 20_000
NUM_KNOTS = 40  # more than the paths of a batch take
NUM_TEST = 128
ALGORITHM_3_BATCH = 8  # the paper leaves it open; more would leave fewer updates than one can call learning

# Arguments of `fit`. What the frugal one is worth: benchmarks/README.md.
FRUGAL = dict(
    stages=(bj.Stage("endpoint", 6, bj.LevenbergMarquardt(memory=0.8), batch_size=24, chunk_size=24, probes=2),),
    num_paths=40,
    num_validation=16,
    rtol=1e-3,
    atol=1e-3,
)
CONVERGED = dict(
    stages=(bj.Stage("endpoint", 24), bj.Stage("endpoint", 24, batch_size=256)), num_paths=512, num_validation=128
)


def algorithm_3(flow, theta, key, budget: int):
    """(theta, evaluations) of Algorithm 3 as printed: Adam on the RMSE-Bound loss, on fresh paths each time."""
    stage = bj.Stage("rmse_bound", 1, optax.adam(2e-3), batch_size=ALGORITHM_3_BATCH)
    state, spent, iteration = stage.optimizer.init(theta.raw), 0, 0
    while spent < budget:
        fresh = jax.random.fold_in(key, iteration)
        paths = bj.ground_truth(flow, flow.noise(fresh, (stage.batch_size,)))
        # One shape for all iterations, which compiles once.
        fields = (paths.times, paths.states, paths.velocities, paths.middles, paths.evaluations)
        paths = bj.Paths(*padded(fields, NUM_KNOTS), batch_shape=paths.batch_shape)
        paths = bj.sharding.everywhere(flow, paths)
        theta, state, _, evaluations = stage.update(flow, theta, state, paths, fresh, iteration, 1)
        spent, iteration = spent + evaluations + int(jnp.sum(paths.evaluations)), iteration + 1
    return theta, spent


def main(*wanted):
    use_all_cores()
    identity, key = bj.init_theta("rk2", 5), jax.random.key(0)

    def fitted(**arguments):
        result = bj.fit(flow, identity, key, **arguments)
        return result.theta, result.cost

    ways = {
        "frugal fit": lambda: fitted(**FRUGAL),
        "default fit": fitted,
        f"Algorithm 3, {BUDGET:,}": lambda: algorithm_3(flow, identity, key, BUDGET),
        f"Algorithm 3, {4 * BUDGET:,}": lambda: algorithm_3(flow, identity, key, 4 * BUDGET),
    }
    if "--converged" in wanted:
        ways["converged"] = lambda: fitted(**CONVERGED)
    names = [name for name in wanted if name != "--converged"] or ["fashion_fmot"]
    print("| flow | fit | evaluations | PSNR | seconds |")
    print("|---|---|---|---|---|")
    for name in names:
        flow = bj.sharding.replicate(flows()[name]())
        x0 = flow.noise(jax.random.fold_in(key, 100), (NUM_TEST,))
        test = bj.sharding.gather(flow, bj.ground_truth(flow, x0, batch_size=32))
        if name == "fashion_fmot":
            shipped = bj.models.shipped_solver(name, "rk2", 5)
            print(f"| {name} | the shipped solver |  | {figure(flow, shipped, test)} |  |", flush=True)
        print(f"| {name} | none: midpoint |  | {figure(flow, identity, test)} |  |", flush=True)
        for way, learn in ways.items():
            start = time.perf_counter()
            theta, cost = learn()
            seconds = time.perf_counter() - start
            print(f"| {name} | {way} | {cost:,} | {figure(flow, theta, test)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
