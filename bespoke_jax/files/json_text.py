"""Strict JSON: no duplicate keys, no NaN, no strings or booleans where numbers belong."""

import base64
import binascii
import json
import math
import sys
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

__all__ = ["finite_or_none", "image_of_json", "json_of_image", "numbers_of_json", "parse_json"]


def finite_or_none(value: Any) -> Any:
    """Lists and dictionaries with None in place of NaN and infinity, which JSON has not.

    Examples:
        >>> finite_or_none({"loss": math.nan, "psnr": (31.5, math.inf)})
        {'loss': None, 'psnr': [31.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def json_of_image(image: Any) -> dict[str, Any]:
    """An array for JSON: its shape, and base64 of its numbers in row-major order, little-endian.

    They are float16 where that holds them exactly, else float32 or float64.

    Examples:
        >>> json_of_image(np.array([0.5, -2.0]))
        {'shape': [2], 'dtype': 'float16', 'base64': 'ADgAwA=='}
    """
    wide = np.asarray(image, np.float64)
    with np.errstate(over="ignore"):
        dtype = next(name for name in _IMAGE_DTYPES if np.array_equal(wide.astype(name).astype(np.float64), wide))
    text = base64.b64encode(wide.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
    return dict(shape=list(wide.shape), dtype=dtype, base64=text)


def image_of_json(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """The array that `json_of_image` wrote, in float64.

    Args:
        name: the field's name, with which errors begin.
        value: the object.

    Raises:
        ValueError: for anything else, a length that does not follow from shape and dtype, or numbers that are not finite.

    Examples:
        >>> image_of_json("xi", json_of_image(np.array([[0.1, 3.0]]))).tolist()
        [[0.1, 3.0]]
    """
    if not isinstance(value, dict) or value.keys() != {"shape", "dtype", "base64"}:
        raise ValueError(f"{name}: wanted an object with shape, dtype and base64, got {_text(value)}.")
    shape, dtype, text = value["shape"], value["dtype"], value["base64"]
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"{name}.shape: wanted a list of positive integers, got {_text(shape)}.")
    if dtype not in _IMAGE_DTYPES:
        raise ValueError(f"{name}.dtype: wanted one of {_IMAGE_DTYPES}, got {_text(dtype)}.")
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"{name}.base64: wanted base64, got something else ({error}).") from None
    stored = np.dtype(dtype).newbyteorder("<")
    if len(content) != math.prod(shape) * stored.itemsize:
        raise ValueError(f"{name}.base64: wanted {math.prod(shape)} numbers in {dtype}, got {len(content)} bytes.")
    found = np.frombuffer(content, stored).astype(np.float64).reshape(shape)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity.")
    return found


_IMAGE_DTYPES = ("float16", "float32", "float64")


def _text(value: Any) -> str:
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.50}"
