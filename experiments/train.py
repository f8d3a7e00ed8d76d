"""Learn Bespoke solvers: `python -m experiments.train --config=experiments/configs/fashion_fmot.py --workdir=W`."""

import bespoke_jax as bj
from bespoke_jax.types import PathLike
from experiments.learning import costs, learn, measure, rivals, settings, truth
from experiments.learning.prepare import prepare
from experiments.report import page
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


def train(plan: settings.Plan, flow: bj.Flow, run: runs.Run) -> int:
    """Solve the paths, learn the solvers, measure them, report. Returns the number of solvers that failed."""
    paths = truth.solve(flow, plan, run)
    noises = truth.dealt(flow, plan, "test"), paths.test.x0, paths.test.x1
    together = plan.stages[0].chunk_size  # the network gets as many samples everywhere: compiled once
    fresh = measure.FreshNoise(*noises, plan.num_samples, together)
    learned, failed = learn.learn_all(
        flow, plan, paths, run, then=lambda job, result: processes.say(fresh.gain(job, result.theta))
    )
    measured = fresh.measure(plan.jobs, {job: result.theta for job, result in learned.items()})
    best = rivals.find(noises[0], {job.nfe for job in plan.jobs}, *noises[1:], plan.num_samples, together)

    def publish():
        seconds = _seconds(run, learned)
        run.write_table("results.csv", measure.Row._fields[:4], (row[:4] for row in measured.rows))
        run.write_table("results_detail.csv", measure.Row._fields, measured.rows)
        run.write_table("results_dedicated.csv", measure.Row._fields, best.rows)
        page.write(run, bj.sharding.on_one_device(flow), plan, paths, learned, failed, measured, best, seconds)
        rows = measured.rows + [row._replace(solver="dedicated") for row in best.rows]
        print(f"\n{measure.as_text(rows)}\n\n{rivals.as_text(best)}\n\nReport: {run.folder / 'report.html'}")

    processes.from_first(publish)
    return len(failed)


def _seconds(run: runs.Run, learned: dict[settings.Job, learn.Learned]) -> dict[settings.Job, float | None]:
    """What each fit took, noted for later starts; None for one that was interrupted."""
    known = costs.read_costs(run)
    fresh = {job.name: result.seconds for job, result in learned.items() if result.seconds is not None}
    known |= {name: dict(seconds=seconds, memory=None) for name, seconds in fresh.items()}
    costs.write_costs(run, known)
    return {job: known[job.name]["seconds"] if job.name in known else None for job in learned}


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status, 1 if a solver failed."""
    return launch(lambda: prepare(config, workdir), train)


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot")
