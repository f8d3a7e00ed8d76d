"""The starts of a family, from which fitting tries to begin: those of them that can be made."""

import contextlib
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["made"]

S = TypeVar("S")


def made(makers: Mapping[str, Callable[[], S]]) -> dict[str, S]:
    """The solvers that can be made, by name: a maker that raises ValueError has none.

    Examples:
        >>> made({"one": lambda: 1, "none": lambda: int("no number")})
        {'one': 1}
    """
    found = {}
    for name, make in makers.items():
        with contextlib.suppress(ValueError):
            found[name] = make()
    return found
