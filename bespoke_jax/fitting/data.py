"""The paths that a fit learns from and is measured on, and how accurate they are."""

from typing import NamedTuple

import numpy as np

from bespoke_jax.fitting import keys
from bespoke_jax.fitting.keys import fold_in
from bespoke_jax.fitting.memory import check_memory
from bespoke_jax.fitting.progress import Say, quiet
from bespoke_jax.fitting.recipes import Recipe
from bespoke_jax.flow.conditions import dealt, is_given, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import everywhere, gather, mesh_of
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.probe import EVALUATIONS as PROBE
from bespoke_jax.run.probe import check_velocity
from bespoke_jax.run.rows import cut
from bespoke_jax.run.truth import NUM_CHECKED, Truth, truth_of, warn_of_other_paths
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import Array, KeyArray

__all__ = ["Data", "prepare"]


class Data(NamedTuple):
    """The data of a fit; every device of the flow holds all of it.

    Attributes:
        paths, validation: the paths to fit to and to hold out.
        truth: the accuracy of the held-out paths.
        cost: velocity evaluations of single samples spent on all of this.
    """

    paths: Paths
    validation: Paths
    truth: Truth
    cost: int


def prepare(
    flow: Flow,
    key: KeyArray,
    recipe: Recipe,
    solver: LearnedSolver,
    paths: Paths | None = None,
    validation: Paths | None = None,
    say: Say = quiet,
    alike: bool = False,
) -> Data:
    """Check the velocity, and take the paths that were given or solve them as the recipe says.

    Args:
        flow, key, recipe, paths, validation: as for `fit`, already checked.
        solver: the solver to learn; of several, the one with the most evaluations.
        say: told what is being done.
        alike: whether given paths and given held-out ones were solved together, so that a look at the latter tells of both.
    """
    _check_room(flow, recipe, solver, paths, validation)
    if validation is None:
        some, x0 = _noises(flow, key, keys.VALIDATION, recipe.num_validation, recipe)
    else:
        some, x0, _ = samples(flow, validation)
    count = max(2, min(recipe.stages[0].chunk_size, len(x0)))  # dependence on the batch takes two samples to see
    first, spent = np.arange(count) % len(x0), 0
    say("compiling the velocity, and checking it")
    check_velocity(of_samples(some, first), cut(some, x0, first))
    if paths is None:
        say(f"solving {recipe.num_paths} true paths to fit to")
        to_fit = _solved(recipe, *_noises(flow, key, keys.PATHS, recipe.num_paths, recipe))
    else:
        to_fit = paths
    if validation is None:
        say(f"solving {recipe.num_validation} true paths to hold out")
        held_out = _solved(recipe, some, x0)
    else:
        held_out = validation
    say("measuring the accuracy of the true paths")
    to_fit, held_out = everywhere(flow, to_fit), everywhere(flow, held_out)
    truth, cost = _worth(flow, recipe, held_out)
    spent += cost
    if paths is not None and not (alike and validation is not None):
        worth, cost = _worth(flow, recipe, to_fit)
        warn_of_other_paths("paths", worth)
        spent += cost
    if validation is not None:
        warn_of_other_paths("validation", truth)
    spent += count * PROBE + sum(int(np.sum(np.asarray(part.evaluations))) for part in (to_fit, held_out))
    return Data(to_fit, held_out, truth, spent)


def _check_room(flow, recipe, solver, paths, validation):
    """Raise ValueError if a fit by this recipe exceeds the memory."""
    new = (recipe.num_paths if paths is None else 0) + (recipe.num_validation if validation is None else 0)
    for stage in recipe.stages:
        largest = min(stage.samples_at_once, recipe.num_paths if paths is None else paths.num_paths)
        chunk = largest if stage.is_second_order and stage.is_of_ends else 0
        check_memory(flow, new, _ends_only(recipe), chunk, solver.nfe, stage.probes)


def _ends_only(recipe) -> bool:
    return all(stage.is_of_ends for stage in recipe.stages)


def _noises(flow, key, purpose, count, recipe) -> tuple[Flow, Array]:
    """Fresh noises, and the flow of these samples: the conditions of a `given` one are dealt out to them."""
    some = dealt(flow, fold_in(fold_in(key, keys.CONDITIONS), purpose), count)
    # As many for each purpose, where the flow does not say how many: a second number would be a second program.
    drawn = count if is_given(some) else max(recipe.num_paths, recipe.num_validation)
    x0 = some.ravel(some.noise(fold_in(key, purpose), (drawn,)))
    return some, cut(some, x0, slice(0, count))


def _solved(recipe, flow, x0) -> Paths:
    """Paths from noises, by Dopri5 or by the recipe's reference."""
    if recipe.reference is None:
        size, ends_only = _together(flow, recipe, len(x0)), _ends_only(recipe)
        return ground_truth(flow, x0, recipe.rtol, recipe.atol, batch_size=size, ends_only=ends_only)
    size = recipe.stages[0].chunk_size
    ends = adjoint.end_points(flow, recipe.reference, x0, size)
    _check_ends(recipe, flow, x0, np.asarray(gather(flow, ends)), size)
    return Paths.of_ends(flow, x0, ends, recipe.reference.nfe)


def _check_ends(recipe, flow, x0, ends, size):
    """Raise FloatingPointError, with the time and the remedy, if the reference does not end at finite numbers."""
    good = np.all(np.isfinite(ends.reshape(len(ends), -1)), axis=1)
    if np.all(good):
        return
    some = np.arange(len(ends))[int(np.argmin(good)) :][:size]
    ground_truth(of_samples(flow, some), cut(flow, x0, some), recipe.rtol, recipe.atol, batch_size=size, ends_only=True)
    raise FloatingPointError(
        f"fit: the reference of {recipe.reference.nfe} evaluations ends at NaN or infinity for {int(np.sum(~good))} of "
        f"{len(ends)} samples, where Dopri5 does not. Give a better one, or take bespoke_jax.Recipe(), which solves by Dopri5."
    )


def _together(flow, recipe, count) -> int | None:
    """How many of `count` paths to solve together: as many as the fit runs together, so that the network is compiled once.

    None, for `ground_truth` to choose, if that makes many small parts, parts that the flow's devices cannot share, or paths of
    different knots, which take programs to join.
    """
    size, mesh = recipe.stages[0].chunk_size, mesh_of(flow)
    shared = mesh is None or size % mesh.size == 0
    return size if shared and _ends_only(recipe) and count <= _MOST_PARTS * size else None


_MOST_PARTS = 16


def _worth(flow, recipe, paths) -> tuple[Truth, int]:
    """(accuracy of the paths, velocity evaluations spent)."""
    return truth_of(
        paths,
        flow,
        recipe.rtol,
        recipe.atol,
        better=recipe.checked_by,
        batch_size=min(NUM_CHECKED, recipe.stages[0].chunk_size),
        data_range=recipe.data_range,
    )
