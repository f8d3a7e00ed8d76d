"""Writing files atomically: whole, or not at all."""

import os
import pathlib
import uuid
from typing import Any

from bespoke_jax.types import PathLike

__all__ = ["check_path", "check_target", "write_whole"]


def check_path(path: Any) -> pathlib.Path:
    """`path` as a `Path`. Raises TypeError if it is not a path."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: wanted the name of a file, got {type(path).__name__}.")
    return pathlib.Path(path)


def check_target(path: Any) -> pathlib.Path:
    """`path`, if a file can be written there: its folder exists, and it is not a folder itself.

    Raises:
        TypeError: if it is not a path.
        FileNotFoundError: if its folder is missing.
        IsADirectoryError: if it is a folder.

    Examples:
        >>> check_target("nowhere/solver.json")
        Traceback (most recent call last):
        FileNotFoundError: nowhere/solver.json: there is no folder nowhere; make it first.
    """
    path = check_path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first.")
    return path


def write_whole(path: PathLike, content: bytes) -> None:
    """Write a file atomically: to a temporary file in the same folder, flushed to the disk and then renamed.

    The temporary file, `.part.` and some digits, is removed if anything fails. Only a machine that stops then leaves it behind.

    Raises:
        OSError: if the file cannot be written; an earlier file at this place stays as it was.
    """
    path = check_target(path)
    temporary = path.with_name(f".part.{uuid.uuid4().hex[:16]}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
