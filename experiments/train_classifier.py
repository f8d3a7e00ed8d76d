"""Train the classifier of Fashion-MNIST: `python -m experiments.train_classifier --workdir=W`.

Writes W/classifier.safetensors with the statistics of the test images' features, and prints how many of these images it gets
right. The same seed gives the same weights. Stopped and started again, it continues from its last checkpoint.
"""

from bespoke_jax.types import PathLike
from experiments import data
from experiments.data import fashion
from experiments.pretraining import classifier, loop
from experiments.run import command_line, processes, runs
from experiments.run.checks import check_file_name
from experiments.run.config import ConfigDict
from experiments.run.launch import launch


def prepare(config: ConfigDict, workdir: PathLike) -> tuple[classifier.Plan, data.DataSet, data.DataSet, runs.Run]:
    """(plan, training set, test set, run) of a config. Every mistake in the user's input is an error here, before any work."""
    folder = check_file_name("config.folder", config.get("folder", ""))
    training, test = (fashion.load(folder, part) for part in ("train", "t10k"))
    plan = classifier.read(config, training)
    return plan, training, test, runs.open_run(workdir, classifier.stamp(plan))


def train(plan: classifier.Plan, training: data.DataSet, test: data.DataSet, run: runs.Run) -> None:
    """Train the classifier, and write its file."""
    _, variables, _ = loop.train(classifier.training_of(plan, training), run)
    processes.from_first(lambda: classifier.finish(plan, training, test, run, variables))


def main(config: ConfigDict, workdir: PathLike) -> int:
    """Returns the exit status. A loss that is not finite is reported without a stack."""
    return launch(lambda: prepare(config, workdir), train, ends=(FloatingPointError,))


if __name__ == "__main__":
    command_line.run(main, default="fashion_classifier")
