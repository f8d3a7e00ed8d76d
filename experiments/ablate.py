"""What a loss, an optimiser, and time or scale alone contribute: the ablation of the paper's App. K.1, on a flow of yours.

`python -m experiments.ablate --config=experiments/configs/fashion_ablation.py --workdir=W`. Each section of `config.fits` is a
fit, and each fit learns all of `config.solvers` from the same true paths and batches. Writes ablation.csv, ablation.md and
report.html. Started again, it skips what is done.
"""

import time
from typing import NamedTuple

import bespoke_jax as bj
from bespoke_jax.types import PathLike
from experiments.learning import costs, flows, learn, measure, settings, truth
from experiments.learning.prepare import open_for
from experiments.report import page
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


class Row(NamedTuple):
    """A solver of a fit: its error on fresh noise, and the cost of learning it. A base solver has the error alone.

    Attributes:
        solver, nfe, rmse, psnr, mean_psnr, standard_error: as in `measure.Row`.
        parameters: numbers learned.
        evaluations: velocity evaluations of single samples, without the true paths.
        seconds: elapsed, with compiling; None if the fit was interrupted.
        memory: MiB, see `costs.memory`.
    """

    solver: str
    nfe: int
    rmse: float
    psnr: float
    mean_psnr: float
    standard_error: float
    parameters: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    memory: float | None = None


def prepare(config: ConfigDict, workdir: PathLike) -> tuple[dict[str, settings.Plan], bj.Flow, runs.Run]:
    """(plan of each fit by name, flow, run) of a config. Every mistake in it is an error here, before any work."""
    plans = settings.read_fits(config)
    flow = flows.load(config.flow)
    return plans, flow, open_for(config, flow, workdir)


def ablate(plans: dict[str, settings.Plan], flow: bj.Flow, run: runs.Run) -> int:
    """Learn every solver by every fit, measure all, write the table. Returns the number of solvers that failed."""
    jobs = {job: plan for plan in plans.values() for job in plan.jobs}
    first = next(iter(plans.values()))  # all plans share its paths
    paths = truth.solve(flow, first, run, *plans.values())
    learned, failed, known = {}, {}, costs.read_costs(run)
    for number, (job, plan) in enumerate(jobs.items(), 1):
        processes.say(f"fit {number} of {len(jobs)}")
        # The whole time of a fit that was interrupted is unknown.
        fresh, begun = not (run.folder / "checkpoints" / job.name).exists(), time.monotonic()
        done, lost = learn.learn_all(flow, plan._replace(jobs=(job,)), paths, run)
        seconds = time.monotonic() - begun
        learned, failed = learned | done, failed | lost
        if done and job.name not in known:
            assert paths.train is not None, "an ablation has no budget"
            peak = costs.memory(bj.sharding.on_one_device(flow), plan.stages, job.start, paths.train)
            known[job.name] = dict(seconds=seconds if fresh else None, memory=peak)
            processes.from_first(lambda: costs.write_costs(run, known))
    thetas = {job: result.theta for job, result in learned.items()}
    noises = truth.dealt(flow, first, "test"), paths.test.x0, paths.test.x1
    fresh = measure.FreshNoise(*noises, keep=1, batch_size=first.stages[0].chunk_size)
    measured = fresh.measure(jobs, thetas)
    by_name = {(job.solver, job.nfe): (result, known[job.name]) for job, result in learned.items()}
    rows = [_row(row, by_name.get((row.solver, row.nfe))) for row in measured.rows]
    processes.from_first(lambda: publish(rows, failed, run))
    return len(failed)


def _row(row: measure.Row, found: tuple[learn.Learned, dict] | None) -> Row:
    measured = {name: getattr(row, name) for name in Row._fields[:6]}
    if found is None:
        return Row(**measured)
    result, cost = found
    evaluations = result.history[-1]["evaluations"] - result.history[0]["evaluations"]
    return Row(**measured, parameters=result.theta.num_parameters, evaluations=evaluations, **cost)


def publish(rows: list[Row], failed: dict[settings.Job, str], run: runs.Run) -> None:
    """Write the table as CSV, Markdown and HTML, and print it."""
    run.write_table("ablation.csv", Row._fields, rows)
    head, body = _HEAD, [_cells(row) for row in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    run.write_text("ablation.md", "\n".join(lines) + "\n")
    page.write_table(run, head, body, failed, _NOTE)
    print("\n" + "\n".join(lines) + f"\n\n{_NOTE}\nReport: {run.folder / 'report.html'}")


_HEAD = ["solver-fit", "NFE", "RMSE", "PSNR (mean)", "parameters", "evaluations", "seconds", "MiB"]
_NOTE = (
    "RMSE: mean over fresh noises; PSNR in dB of that mean, in brackets the mean of the samples' own. Evaluations: of the "
    "velocity, for single samples, without the true paths. Seconds: with compiling. MiB: of the largest program, on one device."
)


def _cells(row: Row) -> list[str]:
    return [
        *(row.solver, str(row.nfe), f"{row.rmse:.4f}", f"{row.psnr:.1f} ({row.mean_psnr:.1f})"),
        *("" if value is None else f"{value:,}" for value in row[6:8]),
        *("" if value is None else f"{value:.1f}" for value in row[8:]),
    ]


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status, 1 if a solver failed."""
    return launch(lambda: prepare(config, workdir), ablate)


if __name__ == "__main__":
    command_line.run(main, default="fashion_ablation")
