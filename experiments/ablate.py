"""What a loss, an optimiser, and time or scale alone are worth: the ablation of the paper's App. K.1 on a flow of yours.

`python -m experiments.ablate --config=experiments/configs/fashion_ablation.py --workdir=W`. Every section of `config.fits` is a
fit of its own, and every fit learns all of `config.solvers`, on the same true paths and batches. Leaves ablation.csv, ablation.md
and page.html. Started again, it skips what is done.
"""

import json
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

import bespoke_jax as bj
from bespoke_jax.flow.conditions import in_turn
from experiments.learning import flows, learn, measure, settings, truth
from experiments.report import page
from experiments.run import command_line, processes, runs
from experiments.run.errors import reason_of


class Row(NamedTuple):
    """A fit's solver: its error on fresh noise, and what learning it cost. Of a base solver the error alone."""

    solver: str
    nfe: int
    rmse: float
    psnr: float
    mean_psnr: float
    standard_error: float
    parameters: int | None = None
    evaluations: int | None = None  # velocity evaluations of single samples, true paths apart
    seconds: float | None = None  # on the clock, compiling included; None if it was interrupted
    memory: float | None = None  # MiB, see `memory`


def prepare(config, workdir):
    """(plans by the name of their fit, flow, run) of a config. Whatever is wrong with it is an error here, before any work."""
    plans = settings.read_fits(config)
    flow = flows.load(config.flow)
    return plans, flow, runs.open_run(workdir, settings.stamp(config, flows.fingerprint(flow)))


def ablate(plans: dict[str, settings.Plan], flow: bj.Flow, run: runs.Run) -> int:
    """Learn every solver by every fit, measure all, write the table. The number of solvers that failed."""
    jobs = {job: plan for plan in plans.values() for job in plan.jobs}
    first = next(iter(plans.values()))  # of what all share: the paths
    paths = truth.solve(flow, first, run, *plans.values())
    learned, failed, costs = {}, {}, _costs(run)
    for number, (job, plan) in enumerate(jobs.items(), 1):
        processes.say(f"fit {number} of {len(jobs)}")
        # The time of a fit that was interrupted is not known.
        fresh, begun = not (run.folder / "checkpoints" / job.name).exists(), time.monotonic()
        done, lost = learn.learn_all(flow, plan._replace(jobs=(job,)), paths, run)
        seconds = time.monotonic() - begun
        learned, failed = learned | done, failed | lost
        if done and job.name not in costs:
            peak = memory(bj.sharding.on_one_device(flow), plan.stages, job.start, paths.train)
            costs[job.name] = dict(seconds=seconds if fresh else None, memory=peak)
            processes.from_first(lambda: run.write_text("costs.json", json.dumps(costs, indent=2) + "\n"))
    thetas = {job: result.theta for job, result in learned.items()}
    flow = truth.dealt(flow, first, "test")
    measured = measure.measure(flow, jobs, thetas, paths.test.x0, paths.test.x1, keep=1)
    by_name = {(job.solver, job.nfe): (result, costs[job.name]) for job, result in learned.items()}
    rows = [_row(row, by_name.get((row.solver, row.nfe))) for row in measured.rows]
    processes.from_first(lambda: publish(rows, failed, run))
    return len(failed)


def _costs(run) -> dict:
    """What earlier starts have noted. What is damaged there is not known; it is measured again, but for the time."""
    try:
        costs = json.loads((run.folder / "costs.json").read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    except OSError as error:
        raise runs.ReadError(f"{run.folder / 'costs.json'}: cannot be read now ({reason_of(error)}).") from error

    def is_cost(value):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

    return {
        name: cost
        for name, cost in (costs.items() if isinstance(costs, dict) else ())
        if isinstance(cost, dict) and cost.keys() == {"seconds", "memory"} and all(map(is_cost, cost.values()))
    }


def _row(row, found) -> Row:
    if found is None:
        return Row(*row)
    result, cost = found
    evaluations = result.history[-1]["evaluations"] - result.history[0]["evaluations"]
    return Row(*row, result.theta.num_parameters, evaluations, cost["seconds"], cost["memory"])


def memory(flow: bj.Flow, stages: tuple[bj.Stage, ...], theta, paths: bj.Paths) -> float | None:
    """MiB that the largest program of the stages keeps beside its arguments, by XLA's own account, on one device.

    Of a first-order update that is its gradient on a whole batch. Levenberg-Marquardt on a loss of ends linearises the velocity,
    one evaluation of `chunk_size` samples at a time; on a loss of single steps it is not known. None if any is not.
    """
    found = [_program(flow, stage, theta, paths) for stage in stages]
    sizes = [None if program is None else program.memory_analysis() for program in found]
    if any(size is None for size in sizes):
        return None
    return max(size.temp_size_in_bytes + size.output_size_in_bytes for size in sizes) / 2**20


def _program(flow, stage, theta, paths):
    """The program of a stage that holds most, compiled."""
    batch = paths.take(jnp.arange(min(stage.batch_size, paths.num_paths)))
    if not stage.is_second_order:
        gradient = jax.jit(jax.grad(stage.loss, 1))
        return gradient.lower(flow, theta, batch).compile()
    if stage.is_of_ends:
        pullback = jax.jit(lambda flow, t, x: jax.vjp(lambda x: flow(t, x), x)[1])
        x = batch.x0[: stage.chunk_size]
        return pullback.lower(in_turn(flow, len(x)), jnp.float32(0.5), x).compile()
    return None


def publish(rows: list[Row], failed: dict[settings.Job, str], run: runs.Run):
    """The table in its three forms, and the text."""
    run.write_table("ablation.csv", Row._fields, rows)
    head, body = _HEAD, [_cells(row) for row in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    run.write_text("ablation.md", "\n".join(lines) + "\n")
    page.write_table(run, head, body, failed, _NOTE)
    print("\n" + "\n".join(lines) + f"\n\n{_NOTE}\nReport: {run.folder / 'report.html'}")


_HEAD = ["solver-fit", "NFE", "RMSE", "PSNR (mean)", "parameters", "evaluations", "seconds", "MiB"]
_NOTE = (
    "RMSE: mean over fresh noises; PSNR in dB of that, in brackets the mean over samples. Evaluations of the velocity, single "
    "samples, true paths apart; seconds with compiling; MiB of the largest program, on one device."
)


def _cells(row: Row) -> list[str]:
    return [
        *(row.solver, str(row.nfe), f"{row.rmse:.4f}", f"{row.psnr:.1f} ({row.mean_psnr:.1f})"),
        *("" if value is None else f"{value:,}" for value in row[6:8]),
        *("" if value is None else f"{value:.1f}" for value in row[8:]),
    ]


def main(config, workdir) -> int:
    """Exit status 1 if a solver failed; what is wrong with the input is said without a stack."""
    with command_line.without_stack():
        plans, flow, run = prepare(config, workdir)
    with run:
        return min(ablate(plans, flow, run), 1)


if __name__ == "__main__":
    command_line.run(main, default="fashion_ablation")
