"""Learn Bespoke solvers: `python -m experiments.train --config=experiments/configs/fashion_fmot.py --workdir=W`."""

import bespoke_jax as bj
from bespoke_jax.types import PathLike
from experiments.learning import learn, measure, settings, truth
from experiments.learning.prepare import prepare
from experiments.report import page
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


def train(plan: settings.Plan, flow: bj.Flow, run: runs.Run) -> int:
    """Solve the paths, learn the solvers, measure them, report. Returns the number of solvers that failed."""
    paths = truth.solve(flow, plan, run)
    fresh = measure.FreshNoise(truth.dealt(flow, plan, "test"), paths.test.x0, paths.test.x1, keep=plan.num_samples)
    learned, failed = learn.learn_all(
        flow, plan, paths, run, then=lambda job, result: processes.say(fresh.gain(job, result.theta))
    )
    measured = fresh.measure(plan.jobs, {job: result.theta for job, result in learned.items()})

    def publish():
        run.write_table("results.csv", measure.Row._fields[:4], (row[:4] for row in measured.rows))
        run.write_table("results_detail.csv", measure.Row._fields, measured.rows)
        page.write(run, bj.sharding.on_one_device(flow), plan, paths, learned, failed, measured)
        print(f"\n{measure.as_text(measured.rows)}\n\nReport: {run.folder / 'report.html'}")

    processes.from_first(publish)
    return len(failed)


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status, 1 if a solver failed."""
    return launch(lambda: prepare(config, workdir), train)


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot")
