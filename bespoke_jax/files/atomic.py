"""Files written whole or not at all."""

import os
import pathlib
import uuid

__all__ = ["check_target", "write_whole"]


def check_target(path) -> pathlib.Path:
    """`path`, if a file can be written there: its folder exists, and it is not itself one.

    Raises:
        TypeError: if it is no path.
        FileNotFoundError, IsADirectoryError: with what is missing or in the way.

    Examples:
        >>> check_target("nowhere/solver.json")
        Traceback (most recent call last):
        FileNotFoundError: nowhere/solver.json: there is no folder nowhere; make it first.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: wanted the name of a file, got {type(path).__name__}.")
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first.")
    return path


def write_whole(path, content: bytes) -> None:
    """Write a file, whole or not at all: beside its place, through to the disk, and renamed into it.

    What is beside it has a name of its own, `.part.` and some digits, and is gone if anything fails. Only a machine that stops
    in the middle leaves it behind.

    Raises:
        OSError: if it cannot be written; the file that was there is as it was.
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
