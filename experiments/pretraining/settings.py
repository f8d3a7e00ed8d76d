"""What a config of `pretrain` may say, and the plan read from it. A mistake in a config is found here, before any work."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

import bespoke_jax as bj
from experiments.data import DataSet
from experiments.pretraining.flow_matching import TARGETS, Objective, learning_rate
from experiments.run.checks import fields, flag, integer, number, one_of, positive, seed

__all__ = ["Plan", "read", "stamp"]

_NETWORKS = {network.__name__: network for network in (bj.models.UNet, bj.models.ADM)}
_SCHEDULERS = ("condot", "cosine", "vp")  # inputs of order 1: EDM's want the preconditioning of a denoiser
_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
_FIELDS = (
    *("workdir", "seed", "data", "scheduler", "prediction", "network", "compute_dtype", "label_dropout"),
    *(
        "num_steps",
        "batch_size",
        "learning_rate",
        "warmup",
        "decay_fraction",
        "clip_norm",
        "ema_decay",
        "checkpoint_every",
    ),
)


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    scheduler: str
    objective: Objective
    optimizer: optax.GradientTransformation
    num_steps: int
    batch_size: int
    ema_decay: float
    checkpoint_every: int
    flip: bool


def read(config: ConfigDict, dataset: DataSet) -> Plan:
    """The plan of a config for a data set.

    Raises:
        ValueError: for a field that is missing, unknown or out of range; names it, its value and what is wanted.
    """
    fields("config", config, _FIELDS)
    one_of("config.scheduler", config.scheduler, _SCHEDULERS)
    one_of("config.prediction", config.prediction, TARGETS)
    if (config.scheduler, config.prediction) == ("vp", "velocity"):
        wanted = sorted(set(TARGETS) - {"velocity"})
        raise ValueError(
            f"config.prediction: got 'velocity' under 'vp', which is infinite at t = 1; wanted one of {wanted}."
        )
    num_steps = integer("config.num_steps", config.num_steps, 1)
    warmup = integer("config.warmup", config.warmup, 0)
    decay_fraction = number("config.decay_fraction", config.decay_fraction, 0, 1)
    schedule = learning_rate(positive("config.learning_rate", config.learning_rate), num_steps, warmup, decay_fraction)
    return Plan(
        seed=seed("config.seed", config.seed),
        scheduler=config.scheduler,
        objective=Objective(
            network=_network(config, dataset),
            scheduler=bj.schedulers.by_name(config.scheduler),
            prediction=config.prediction,
            label_dropout=number("config.label_dropout", config.label_dropout, 0, 1),
        ),
        optimizer=optax.chain(
            optax.clip_by_global_norm(positive("config.clip_norm", config.clip_norm)), optax.adam(schedule)
        ),
        num_steps=num_steps,
        batch_size=integer("config.batch_size", config.batch_size, 1, len(dataset)),
        ema_decay=number("config.ema_decay", config.ema_decay, 0, 1),
        checkpoint_every=integer("config.checkpoint_every", config.checkpoint_every, 1),
        flip=flag("config.data.flip", config.data.flip),
    )


def stamp(config: ConfigDict) -> dict:
    """What the weights depend on. Not the number of steps: a run may be lengthened, or ended where it is."""
    content = config.to_dict()
    content["data"].pop("folder")
    return {name: value for name, value in content.items() if name not in ("workdir", "num_steps", "checkpoint_every")}


def _network(config, dataset) -> nn.Module:
    """The network of `config.network`, after its shapes alone have been computed for the images."""
    one_of("config.compute_dtype", config.compute_dtype, _DTYPES)
    if not isinstance(config.network, ConfigDict):
        raise ValueError(f"config.network: got {config.network!r}, wanted a ConfigDict with the fields of a network.")
    options = config.network.to_dict()
    name = options.pop("name", "UNet")
    one_of("config.network.name", name, _NETWORKS)
    try:
        network = _NETWORKS[name](**options, dtype=_DTYPES[config.compute_dtype])
        x = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
        out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros(()), x)
    except Exception as error:  # of as many kinds as there are numbers that make no network
        kind = (
            ""
            if isinstance(error, TypeError | ValueError)
            else f"no network can be made of it, {type(error).__name__}: "
        )
        raise ValueError(f"config.network: {kind}{error}") from None
    if out.shape != x.shape:
        raise ValueError(f"config.network: it makes {out.shape[1:]} of images {x.shape[1:]}; set out_channels.")
    if network.num_classes and not dataset.num_classes:
        raise ValueError(f"config.network.num_classes: got {network.num_classes}, wanted 0: the data have no classes.")
    if network.num_classes not in (0, dataset.num_classes):
        raise ValueError(
            f"config.network.num_classes: got {network.num_classes}, wanted 0 or {dataset.num_classes}, the classes of the data."
        )
    return network
