"""Files of safetensors: names, arrays and a dictionary of strings."""

import safetensors
from safetensors.flax import load_file

__all__ = ["read_safetensors"]


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
