"""Learned tables beside the best dedicated solver of each NFE: `python -m benchmarks.learned_tables [--rmse] [flow ...]`.

One row per flow and NFE, PSNR in dB on fresh noise, of the mean RMSE and in brackets the mean over samples: the best of all
dedicated solvers and grids (for each figure its own, chosen on 12 of the noises as in experiments.learning.compare), the table
that the default `fit` learns, and its lead. With --rmse the fit minimises the mean RMSE itself, on 2,048 paths: for flows where a
few noises whose paths part dominate it.
"""

import sys

import jax

import bespoke_jax as bj
from benchmarks.fit_defaults import NUM_TEST, NUM_TEST_CLOSED_FORM, flows
from experiments.learning.compare import compare

NFES = (4, 6, 8, 10, 16, 20)


def row(name: str, flow, nfe: int, recipe: bj.Recipe, x0, x1, paths, validation) -> str:
    theta, key = bj.init_theta("table", nfe), jax.random.key(0)
    fitted = bj.fit(flow, theta, key, recipe, paths=paths, validation=validation)
    found = compare(flow, (nfe,), [("table", fitted.theta)], x0, x1)
    others = found.dedicated + found.plain
    best = [max(others, key=lambda row, figure=figure: getattr(row, figure)) for figure in ("psnr", "mean_psnr")]
    (table,) = found.learned
    return (
        f"| {name} | {nfe} | {best[0].solver} | {best[0].psnr:.1f} ({best[1].mean_psnr:.1f}) | {fitted.start} | "
        f"{table.psnr:.1f} ({table.mean_psnr:.1f}) | {table.psnr - best[0].psnr:+.1f} "
        f"({table.mean_psnr - best[1].mean_psnr:+.1f}) | {fitted.cost:,} |"
    )


def main(*wanted):
    recipe = bj.mean_rmse() if "--rmse" in wanted else bj.Recipe()
    wanted = set(wanted) - {"--rmse"}
    print("| flow | NFE | best dedicated solver | its PSNR | start | table | gain | evaluations of the fit |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in flows().items():
        if wanted and name not in wanted:
            continue
        flow, key = make(), jax.random.key(0)
        num_test = NUM_TEST if name.startswith("fashion") else NUM_TEST_CLOSED_FORM
        test, paths, validation = (
            bj.ground_truth(flow, flow.noise(jax.random.fold_in(key, 100 + i), (num,)), batch_size=1024)
            for i, num in enumerate((num_test, recipe.num_paths, recipe.num_validation))
        )
        for nfe in NFES:
            print(row(name, flow, nfe, recipe, test.x0, test.x1, paths, validation), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
