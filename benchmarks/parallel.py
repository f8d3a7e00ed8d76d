"""Parallel evaluations: is a block of them worth its larger batch? `python -m benchmarks.parallel [LATENCY [SIZE]]`.

Tables of the shipped flow `fashion_fmot` with as many calls in a row as `LATENCY` (4), and with `SIZE` (2) evaluations in each,
and one with as many evaluations in a row: PSNR in dB of the mean RMSE (mean over samples) on 128 fresh noises, after the default
fit.
"""

import sys

import jax

import bespoke_jax as bj
from benchmarks.figures import figure


def main(latency: int = 4, size: int = 2) -> None:
    """Print the table."""
    bj.sharding.use_all_cores()
    flow, key = bj.sharding.replicate(bj.models.load_flow("fashion_fmot")), jax.random.key(0)
    data = [
        bj.ground_truth(flow, flow.noise(jax.random.fold_in(key, i), (number,)), batch_size=32, ends_only=True)
        for i, number in enumerate((192, 64, 128))
    ]
    solvers = {
        "in a row": bj.init_theta("table", latency),
        f"in blocks of {size}": bj.LearnedTable.of(bj.in_blocks(bj.classic.euler(latency), size)),
        "as many in a row": bj.init_theta("table", latency * size),
    }
    print("| evaluations | NFE | latency | PSNR |")
    print("|---|---|---|---|")
    for name, solver in solvers.items():
        fitted = bj.fit(flow, solver, key, paths=data[0], validation=data[1])
        found = figure(flow, fitted.theta, data[2])
        print(f"| {name} | {fitted.theta.nfe} | {fitted.theta.latency} | {found} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
