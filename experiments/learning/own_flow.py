"""The flow of the user's own code: `config.flow.path` names a function that returns it, "my_module:make_flow"."""

import json
from typing import Any

import bespoke_jax as bj
from bespoke_jax.files.fingerprint import differences, fingerprint
from bespoke_jax.models.own_code import flow_of_code
from experiments.run.errors import WrongType
from experiments.run.processes import from_first
from experiments.run.runs import Run

__all__ = ["check_same", "load"]


def load(path: str, kwargs: dict[str, Any] | None = None) -> bj.Flow:
    """As `bespoke_jax.models.own_code.flow_of_code`, for a config's fields.

    Raises:
        ValueError: if there is no such module or function, or its code raises; the message has the traceback of that code.
        WrongType: if it returns something other than a Flow.
    """
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)):
        raise ValueError(f"config.flow.kwargs: wanted keyword arguments by name, got {kwargs!r}.")
    try:
        return flow_of_code(path, kwargs, "config.flow.path")
    except TypeError as error:
        raise WrongType(str(error)) from None


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
