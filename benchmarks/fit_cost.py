"""What a good rk2-bespoke (n = 5) costs: `python -m benchmarks.fit_cost [--converged] [flow ...]`, by default all shipped flows.

One row per way of fitting: the total velocity evaluations of single samples (a forward pass counts 1, its reverse-mode gradient 2
more; true ends, the choice of the start and held-out paths are included), PSNR in dB on 512 fresh noises (of the mean RMSE, in
brackets the mean over samples), and seconds. `frugal` begins from the usual starts, then also from a solver learned on another
shipped flow. Algorithm 3 as printed solves fresh paths at every iteration. --converged adds a converged fit.
"""

import sys
import time

import jax
import jax.numpy as jnp
import optax

import bespoke_jax as bj
from benchmarks.figures import figure
from bespoke_jax.fitting.budget import reference
from bespoke_jax.flow.conditions import dealt
from bespoke_jax.run.interpolation import padded

BUDGET = 20_000
NUM_KNOTS = 40  # more than any path of a batch needs
NUM_TEST = 512  # the mean RMSE of 128 of them scatters by half a decibel
ALGORITHM_3_BATCH = 8  # the paper leaves it open; a larger one would leave too few updates to learn from


def algorithm_3(flow, theta, key, budget: int):
    """(theta, evaluations) of Algorithm 3 as printed: Adam on the RMSE-Bound loss, with fresh paths at every iteration."""
    stage = bj.Stage("rmse_bound", 1, optax.adam(2e-3), batch_size=ALGORITHM_3_BATCH)
    state, spent, iteration = stage.optimizer.init(theta.raw), 0, 0
    while spent < budget:
        fresh = jax.random.fold_in(key, iteration)
        some = dealt(flow, fresh, stage.batch_size)
        paths = bj.ground_truth(some, flow.noise(fresh, (stage.batch_size,)))
        # One shape for all iterations compiles once.
        fields = (paths.times, paths.states, paths.velocities, paths.middles, paths.evaluations)
        paths = bj.Paths(*padded(fields, NUM_KNOTS), paths.batch_shape, paths.condition)
        paths = bj.sharding.everywhere(flow, paths)
        theta, state, _, evaluations = stage.update(flow, theta, state, paths, fresh, iteration, 1)
        spent, iteration = spent + evaluations + int(jnp.sum(paths.evaluations)), iteration + 1
    return theta, spent


def load(name: str) -> bj.Flow:
    """A shipped flow, with all its classes if it has any."""
    return bj.models.load_flow(name, labels="all" if name.endswith("_class") else None)


def transferred(name: str, flow) -> bj.Theta:
    """The solver of another shipped flow, for this one."""
    other = "fashion_fmot_class" if name == "fashion_fmot" else "fashion_fmot"
    return bj.transfer(bj.models.shipped_solver(other, "rk2", 5), load(other).scheduler, flow.scheduler)


def table(name: str, with_converged: bool):
    """Print the rows of one flow."""
    identity, key, flow = bj.init_theta("rk2", 5), jax.random.key(0), load(name)
    some = dealt(flow, key, NUM_TEST)
    test = bj.ground_truth(some, flow.noise(jax.random.fold_in(key, 100), (NUM_TEST,)), batch_size=32)
    flow = bj.sharding.replicate(flow)
    shipped, other, truth = bj.models.shipped_solver(name, "rk2", 5), transferred(name, flow), reference(flow, 10)

    def fitted(theta, recipe):
        result = bj.fit(flow, theta, key, recipe)
        return result.theta, result.cost

    def converged():
        """From the best known solver, on many paths."""
        stages = (bj.Stage("endpoint", 128, batch_size=64),)
        return fitted(shipped, bj.Recipe(stages=stages, num_paths=512, num_validation=128, reference=truth))

    there = {
        "none: midpoint": identity,
        "none: transferred": other,
        "the shipped solver": shipped,
        "what frugal learns from": truth,
    }
    for way, solver in there.items():
        print(f"| {name} | {way} |  | {figure(some, solver, test)} |  |", flush=True)
    ways = {
        "frugal": lambda: fitted(identity, bj.frugal(BUDGET)),
        "frugal, from transferred": lambda: fitted(other, bj.frugal(BUDGET)),
        "default": lambda: fitted(identity, bj.Recipe()),
        "Algorithm 3": lambda: algorithm_3(flow, identity, key, BUDGET),
    }
    if with_converged:
        ways["converged"] = converged
    for way, learn in ways.items():
        start = time.perf_counter()
        theta, cost = learn()
        seconds = time.perf_counter() - start
        print(f"| {name} | {way} | {cost:,} | {figure(some, theta, test)} | {seconds:.0f} |", flush=True)


def main(*wanted):
    bj.sharding.use_all_cores()
    print("| flow | fit | evaluations | PSNR | seconds |")
    print("|---|---|---|---|---|")
    for name in [name for name in wanted if name != "--converged"] or bj.models.SHIPPED:
        table(name, "--converged" in wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])
