"""How far the default fit is from the best that a table of 8 evaluations can do: `python -m benchmarks.ceiling [flow ...]`.

One row per way of fitting, PSNR in dB on fresh noise, of the mean RMSE (mean over samples), and the velocity evaluations of
single samples: frugal, the default, the default with one thing more of (paths, steps, paths a step), and with all three from each
of the best few starts. JAX_ENABLE_X64=1 in the environment gives the table of a closed-form flow float64 coefficients.
"""

import dataclasses
import sys
import warnings

import jax

import bespoke_jax as bj
from benchmarks.figures import figure
from benchmarks.random_flows import case
from bespoke_jax.fitting.gauss_newton import evaluate
from bespoke_jax.fitting.starts import start_groups
from bespoke_jax.solver import LearnedSolver

NFE, NUM_STARTS = 8, 3
MORE_PATHS, MORE_STEPS, LARGER_BATCH = 1024, 256, 64
FLOWS = {
    "mixture8 vp": lambda: case(37).flow,
    "mixture64 cosine": lambda: case(26).flow,
    "fashion_fmot": lambda: bj.models.load_flow("fashion_fmot"),
}


def lengthened(recipe: bj.Recipe, num_paths: int = 0, num_iterations: int = 0, batch_size: int = 0) -> bj.Recipe:
    """The recipe with more of what is given."""
    *others, stage = recipe.stages
    given = dict(num_iterations=num_iterations, batch_size=batch_size)
    stage = dataclasses.replace(stage, **{name: value for name, value in given.items() if value})
    stages = (*others, dataclasses.replace(stage, validate_every=max(1, stage.num_iterations // 8)))
    return dataclasses.replace(recipe, stages=stages, num_paths=num_paths or recipe.num_paths)


WAYS = {
    "frugal": bj.frugal(),
    "default": bj.Recipe(),
    "more paths": lengthened(bj.Recipe(), num_paths=MORE_PATHS),
    "more steps": lengthened(bj.Recipe(), num_iterations=MORE_STEPS),
    "larger batches": lengthened(bj.Recipe(), batch_size=LARGER_BATCH),
}
LONG = dataclasses.replace(
    lengthened(bj.Recipe(), num_paths=MORE_PATHS, num_iterations=MORE_STEPS, batch_size=LARGER_BATCH),
    num_validation=256,
)


def best_starts(flow: bj.Flow, solver: LearnedSolver, paths: bj.Paths) -> dict[str, LearnedSolver]:
    """The best starts on these paths, of all structures, the best first."""
    starts = {name: start for group in start_groups(flow, solver) for name, start in group.items()}
    losses = {name: float(evaluate(bj.losses.Endpoint(), flow, start, paths)) for name, start in starts.items()}
    names = sorted((name for name in starts if losses[name] < float("inf")), key=losses.__getitem__)
    return {name: starts[name] for name in names[:NUM_STARTS]}


def rows(name: str):
    flow, solver, key = FLOWS[name](), bj.init_theta("table", NFE), jax.random.key(0)
    test = bj.ground_truth(
        flow, flow.noise(jax.random.key(2), (512 if name == "fashion_fmot" else 4096,)), batch_size=512
    )
    fits = [(way, solver, recipe) for way, recipe in WAYS.items()]
    few = bj.ground_truth(flow, flow.noise(jax.random.key(3), (32,)), ends_only=True)
    long = dataclasses.replace(LONG, choose_start=False)
    solver, _ = solver.suited(flow).with_samples(flow, few.x0, few.x1, 16)
    for start, theta in best_starts(flow, solver, few).items():
        fits.append((f"long, from {start}", theta, long))
    for way, start, recipe in fits:
        result = bj.fit(flow, start, key, recipe)
        yield f"| {name} | {way} | {figure(flow, result.theta, test)} | {result.cost:,} |"


def main(*wanted: str):
    warnings.filterwarnings("ignore", "fit: ")  # of heavy tails, which both figures show
    print("| flow | fit | PSNR | evaluations |")
    print("|---|---|---|---|")
    for name in wanted or FLOWS:
        for row in rows(name):
            print(row, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
