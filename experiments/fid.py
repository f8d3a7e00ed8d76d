"""Frechet distance between the samples of the solvers that a run has learned and the data: the FID, which is the paper's own
measure, or the distance of a small classifier's features.

  python -m experiments.fid --config=C --workdir=W --reference=cifar10-32x32.npz --inception=pt_inception-2015-12-05-6726825d.pth
  python -m experiments.fid --config=experiments/configs/fashion_fmot.py --workdir=W --features=fashion_classifier

W is the folder of a run of `experiments.train` with this config; of a shipped flow it may be a new one, for the solvers that are
shipped with it. --select=rmse takes of each fit what was best on held-out paths; --select=fid (or classifier_distance) measures
every validation of it and takes the one of the smallest distance, as the paper does. --baselines measures rk1, rk2, rk4 and the
true paths, too. docs/fid.md says where the two files of the FID come from. How long 50,000 samples take was not measured; they
are 50,000 NFE network calls for each solver, and 50,000 of InceptionV3.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

import bespoke_jax as bj
from bespoke_jax.flow import conditions
from bespoke_jax.models import inception
from experiments import train
from experiments.learning import compare, measure
from experiments.run import command_line, processes, runs, stopping

_NOISE_OF_FID = 1  # index of the key; 0 is the test set of PSNR
_TRUE_PATHS = "exact"
SELECT = ("rmse", "fid", "classifier_distance")


class Statistic(NamedTuple):
    """A Frechet distance: what it is called, of which features, and from what.

    Attributes:
        name: "fid" or "classifier_distance", as in the tables.
        features: images [B, H, W, C] -> [B, D].
        reference: their statistics on the data.
        source: column and entry of the tables that say where the features come from.
        classes: images [B, H, W, C] -> the class of each, [B]; None if the features know of none.
        image_shape: (H, W, C) of the images; None if any will do.
    """

    name: str
    features: Callable
    reference: bj.fid.FeatureStatistics
    source: tuple[str, str]
    classes: Callable | None = None
    image_shape: tuple[int, int, int] | None = None


def statistic_of(features: str, reference: str, weights: str, convention: str) -> Statistic:
    """Of the command line's arguments: `features` is "inception", or what `bj.models.load_classifier` takes.

    Raises:
        ValueError: if a file is missing on the command line, of another kind, or not wanted.
        FileNotFoundError: if there is none.
    """
    if features == "inception":
        for name, path in (("reference", reference), ("inception", weights)):
            if not path:
                raise ValueError(
                    f"--{name}: missing. The FID wants two files (docs/fid.md); --features=fashion_classifier wants none."
                )
        wanted = bj.fid.load_statistics(reference)
        return Statistic("fid", inception.load(weights, convention), wanted, ("convention", convention))
    if reference or weights:
        raise ValueError(f"--reference, --inception: they are the FID's; --features={features} has its own statistics.")
    classifier = bj.models.load_classifier(features)
    if classifier.statistics is None:
        raise ValueError(
            f"--features: {features} has no statistics of data; wanted a file of experiments.train_classifier."
        )
    return Statistic(
        "classifier_distance",
        classifier.features,
        classifier.statistics,
        ("features", features),
        classifier.classes,
        classifier.image_shape,
    )


def samples(flow: bj.Flow, ends: Callable, key, num_samples: int, label: str) -> Iterator[tuple]:
    """(the flow of some samples, the samples [B, *event]), in batches. The same key gives all solvers the same noises.

    Args:
        ends: `(flow, noises [B, *event])` -> samples.

    Raises:
        FloatingPointError: if samples are not finite.
    """
    with processes.bar(total=num_samples, desc=label) as bar:
        for number, part in enumerate(bj.adjoint.chunks(num_samples, measure.BATCH_SIZE)):
            fresh, size = jax.random.fold_in(key, number), part.stop - part.start
            stopping.stop_if_asked()
            some = conditions.dealt(flow, jax.random.fold_in(fresh, 0), size)
            found = ends(some, flow.noise(fresh, (size,)))
            if not np.all(np.isfinite(found)):  # rounded to 8 bits nobody would see it
                raise FloatingPointError(f"{label}: among samples {part.start} to {part.stop - 1} some are not finite.")
            yield some, found
            bar.update(size)


class Measured(NamedTuple):
    distance: float
    of_wanted_class: float | str  # share of the samples; "" if none was wanted


def measured(batches: Iterator[tuple], statistic: Statistic) -> Measured:
    """What a statistic says of `samples`."""
    right = []

    def images():
        for flow, some in batches:
            if statistic.classes is not None and (wanted := _wanted_classes(flow)) is not None:
                right.append(np.asarray(statistic.classes(some)) == wanted)
            yield some

    found = bj.fid.statistics_of(images(), statistic.features)
    share = float(np.concatenate(right).mean()) if right else ""
    return Measured(bj.fid.frechet_distance(found, statistic.reference), share)


def _wanted_classes(flow: bj.Flow):
    """The class of the flow's samples, [] or [B]; None if it has none."""
    if not conditions.has_condition(flow):
        return None
    label = np.asarray(bj.sharding.gather(flow, flow.params[conditions.CONDITION]["label"]))
    return label.argmax(axis=-1) if label.any() else None


def candidates(run: runs.Run, flow: bj.Flow, config, jobs, select: str) -> list[tuple]:
    """[(name, [(iteration, solver)])] of the solvers to choose from; of those chosen by RMSE one each, its iteration not said.

    Raises:
        ValueError: if there are none.
    """
    if select == "rmse":
        learned, where = compare.learned_solvers(run, flow, config.flow.name, jobs)
        found = [(name, [(None, solver)]) for name, solver in learned]
    else:
        found = list(run.validations(flow).items())
        where = f"no validations in {run.folder}; experiments.train keeps them"
    if not found:
        raise ValueError(f"workdir: no learned solvers ({where}).")
    return found


def check(statistic: Statistic, flow: bj.Flow, select: str):
    """Raise ValueError unless the statistic is one of the flow's images, and is what `select` says."""
    if select not in ("rmse", statistic.name):
        raise ValueError(
            f"--select: got {select!r}, wanted 'rmse' or {statistic.name!r}, which these features measure."
        )
    if statistic.image_shape not in (None, flow.event_shape):
        raise ValueError(
            f"--features: {statistic.source[1]} wants images {statistic.image_shape}, the flow's are {flow.event_shape}."
        )


def main(
    config, workdir, load: Callable[[], Statistic], num_samples: int, select: str = "rmse", baselines: bool = False
):
    """What is wrong with the input is said without a stack."""
    with command_line.without_stack():
        statistic = load()
        plan, flow, run = train.prepare(config, workdir)
        check(statistic, flow, select)
        here = bj.sharding.on_one_device(flow)
        solvers = processes.from_first(lambda: candidates(run, here, config, plan.jobs, select))
    key, rows, by_iteration = plan.key("test", _NOISE_OF_FID), [], []

    def result(name, solver, iteration=None) -> Measured:
        label = f"{name}, NFE {solver.nfe}" + ("" if iteration is None else f", iteration {iteration}")
        return measured_or_infinite(label, lambda some, x0: measure.end_points(some, solver, x0))

    def result_of_true_paths() -> Measured:
        def ends(some, x0):
            paths = bj.ground_truth(some, x0, plan.rtol, plan.atol, batch_size=measure.BATCH_SIZE)
            return np.asarray(bj.sharding.gather(some, paths.x1))

        return measured_or_infinite(_TRUE_PATHS, ends)

    def measured_or_infinite(label, ends) -> Measured:
        """Samples that are not finite are infinitely far from the data: the other solvers are still to be measured."""
        try:
            return measured(samples(flow, ends, key, num_samples, label), statistic)
        except FloatingPointError as error:
            processes.say(str(error))
            return Measured(np.inf, "")

    def write(name, header, rows):
        processes.from_first(lambda: run.write_table(name, header, rows))

    def publish(name, nfe, found: Measured, by):
        rows.append((name, nfe, found.distance, num_samples, statistic.source[1], by, found.of_wanted_class))
        header = ("solver", "nfe", statistic.name, "num_samples", statistic.source[0], "selected_by", "of_wanted_class")
        shown = len(header) - (statistic.classes is None)
        write(f"{statistic.name}.csv", header[:shown], [row[:shown] for row in rows])
        title = statistic.name.replace("_", " ").replace("fid", "FID")
        share = "" if found.of_wanted_class == "" else f"   of the wanted class {found.of_wanted_class:.1%}"
        chosen = by and f"   selected by {by}"
        if processes.is_first():
            print(f"{name:>16} NFE {nfe:>3}   {title} {found.distance:.4g}{share}{chosen}", flush=True)

    with run:
        for name, found in solvers:
            results = [result(name, solver, iteration) for iteration, solver in found]
            best = int(np.argmin([one.distance for one in results]))
            iteration, solver = found[best]
            by = select
            if select != "rmse":
                by = f"{select}, iteration {iteration}"
                by_iteration += [(name, s.nfe, i, one.distance) for (i, s), one in zip(found, results, strict=True)]
                write(f"{select}_by_iteration.csv", ("solver", "nfe", "iteration", select), by_iteration)
                info = {"iteration": iteration, select: results[best].distance}
                run.finish(name, solver, info, flow, folder=f"by_{select}")
            publish(name, solver.nfe, results[best], by)
        if baselines:
            for name, solver in measure.base_solvers({solver.nfe for _, found in solvers for _, solver in found}):
                publish(name, solver.nfe, result(name, solver), "")
            publish(_TRUE_PATHS, "", result_of_true_paths(), "")


if __name__ == "__main__":
    _features = flags.DEFINE_string(
        "features", "inception", "inception, fashion_classifier, or a classifier's .safetensors."
    )
    _reference = flags.DEFINE_string("reference", "", "A .npz with mu and sigma of the data's features, of the FID.")
    _weights = flags.DEFINE_string("inception", "", "pytorch-fid's pt_inception-2015-12-05-6726825d.pth.")
    _convention = flags.DEFINE_enum(
        "convention", "tensorflow", inception.CONVENTIONS, "How the reference's images were resized; EDM's: tensorflow."
    )
    _num_samples = flags.DEFINE_integer("num_samples", 50_000, "Samples of each solver.", lower_bound=2)
    _select = flags.DEFINE_enum("select", "rmse", SELECT, "Which validation of each fit is measured: see above.")
    _baselines = flags.DEFINE_bool("baselines", False, "Measure rk1, rk2, rk4 of the same NFE and the true paths, too.")
    command_line.run(
        lambda config, workdir: main(
            config,
            workdir,
            lambda: statistic_of(_features.value, _reference.value, _weights.value, _convention.value),
            _num_samples.value,
            _select.value,
            _baselines.value,
        ),
        default="cifar10_fmot",
    )
