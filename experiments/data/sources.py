"""The data set of a config's `data` section."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from bespoke_jax.checks import check_choice, check_count
from experiments.data import cifar, fashion, folder, imagenet
from experiments.data.dataset import DataSet
from experiments.run.checks import check_fields, check_file_name, check_section
from experiments.run.config import ConfigDict

__all__ = ["load"]


class _Kind(NamedTuple):
    """One choice of `config.data.name`: its loader, and the fields that it needs besides name, folder and flip."""

    load: Callable[..., DataSet]
    fields: tuple[str, ...] = ()


_KINDS = {
    "fashion_mnist": _Kind(fashion.load),
    "cifar10": _Kind(cifar.load),
    "imagenet32": _Kind(functools.partial(imagenet.load, side=32)),
    "imagenet64": _Kind(functools.partial(imagenet.load, side=64)),
    "folder": _Kind(folder.load, ("image_size",)),
}


def load(section: ConfigDict) -> DataSet:
    """The training images of `config.data`. `name` is their kind, `folder` where they are, `image_size` the side for a "folder".

    Raises:
        ValueError: for an unknown name or field, and for files that are damaged or inconsistent; names them.
        FileNotFoundError: if the files are missing; says which, and how to get them.
    """
    check_section("config.data", section, "with name, folder and flip")
    kind = _KINDS[check_choice("config.data.name", section.get("name"), _KINDS)]
    check_fields("config.data", section, ("name", "folder", "flip", *kind.fields))
    options = {name: check_count(f"config.data.{name}", section[name]) for name in kind.fields}
    return kind.load(check_file_name("config.data.folder", section.folder), **options)
