"""The flow of the user's own code: `config.flow.path` names a function that returns it, "my_module:make_flow"."""

import functools
import importlib
import json
import os
import sys
import traceback
from typing import Any

import bespoke_jax as bj
from bespoke_jax.files.fingerprint import differences, fingerprint
from experiments.run.errors import WrongType
from experiments.run.processes import from_first
from experiments.run.runs import Run

__all__ = ["check_same", "load"]

_OPTION = "config.flow.path"


def load(path: str, kwargs: dict[str, Any] | None = None) -> bj.Flow:
    """The flow that the function `path` returns. The working directory is importable.

    Args:
        path: "package.module:function".
        kwargs: keyword arguments for the function.

    Raises:
        ValueError: if there is no such module or function, or its code raises; the message has the traceback of that code.
        WrongType: if it returns something other than a Flow.
    """
    if not isinstance(path, str) or path.count(":") != 1 or not all(path.split(":")):
        raise ValueError(f"{_OPTION}: wanted a module and a function in it, 'my_module:make_flow', got {path!r}.")
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)):
        raise ValueError(f"config.flow.kwargs: wanted keyword arguments by name, got {kwargs!r}.")
    module_name, name = path.split(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        function = functools.reduce(getattr, name.split("."), importlib.import_module(module_name))
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"{_OPTION}: {path!r} cannot be imported.\n\n{_own_traceback(error)}") from None
    if not callable(function):
        raise ValueError(f"{_OPTION}: wanted {path!r} to be a function, got {type(function).__name__}.")
    try:
        flow = function(**(kwargs or {}))
    except Exception as error:
        raise ValueError(f"{_OPTION}: {path!r} raised an exception.\n\n{_own_traceback(error)}") from None
    if not isinstance(flow, bj.Flow):
        raise WrongType(f"{_OPTION}: wanted {path!r} to return a bespoke_jax.Flow, got {type(flow).__name__}.")
    return flow


def _own_traceback(error: Exception) -> str:
    """The traceback without the frames of this module and of the import system, which come before the user's."""
    stack = traceback.TracebackException.from_exception(error)
    inner = [frame for frame in stack.stack if frame.filename not in (__file__, importlib.__file__)]
    own = [frame for frame in inner if not frame.filename.startswith("<frozen importlib")]
    stack.stack = traceback.StackSummary.from_list(own)
    return "".join(stack.format()).rstrip()


def check_same(flow: bj.Flow, run: Run) -> None:
    """Raise ValueError unless the run was begun with this flow: `flow.json` in its folder has the fingerprint of its velocity.

    The stamp of a run knows the flow's parameters, which says all of a shipped network, but not of code that may change.
    """
    here = bj.sharding.on_one_device(flow)
    from_first(lambda: _check_same(here, run))


def _check_same(flow, run):
    path = run.folder / "flow.json"
    if not path.exists():
        run.write_text(path.name, json.dumps(fingerprint(flow)) + "\n")
        return
    try:
        found = differences(json.loads(path.read_text()), flow)
    except ValueError as error:
        raise ValueError(f"workdir: {path} is damaged ({error}); delete it if the flow is that of this run.") from None
    if found:
        raise ValueError(
            f"workdir: {run.folder} holds a run of another flow. It differs in\n"
            + "\n".join(f"  {line}" for line in found)
            + "\nGive another --workdir, or delete that folder to start again."
        )
