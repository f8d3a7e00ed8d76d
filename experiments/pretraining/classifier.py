"""Training a small image classifier: its config, its training for the loop, and what is written at the end."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

import bespoke_jax as bj
from bespoke_jax.checks import check_count, check_positive
from bespoke_jax.run.paths import slices
from bespoke_jax.types import Array, PyTree
from experiments import data
from experiments.pretraining.loop import Training
from experiments.run.checks import check_fields, check_seed
from experiments.run.config import ConfigDict
from experiments.run.runs import Run

__all__ = ["Plan", "finish", "images_of", "read", "stamp", "training_of"]

_BATCH_SIZE = 500  # of images that are only looked at
_CHECKPOINT_EVERY = 500  # steps
_WIDEST = 65_536  # channels
_FIELDS = ("workdir", "seed", "folder", "channels", "num_steps", "batch_size", "learning_rate")


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    network: bj.models.ConvClassifier
    num_steps: int
    batch_size: int
    learning_rate: float


def read(config: ConfigDict, training: data.DataSet) -> Plan:
    """The plan of a config for a training set.

    Raises:
        ValueError: for a field that is missing, unknown or out of range; names the field, what was wanted and what came.
    """
    check_fields("config", config, _FIELDS)
    if not isinstance(config.channels, tuple) or not config.channels:
        raise ValueError(f"config.channels: wanted a tuple of widths such as (24, 48, 64), got {config.channels!r}.")
    channels = tuple(check_count("config.channels", width, 1, _WIDEST) for width in config.channels)
    return Plan(
        seed=check_seed("config.seed", config.seed),
        network=bj.models.ConvClassifier(channels, training.num_classes),
        num_steps=check_count("config.num_steps", config.num_steps),
        batch_size=check_count("config.batch_size", config.batch_size, 1, len(training)),
        learning_rate=check_positive("config.learning_rate", config.learning_rate),
    )


def stamp(plan: Plan) -> dict[str, Any]:
    """What the weights depend on."""
    return plan._replace(network=plan.network.channels)._asdict()


def training_of(plan: Plan, training: data.DataSet) -> Training:
    """The training of a plan on one device: cross-entropy, Adam, a cosine from the learning rate to 0.

    Its state is (number of updates, variables, optimiser's state).
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(plan.learning_rate, plan.num_steps))

    def init():
        variables = plan.network.init(jax.random.key(plan.seed), jnp.zeros((1, *training.image_shape)))
        return np.asarray(0, np.int32), variables, optimizer.init(variables)

    @jax.jit
    def updated(variables, opt_state, images, labels):
        def loss(variables):
            outputs: Any = plan.network.apply(variables, data.to_model(images))
            return optax.softmax_cross_entropy_with_integer_labels(outputs[1], labels).mean()

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(variables, updates), opt_state, value

    def update(state, step, images, labels):
        variables, opt_state, loss = updated(*state[1:], images, labels)
        return (np.asarray(step + 1, np.int32), variables, opt_state), loss

    return Training(
        name="classifier",
        init=init,
        update=update,
        batches=lambda steps: data.batches(training, plan.seed, steps, plan.batch_size),
        num_steps=plan.num_steps,
        checkpoint_every=_CHECKPOINT_EVERY,
        remedy="lower config.learning_rate",
    )


def images_of(dataset: data.DataSet, count: int) -> Iterator[Float[Array, "B H W C"]]:
    """The first `count` images, [B, H, W, C] in [-1, 1], in batches."""
    for part in slices(count, _BATCH_SIZE):
        yield data.to_model(dataset.read(np.arange(part.start, part.stop)))


def finish(plan: Plan, training: data.DataSet, test: data.DataSet, run: Run, variables: PyTree) -> None:
    """Write classifier.safetensors with the statistics of the test images' features, and print how good it is."""
    path = run.folder / "classifier.safetensors"
    bj.models.save_classifier(path, bj.models.Classifier(plan.network, variables, test.image_shape))
    rounded = bj.models.load_classifier(path)
    statistics, other = (
        bj.fid.statistics_of(images_of(dataset, len(test)), rounded.features) for dataset in (test, training)
    )
    bj.models.save_classifier(path, dataclasses.replace(rounded, statistics=statistics))
    found = np.concatenate([rounded.classes(images) for images in images_of(test, len(test))])
    print(f"\nTest images classified correctly: {100 * np.mean(found == test.labels):.2f} %")
    print(f"Distance of as many training images from them: {bj.fid.frechet_distance(other, statistics):.4f}")
    print(f"Classifier: {path}")
