"""Guidance by the call beside pairs of calls: `python -m benchmarks.guidance [--scale W] [--calls N ...] [--only NAME ...]`.

One row per solver: network calls per sample, and the PSNR in dB on 128 fresh noises of all classes, of the mean RMSE and in
brackets the mean over samples. All are learned on the same 160 paths of the guided flow, by 48 small steps; with `--frugal
BUDGET` each by `bj.frugal(BUDGET)`, on paths of its own:

- pairs: a table over evaluations, each of two calls;
- by the call: `LearnedCalls` in pairs, the first of which it may save; the first half of the steps learns these pairs;
- on paths: `LearnedCalls.on_paths`, which chooses the calls, and begins where that leaves it;
- reuse: by the call, with the last difference of the two networks in the place of every other unconditional call;
- interval: by the call, with the last difference kept for the last third, where guidance matters least;
- two dropped: by the call, without the unconditional calls in the middle and at the end.

With `--per-class P` each has a second row: factors for each class (`bj.corrected`), learned from where the first row ends, by 24
updates of 160 paths each, of P true paths a class.
"""

import argparse
import dataclasses
from typing import NamedTuple

import jax

import bespoke_jax as bj
from benchmarks.figures import figure
from bespoke_jax.flow.conditions import dealt
from bespoke_jax.solver import LearnedSolver

NAMES = ["pairs", "by the call", "on paths", "reuse", "interval", "two dropped"]
NUM_STEPS, NUM_PATHS, NUM_VALIDATION, NUM_TEST = 48, 160, 32, 128
CLASSES = 10
_STAGE = bj.Stage(num_iterations=24, batch_size=160)  # updates with enough paths of each class
OF_CLASSES = bj.Recipe(stages=(_STAGE,), choose_start=False, best_by="mean_psnr")


def solvers(calls: int) -> dict[str, LearnedSolver]:
    """The solvers with this many calls, before they learn, but for that of `LearnedCalls.on_paths`."""
    found: dict[str, LearnedSolver] = {
        "pairs": bj.init_theta("table", calls // 2),
        "by the call": bj.LearnedCalls.euler(calls),
    }
    for label, left_out in (("reuse", _every_other), ("interval", _last_third), ("two dropped", _middle_and_last)):
        # As many evaluations as give this many calls.
        for nfe in range(2, calls):
            without = left_out(nfe)
            if 2 * nfe - len(without) == calls:
                found[f"{label}, {nfe} + {nfe - len(without)}"] = bj.LearnedCalls.euler(calls, without=without)
                break
    return found


def _every_other(nfe: int) -> list[int]:
    return list(range(1, nfe, 2))


def _last_third(nfe: int) -> list[int]:
    return list(range(nfe - nfe // 3, nfe))


def _middle_and_last(nfe: int) -> list[int]:
    return sorted({nfe // 2, nfe - 1})


class Fits(NamedTuple):
    """Fits of one flow by one recipe; `paths` has those to fit to and to hold out, if they are given."""

    flow: bj.Flow
    key: jax.Array
    recipe: bj.Recipe
    paths: dict[str, bj.Paths]

    def learned(self, start: LearnedSolver, choose_start: bool = True) -> bj.FitResult:
        """The fit from a start."""
        recipe = dataclasses.replace(self.recipe, choose_start=choose_start)
        return bj.fit(self.flow, start, self.key, recipe, **self.paths)

    def row(self, name: str, calls: int) -> tuple[str, bj.FitResult, int]:
        """(name, learned solver, network calls) of one row."""
        if name != "on paths":
            found = self.learned(solvers(calls)[name])
            return name, found, found.network_calls
        start = bj.LearnedCalls.on_paths(self.flow, calls, jax.random.key(11))
        found, others = self.learned(start, choose_start=False), sum(start.reference.fields or ())
        return f"{name}, {calls - others} + {others}", found, found.network_calls + 2 * (128 + 32 * 40) + 32 * calls


def per_class(flow: bj.Flow, fitted: bj.FitResult, paths: dict[str, bj.Paths]) -> bj.FitResult:
    """A learned table of any family, learned on with factors for each class."""
    start = type(fitted.theta).of(bj.corrected(fitted.theta, num_classes=CLASSES))
    return bj.fit(flow, start, jax.random.key(7), OF_CLASSES, **paths)


def main() -> None:
    """Print the table of one flow and scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="fashion_fmot_class")
    parser.add_argument("--scale", type=float, default=1.5)
    parser.add_argument("--calls", type=int, nargs="+", default=[8, 10, 12, 16])
    parser.add_argument("--only", nargs="+", default=NAMES, metavar="NAME")
    parser.add_argument("--frugal", type=int, metavar="BUDGET")
    parser.add_argument("--per-class", type=int, metavar="P")
    options = parser.parse_args()
    bj.sharding.use_all_cores()

    def flow_of(labels: str | list[int]) -> bj.Flow:
        return bj.sharding.replicate(bj.guided(bj.models.load_flow(options.flow, labels=labels), options.scale))

    flow, key = flow_of("all"), jax.random.key(0)

    def solved(purpose: int, number: int, each: bj.Flow | None = None) -> tuple[bj.Flow, bj.Paths]:
        fresh = jax.random.fold_in(key, purpose)
        some = dealt(flow, fresh, number) if each is None else each
        return some, bj.ground_truth(some, flow.noise(fresh, (number,)), batch_size=32, ends_only=True)

    if options.frugal is None:
        recipe = bj.Recipe(stages=(bj.Stage(num_iterations=NUM_STEPS),))
        paths = dict(paths=solved(0, NUM_PATHS)[1], validation=solved(1, NUM_VALIDATION)[1])
    else:
        recipe, paths = bj.frugal(options.frugal), {}
    fits, (test_flow, test) = Fits(flow, key, recipe, paths), solved(2, NUM_TEST)
    if options.per_class:
        even, number = flow_of(list(range(CLASSES)) * options.per_class), options.per_class * CLASSES
        of_classes = dict(paths=solved(3, number, even)[1], validation=solved(1, 80)[1])
    print(f"{options.flow}, w = {options.scale:g}")
    print("| solver | calls | start | PSNR | network calls of the fit |")
    print("|---|---|---|---|---|")

    def row(label: str, calls: int, fitted: bj.FitResult, cost: int) -> None:
        found = figure(test_flow, fitted.theta, test)
        print(f"| {label} | {calls} | {fitted.start} | {found} | {cost:,} |", flush=True)

    for calls in options.calls:
        for name in ["on paths", *solvers(calls)]:
            if name.split(",")[0] not in options.only:
                continue
            label, fitted, cost = fits.row(name, calls)
            row(label, calls, fitted, cost)
            if options.per_class:
                learned_on = per_class(flow, fitted, of_classes)
                row(f"{label}, factors for each class", calls, learned_on, cost + learned_on.network_calls)


if __name__ == "__main__":
    main()
