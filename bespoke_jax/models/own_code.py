"""The flow of the user's own code: "my_module:make_flow" names a function that returns it."""

import functools
import importlib
import os
import sys
import traceback
import types
from typing import Any

from bespoke_jax.flow.flow import Flow

__all__ = ["flow_of_code", "own_traceback"]


def flow_of_code(path: str, kwargs: dict[str, Any] | None = None, name: str = "path") -> Flow:
    """The flow that a function of the user's returns. The working directory is importable.

    Args:
        path: "package.module:function".
        kwargs: keyword arguments for the function.
        name: what errors call `path`.

    Raises:
        ValueError: if there is no such module or function, or its code raises; the message has the traceback of that code.
        TypeError: if it returns something other than a Flow.

    Examples:
        >>> flow_of_code("my_flows.py")
        Traceback (most recent call last):
        ValueError: path: wanted a module and a function in it, 'my_module:make_flow', got 'my_flows.py'.
    """
    if not isinstance(path, str) or path.count(":") != 1 or not all(path.split(":")):
        raise ValueError(f"{name}: wanted a module and a function in it, 'my_module:make_flow', got {path!r}.")
    module_name, function_name = path.split(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        function = functools.reduce(getattr, function_name.split("."), importlib.import_module(module_name))
    except (Exception, SystemExit) as error:  # the user's own code may raise anything, and a script may exit
        raise ValueError(f"{name}: {path!r} cannot be imported.\n\n{_text(error)}") from None
    if not callable(function):
        raise ValueError(f"{name}: wanted {path!r} to be a function, got {type(function).__name__}.")
    try:
        flow = function(**(kwargs or {}))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}: {path!r} raised an exception.\n\n{_text(error)}") from None
    if not isinstance(flow, Flow):
        raise TypeError(f"{name}: wanted {path!r} to return a bespoke_jax.Flow, got {type(flow).__name__}.")
    return flow


def own_traceback(error: BaseException) -> str:
    """The traceback of an error from the user's first line on; "" if no code of the user's is in it.

    What comes before is this package, and the libraries that it calls the user's velocity through.

    Examples:
        >>> own_traceback(ValueError("raised by nobody"))
        ''
    """
    step = error.__traceback__
    while step is not None and _is_ours(step):
        step = step.tb_next
    return "" if step is None else _text(error)


_LIBRARIES = {"bespoke_jax", "click", "diffrax", "equinox", "jax", "jaxlib", "jaxtyping"}
_OURS = _LIBRARIES | sys.stdlib_module_names - {"__main__"}


def _is_ours(step: types.TracebackType) -> bool:
    return step.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OURS


def _text(error: BaseException) -> str:
    """The traceback without the frames before the user's."""
    step, skipped = error.__traceback__, 0
    while step is not None and _is_ours(step):
        step, skipped = step.tb_next, skipped + 1
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(told.stack[skipped:])
    return "".join(told.format()).rstrip()
