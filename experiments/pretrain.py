"""Pre-train a flow: `python -m experiments.pretrain --config=experiments/configs/fashion_fmot_pretrain.py --workdir=W`."""

from experiments import data
from experiments.pretraining import loop, settings
from experiments.run import command_line, processes, runs


def prepare(config, workdir):
    """(plan, data set, run) of a config. Whatever is wrong with the user's input is an error here, before any work."""
    dataset = data.load(config.data)
    plan = settings.read(config, dataset)
    return plan, dataset, runs.open_run(workdir, settings.stamp(config))


def main(config, workdir):
    """What is wrong with the input is said without a stack."""
    with command_line.without_stack(FloatingPointError):
        plan, dataset, run = prepare(config, workdir)
        with run:
            state = loop.train(plan, dataset, run)
            processes.from_first(lambda: loop.finish(plan, dataset, run, state))


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot_pretrain")
