"""Strict JSON: no duplicate keys, no NaN, no strings or booleans where numbers belong."""

import json
import math
import sys
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

__all__ = ["numbers_of_json", "parse_json"]


def parse_json(name: str, text: str | bytes) -> Any:
    """The value of a JSON text, without the extensions of Python's parser: constants such as NaN, and repeated keys.

    Args:
        name: the file's name, with which errors begin.
        text: the JSON.

    Raises:
        ValueError: for text that is not JSON, a repeated key, NaN, Infinity and numbers like 1e400.

    Examples:
        >>> parse_json("s.json", '{"nfe": 8, "nfe": 16}')
        Traceback (most recent call last):
        ValueError: s.json: not a complete JSON file (the key 'nfe' is there twice).
    """

    def refuse(literal: str) -> NoReturn:
        raise ValueError(f"{literal} is no JSON number")

    def finite(literal: str) -> float:
        value = float(literal)
        return value if math.isfinite(value) else refuse(literal)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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


def numbers_of_json(name: str, value: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Nested lists of JSON as a float64 array, if they have this shape and hold finite numbers, not strings or booleans.

    Args:
        name: the field's name, with which errors begin.
        value: the lists.
        shape: the shape wanted.

    Raises:
        ValueError: otherwise.

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
                got = (
                    f"{len(entry)} in place of {size}"
                    if isinstance(entry, list)
                    else f"{_text(entry)} in place of a list"
                )
                raise ValueError(f"{name}: wanted finite numbers of shape {list(shape)}, got {got}.")
        entries = [part for entry in entries for part in entry]
    for entry in entries:
        if type(entry) not in (int, float) or not abs(entry) <= sys.float_info.max:  # NaN fails too
            raise ValueError(f"{name}: wanted finite numbers, got {_text(entry)}.")
    return np.array(entries, np.float64).reshape(shape)


def _text(value: Any) -> str:
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.50}"
