"""Train the classifier of Fashion-MNIST: `python -m experiments.train_classifier --workdir=W`.

Writes W/classifier.safetensors with the statistics of the test images' features, and prints how many of these it gets right. Of
the same seed the same weights. Stopped and started again, it goes on from its last checkpoint.
"""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bespoke_jax as bj
from experiments import data
from experiments.data import fashion
from experiments.run import command_line, processes, runs, stopping
from experiments.run.checks import fields, file_name, integer, positive, seed

_BATCH_SIZE = 500  # of images that are only looked at
_LOOK_EVERY = 10  # steps: each look waits for the device
_CHECKPOINT_EVERY = 500  # steps
_WIDEST = 65_536  # channels
_NAME = "classifier"  # of checkpoints in the run's folder


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    network: bj.models.ConvClassifier
    num_steps: int
    batch_size: int
    learning_rate: float


def read(config, training: data.DataSet) -> Plan:
    """The plan of a config. Raises ValueError for a field that is missing, unknown or out of range."""
    wanted = ("workdir", "seed", "folder", "channels", "num_steps", "batch_size", "learning_rate")
    fields("config", config, wanted)
    if not isinstance(config.channels, tuple) or not config.channels:
        raise ValueError(f"config.channels: got {config.channels!r}, wanted a tuple of widths: (24, 48, 64).")
    return Plan(
        seed=seed("config.seed", config.seed),
        network=bj.models.ConvClassifier(
            tuple(integer("config.channels", width, 1, _WIDEST) for width in config.channels), training.num_classes
        ),
        num_steps=integer("config.num_steps", config.num_steps, 1),
        batch_size=integer("config.batch_size", config.batch_size, 1, len(training)),
        learning_rate=positive("config.learning_rate", config.learning_rate),
    )


def train(plan: Plan, training: data.DataSet, run: runs.Run) -> dict:
    """The variables after the last step: cross-entropy, Adam, a cosine from the learning rate to 0.

    Raises:
        FloatingPointError: if the loss is not finite; the checkpoints are from before.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(plan.learning_rate, plan.num_steps))
    variables = plan.network.init(jax.random.key(plan.seed), jnp.zeros((1, *training.image_shape)))

    @jax.jit
    def update(variables, state, images, labels):
        def loss(variables):
            logits = plan.network.apply(variables, data.to_model(images))[1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, updates), state, value

    with run.checkpoints(_NAME) as checkpoints:
        whole = (np.asarray(0, np.int32), variables, optimizer.init(variables))
        first, variables, state = checkpoints.restore(whole) or whole
        batches = data.batches(training, plan.seed, range(int(first), plan.num_steps), plan.batch_size)
        bar = processes.bar(total=plan.num_steps, initial=int(first), desc=_NAME)
        with contextlib.closing(batches), bar:
            for done, batch in enumerate(batches, int(first) + 1):
                variables, state, loss = update(variables, state, *batch)
                save = done % _CHECKPOINT_EVERY == 0 or done == plan.num_steps
                if not save and done % _LOOK_EVERY:
                    continue
                if not np.isfinite(loss):
                    raise FloatingPointError(f"step {done}: the loss is {loss}; lower config.learning_rate.")
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{loss:.3f}")
                if save or stopping.asked():
                    checkpoints.save(done, (np.asarray(done, np.int32), variables, state))
                    stopping.stop_if_asked()
    return variables


def images_of(dataset: data.DataSet, count: int):
    """The first `count` images, [B, H, W, C] in [-1, 1], in batches."""
    for part in bj.adjoint.chunks(count, _BATCH_SIZE):
        yield data.to_model(dataset.read(np.arange(part.start, part.stop)))


def finish(plan: Plan, variables, training: data.DataSet, test: data.DataSet, run: runs.Run):
    """Write the file, and say how good it is."""
    path = run.folder / "classifier.safetensors"
    bj.models.save_classifier(path, bj.models.Classifier(plan.network, variables, test.image_shape))
    rounded = bj.models.load_classifier(path)
    statistics, other = (
        bj.fid.statistics_of(images_of(dataset, len(test)), rounded.features) for dataset in (test, training)
    )
    bj.models.save_classifier(path, dataclasses.replace(rounded, statistics=statistics))
    found = np.concatenate([rounded.classes(images) for images in images_of(test, len(test))])
    print(f"\nTest images of which it says the class: {100 * np.mean(found == test.labels):.2f} %")
    print(f"Distance of as many training images from them: {bj.fid.frechet_distance(other, statistics):.4f}")
    print(f"Classifier: {path}")


def main(config, workdir):
    """What is wrong with the input is said without a stack."""
    with command_line.without_stack(FloatingPointError):
        training, test = (
            fashion.load(file_name("config.folder", config.get("folder", "")), part) for part in ("train", "t10k")
        )
        plan = read(config, training)
        with runs.open_run(workdir, plan._replace(network=plan.network.channels)._asdict()) as run:
            variables = train(plan, training, run)
            processes.from_first(lambda: finish(plan, variables, training, test, run))


if __name__ == "__main__":
    command_line.run(main, default="fashion_classifier")
