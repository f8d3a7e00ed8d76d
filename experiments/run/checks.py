"""Checks of a config's fields that the library's own (bespoke_jax/checks.py) do not cover. They speak the same dialect:
"config.seed: wanted ..., got ..."."""

import os
import pathlib
from typing import Any

from bespoke_jax.checks import check_count
from experiments.run.config import ConfigDict

__all__ = ["LARGEST_SEED", "check_fields", "check_file_name", "check_section", "check_seed"]

LARGEST_SEED = 2**32 - 1
"""JAX makes its keys from 32 bits: it would drop the rest of a larger seed, or stop."""


def check_section(name: str, section: Any, wanted: str) -> ConfigDict:
    """`section`, if it is a ConfigDict; a ValueError says what was `wanted` in it."""
    if not isinstance(section, ConfigDict):
        raise ValueError(f"{name}: wanted a ConfigDict {wanted}, got {section!r}.")
    return section


def check_fields(name: str, section: Any, wanted: tuple[str, ...]) -> ConfigDict:
    """`section`, if it is a ConfigDict with exactly the fields `wanted`.

    Examples:
        >>> check_fields("config.paths", ConfigDict(dict(rtol=1e-5)), ("rtol", "atol"))
        Traceback (most recent call last):
        ValueError: config.paths.atol: missing; config.paths has rtol, atol.
    """
    check_section(name, section, f"with the fields {', '.join(wanted)}")
    for problem, names in (("no such field", set(section) - set(wanted)), ("missing", set(wanted) - set(section))):
        if names:
            raise ValueError(f"{name}.{min(names)}: {problem}; {name} has {', '.join(wanted)}.")
    return section


def check_seed(name: str, value: Any) -> int:
    """`value`, if it can seed random numbers."""
    return check_count(name, value, 0, LARGEST_SEED)


def check_file_name(name: str, value: Any) -> str:
    """`value` as text, if it can name a file or a folder; "" stands for none."""
    wanted = f"{name}: wanted the name of a file or a folder, got {value!r}"
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{wanted}.")
    value = os.fspath(value)
    try:
        pathlib.Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # ~somebody, a zero byte, a name of 300 letters
        raise ValueError(f"{wanted} ({error}).") from None
    return value
