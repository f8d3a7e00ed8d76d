"""The flow of a config's `flow` section."""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.checks import check_choice, check_count, check_number, check_positive
from bespoke_jax.models.labels import labels_of_text
from experiments.learning import own_flow
from experiments.run.checks import check_file_name, check_section, check_seed
from experiments.run.config import ConfigDict
from experiments.run.errors import WrongType

__all__ = ["OWN", "fingerprint", "load"]

OWN = "python"
"""The kind whose flow is the user's own code."""


def _mixture(image_size, num_components, std, seed):
    """A Gaussian mixture whose means are smooth random blobs: an image flow in closed form, for tests and trials."""
    check_count("config.flow.image_size", image_size, 1, 1024)
    check_count("config.flow.num_components", num_components, 1, 1024)
    check_positive("config.flow.std", std)
    random = np.random.default_rng(check_seed("config.flow.seed", seed))
    grid = (np.arange(image_size) + 0.5) / image_size
    centres, widths = random.uniform(0.2, 0.8, (num_components, 2)), random.uniform(0.1, 0.3, (num_components, 2))
    rows, columns = (np.exp(-(((grid - centres[:, [i]]) / widths[:, [i]]) ** 2)) for i in (0, 1))
    means = 2 * rows[:, :, None] * columns[:, None, :] - 1
    return bj.analytic.mixture(means[..., None], std)


class _Kind(NamedTuple):
    """One choice of `config.flow.name`: its loader, the fields that it needs, and those that it may have besides."""

    load: Callable[..., bj.Flow]
    fields: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def _file(load: Callable[..., bj.Flow], *options: str) -> _Kind:
    """The kind of the user's own file or folder. If there is none, the error says what is missing and how to get it."""

    def checked(path, missing, remedy, **given):
        if not path or not pathlib.Path(check_file_name("config.flow.path", path)).expanduser().exists():
            state = f"is {path!r}, where there is no file" if path else "is empty"
            raise FileNotFoundError(f"config.flow.path {state}; missing: {missing}\n{remedy}")
        return load(pathlib.Path(path).expanduser(), **given)

    return _Kind(checked, ("path", "missing", "remedy"), options)


def _edm(path, scheduler=None, labels=None):
    return bj.models.edm.load(path).flow(scheduler, labels)


_KINDS = {
    **{name: _Kind(functools.partial(bj.models.load_flow, name), (), ("labels",)) for name in bj.models.SHIPPED},
    "mixture": _Kind(_mixture, ("image_size", "num_components", "std", "seed")),
    OWN: _Kind(own_flow.load, ("path",), ("kwargs",)),
    "checkpoint": _file(bj.models.load_flow, "labels"),
    "diffusers": _file(bj.models.diffusers.load, "scheduler", "labels"),
    "edm": _file(_edm, "scheduler", "labels"),
    "torchcfm": _file(
        bj.models.torchcfm.load,
        *("scheduler", "labels", "weights", "image_size", "num_heads", "head_channels", "new_attention_order"),
    ),
}


def load(section: ConfigDict) -> bj.Flow:
    """The flow of `config.flow` on all devices. Its field `name` is the kind, which decides the other fields.

    Files are those of `bj.models.save_flow` ("checkpoint"), EDM ("edm") and torchcfm ("torchcfm"), and the folders of diffusers
    ("diffusers"). All of these have the fields path, missing and remedy (what to say if there is no file), and may have options
    of their importers. The kind "python" has the path of a function of yours, "my_module:make_flow", and optionally its kwargs.
    Every kind may have guidance_scale, the w of `bj.guided`, 0 for none. labels is a class, several, or "all" (on the command
    line "3", "0,3,5", "all"); solvers for several classes are learned and measured on samples of all.

    Raises:
        ValueError: for an unknown kind, fields that the kind does not have, or a file that its importer refuses.
        FileNotFoundError: if the weights are missing; says which, and how to get them.
        WrongType: if a function of yours returns something other than a Flow.
    """
    fields = check_section("config.flow", section, "with the field name and those of its kind").to_dict()
    name = fields.pop("name", None)
    kind = _KINDS[check_choice("config.flow.name", name, _KINDS)]
    guidance_scale = fields.pop("guidance_scale", 0)
    if not set(kind.fields) <= set(fields) <= {*kind.fields, *kind.options}:
        optional = ", ".join((*kind.options, "guidance_scale"))
        raise ValueError(
            f"config.flow: wanted the fields {', '.join(('name', *kind.fields))} for {name!r}, and optionally {optional}, "
            f"got {', '.join(sorted(('name', *fields)))}."
        )
    guidance_scale = check_number("config.flow.guidance_scale", guidance_scale, -1000, 1000)
    if "labels" in fields:
        fields["labels"] = _labels(fields["labels"])
    try:
        flow = kind.load(**fields)
    except WrongType:
        raise
    except TypeError as error:  # a string in place of a number, say
        raise ValueError(f"config.flow: {name!r} cannot be loaded with {fields}: {error}") from None
    return bj.sharding.replicate(bj.guided(flow, guidance_scale) if guidance_scale else flow)


def _labels(labels):
    """The labels as the importers want them. The command line can only give text."""
    if isinstance(labels, str):
        return labels_of_text(labels, "config.flow.labels")
    return list(labels) if isinstance(labels, tuple) else labels


def fingerprint(flow: bj.Flow) -> str:
    """A short hash of the flow's parameters: paths solved with other weights are another flow's."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(flow):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
