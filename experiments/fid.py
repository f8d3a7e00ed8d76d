"""FID of the solvers that a run has learned: the paper's own measure.

  python -m experiments.fid --config=C --workdir=W --reference=cifar10-32x32.npz --inception=pt_inception-2015-12-05-6726825d.pth

W is the folder of a run of `experiments.train` with this config. --select=rmse takes of each fit what was best on held-out paths;
--select=fid measures every validation of it and takes the one of the smallest FID, as the paper does. docs/fid.md says where the
two files come from. How long 50,000 samples take was not measured; they are 50,000 NFE network calls for each solver, and 50,000
of InceptionV3.
"""

from collections.abc import Callable

import jax
import numpy as np
from absl import flags

import bespoke_jax as bj
from bespoke_jax import conditions
from bespoke_jax.models import inception
from experiments import command_line, compare, measure, processes, runs, stopping, train

_NOISE_OF_FID = 1  # index of the key; 0 is the test set of PSNR


def statistics(
    flow: bj.Flow, solver, key, num_samples: int, features: Callable, label: str
) -> bj.fid.FeatureStatistics:
    """Of the features of `num_samples` samples of a solver. The same key gives every solver the same noises."""

    def batches():
        with processes.bar(total=num_samples, desc=label) as bar:
            for number, part in enumerate(bj.stepwise.chunks(num_samples, measure.BATCH_SIZE)):
                fresh, size = jax.random.fold_in(key, number), part.stop - part.start
                stopping.stop_if_asked()
                some = conditions.dealt(flow, jax.random.fold_in(fresh, 0), size)
                yield measure.end_points(some, solver, flow.noise(fresh, (size,)))
                bar.update(part.stop - part.start)

    return bj.fid.statistics_of(batches(), features)


SELECT = ("rmse", "fid")


def candidates(run: runs.Run, flow: bj.Flow, config, jobs, select: str) -> list[tuple]:
    """[(name, [(iteration, solver)])] of the solvers to choose from; of those chosen by RMSE one each, its iteration not said.

    Raises:
        ValueError: if there are none.
    """
    if select == "fid":
        found, where = (
            list(run.validations(flow).items()),
            f"no validations in {run.folder}; experiments.train keeps them",
        )
    else:
        learned, where = compare.learned_solvers(run, flow, config.flow.name, jobs)
        found = [(name, [(None, solver)]) for name, solver in learned]
    if not found:
        raise ValueError(f"workdir: no learned solvers ({where}).")
    return found


def main(config, workdir, reference: str, weights: str, convention: str, num_samples: int, select: str = "rmse"):
    """What is wrong with the input is said without a stack."""
    try:
        wanted = bj.fid.load_statistics(reference)
        features = inception.load(weights, convention)
        plan, flow, run = train.prepare(config, workdir)
        here = bj.sharding.on_one_device(flow)
        solvers = processes.from_first(lambda: candidates(run, here, config, plan.jobs, select))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    key, rows, by_iteration = plan.key("test", _NOISE_OF_FID), [], []

    def distance(name, iteration, solver):
        label = f"{name}, NFE {solver.nfe}" + ("" if iteration is None else f", iteration {iteration}")
        found = statistics(flow, solver, key, num_samples, features, label)
        return bj.fid.frechet_distance(found, wanted)

    def publish():
        run.write_table("fid.csv", ("solver", "nfe", "fid", "num_samples", "convention", "selected_by"), rows)
        if select == "fid":
            run.write_table("fid_by_iteration.csv", ("solver", "nfe", "iteration", "fid"), by_iteration)
        print("{:>16} NFE {:>3}   FID {:.3f}   selected by {}".format(*rows[-1][:3], rows[-1][-1]))

    with run:
        for name, found in solvers:
            distances = [distance(name, iteration, solver) for iteration, solver in found]
            best = int(np.argmin(distances))
            iteration, solver = found[best]
            by = select
            if select == "fid":
                by = f"fid, iteration {iteration}"
                by_iteration += [(name, s.nfe, i, d) for (i, s), d in zip(found, distances, strict=True)]
                run.finish(name, solver, dict(iteration=iteration, fid=distances[best]), flow, folder="by_fid")
            rows.append((name, solver.nfe, distances[best], num_samples, convention, by))
            processes.from_first(publish)


if __name__ == "__main__":
    _reference = flags.DEFINE_string("reference", "", "A .npz with mu and sigma of the data's features.")
    _weights = flags.DEFINE_string("inception", "", "pytorch-fid's pt_inception-2015-12-05-6726825d.pth.")
    _convention = flags.DEFINE_enum(
        "convention", "tensorflow", inception.CONVENTIONS, "How the reference's images were resized; EDM's: tensorflow."
    )
    _num_samples = flags.DEFINE_integer("num_samples", 50_000, "Samples of each solver.", lower_bound=2)
    _select = flags.DEFINE_enum("select", "rmse", SELECT, "Which validation of each fit is measured: see above.")
    command_line.run(
        lambda config, workdir: main(
            config, workdir, _reference.value, _weights.value, _convention.value, _num_samples.value, _select.value
        ),
        default="cifar10_fmot",
    )
