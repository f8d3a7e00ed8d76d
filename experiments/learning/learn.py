"""Learn the solvers of a run one after the other: finished ones are skipped, interrupted ones continue."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import bespoke_jax as bj
from bespoke_jax.files.json_text import finite_or_none
from bespoke_jax.fitting.data import Data, prepare
from bespoke_jax.fitting.fit import fit_on
from bespoke_jax.fitting.history import FitError
from bespoke_jax.solver import LearnedSolver
from experiments.learning.settings import Job, Plan
from experiments.learning.truth import Truth
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = ["Learned", "check_jobs", "learn", "learn_all"]


class Learned(NamedTuple):
    """A learned solver and how its fit went.

    Attributes:
        theta: the solver.
        history: the record of every validation.
        cost: velocity evaluations of single samples.
        seconds: elapsed, with compiling; None if an earlier start did a part of it.
    """

    theta: LearnedSolver | bj.SolverTable
    history: list[dict[str, Any]]
    cost: int
    seconds: float | None = None


def learn_all(
    flow: bj.Flow,
    plan: Plan,
    truth: Truth,
    run: Run,
    then: Callable[[Job, Learned], object] = lambda job, learned: None,
) -> tuple[dict[Job, Learned], dict[Job, str]]:
    """(learned solvers, reasons of those that failed), in the order of the plan's jobs.

    Tables are learned first: they gain the most, and a first result is soon on the screen. A loss that is not finite ends only
    its own solver's fit.

    Args:
        then: called with each solver as soon as it is learned.
    """
    learned, failed, data = {}, {}, _data_once(flow, plan, truth)
    for number, job in enumerate(sorted(plan.jobs, key=lambda job: job.base != "table"), 1):
        fresh, begun = not (run.folder / "checkpoints" / job.name).exists(), time.monotonic()
        try:
            result = learn(flow, job, plan, data, run, label=f"{job.name} [{number}/{len(plan.jobs)}]")
            learned[job] = result._replace(seconds=time.monotonic() - begun if fresh else None)
        except FitError as error:
            failed[job] = f"{error} {_keep_best(flow, job, run, error.state)}"
            processes.say(f"{job.name} failed; the others are still learned. {failed[job]}")
        else:
            then(job, learned[job])
        stopping.stop_if_asked()
    return _in_order(plan, learned), _in_order(plan, failed)


def _in_order(plan: Plan, found: dict[Job, Any]) -> dict[Job, Any]:
    return {job: found[job] for job in plan.jobs if job in found}


def _data_once(flow, plan, truth) -> Callable[[], Data]:
    """What all fits of a run learn from, prepared by the first that asks: the paths' worth is found once, not for each."""
    largest = max(plan.jobs, key=lambda job: job.nfe)

    @functools.cache
    def data():
        key, recipe = plan.key("fit", largest.index), _recipe(flow, largest, plan)
        return prepare(flow, key, recipe, largest.start, truth.train, truth.validation, alike=True)

    return data


def check_jobs(flow: bj.Flow, plan: Plan) -> None:
    """Raise ValueError if a solver does not suit the flow, or the plan's budget is too small for it."""
    for job in plan.jobs:
        try:
            job.start.suited(flow)
        except ValueError as error:  # "calls" wants guidance
            raise ValueError(f"config.solvers.{job.base}: {error}") from None
    for job in plan.jobs if plan.budget else ():
        try:
            bj.frugal(plan.budget, choose_start=plan.choose_start).resolve(flow, job.start)
        except ValueError as error:
            raise ValueError(f"config.fit.{error} It is {job.name}.") from None


def _recipe(flow, job, plan) -> bj.Recipe:
    """How a solver is learned."""
    if plan.budget:
        return bj.frugal(plan.budget, choose_start=plan.choose_start).resolve(flow, job.start)
    return bj.Recipe(stages=plan.stages, choose_start=plan.choose_start, num_start_paths=plan.num_start_paths)


def _keep_best(flow, job, run, state) -> str:
    """Write the best theta of a fit that failed. Returns a sentence that says where it is and how good."""
    rmse, psnr = float(state.best_rmse), float(bj.metrics.psnr(state.best_rmse))
    if not math.isfinite(rmse):
        return "No theta of this fit was finite on the held-out paths."
    info = dict(iteration=int(state.iteration), validation=dict(rmse=rmse, psnr=psnr))
    path = run.keep_solver(job.name, _as_kept(state.best), info, flow, folder="failed")
    return f"The best theta before that is in {path}: PSNR {psnr:.2f} dB on the held-out paths."


def learn(flow: bj.Flow, job: Job, plan: Plan, data: Callable[[], Data], run: Run, label: str) -> Learned:
    """Learn one solver, continuing from its last checkpoint; a finished one is read from its file.

    Args:
        data: what the run's fits learn from; not asked for under a budget, where each fit has paths of its own.
    """
    recipe = _recipe(flow, job, plan)
    num_iterations = sum(stage.num_iterations for stage in recipe.stages)
    if finished := run.finished(job.name, job.start.nfe):
        theta, info = finished
        with processes.bar(total=num_iterations, desc=label, unit="it") as bar:
            bar.update(num_iterations)
            bar.set_postfix_str(f"from an earlier start: PSNR {info['validation']['psnr']:.2f} dB")
        return Learned(theta, info["history"], info["cost"])

    with run.checkpoints(job.name) as checkpoints:
        state = checkpoints.restore(bj.init_state(job.start.suited(flow), recipe.stages))
        with run.scalars(job.name, 0 if state is None else int(state.iteration) + 1) as scalars:

            def keep(state, record):
                # The checkpoint comes last: a run that continues from an older one writes the rest again.
                shown = {name: record[name] for name in ("loss", "rmse", "psnr") if math.isfinite(record[name])}
                scalars.add(record["iteration"], shown)
                if np.all(np.isfinite(state.theta.raw)):
                    kept, folder = _as_kept(state.theta), f"validations/{job.name}"
                    run.keep_solver(f"{record['iteration']}", kept, record, folder=folder)
                checkpoints.save(record["iteration"], state)
                stopping.stop_if_asked()

            bar = bj.progress_bar(keep, label=label, disable=not processes.is_first())
            key = plan.key("fit", job.index)
            if plan.budget:
                result = bj.fit(flow, job.start, key, recipe, state=state, callback=bar)
            else:
                result = fit_on(flow, job.start, key, recipe, data, state, bar)
    history = finite_or_none(result.history)  # as a later start reads it from the file
    truth = dict(psnr=result.truth.psnr, mean_psnr=result.truth.mean_psnr)
    best = dict(validation=result.best, lost=result.lost)
    info = dict(cost=result.cost, start=result.start, **best, truth=truth, history=history)
    theta = _as_kept(result.theta)
    run.keep_solver(job.name, theta, info, flow)
    return Learned(theta, history, result.cost)


def _as_kept(theta: LearnedSolver) -> LearnedSolver | bj.SolverTable:
    """The solver as it is kept: as a plain table, unless its file gives more back."""
    return theta if theta.saved() else bj.to_table(theta)
