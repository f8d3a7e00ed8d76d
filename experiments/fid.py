"""Frechet distance between the data and the samples of the solvers that a run has learned: the FID, which is the paper's own
measure, or the distance of a small classifier's features.

  python -m experiments.fid --config=C --workdir=W --reference=cifar10-32x32.npz --inception=pt_inception-2015-12-05-6726825d.pth
  python -m experiments.fid --config=experiments/configs/fashion_fmot.py --workdir=W --features=fashion_classifier

W is the folder of a run of `experiments.train` with this config. For a shipped flow it may be a new folder, and the solvers are
those shipped with the flow. --select=rmse measures the validation of each fit that was best on held-out paths; --select=fid (or
classifier_distance) measures every validation and chooses the one with the smallest distance, as the paper does. --baselines
also measures rk1, rk2, rk4 and the true paths. docs/fid.md says where the two files for the FID come from. The time for 50,000
samples was not measured; they take 50,000 NFE network calls for each solver, and 50,000 of InceptionV3.
"""

from collections.abc import Callable

import numpy as np
from absl import flags

import bespoke_jax as bj
from bespoke_jax.models import inception
from bespoke_jax.types import PathLike
from experiments.learning import frechet, measure, settings
from experiments.learning.prepare import prepare
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch

_NOISE_OF_FID = 1  # index of the key; 0 is the test set of PSNR
_TRUE_PATHS = "exact"
SELECT = ("rmse", "fid", "classifier_distance")


class Table:
    """The table of distances: a file that is written again, and a line that is printed, after every solver."""

    def __init__(self, run: runs.Run, statistic: frechet.Statistic, num_samples: int):
        self._run, self._statistic, self._num_samples = run, statistic, num_samples
        self._rows: list[tuple] = []
        self._by_iteration: list[tuple[str, int, int | None, float]] = []

    def add(self, name: str, nfe: int | str, found: frechet.Measured, by: str) -> None:
        """Add a solver's row; `by` says what it was selected by, "" for a baseline."""
        kind, (column, source) = self._statistic.name, self._statistic.source
        self._rows.append((name, nfe, found.distance, self._num_samples, source, by, found.of_wanted_class))
        header = ("solver", "nfe", kind, "num_samples", column, "selected_by", "of_wanted_class")
        shown = len(header) - (self._statistic.classes is None)
        self._write(f"{kind}.csv", header[:shown], [row[:shown] for row in self._rows])
        title = kind.replace("_", " ").replace("fid", "FID")
        share = "" if found.of_wanted_class == "" else f"   of the wanted class {found.of_wanted_class:.1%}"
        chosen = by and f"   selected by {by}"
        if processes.is_first():
            print(f"{name:>16} NFE {nfe:>3}   {title} {found.distance:.4g}{share}{chosen}", flush=True)

    def add_iterations(self, name: str, distances: list[tuple[int, int | None, float]]) -> None:
        """Add (NFE, iteration, distance) of each validation of a solver's fit to a file of their own."""
        self._by_iteration += [(name, *distance) for distance in distances]
        kind = self._statistic.name
        self._write(f"{kind}_by_iteration.csv", ("solver", "nfe", "iteration", kind), self._by_iteration)

    def _write(self, name, header, rows):
        processes.from_first(lambda: self._run.write_table(name, header, rows))


def measure_all(
    plan: settings.Plan,
    flow: bj.Flow,
    solvers: list[frechet.Candidate],
    statistic: frechet.Statistic,
    num_samples: int,
    select: str,
    baselines: bool,
    run: runs.Run,
) -> None:
    """Measure the solvers, and choose among the validations of each unless `select` is "rmse".

    Args:
        plan: of the run.
        flow: the velocity field.
        solvers: what `frechet.candidates` returns.
        statistic: the distance.
        num_samples: of each solver.
        select: one of `SELECT`.
        baselines: whether to measure the base solvers at the same NFE and the true paths, too.
        run: the run.
    """
    table, key = Table(run, statistic, num_samples), plan.key("test", _NOISE_OF_FID)

    def measured(label, solver):
        return frechet.measured(flow, frechet.ends_of(solver, plan), key, num_samples, label, statistic)

    def measured_at(name, solver, iteration=None):
        return measured(f"{name}, NFE {solver.nfe}" + ("" if iteration is None else f", iteration {iteration}"), solver)

    for name, found in solvers:
        results = [measured_at(name, solver, iteration) for iteration, solver in found]
        best = int(np.argmin([one.distance for one in results]))
        iteration, solver = found[best]
        by = select
        if select != "rmse":
            by = f"{select}, iteration {iteration}"
            table.add_iterations(name, [(s.nfe, i, one.distance) for (i, s), one in zip(found, results, strict=True)])
            info = {"iteration": iteration, select: results[best].distance}
            run.keep_solver(name, solver, info, flow, folder=f"by_{select}")
        table.add(name, solver.nfe, results[best], by)
    if baselines:
        for name, solver in measure.base_solvers({solver.nfe for _, found in solvers for _, solver in found}):
            table.add(name, solver.nfe, measured_at(name, solver), "")
        table.add(_TRUE_PATHS, "", measured(_TRUE_PATHS, None), "")


def main(
    config: ConfigDict,
    workdir: PathLike,
    load: Callable[[], frechet.Statistic],
    num_samples: int,
    select: str = "rmse",
    baselines: bool = False,
) -> int:
    """Returns the exit status. `load` reads the statistic; the other arguments are `measure_all`'s."""

    def prepared():
        statistic = load()
        plan, flow, run = prepare(config, workdir)
        frechet.check_statistic(statistic, flow, select)
        here = bj.sharding.on_one_device(flow)
        solvers = processes.from_first(lambda: frechet.candidates(run, here, config.flow.name, plan.jobs, select))
        return plan, flow, solvers, statistic, num_samples, select, baselines, run

    return launch(prepared, measure_all)


if __name__ == "__main__":
    _features = flags.DEFINE_string(
        "features", "inception", "inception, fashion_classifier, or a classifier's .safetensors."
    )
    _reference = flags.DEFINE_string("reference", "", "For the FID: a .npz with mu and sigma of the data's features.")
    _weights = flags.DEFINE_string("inception", "", "For the FID: pytorch-fid's pt_inception-2015-12-05-6726825d.pth.")
    _convention = flags.DEFINE_enum(
        "convention", "tensorflow", inception.CONVENTIONS, "How the reference's images were resized; EDM's: tensorflow."
    )
    _num_samples = flags.DEFINE_integer("num_samples", 50_000, "Samples of each solver.", lower_bound=2)
    _select = flags.DEFINE_enum("select", "rmse", SELECT, "What chooses the validation of each fit that is measured.")
    _baselines = flags.DEFINE_bool(
        "baselines", False, "Also measure rk1, rk2, rk4 at the same NFE, and the true paths."
    )
    command_line.run(
        lambda config, workdir: main(
            config,
            workdir,
            lambda: frechet.statistic_of(_features.value, _reference.value, _weights.value, _convention.value),
            _num_samples.value,
            _select.value,
            _baselines.value,
        ),
        default="cifar10_fmot",
    )
