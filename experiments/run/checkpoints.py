"""The last states of a fit, by Orbax, each in a folder with a record of what was written. A state is any pytree of arrays.

    <iteration>/default/        Orbax's files
    <iteration>/record.json     the version that wrote it, the state's form, and the SHA-256 of every file
    <iteration>.unreadable/     a damaged checkpoint, set aside

A folder gets its name once all of it is written. So a checkpoint is damaged only if its files differ from its record. Whatever
else keeps it from being read (no permission, no memory, too many open files) passes or is for the user to fix, and a state of
another form is another version's. Only the states before the last two are ever deleted.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from bespoke_jax.types import PyTree
from experiments.run.errors import ReadError, cannot_read, reason_of, writing
from experiments.run.processes import all_of, from_first, say

__all__ = ["STATE", "Checkpoints", "version", "written_by"]

STATE = 2
"""Version of what a state means: raise it when an older state has the same form but would be continued wrongly."""

_KEPT = 2  # states
_RECORD = "record.json"


def version() -> str:
    """The package's version."""
    try:
        return importlib.metadata.version("bespoke-jax")
    except importlib.metadata.PackageNotFoundError:  # not installed: its source is on the path
        return "unknown"


def written_by() -> dict:
    """The version and the meaning of states that a run and its checkpoints record."""
    return dict(version=version(), state=STATE)


class Checkpoints:
    """The checkpoints in `folder`, for a `with` statement."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            from_first(self._sweep)
        # Synchronous: the state is safe once `save` returns.
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def save(self, iteration: int, state: PyTree) -> None:
        """Keep `state` as the one after `iteration` updates, unless there is one: a state is a function of its iteration."""
        path, state = self._folder / str(iteration), _on_host(state)
        part = path.with_name(f".part.{iteration}")

        def end():
            record = written_by() | dict(form=_form(state), files=_digests(part))
            (part / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
            os.replace(part, path)
            for old in [number for number in self._iterations() if number < iteration][: 1 - _KEPT]:
                shutil.rmtree(self._folder / str(old))

        with writing(path, Exception):  # Orbax raises many types
            if not from_first(path.exists):
                self._orbax.save(part / "default", args=ocp.args.StandardSave(state))
                from_first(end)

    def restore(self, target: PyTree) -> Any:
        """The last undamaged state, in the form of `target`, or None if there is none. Damaged ones are set aside.

        Raises:
            ReadError: if an undamaged checkpoint cannot be read now, or has another form; nothing is changed.
        """
        target = _on_host(target)
        for iteration in reversed(from_first(self._iterations)):
            path = self._folder / str(iteration)
            if damage := from_first(lambda path=path: _damage(path)):
                aside = from_first(lambda path=path: _set_aside(path))
                say(f"{path}: cannot be read ({damage}), and is now {aside.name}; continuing from the one before.")
                continue
            record = from_first(lambda path=path: _record(path))
            if record is not None:
                _check_form(path, record, _form(target))
            state, reason = None, "on another process"
            try:
                state = self._orbax.restore(path / "default", args=ocp.args.StandardRestore(target))
                if _form(state) != _form(target):
                    state, reason = None, "a state of another form"
            except Exception as error:  # again of many types
                reason = reason_of(error)
            if all_of(state is not None):
                return state
            raise ReadError(
                f"{path}: cannot be read now ({reason}). "
                + (
                    "Its files are those that were written"
                    if record
                    else "An earlier version wrote it, and left no record.json"
                )
                + "; nothing was changed. Start again when that has passed; or move it away, to continue from the one before."
            )
        return None

    def _sweep(self):
        """Delete what a killed process left half-written."""
        for part in self._folder.glob(".part.*"):
            shutil.rmtree(part, ignore_errors=True)

    def _iterations(self) -> list[int]:
        """The iterations of all checkpoints, in order. A name that is not an iteration is not ours."""
        try:
            return sorted(int(name) for name in os.listdir(self._folder) if name.isdecimal() and name == str(int(name)))
        except OSError as error:
            raise cannot_read(self._folder, error) from error


def _damage(path: pathlib.Path) -> str:
    """What is wrong with the files of a checkpoint; "" if nothing is, or if an earlier version wrote it without a record.

    Raises:
        ReadError: if the files cannot be read.
    """
    try:
        if not (path / _RECORD).exists():
            earlier = (path / "_CHECKPOINT_METADATA").exists() and (path / "default" / "_METADATA").exists()
            return "" if earlier else f"no {_RECORD} in it"
        try:
            wanted = json.loads((path / _RECORD).read_text())["files"]
            wanted = {str(name): str(digest) for name, digest in wanted.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{_RECORD}: not what was written"
        found = _digests(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    if wrong := [name for name, digest in wanted.items() if found.get(name) != digest]:
        return f"{wrong[0]}: {'not what was written' if wrong[0] in found else 'missing'}"
    return ""


def _record(path: pathlib.Path) -> dict | None:
    """The record of an undamaged checkpoint; None if an earlier version wrote it."""
    try:
        return json.loads((path / _RECORD).read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


def _check_form(path: pathlib.Path, record: dict, form: dict[str, str]):
    """Raise ReadError unless a checkpoint has this form."""
    there = record.get("form")
    if there == form:
        return
    there = there if isinstance(there, dict) else {}
    name = min(name for name in there.keys() | form.keys() if there.get(name) != form.get(name))
    raise ReadError(
        f"{path}: wanted the state of version {version()}, got one of version {record.get('version')}, of another form: "
        f"{name} is {there.get(name, 'not there')}, here it is {form.get(name, 'not there')}. Nothing was changed. Give another "
        "--workdir, or continue with the version that wrote it."
    )


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    """Rename a damaged checkpoint; returns its new path."""
    names = (path.with_name(f"{path.name}.unreadable{number or ''}") for number in range(1000))
    aside = next(name for name in names if not name.exists())
    with writing(aside):
        path.rename(aside)
    return aside


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """Name -> SHA-256 of every file below a folder, except its record."""
    digests = {}
    for parent, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            path = pathlib.Path(parent, name)
            if path != folder / _RECORD:
                with open(path, "rb") as file:
                    digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(digests.items()))


def _raise(error):
    raise error


def _form(state) -> dict[str, str]:
    """Name -> dtype and shape of every array of a state."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path) or "state": f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _on_host(state):
    """Arrays in NumPy: every process holds the same numbers on its own device, which Orbax would not take for one array."""
    return jax.tree.map(np.asarray, state)
