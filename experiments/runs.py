"""A run's folder: the stamp of its config, solved paths, checkpoints, learned solvers, TensorBoard scalars, results.

    config.json             what the run was started with; another config is refused
    paths/                  solved paths (a pure function of config and seed: may be deleted)
    checkpoints/<solver>/   Orbax: the fit as of the last validations
    solvers/<solver>.json   learned, finished; how it went is kept under "info"
    tensorboard/<solver>/   loss, rmse, psnr against iteration
    results.csv, results_detail.csv, report.html, figures/
    evaluate.csv, evaluate_screening.csv, figures/evaluate.png      of experiments.evaluate

Files are written beside their place and renamed into it: a kill leaves the old one or the new one, never half of one.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
import orbax.checkpoint as ocp
import tensorboardX

import bespoke_jax as bj

__all__ = ["Checkpoints", "Run", "open_run"]


def open_run(workdir, stamp: dict) -> "Run":
    """The run in folder `workdir`, made if there is none.

    Raises:
        ValueError: if the folder cannot be written to, or holds a run with another stamp; names the fields that differ.
    """
    folder = pathlib.Path(workdir).expanduser().absolute()
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _written(folder / ".writable") as probe:
            probe.touch()
        (folder / ".writable").unlink()
        there = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise ValueError(f"workdir: {folder} cannot be used ({error}); give another --workdir.") from None
    run, here = Run(folder), json.loads(json.dumps(stamp))  # tuples become lists, as they did in the file
    if there is None and (folder / "checkpoints").exists():
        raise ValueError(
            f"workdir: {folder} holds checkpoints of something else (no config.json); give another --workdir."
        )
    if there is None:
        run.write_text(path.name, json.dumps(here, indent=2) + "\n")
    elif differences := _differences(there, here):
        raise ValueError(
            f"workdir: {folder} holds a run of another config. It differs in\n"
            + "\n".join(f"  {field}: {old} there, {new} here" for field, old, new in differences)
            + "\nGive another --workdir, or delete that folder to start again."
        )
    return run


def _differences(old, new, field="config") -> list[tuple[str, str, str]]:
    """(field, old, new) of every leaf in which two nested dictionaries differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{field}.{key}")]
    return [] if old == new else [(field, *("nothing" if v is None else json.dumps(v) for v in (old, new)))]


@contextlib.contextmanager
def _written(path: pathlib.Path):
    """A path to write to, renamed to `path` afterwards. Its suffix stays, which some writers look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Run:
    """What is in a run's folder, by name. Made by `open_run`."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def write_text(self, name: str, text: str):
        """A text file in the run's folder."""
        with _written(self.folder / name) as path:
            path.write_text(text)

    def write_table(self, name: str, header: tuple[str, ...], rows):
        """A CSV file in the run's folder; six digits of each float."""
        rows = [[f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows]
        with _written(self.folder / name) as path, open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    def write_figure(self, name: str, figure) -> bytes:
        """`figures/<name>.png`; returns its bytes."""
        target = self.folder / "figures" / f"{name}.png"
        with _written(target) as path:
            figure.savefig(path, dpi=130)
        return target.read_bytes()

    def arrays(self, name: str, compute: Callable[[], dict]) -> dict[str, np.ndarray]:
        """The arrays of `paths/<name>.npz`, computed and kept there if this run has not done so yet."""
        target = self.folder / "paths" / f"{name}.npz"
        if not target.exists():
            with _written(target) as path:
                np.savez(path, **compute())
        with np.load(target) as stored:
            return dict(stored)

    def finished(self, name: str) -> tuple[bj.Theta, dict] | None:
        """(theta, info) of a solver whose fit has ended, or None."""
        path = self.folder / "solvers" / f"{name}.json"
        return (bj.load_solver(path), json.loads(path.read_text())["info"]) if path.exists() else None

    def finish(self, name: str, theta: bj.Theta, info: dict, flow: bj.Flow):
        """Keep a solver whose fit has ended, and the fingerprint of the flow that it was fitted to."""
        path = self.folder / "solvers" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        bj.save_solver(path, theta, info, flow)

    def checkpoints(self, name: str) -> "Checkpoints":
        """The checkpoints of solver `name`, to be used in a `with` statement."""
        return Checkpoints(self.folder / "checkpoints" / name)

    def scalars(self, name: str, start: int) -> tensorboardX.SummaryWriter:
        """A TensorBoard writer for solver `name`; what an earlier start wrote from iteration `start` on is void."""
        return tensorboardX.SummaryWriter(str(self.folder / "tensorboard" / name), purge_step=start)


class Checkpoints:
    """The last states of one fit, by Orbax. A state is any pytree of arrays."""

    def __init__(self, folder: pathlib.Path):
        # Synchronous: a state is some hundred numbers, and once `save` returns it is safe.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def save(self, iteration: int, state):
        """Keep `state` as the one after `iteration` updates."""
        self._manager.save(iteration, args=ocp.args.StandardSave(state))

    def restore(self, target):
        """The last state, in the form of `target`, or None if there is none."""
        latest = self._manager.latest_step()
        return None if latest is None else self._manager.restore(latest, args=ocp.args.StandardRestore(target))
