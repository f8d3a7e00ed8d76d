"""Does the result of fitting a table depend on its start? `python -m benchmarks.table_starts [NFE]`, on the shipped flow.

Fits a table from the best dedicated solver of each of a few methods and prints its PSNR in dB before and after, of the mean RMSE
(mean over samples) on 64 fresh noises, and its times.
"""

import sys

import jax
import numpy as np

import bespoke_jax as bj
from benchmarks.figures import figure

STARTS = ("midpoint/karras", "deis-2/karras", "dpm_solver-2/karras", "ipndm_noise-3/karras")


def main(nfe: int = 4):
    bj.sharding.use_all_cores()
    flow, key = bj.sharding.replicate(bj.models.load_flow("fashion_fmot")), jax.random.key(0)
    paths, validation, test = (
        bj.ground_truth(flow, flow.noise(jax.random.fold_in(key, i), (num,)), batch_size=32)
        for i, num in enumerate((96, 32, 64))
    )
    tables = bj.classic.dedicated(nfe, flow.scheduler)
    print("| start | PSNR there | after the fit | times |")
    print("|---|---|---|---|")
    for name in STARTS:
        theta = bj.LearnedTable.of(tables[name])
        fitted = bj.fit(flow, theta, key, bj.Recipe(choose_start=False), paths=paths, validation=validation).theta
        times = ", ".join(f"{t:.2f}" for t in np.asarray(bj.to_table(fitted).t))
        print(f"| {name} | {figure(flow, theta, test)} | {figure(flow, fitted, test)} | {times} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
