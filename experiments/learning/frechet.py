"""Frechet distances between the samples of solvers and the data: the FID, or one on a small classifier's features."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Int

import bespoke_jax as bj
from bespoke_jax.flow import conditions
from bespoke_jax.models import inception
from bespoke_jax.run.paths import slices
from bespoke_jax.solver import Solver
from bespoke_jax.types import Array, KeyArray
from experiments.learning import compare, measure
from experiments.learning.settings import Job, Plan
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = [
    "Candidate",
    "Ends",
    "Measured",
    "Statistic",
    "candidates",
    "check_statistic",
    "ends_of",
    "measured",
    "samples",
    "statistic_of",
]

Candidate: TypeAlias = tuple[str, list[tuple[int | None, Solver]]]
"""(name, [(iteration, solver at that iteration)]) from the validations of a fit; iteration None for the final solver."""

Ends: TypeAlias = Callable[[bj.Flow, Float[Array, "B *event"]], Float[np.ndarray, "B *event"]]
"""The flow of some samples and their noises -> the samples."""


class Statistic(NamedTuple):
    """A Frechet distance: its name, its features, and the data's statistics of them.

    Attributes:
        name: "fid" or "classifier_distance", as in the tables.
        features: images [B, H, W, C] -> [B, D].
        reference: their statistics on the data.
        source: column and entry of the tables that say where the features come from.
        classes: images [B, H, W, C] -> the class of each, [B]; None if the features have no classes.
        image_shape: (H, W, C) of the images; None if any will do.
    """

    name: str
    features: Callable[[Float[Array, "B H W C"]], Float[Array, "B D"]]
    reference: bj.fid.FeatureStatistics
    source: tuple[str, str]
    classes: Callable[[Float[Array, "B H W C"]], Int[Array, "B"]] | None = None
    image_shape: tuple[int, ...] | None = None


def statistic_of(features: str, reference: str, weights: str, convention: str) -> Statistic:
    """The statistic that the command line asks for.

    Args:
        features: "inception", or a name or file for `bj.models.load_classifier`.
        reference: the .npz of the data's statistics, for "inception".
        weights: InceptionV3's, for "inception".
        convention: how the reference's images were resized, for "inception".

    Raises:
        ValueError: if a needed file is not given, a file is of another kind, or an unused one is given.
        FileNotFoundError: if a file does not exist.
    """
    if features == "inception":
        for name, path in (("reference", reference), ("inception", weights)):
            if not path:
                raise ValueError(
                    f"--{name}: wanted a file for the FID (docs/fid.md), got none; --features=fashion_classifier needs none."
                )
        known = bj.fid.load_statistics(reference)
        return Statistic("fid", inception.load(weights, convention), known, ("convention", convention))
    if reference or weights:
        raise ValueError(f"--reference, --inception: wanted neither with --features={features}, got one or both.")
    classifier = bj.models.load_classifier(features)
    if classifier.statistics is None:
        raise ValueError(
            f"--features: wanted a file of experiments.train_classifier, got {features}, which has no statistics of data."
        )
    return Statistic(
        "classifier_distance",
        classifier.features,
        classifier.statistics,
        ("features", features),
        classifier.classes,
        classifier.image_shape,
    )


def check_statistic(statistic: Statistic, flow: bj.Flow, select: str) -> None:
    """Raise ValueError unless the statistic suits the flow's images, and `select` is "rmse" or the statistic's name."""
    if select not in ("rmse", statistic.name):
        raise ValueError(
            f"--select: wanted 'rmse' or {statistic.name!r}, which these features measure, got {select!r}."
        )
    if len(flow.event_shape) != 3:
        raise ValueError(
            f"config.flow: wanted a flow of images [H, W, C], which have features, got the event shape {flow.event_shape}."
        )
    if statistic.image_shape not in (None, flow.event_shape):
        raise ValueError(
            f"--features: wanted features of the flow's images {flow.event_shape}, got {statistic.source[1]}, of images "
            f"{statistic.image_shape}."
        )


def candidates(run: Run, flow: bj.Flow, flow_name: str, jobs: Iterable[Job], select: str) -> list[Candidate]:
    """[(name, [(iteration, solver)])] of the solvers to choose from. With "rmse" each has one, and its iteration is None.

    Raises:
        ValueError: if there are none.
    """
    if select == "rmse":
        learned, where = compare.learned_solvers(run, flow, flow_name, jobs)
        found: list[Candidate] = [(name, [(None, solver)]) for name, solver in learned]
    else:
        found = [(name, [*kept]) for name, kept in run.validations(flow).items()]
        where = f"no validations in {run.folder}; experiments.train keeps them"
    if not found:
        raise ValueError(f"workdir: wanted learned solvers, got none ({where}).")
    return found


def ends_of(solver: Solver | None, plan: Plan) -> Ends:
    """`(flow, noises [B, *event]) -> samples`, of a solver; with solver None, of the true paths."""
    if solver is not None:
        return lambda flow, x0: measure.end_points(flow, solver, x0)

    def ends(flow, x0):
        paths = bj.ground_truth(flow, x0, plan.rtol, plan.atol, batch_size=measure.BATCH_SIZE)
        return np.asarray(bj.sharding.gather(flow, paths.x1))

    return ends


def samples(
    flow: bj.Flow, ends: Ends, key: KeyArray, num_samples: int, label: str
) -> Iterator[tuple[bj.Flow, Float[np.ndarray, "B *event"]]]:
    """(the flow of some samples, the samples [B, *event]), in batches. The same key gives all solvers the same noises.

    Args:
        flow: the velocity field.
        ends: `(flow, noises [B, *event]) -> samples`.
        key: one JAX random key.
        num_samples: how many in all.
        label: of the progress bar and of errors.

    Raises:
        FloatingPointError: if samples are not finite.
    """
    with processes.bar(total=num_samples, desc=label) as bar:
        for number, part in enumerate(slices(num_samples, measure.BATCH_SIZE)):
            fresh, size = jax.random.fold_in(key, number), part.stop - part.start
            stopping.stop_if_asked()
            some = conditions.dealt(flow, jax.random.fold_in(fresh, 0), size)
            found = ends(some, some.ravel(some.noise(fresh, (size,))))
            if not np.all(np.isfinite(found)):  # rounding to 8 bits would hide it
                raise FloatingPointError(
                    f"{label}: wanted finite samples, got others among {part.start} to {part.stop - 1}."
                )
            yield some, found
            bar.update(size)


class Measured(NamedTuple):
    """The distance of a solver's samples from the data, and the share of the wanted class; "" if none, or not finite."""

    distance: float
    of_wanted_class: float | str


def measured(flow: bj.Flow, ends: Ends, key: KeyArray, num_samples: int, label: str, statistic: Statistic) -> Measured:
    """The statistic of `samples`. Ones that are not finite are infinitely far from the data, with a message."""
    right = []

    def images():
        for some, found in samples(flow, ends, key, num_samples, label):
            if statistic.classes is not None and (wanted := _wanted_classes(some)) is not None:
                right.append(np.asarray(statistic.classes(found)) == wanted)
            yield found

    try:
        found = bj.fid.statistics_of(images(), statistic.features)
        distance = bj.fid.frechet_distance(found, statistic.reference)
    except FloatingPointError as error:
        processes.say(str(error))
        return Measured(np.inf, "")
    return Measured(distance, float(np.concatenate(right).mean()) if right else "")


def _wanted_classes(flow: bj.Flow):
    """The class of the flow's samples, [] or [B]; None if it has none."""
    if not conditions.has_condition(flow):
        return None
    label = np.asarray(bj.sharding.gather(flow, flow.params[conditions.CONDITION]["label"]))
    return label.argmax(axis=-1) if label.any() else None
