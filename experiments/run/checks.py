"""Checks of a config's fields: a ValueError that names the field, what it is and what was wanted."""

import math
import numbers
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

__all__ = ["LARGEST_SEED", "fields", "file_name", "flag", "integer", "number", "one_of", "positive", "seed"]


def fields(name: str, section: Any, wanted: tuple[str, ...]):
    """Raise ValueError unless `section` is a ConfigDict with exactly the fields `wanted`."""
    if not isinstance(section, ConfigDict):
        raise ValueError(f"{name}: got {section!r}, wanted a ConfigDict with the fields {', '.join(wanted)}.")
    for problem, names in (("no such field", set(section) - set(wanted)), ("missing", set(wanted) - set(section))):
        if names:
            raise ValueError(f"{name}.{min(names)}: {problem}; {name} has {', '.join(wanted)}.")


def one_of(name: str, value: Any, allowed):
    """Raise ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: got {value!r}, wanted one of {sorted(allowed)}.")


def integer(name: str, value: Any, smallest: int, largest: float = math.inf) -> int:
    """`value`, after checking that it is an integer from `smallest` to `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        limits = f">= {smallest}" if largest == math.inf else f"from {smallest} to {largest}"
        raise ValueError(f"{name}: got {value!r}, wanted an integer {limits}.")
    return value


LARGEST_SEED = 2**32 - 1
"""JAX makes its keys of 32 bits: of a larger seed it would drop the rest, or stop."""


def seed(name: str, value: Any) -> int:
    """`value`, after checking that it is a seed of random numbers."""
    return integer(name, value, 0, LARGEST_SEED)


def flag(name: str, value: Any) -> bool:
    """`value`, after checking that it is True or False: bool("no") is True."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, wanted True or False.")
    return value


def file_name(name: str, value: Any) -> str:
    """`value`, after checking that it is text: the name of a file or a folder, or "" for none."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name}: got {value!r}, wanted the name of a file or a folder.")
    value = os.fspath(value)
    try:
        pathlib.Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # ~somebody, a zero byte, a name of 300 letters
        raise ValueError(f"{name}: got {value!r}, wanted the name of a file or a folder ({error}).") from None
    return value


def number(name: str, value: Any, smallest: float, largest: float) -> float:
    """`value`, after checking that it is a number from `smallest` to `largest`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not smallest <= value <= largest:
        raise ValueError(f"{name}: got {value!r}, wanted a number from {smallest} to {largest}.")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value`, after checking that it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, wanted a number > 0.")
    return float(value)
