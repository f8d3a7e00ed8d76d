"""What samples of few calls look like: `python -m benchmarks.looks [--flow NAME] [--calls N ...] [--samples N]`.

One row per solver, on the same noises of all classes, which are dealt out evenly:

- distance: the Frechet distance between the samples and Fashion-MNIST's test images in the shipped classifier's 64 features, the
  averages of its last convolution over the image;
- of the wanted class: the share of samples that the classifier assigns to the class that they were asked to have;
- PSNR in dB, of the mean RMSE and in brackets the mean over samples, beside the true ends.

All solvers are learned on the same 128 paths, with 64 held out. The features that they are learned by are the activations of the
same classifier's first two convolutions: another layer than the one that is measured, but not another network.

- dedicated: the best of all dedicated solvers and grids by the end point, on 64 of the paths;
- by end point: a table by the default recipe, 64 updates;
- by features: a table by 64 updates of `bj.perceptual` without its first stage;
- end point, then features: the table by end point after 64 updates by features, which is what `bj.perceptual` makes.

UniPC of third order with 24 evaluations stands for the true paths.
"""

import argparse
import dataclasses
from functools import partial

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.fitting.budget import reference
from bespoke_jax.fitting.starts import best_start
from bespoke_jax.flow.conditions import CONDITION, dealt
from bespoke_jax.solver import LearnedSolver, Solver

NUM_PATHS, NUM_VALIDATION, BATCH_SIZE = 128, 64, 32


class Test:
    """The samples that all solvers are measured on."""

    def __init__(self, flow: bj.Flow, paths: bj.Paths):
        self.flow, self.paths = flow, paths
        self.classifier = bj.models.load_classifier("fashion_classifier")
        self.wanted = np.asarray(flow.params[CONDITION]["label"]).argmax(axis=-1)

    def row(self, solver: Solver | None) -> str:
        """The figures of a solver, or of the true ends."""
        x1 = ends = np.asarray(self.paths.x1)
        if solver is not None:
            ends = np.asarray(bj.adjoint.end_points(self.flow, solver, self.paths.x0, BATCH_SIZE))
        statistics = bj.fid.statistics_of([ends], self.classifier.features)
        assert self.classifier.statistics is not None
        distance = bj.fid.frechet_distance(statistics, self.classifier.statistics)
        right = np.mean(np.asarray(self.classifier.classes(ends)) == self.wanted)
        psnr = ""
        if solver is not None:
            errors = bj.metrics.rmse(ends, x1, ends.ndim - 1)
            mean, each = bj.metrics.psnr(errors.mean(), 2.0), bj.metrics.psnr(errors, 2.0).mean()
            psnr = f"{float(mean):.1f} ({float(each):.1f})"
        return f"{distance:.2f} | {right:.1%} | {psnr} |"


def ends_of(flow: bj.Flow, number: int, count: int) -> tuple[bj.Flow, bj.Paths]:
    """(the flow of `count` samples, their noises and true ends), the same for equal numbers."""
    key = jax.random.fold_in(jax.random.key(0), number)
    some = dealt(flow, key, count)
    x0 = some.noise(key, (count,))
    solver = reference(flow, 10)
    return some, bj.Paths.of_ends(some, x0, bj.adjoint.end_points(some, solver, x0, BATCH_SIZE), solver.nfe)


def main() -> None:
    """Print the table of one flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="fashion_fmot_class")
    parser.add_argument("--calls", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--samples", type=int, default=5000)
    options = parser.parse_args()
    features = bj.models.classifier_features("fashion_classifier", layers=(1, 2))
    by_features = bj.perceptual(features, endpoint_iterations=0)
    from_there = dataclasses.replace(by_features, choose_start=False)
    flow = bj.models.load_flow(options.flow, labels="all")
    (_, paths), (_, validation) = (ends_of(flow, *each) for each in ((0, NUM_PATHS), (1, NUM_VALIDATION)))
    fit = partial(bj.fit, flow, key=jax.random.key(0), paths=paths, validation=validation)
    test = Test(*ends_of(flow, 2, options.samples))
    print(f"{options.flow}, {options.samples} samples")
    print("| calls | solver | start | distance | of the wanted class | PSNR |")
    print("|---|---|---|---|---|---|")
    print(f"| {reference(flow, 10).nfe} | true paths | | {test.row(None)}", flush=True)
    for calls in options.calls:
        dedicated = bj.classic.dedicated(calls, flow.scheduler)
        tables: dict[str, LearnedSolver] = {name: bj.LearnedTable.of(table) for name, table in dedicated.items()}
        name, _ = best_start(flow, tables, paths, num_paths=NUM_VALIDATION)
        print(f"| {calls} | dedicated | {name} | {test.row(tables[name])}", flush=True)
        by_end = fit(bj.init_theta("table", calls), recipe=bj.Recipe())
        print(f"| {calls} | by end point | {by_end.start} | {test.row(by_end.theta)}", flush=True)
        after = fit(by_end.theta, recipe=from_there)
        print(f"| {calls} | end point, then features | {by_end.start} | {test.row(after.theta)}", flush=True)
        alone = fit(bj.init_theta("table", calls), recipe=by_features)
        print(f"| {calls} | by features | {alone.start} | {test.row(alone.theta)}", flush=True)


if __name__ == "__main__":
    main()
