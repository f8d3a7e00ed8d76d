"""From a config's `data` section to a DataSet."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.data import cifar, fashion, folder, imagenet
from experiments.data.dataset import DataSet
from experiments.run.checks import fields, file_name, integer, one_of

__all__ = ["load"]


class _Kind(NamedTuple):
    """What `config.data.name` may be: how it is loaded, and from which fields beside name, folder and flip."""

    load: Callable[..., DataSet]
    fields: tuple[str, ...] = ()


_KINDS = {
    "fashion_mnist": _Kind(fashion.load),
    "cifar10": _Kind(cifar.load),
    "imagenet32": _Kind(functools.partial(imagenet.load, side=32)),
    "imagenet64": _Kind(functools.partial(imagenet.load, side=64)),
    "folder": _Kind(folder.load, ("image_size",)),
}


def load(section) -> DataSet:
    """The training images of `config.data`: `name` is their kind, `folder` where they are, `image_size` the side of a "folder"'s.

    Raises:
        ValueError: for an unknown name or field, and files that are damaged or do not fit together; names them.
        FileNotFoundError: if there are none; says which, and how to get them.
    """
    if not isinstance(section, ConfigDict):
        raise ValueError(f"config.data: got {section!r}, wanted a ConfigDict with name, folder and flip.")
    one_of("config.data.name", section.get("name"), _KINDS)
    kind = _KINDS[section.name]
    fields("config.data", section, ("name", "folder", "flip", *kind.fields))
    options = {name: integer(f"config.data.{name}", section[name], 1) for name in kind.fields}
    return kind.load(file_name("config.data.folder", section.folder), **options)
