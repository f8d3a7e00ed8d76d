"""Is the learned solver better than what I would otherwise use, at my NFE and on my model?

`python -m experiments.evaluate --config=experiments/configs/fashion_fmot.py --workdir=W`. W is the folder of a run of
`experiments.train` with this config, or a new one.
"""

import bespoke_jax as bj
from bespoke_jax.types import PathLike
from experiments.learning import compare, measure, settings, truth
from experiments.learning.prepare import prepare
from experiments.report import plots
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


def evaluate(plan: settings.Plan, flow: bj.Flow, learned: list[compare.Named], where: str, run: runs.Run) -> None:
    """Solve the true paths unless the run has them, measure, and write evaluate.csv and the picture.

    Args:
        plan: what to compare: its test set and the NFE of its jobs.
        flow: the velocity field.
        learned: (name, solver) of each learned solver.
        where: where these come from, for the text.
        run: the run.
    """
    test = truth.test_set(flow, plan, run)
    found = compare.compare(truth.dealt(flow, plan, "test"), (job.nfe for job in plan.jobs), learned, test.x0, test.x1)
    processes.from_first(lambda: publish(found, run, where))


def publish(found: compare.Comparison, run: runs.Run, where: str) -> None:
    """Write the tables and the picture, and print the text."""
    run.write_table("evaluate.csv", measure.Row._fields, found.rows)
    run.write_table("evaluate_screening.csv", measure.Row._fields, found.screened)
    learned, plain = compare.curves(found.learned), compare.curves(found.plain)
    run.write_figure("evaluate", plots.psnr_of_solvers(learned, compare.curves(found.dedicated, by_method=True), plain))
    print(f"\n{compare.as_text(found, where)}\n\nAll figures: {run.folder / 'evaluate.csv'}")
    print(f"Picture: {run.folder / 'figures' / 'evaluate.png'}")


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status."""

    def prepared():
        plan, flow, run = prepare(config, workdir)
        here = bj.sharding.on_one_device(flow)
        learned, where = processes.from_first(lambda: compare.learned_solvers(run, here, config.flow.name, plan.jobs))
        return plan, flow, learned, where, run

    return launch(prepared, evaluate)


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot")
