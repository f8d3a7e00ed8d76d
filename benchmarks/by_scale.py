"""One solver for a range of guidance scales: `python -m benchmarks.by_scale [--flow NAME] [--nfe N] [--scales W ...]`.

One row per solver: mean PSNR in dB at each guidance scale, on fresh noises of all classes. The table for the range is learned on
paths with a scale of their own each, from the table learned for the middle of the range. It has three times as many numbers as
the others, and twice as many paths and updates, of twice as many paths each.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from bespoke_jax.flow.conditions import dealt

LEAST, GREATEST, NUM_STEPS, NUM_PATHS, NUM_TEST = 0.5, 4.0, 48, 160, 64
OF_RANGE = bj.Stage(num_iterations=96, batch_size=32, keep_activations=True)


def paths_of(flow: bj.Flow, key: jax.Array) -> bj.Paths:
    """True paths of a guided flow."""
    return bj.ground_truth(flow, flow.noise(key, (NUM_TEST,)), batch_size=32, ends_only=True)


def guided(flow: bj.Flow, key: jax.Array, count: int, scale: float | None) -> bj.Flow:
    """The flow of `count` samples of all classes, at one scale; or None for scales spread over the range."""
    each = dealt(flow, key, count)
    return bj.guided(each, jnp.linspace(LEAST, GREATEST, count) if scale is None else jnp.full(count, scale))


def main() -> None:
    """Print the table of one flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="fashion_fmot_class")
    parser.add_argument("--nfe", type=int, default=6)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    options = parser.parse_args()
    bj.sharding.use_all_cores()
    flow, key = bj.models.load_flow(options.flow, labels="all"), jax.random.key(0)
    recipe = bj.Recipe(stages=(bj.Stage(num_iterations=NUM_STEPS),), num_paths=NUM_PATHS, num_validation=32)
    tests = [(flow_w := guided(flow, jax.random.key(1), NUM_TEST, w), paths_of(flow_w, key)) for w in options.scales]

    def learned(scale: float | None, start: bj.LearnedTable, recipe: bj.Recipe) -> bj.FitResult:
        return bj.fit(guided(flow, jax.random.key(2), recipe.num_paths, scale), start, jax.random.key(3), recipe)

    def row(name: str, solvers: list[bj.LearnedTable], evaluations: int) -> None:
        found = []
        for (some, paths), solver in zip(tests, solvers, strict=True):
            ends = bj.adjoint.end_points(some, solver, paths.x0, 32)
            found.append(float(np.mean(bj.metrics.psnr(bj.metrics.rmse(ends, paths.x1, ends.ndim - 1), 2.0))))
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in found) + f" | {evaluations:,} |", flush=True)

    print(f"{options.flow}, NFE {options.nfe}")
    print("| learned for | " + " | ".join(f"w = {w:g}" for w in options.scales) + " | evaluations |")
    print("|---" * (len(options.scales) + 2) + "|")
    number, start = len(tests), bj.init_theta("table", options.nfe)
    each = [learned(w, start, recipe) for w in options.scales]
    row("each scale alone", [result.theta for result in each], sum(result.cost for result in each))
    middle = learned((LEAST + GREATEST) / 2, start, recipe)
    row("the middle of the range", [middle.theta] * number, middle.cost)
    spread = bj.LearnedTable.of(bj.corrected(middle.theta, scales=(LEAST, GREATEST)))
    of_range = bj.Recipe(stages=(OF_RANGE,), num_paths=2 * NUM_PATHS, num_validation=64, choose_start=False)
    result = learned(None, spread, of_range)
    row("the range", [result.theta] * number, middle.cost + result.cost)


if __name__ == "__main__":
    main()
