"""Pre-train a flow: `python -m experiments.pretrain --config=experiments/configs/fashion_fmot_pretrain.py --workdir=W`."""

from bespoke_jax.types import PathLike
from experiments import data
from experiments.pretraining import flow, loop, settings
from experiments.run import command_line, processes, runs
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


def prepare(config: ConfigDict, workdir: PathLike) -> tuple[settings.Plan, data.DataSet, runs.Run]:
    """(plan, data set, run) of a config. Every mistake in the user's input is an error here, before any work."""
    dataset = data.load(config.data)
    plan = settings.read(config, dataset)
    return plan, dataset, runs.open_run(workdir, settings.stamp(config))


def pretrain(plan: settings.Plan, dataset: data.DataSet, run: runs.Run) -> None:
    """Train the network, and write the flow."""
    state = loop.train(flow.training_of(plan, dataset), run)
    processes.from_first(lambda: flow.finish(plan, dataset, run, state))


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status. A loss that is not finite and an image that cannot be read are reported without a stack."""
    return launch(lambda: prepare(config, workdir), pretrain, ends=(FloatingPointError, ValueError))


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot_pretrain")
