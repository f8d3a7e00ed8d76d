"""The fields of a config of `pretrain`, and the plan read from it. A mistake in a config is found here, before any work."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import bespoke_jax as bj
from bespoke_jax.checks import check_choice, check_count, check_flag, check_number, check_positive
from experiments.data import DataSet
from experiments.pretraining.flow_matching import TARGETS, Objective, learning_rate
from experiments.run.checks import check_fields, check_section, check_seed
from experiments.run.config import ConfigDict

__all__ = ["Plan", "read", "stamp"]

_NETWORKS = {network.__name__: network for network in (bj.models.UNet, bj.models.ADM)}
_SCHEDULERS = ("condot", "cosine", "vp")  # inputs of order 1; EDM's need the preconditioning of a denoiser
_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
_FIELDS = (
    *("workdir", "seed", "data", "scheduler", "prediction", "network", "compute_dtype", "label_dropout"),
    *("num_steps", "batch_size", "learning_rate", "warmup", "decay_fraction"),
    *("clip_norm", "ema_decay", "checkpoint_every"),
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
        ValueError: for a field that is missing, unknown or out of range; names the field, what was wanted and what came.
    """
    check_fields("config", config, _FIELDS)
    check_choice("config.scheduler", config.scheduler, _SCHEDULERS)
    check_choice("config.prediction", config.prediction, TARGETS)
    if (config.scheduler, config.prediction) == ("vp", "velocity"):
        wanted = sorted(set(TARGETS) - {"velocity"})
        raise ValueError(
            f"config.prediction: wanted one of {wanted} under 'vp', got 'velocity', which is infinite there at t = 1."
        )
    num_steps = check_count("config.num_steps", config.num_steps)
    warmup = check_count("config.warmup", config.warmup, 0)
    decay_fraction = check_number("config.decay_fraction", config.decay_fraction, 0, 1)
    schedule = learning_rate(
        check_positive("config.learning_rate", config.learning_rate), num_steps, warmup, decay_fraction
    )
    return Plan(
        seed=check_seed("config.seed", config.seed),
        scheduler=config.scheduler,
        objective=Objective(
            network=_network(config, dataset),
            scheduler=bj.schedulers.by_name(config.scheduler),
            prediction=config.prediction,
            label_dropout=check_number("config.label_dropout", config.label_dropout, 0, 1),
        ),
        optimizer=optax.chain(
            optax.clip_by_global_norm(check_positive("config.clip_norm", config.clip_norm)), optax.adam(schedule)
        ),
        num_steps=num_steps,
        batch_size=check_count("config.batch_size", config.batch_size, 1, len(dataset)),
        ema_decay=check_number("config.ema_decay", config.ema_decay, 0, 1),
        checkpoint_every=check_count("config.checkpoint_every", config.checkpoint_every, 1),
        flip=check_flag("config.data.flip", config.data.flip),
    )


def stamp(config: ConfigDict) -> dict:
    """What the weights depend on. The number of steps is left out: a run may be lengthened, or ended where it is."""
    content = config.to_dict()
    content["data"].pop("folder")
    return {name: value for name, value in content.items() if name not in ("workdir", "num_steps", "checkpoint_every")}


def _network(config: ConfigDict, dataset: DataSet) -> bj.models.UNet | bj.models.ADM:
    """The network of `config.network`, after a check of its shapes for the images."""
    check_choice("config.compute_dtype", config.compute_dtype, _DTYPES)
    options = check_section("config.network", config.network, "with the fields of a network").to_dict()
    name = options.pop("name", "UNet")
    check_choice("config.network.name", name, _NETWORKS)
    try:
        network = _NETWORKS[name](**options, dtype=_DTYPES[config.compute_dtype])
        x = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
        out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros(()), x)
    except Exception as error:  # numbers that make no network raise many types
        known = isinstance(error, TypeError | ValueError)
        kind = "" if known else f"no network can be made of it, {type(error).__name__}: "
        raise ValueError(f"config.network: {kind}{error}") from None
    if out.shape != x.shape:
        raise ValueError(
            f"config.network: wanted outputs {x.shape[1:]} like the images, got {out.shape[1:]}; set out_channels."
        )
    if network.num_classes and not dataset.num_classes:
        raise ValueError(
            f"config.network.num_classes: wanted 0, since the data have no classes, got {network.num_classes}."
        )
    if network.num_classes not in (0, dataset.num_classes):
        raise ValueError(
            f"config.network.num_classes: wanted 0 or {dataset.num_classes}, the number of classes of the data, got "
            f"{network.num_classes}."
        )
    return network
