"""Learn the solvers of a run one after the other; what is done is skipped, what was interrupted goes on."""

import math
from typing import NamedTuple

import tqdm

import bespoke_jax as bj
from experiments.runs import Run
from experiments.settings import Job, Plan
from experiments.truth import Truth

__all__ = ["Learned", "learn", "learn_all"]


class Learned(NamedTuple):
    """A learned solver, a record per validation of its fit, and the cost in velocity evaluations of single samples."""

    theta: bj.Theta
    history: list[dict]
    cost: int


def learn_all(flow: bj.Flow, plan: Plan, truth: Truth, run: Run) -> tuple[dict[Job, Learned], dict[Job, str]]:
    """(learned solvers, reasons of those that failed). A loss that is not finite ends its own solver only."""
    learned, failed = {}, {}
    for number, job in enumerate(plan.jobs, 1):
        try:
            learned[job] = learn(flow, job, plan, truth, run, label=f"{job.name} [{number}/{len(plan.jobs)}]")
        except FloatingPointError as error:
            failed[job] = str(error)
            tqdm.tqdm.write(f"{job.name} failed, going on with the others. {error}")
    return learned, failed


def learn(flow: bj.Flow, job: Job, plan: Plan, truth: Truth, run: Run, label: str) -> Learned:
    """Learn one solver, from its last checkpoint if there is one; at once if it is finished."""
    bar = tqdm.tqdm(total=plan.num_iterations, desc=label, unit="it")
    if finished := run.finished(job.name):
        theta, info = finished
        with bar:
            bar.update(plan.num_iterations)
            bar.set_postfix_str(f"from an earlier start: PSNR {_best(info['history'])['psnr']:.2f} dB")
        return Learned(theta, info["history"], info["cost"])

    theta = bj.init_theta(job.base, job.num_steps)
    with bar, run.checkpoints(job.name) as checkpoints:
        state = checkpoints.restore(bj.init_state(theta, plan.stages))
        done = 0 if state is None else int(state.iteration)
        bar.update(done)
        bar.set_postfix_str(f"from iteration {done}; compiling first")
        with run.scalars(job.name, 0 if state is None else done + 1) as scalars:

            def keep(state, record):
                checkpoints.save(record["iteration"], state)
                for name in ("loss", "rmse", "psnr"):
                    if math.isfinite(record[name]):
                        scalars.add_scalar(name, record[name], record["iteration"])
                bar.update(record["iteration"] - bar.n)
                best = float(bj.metrics.psnr(state.best_rmse))
                bar.set_postfix_str(f"{record['stage']}: PSNR {record['psnr']:.2f} dB, best {best:.2f} dB")

            result = bj.fit(
                flow,
                theta,
                plan.key("fit", job.index),
                stages=plan.stages,
                paths=truth.train,
                validation=truth.validation,
                choose_start=plan.choose_start,
                state=state,
                callback=keep,
            )
    # JSON has no NaN: the loss of the start is None.
    history = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in result.history
    ]
    info = dict(cost=result.cost, start=result.start, validation=_best(history), history=history)
    # A learned table is kept as the table that it has become.
    theta = result.theta if isinstance(result.theta, bj.Theta) else bj.to_table(result.theta)
    run.finish(job.name, theta, info, flow)
    return Learned(theta, history, result.cost)


def _best(history: list[dict]) -> dict:
    """The record whose theta is the one kept."""
    return min((record for record in history if record["rmse"] is not None), key=lambda record: record["rmse"])
