"""Files of safetensors: names, arrays and a dictionary of strings."""

import pathlib
from collections.abc import Collection

import safetensors
from safetensors.flax import load_file

__all__ = ["find_safetensors", "read_safetensors"]

_WEIGHTS = pathlib.Path(__file__).parent / "weights"


def find_safetensors(name, shipped: Collection[str], caller: str) -> pathlib.Path:
    """The file of what is shipped under this name, or at this path.

    Raises:
        ValueError: for a name that is neither; begins with `caller`.
        FileNotFoundError: if there is no such file.
    """
    path = pathlib.Path(name)
    if str(name) in shipped:
        path = _WEIGHTS / f"{name}.safetensors"
    elif path.suffix != ".safetensors":
        raise ValueError(f"{caller}: wanted one of {sorted(shipped)} or a *.safetensors file, got {str(name)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"{caller}: no file {path}.")
    return path


def read_safetensors(path) -> tuple[dict, dict]:
    """(name -> array, the file's metadata).

    Raises:
        ValueError: if the file is truncated or of another kind.
    """
    try:
        with safetensors.safe_open(path, "flax") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({error}).") from None
