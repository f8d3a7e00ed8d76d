"""A run's folder: the stamp of its config, solved paths, checkpoints, learned solvers, TensorBoard scalars.

    config.json                   what the run was started with; another config is refused
    paths/                        solved paths (a pure function of config and seed: may be deleted)
    checkpoints/<solver>/         Orbax: the fit as of the last validation
    solvers/<solver>.json         learned, finished;  <solver>.history.json  how it went
    tensorboard/<solver>/         loss, rmse, psnr against iteration
    results.csv, results_detail.csv, report.html, figures/

Files are written beside their place and renamed into it, so a kill leaves the old one or the new one, never half of one.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable

import jax
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
    run = Run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _written(folder / ".writable") as probe:
            probe.touch()
        (folder / ".writable").unlink()
        there = json.loads(run.stamp_path.read_text()) if run.stamp_path.exists() else None
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"workdir: {folder} cannot be used ({error}); give another --workdir.") from error
    here = json.loads(json.dumps(stamp))  # tuples become lists, as they did in the file
    if there is None:
        run.write_text(run.stamp_path.name, json.dumps(here, indent=2) + "\n")
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
    return [] if old == new else [(field, *("none" if v is None else json.dumps(v) for v in (old, new)))]


@contextlib.contextmanager
def _written(path: pathlib.Path):
    """A path to write to, renamed to `path` afterwards; keeps the suffix, which some writers look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Run:
    """What is in a run's folder, by name. Made by `open_run`."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.stamp_path = folder / "config.json"

    def write_text(self, name: str, text: str):
        """A text file in the run's folder."""
        with _written(self.folder / name) as path:
            path.write_text(text)

    def write_table(self, name: str, header: tuple[str, ...], rows):
        """A CSV file in the run's folder."""
        with _written(self.folder / name) as path, open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    def write_figure(self, name: str, figure) -> bytes:
        """`figures/<name>.png`; its bytes too."""
        target = self.folder / "figures" / f"{name}.png"
        with _written(target) as path:
            figure.savefig(path, dpi=130)
        return target.read_bytes()

    def paths(self, name: str, solve: Callable[[], bj.Paths]) -> bj.Paths:
        """The paths called `name`, solved if this run has not solved them yet."""
        target = self.folder / "paths" / f"{name}.npz"
        if not target.exists():
            paths = solve()
            fields = {key: value for key, value in vars(paths).items() if key != "batch_shape"}
            with _written(target) as path:
                np.savez(path, **fields)
            return paths
        with np.load(target) as stored:
            fields = {key: jax.numpy.asarray(value) for key, value in stored.items()}
        return bj.Paths(**fields, batch_shape=fields["times"].shape[:1])

    def learned(self, name: str) -> tuple[bj.Theta, list[dict], int] | None:
        """(theta, history, cost) of a finished solver, or None. The solver's own file is written last."""
        solver, history = self._solver_paths(name)
        if not solver.exists():
            return None
        record = json.loads(history.read_text())
        return bj.load_solver(solver), record["history"], record["cost"]

    def write_learned(self, name: str, theta: bj.Theta, history: list[dict], cost: int):
        """Marks the solver `name` as finished."""
        solver, history_path = self._solver_paths(name)
        with _written(history_path) as path:
            path.write_text(json.dumps(dict(cost=cost, history=history), indent=1) + "\n")
        with _written(solver) as path:
            bj.save_solver(path, theta)

    def _solver_paths(self, name):
        folder = self.folder / "solvers"
        return folder / f"{name}.json", folder / f"{name}.history.json"

    def checkpoints(self, name: str) -> "Checkpoints":
        """The checkpoints of solver `name`; use it in a `with` statement."""
        return Checkpoints(self.folder / "checkpoints" / name)

    def scalars(self, name: str, start: int):
        """A TensorBoard writer for solver `name`; what an earlier start wrote from iteration `start` on is void."""
        return tensorboardX.SummaryWriter(str(self.folder / "tensorboard" / name), purge_step=start + 1 if start else None)


class Checkpoints:
    """The last states of one fit, by Orbax. `state` is any pytree of arrays."""

    def __init__(self, folder: pathlib.Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    @property
    def latest(self) -> int:
        """Iterations done in the last checkpoint; 0 without one."""
        return self._manager.latest_step() or 0

    def save(self, iteration: int, state):
        self._manager.save(iteration, args=ocp.args.StandardSave(state), force=True)

    def restore(self, target):
        """The last checkpoint, in the form of `target` (arrays or their shapes), or None if there is none."""
        if not self.latest:
            return None
        return self._manager.restore(self.latest, args=ocp.args.StandardRestore(target))
