"""Corrections for each class: `python -m benchmarks.by_class [--flow NAME] [--nfe N] [--per-class P ...] [--batch-size B]`.

One row per solver: mean PSNR in dB of each class, on fresh noises, then the mean over classes. The shared table is the shipped
one; it learns on with the same paths and updates, once alone and once with corrections for each class.
"""

import argparse

import jax
import numpy as np

import bespoke_jax as bj

CLASSES, NUM_TEST, NUM_STEPS, BATCH_SIZE = 10, 48, 96, 16


def flow_of(name: str, per_class: int) -> bj.Flow:
    """A shipped flow of `per_class` samples of each class in turn."""
    return bj.models.load_flow(name, labels=list(range(CLASSES)) * per_class)


def paths_of(name: str, key: jax.Array, per_class: int) -> bj.Paths:
    """True paths of `per_class` samples of each class."""
    each = flow_of(name, per_class)
    return bj.ground_truth(each, each.noise(key, (per_class * CLASSES,)), batch_size=32, ends_only=True)


def figures(name: str, solver: bj.SolverTable | bj.LearnedTable, paths: bj.Paths) -> np.ndarray:
    """Mean PSNR of each class."""
    ends = bj.adjoint.end_points(flow_of(name, NUM_TEST), solver, paths.x0, 32)
    found = bj.metrics.psnr(bj.metrics.rmse(ends, paths.x1, ends.ndim - 1), 2.0)
    return np.asarray(found).reshape(NUM_TEST, CLASSES).mean(axis=0)


def main() -> None:
    """Print the table of one flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="fashion_vp_class")
    parser.add_argument("--nfe", type=int, default=6)
    parser.add_argument("--per-class", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="paths an update, of all classes")
    options = parser.parse_args()
    bj.sharding.use_all_cores()
    flow = flow_of(options.flow, 1)
    shared, key = bj.models.shipped_solver(options.flow, "table", options.nfe), jax.random.key(7)
    test = paths_of(options.flow, jax.random.key(1), NUM_TEST)
    validation = paths_of(options.flow, jax.random.key(2), 8)

    def row(name: str, solver: bj.SolverTable | bj.LearnedTable, evaluations: int = 0) -> None:
        found = figures(options.flow, solver, test)
        each = " | ".join(f"{value:.1f}" for value in found)
        print(f"| {name} | {each} | {found.mean():.1f} | {evaluations:,} |", flush=True)

    print(f"{options.flow}, NFE {options.nfe}")
    print("| solver | " + " | ".join(map(str, range(CLASSES))) + " | mean | evaluations |")
    print("|---" * (CLASSES + 3) + "|")
    row("as shipped", shared)
    for per_class in options.per_class:
        paths = paths_of(options.flow, jax.random.key(3), per_class)
        stage = bj.Stage(num_iterations=options.steps, batch_size=options.batch_size)
        recipe = bj.Recipe(stages=(stage,), choose_start=False, best_by="mean_psnr")
        for name, start in (("shared", shared), ("per class", bj.corrected(shared, num_classes=CLASSES))):
            fitted = bj.fit(flow, bj.LearnedTable.of(start), key, recipe, paths=paths, validation=validation)
            row(f"{name}, {per_class} paths a class", fitted.theta, fitted.cost)


if __name__ == "__main__":
    main()
