"""JSON read without guessing: no duplicate keys, no NaN, no strings or booleans in the place of numbers."""

import json
import math
import sys

import numpy as np

__all__ = ["numbers_of_json", "parse_json"]


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
