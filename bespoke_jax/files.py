"""Files: written whole or not at all, and JSON read without guessing."""

import json
import math
import os
import pathlib
import sys
import uuid

import numpy as np

__all__ = ["check_target", "numbers_of_json", "parse_json", "write_whole"]


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


def parse_json(name: str, text: str | bytes):
    """What a JSON text says. Python's parser takes more than JSON has, and the last of two equal keys: both are refused here.

    Raises:
        ValueError: begins with `name`; for text that is no JSON, a key that is there twice, NaN, Infinity and numbers like 1e400.

    Examples:
        >>> parse_json("s.json", '{"nfe": 8, "nfe": 16}')
        Traceback (most recent call last):
        ValueError: s.json: not a complete JSON file (the key 'nfe' is there twice).
    """

    def refuse(literal):
        raise ValueError(f"{literal} is no JSON number")

    def finite(literal):
        value = float(literal)
        return value if math.isfinite(value) else refuse(literal)

    def once(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} is there twice")
            found[key] = value
        return found

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not a complete JSON file ({error}).") from None


def numbers_of_json(name: str, value, shape: tuple[int, ...]) -> np.ndarray:
    """Nested lists of JSON as a float64 array, if they are of this shape and hold numbers: no strings, no booleans.

    Examples:
        >>> numbers_of_json("t", [0, 0.5], (2,)).tolist()
        [0.0, 0.5]
        >>> numbers_of_json("t", [0, "0.5"], (2,))
        Traceback (most recent call last):
        ValueError: t: wanted finite numbers, got '0.5'.
    """
    entries = [value]
    for size in shape:
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != size:
                got = f"{len(entry)} in place of {size}" if isinstance(entry, list) else f"no list but {_text(entry)}"
                raise ValueError(f"{name}: wanted finite numbers of shape {list(shape)}, got {got}.")
        entries = [part for entry in entries for part in entry]
    for entry in entries:
        if type(entry) not in (int, float) or not abs(entry) <= sys.float_info.max:  # NaN fails too
            raise ValueError(f"{name}: wanted finite numbers, got {_text(entry)}.")
    return np.array(entries, np.float64).reshape(shape)


def _text(value) -> str:
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.50}"
