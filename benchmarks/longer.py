"""Is a longer table better begun from a shorter one? `python -m benchmarks.longer [--flow NAME] [M:N ...]`.

For each pair, tables of N evaluations by the default recipe, on the same paths: begun as `fit` begins, from dedicated solvers,
and from the shipped table of M, `bj.lengthened`. PSNR in dB on 256 fresh noises of the mean RMSE (mean over samples), where each
began, and the velocity evaluations of the fit, without those of the shipped table.
"""

import argparse
import dataclasses

import jax

import bespoke_jax as bj
from benchmarks.figures import figure
from bespoke_jax.flow.conditions import dealt

NUM_TEST = 256


def main() -> None:
    """Print the table of one flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=["6:8", "8:10", "10:12"], metavar="M:N")
    parser.add_argument("--flow", default="fashion_fmot_class")
    options = parser.parse_args()
    bj.sharding.use_all_cores()
    labels = "all" if options.flow.endswith("_class") else None
    flow, key = bj.sharding.replicate(bj.models.load_flow(options.flow, labels=labels)), jax.random.key(0)

    def solved(purpose: int, number: int) -> tuple[bj.Flow, bj.Paths]:
        fresh = jax.random.fold_in(key, purpose)
        some = dealt(flow, fresh, number)
        return some, bj.ground_truth(some, flow.noise(fresh, (number,)), batch_size=64, ends_only=True)

    recipe = bj.Recipe()
    paths = dict(paths=solved(0, recipe.num_paths)[1], validation=solved(1, recipe.num_validation)[1])
    test_flow, test = solved(2, NUM_TEST)
    print(f"{options.flow}\n| NFE | from | PSNR | it began as | evaluations |\n|---|---|---|---|---|")
    for pair in options.pairs:
        short, long = map(int, pair.split(":"))
        table = bj.models.shipped_solver(options.flow, "table", short)
        starts = {
            "dedicated solvers": bj.init_theta("table", long),
            f"the shipped table of {short}": bj.LearnedTable.of(bj.lengthened(table, long)),
        }
        for name, start in starts.items():
            own = dataclasses.replace(recipe, choose_start=name == "dedicated solvers")
            result = bj.fit(flow, start, key, own, **paths)
            found = figure(test_flow, result.theta, test)
            print(f"| {long} | {name} | {found} | {result.start} | {result.cost:,} |", flush=True)


if __name__ == "__main__":
    main()
