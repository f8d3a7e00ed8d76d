"""Files of safetensors, which hold named arrays and a dictionary of strings."""

import json
import os
import pathlib
from collections.abc import Collection
from typing import Any, NoReturn

import jax
import safetensors
from safetensors.flax import load_file

from bespoke_jax.types import PathLike

__all__ = ["find_safetensors", "read_header", "read_safetensors"]

_WEIGHTS = pathlib.Path(__file__).parents[1] / "weights"


def find_safetensors(name: Any, shipped: Collection[str], caller: str) -> pathlib.Path:
    """The file that is shipped under this name, or lies at this path.

    Args:
        name: a name or a path.
        shipped: the names that are shipped.
        caller: with which errors begin.

    Raises:
        ValueError: if it is neither a shipped name nor the path of a *.safetensors file.
        TypeError: if it is neither a string nor a path.
        FileNotFoundError: if there is no such file.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"{caller}: wanted a name or a path, got {type(name).__name__}.")
    path = pathlib.Path(name)
    if str(name) in shipped:
        path = _WEIGHTS / f"{name}.safetensors"
    elif path.suffix != ".safetensors":
        raise ValueError(f"{caller}: wanted one of {sorted(shipped)} or a *.safetensors file, got {str(name)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"{caller}: no file {path}.")
    return path


def read_safetensors(path: PathLike) -> tuple[dict[str, jax.Array], dict[str, str]]:
    """(name -> array, the file's metadata).

    Raises:
        ValueError: if the file is truncated or of another kind, or has numbers of a dtype that JAX does not have.
    """
    try:
        with safetensors.safe_open(path, "flax") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({str(error)[:200]}).") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: tensors of a kind that JAX does not have ({str(error)[:200]}).") from None


def read_header(path: PathLike, metadata: dict[str, str], key: str, remedy: str) -> dict[str, Any]:
    """The dictionary that we wrote as JSON under `key` of a file's metadata.

    Args:
        path: of the file, for errors.
        metadata: of the file.
        key: its entry.
        remedy: what to do if there is none, for the error.

    Raises:
        ValueError: if there is no such entry, as in files of other kinds, or it is no dictionary.
    """
    if key not in metadata:
        raise ValueError(f"{path}: a safetensors file without our header: {remedy}.")
    try:
        header = json.loads(metadata[key], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its header is no JSON ({str(error)[:200]}).") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its header: wanted a dictionary, got {type(header).__name__}.")
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number")
