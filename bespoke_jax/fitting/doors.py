"""The checks of `fit`, before any work."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_key, check_type
from bespoke_jax.fitting.history import FitState, init_state
from bespoke_jax.fitting.losses_of_ends import Distance
from bespoke_jax.fitting.recipes import Recipe
from bespoke_jax.flow.conditions import of_paths
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import LearnedSolver, check_solver_arrays
from bespoke_jax.table import SolverTable

__all__ = ["check_fit", "check_recipe", "check_start", "check_state"]


def check_fit(
    flow: Any,
    solvers: Sequence[Any],
    key: Any,
    recipe: Any,
    paths: Any,
    validation: Any,
    callback: Any,
) -> None:
    """Raise TypeError or ValueError, naming the argument, for everything that is known to be wrong."""
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    check_key(key)
    for solver in solvers:
        of_table = ", or bespoke_jax.LearnedTable.of(table)" if isinstance(solver, SolverTable) else ""
        check_type("solver", solver, LearnedSolver, f"what bespoke_jax.init_theta('rk2', 5) gives{of_table}")
        check_solver_arrays("solver", solver)
    if not solvers:
        raise ValueError("solvers: wanted one solver or more, got none.")
    check_type("recipe", recipe, Recipe, "a bespoke_jax.Recipe")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: wanted a function of (state, record), got {type(callback).__name__}.")
    for name, given in (("paths", paths), ("validation", validation)):
        if given is not None:
            _check_paths(name, flow, given)


def check_recipe(flow: Flow, recipe: Recipe, solvers: Sequence[LearnedSolver], paths: Paths | None) -> None:
    """Raise ValueError if a resolved recipe does not suit this flow, these solvers and paths."""
    for stage in recipe.stages:
        if isinstance(stage.loss, Distance):
            stage.loss.check(flow)
    for solver in solvers:
        for stage in recipe.stages:
            stage.check(solver)
    _check_whole(recipe, paths)
    _check_reference(solvers, recipe)


def _check_paths(name, flow, paths):
    check_type(name, paths, Paths, "bespoke_jax.Paths, as ground_truth gives them")
    paths.check(name)
    try:
        of_paths(flow, paths)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('paths: ')}") from None


def _check_whole(recipe: Recipe, paths: Paths | None):
    """Raise ValueError if a loss of single steps would not get whole paths."""
    for stage in recipe.stages:
        if stage.needs_steps and paths is not None and paths.is_of_ends:
            raise ValueError(
                f"paths: wanted whole paths for the loss {stage.name!r}, got the ends alone (Paths.of_ends)."
            )
        if stage.needs_steps and recipe.reference is not None:
            raise ValueError(
                f"reference: wanted None for the loss {stage.name!r}, which needs whole paths, got a solver of ends."
            )


def _check_reference(solvers, recipe: Recipe):
    """Raise ValueError unless the reference is more accurate than the solvers, and what checks it more accurate still."""
    if recipe.reference is None:
        return
    nfe = recipe.reference.nfe
    if recipe.checked_by is not None and recipe.checked_by.nfe <= nfe:
        raise ValueError(
            f"checked_by: wanted a better solver than the reference of {nfe} evaluations, got one of {recipe.checked_by.nfe}."
        )
    for solver in solvers:
        if nfe <= solver.nfe:
            raise ValueError(
                f"reference: wanted a much better solver than one of {solver.nfe} evaluations, got one of {nfe}."
            )


def check_start(state: FitState, num_starts: int) -> None:
    """Raise ValueError unless the state is from a fit with this many starts."""
    if not 0 <= int(state.start) < num_starts:
        raise ValueError(
            f"state: wanted a start below {num_starts}, got start {int(state.start)}; give the choose_start that the state was "
            "made with."
        )


def check_state(state: Any, solver: LearnedSolver, recipe: Recipe) -> None:
    """Raise TypeError or ValueError unless the state is from a fit of this solver by this recipe."""
    check_type("state", state, FitState, "the FitState of an earlier fit")
    there, here = (f"{t.family} with {t.num_steps} steps, {t.num_parameters} learned" for t in (state.theta, solver))
    if there != here:
        raise ValueError(f"state: wanted one of {here}, got one of {there}.")
    wanted = init_state(solver, recipe.stages)
    shapes = [jax.tree.map(jnp.shape, (s.opt_states, s.history)) for s in (state, wanted)]
    iterations = sum(stage.num_iterations for stage in recipe.stages)
    if shapes[0] != shapes[1] or not 0 <= int(state.iteration) <= iterations:
        looks = len(wanted.history.iteration)
        raise ValueError(
            f"state: wanted {len(recipe.stages)} optimisers, {looks} looks and at most {iterations} iterations, got "
            f"{len(state.opt_states)}, {len(state.history[0])} and {int(state.iteration)}; the state is of other stages."
        )
    written = [int(iteration) for iteration in state.history.iteration if iteration >= 0]
    looks = [0, *itertools.accumulate(count for stage in recipe.stages for count in stage.blocks)][: len(written)]
    if written != looks or (written or [0])[-1] != int(state.iteration):
        raise ValueError(
            f"state: wanted looks after {looks} updates, got looks after {written} and {int(state.iteration)} updates in all; "
            "the state is of other stages."
        )
