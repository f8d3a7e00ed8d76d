"""The stamp of a run: the part of its config that its results depend on. `config.json` keeps it; another one is refused."""

import json
import pathlib

import numpy as np

from experiments.run.checkpoints import STATE, version
from experiments.run.errors import reason_of

__all__ = ["as_in_file", "check_stamp", "read_stamp"]

_BEFORE_VERSIONS = dict(version="unknown", state=1)  # of runs whose config.json names no version


def as_in_file(stamp: dict) -> dict:
    """A stamp as it comes back from config.json: tuples become lists, NumPy's numbers Python's.

    Raises:
        ValueError: if JSON cannot hold it.

    Examples:
        >>> as_in_file(dict(seed=np.int64(3), sizes=(4, 8)))
        {'seed': 3, 'sizes': [4, 8]}
    """

    def default(value):
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"got {value!r}")

    try:
        return json.loads(json.dumps(stamp, allow_nan=False, default=default))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config: wanted finite numbers, text, None, tuples and dictionaries of them; {error}."
        ) from None


def read_stamp(path: pathlib.Path) -> dict | None:
    """What config.json holds; None if there is none.

    Raises:
        ValueError: if it is damaged, or another program's.
    """
    if not path.exists():
        return None
    try:
        there = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name}: wanted JSON, got a damaged file or another program's; {reason_of(error)}"
        ) from None
    if not isinstance(there, dict) or not isinstance(there.get("written_by", {}), dict):
        raise ValueError(f"{path.name}: wanted a JSON object with the config of a run, got another program's")
    return there


def check_stamp(folder: pathlib.Path, there: dict, here: dict) -> None:
    """Raise ValueError unless a run whose config.json holds `there` can be continued with the stamp `here`."""
    begun_by = there.get("written_by", _BEFORE_VERSIONS)
    there = {name: value for name, value in there.items() if name != "written_by"}
    if there.keys() != here.keys():
        other = min(there.keys() ^ here.keys())
        raise ValueError(
            f"workdir: {folder} holds the config.json of another launcher, version or program: the field {other} is "
            f"{'missing there' if other in here else 'only there'}. Give another --workdir."
        )
    if differences := _differences(there, here):
        raise ValueError(
            f"workdir: {folder} holds a run of another config. It differs in\n"
            + "\n".join(f"  {field}: {old} there, {new} here" for field, old, new in differences)
            + "\nGive the options that the run was begun with, or another --workdir for a run of its own."
        )
    if begun_by.get("state") != STATE:
        raise ValueError(
            f"workdir: {folder} holds a run of version {begun_by.get('version')}, whose states are of form "
            f"{begun_by.get('state')}; this is version {version()}, whose states are of form {STATE}. Give another --workdir, "
            "or continue with that version."
        )


def _differences(old, new, field="config") -> list[tuple[str, str, str]]:
    """(field, old, new) of every leaf in which two nested dictionaries differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{field}.{key}")]
    there, here = ("nothing" if value is None else json.dumps(value) for value in (old, new))
    return [] if old == new else [(field, there, here)]
