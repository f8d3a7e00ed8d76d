"""A run's folder: the stamp of its config, solved paths, checkpoints, learned solvers, TensorBoard scalars, results.

    config.json             the config that the run was started with, and the version; a run of another config, or with states
                            of another form, is refused
    lock                    held by the process that works here, and free once that has ended; a second one is refused
    paths/                  solved paths (a pure function of config and seed: may be deleted)
    checkpoints/<solver>/   Orbax: the fit as of the last validations (experiments/run/checkpoints.py)
    solvers/<solver>.json   learned and finished; "info" holds the history of the fit
    validations/<solver>/   the solver as of every validation of its fit, <iteration>.json
    failed/<solver>.json    the best theta before a loss that was not finite
    by_fid/, by_classifier_distance/    the validation with the smallest distance (experiments.fid --select=fid, ...)
    tensorboard/<solver>/   loss, rmse, psnr against iteration
    results.csv, results_detail.csv, report.html, figures/
    ablation.csv, ablation.md, costs.json      of experiments.ablate
    evaluate.csv, evaluate_screening.csv, figures/evaluate.png      of experiments.evaluate

Files are written beside their place and renamed into it: a kill leaves the old file or the new one, never half of one. A file
that is damaged all the same, after a power cut say, is made again, with a message.

If there are several processes, they share the folder: all read it, the first one writes, and all save checkpoints, as Orbax
requires.
"""

import csv
import json
import os
import pathlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure

import bespoke_jax as bj
from bespoke_jax.solver import Solver
from bespoke_jax.types import ArrayLike, PathLike
from experiments.run.checkpoints import Checkpoints, written_by
from experiments.run.errors import cannot_read, reason_of, writing
from experiments.run.folder import lock, sweep, written
from experiments.run.processes import all_of, from_first, say
from experiments.run.scalars import Scalars
from experiments.run.stamps import as_in_file, check_stamp, read_stamp

__all__ = ["Run", "open_run"]


def open_run(workdir: PathLike, stamp: dict) -> "Run":
    """The run in folder `workdir`, which is made if need be. The folder is this process's until `Run.close`, or until it ends.

    Args:
        workdir: name of the folder.
        stamp: what the run's results depend on; anything that JSON can hold.

    Raises:
        ValueError: if the folder cannot be written to, if another process works in it, or if it holds a run with another
            stamp, or of a version with states of another form; names the fields that differ, or both versions.
    """
    if not isinstance(workdir, str | os.PathLike) or not os.fspath(workdir):
        raise ValueError(f"workdir: wanted the name of a folder, got {workdir!r}; give --workdir.")
    try:
        run = Run(pathlib.Path(workdir).expanduser().absolute())
    except RuntimeError as error:  # ~somebody
        raise ValueError(f"workdir: wanted the name of a folder, got {workdir!r} ({error}).") from None
    try:
        from_first(lambda: run.claim(stamp))
    except ValueError:
        run.close()
        raise
    return run


class Run:
    """The contents of a run's folder, by name. Made by `open_run`; the end of a `with` statement releases the folder."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.close: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, stamp: dict) -> None:
        """Make the folder if need be, lock it, leave the stamp in it, and delete what a killed process left half-written."""
        folder, path, here = self.folder, self.folder / "config.json", as_in_file(stamp)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.close = weakref.finalize(self, os.close, lock(folder / "lock"))
            with written(folder / ".writable") as probe:
                probe.touch()
            (folder / ".writable").unlink()
            there = read_stamp(path)
            if there is None and (folder / "checkpoints").exists():
                raise ValueError("it holds checkpoints of something else and no config.json")
            if there is None:
                self.write_text(path.name, json.dumps(here | dict(written_by=written_by()), indent=2) + "\n")
        except FileExistsError:
            raise ValueError(f"workdir: wanted a folder, got the file {folder}; give another --workdir.") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"workdir: {folder} cannot be used ({error}); give another --workdir.") from None
        if there is not None:
            check_stamp(folder, there, here)
        sweep(folder)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in the run's folder."""
        with written(self.folder / name) as path:
            path.write_text(text)

    def write_table(self, name: str, header: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> None:
        """Write a CSV file in the run's folder, with six digits of each float."""
        rows = [[f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows]
        with written(self.folder / name) as path, open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    def write_figure(self, name: str, figure: Figure) -> bytes:
        """Write `figures/<name>.png`; returns its bytes."""
        target = self.folder / "figures" / f"{name}.png"
        with written(target) as path:
            figure.savefig(path, dpi=130)
        return target.read_bytes()

    def arrays(
        self,
        name: str,
        compute: Callable[[], Mapping[str, ArrayLike]],
        check: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None,
    ) -> dict[str, np.ndarray]:
        """The arrays of `paths/<name>.npz`, which are computed and kept there if the file is missing or damaged.

        Args:
            name: of the file.
            compute: makes the arrays, by name.
            check: raises ValueError for arrays that cannot be this run's.

        Raises:
            ReadError: if the file cannot be read now.
        """
        target, stored = self.folder / "paths" / f"{name}.npz", None
        if target.exists():
            try:
                stored = _arrays_in(target)
                check(stored)
            except ValueError as error:
                stored = None
                say(f"{target}: cannot be read ({error}); computed again.")
        everywhere = all_of(stored is not None)
        if stored is not None and everywhere:
            return stored
        arrays = {key: np.asarray(value) for key, value in compute().items()}

        def write():
            with written(target) as path:
                np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]  # no array is named allow_pickle

        from_first(write)
        return arrays

    def finished(self, name: str, nfe: int) -> tuple[bj.Theta | bj.SolverTable, dict[str, Any]] | None:
        """(theta, info) of a solver of `nfe` evaluations whose fit has ended; None if there is none, or the file is damaged."""
        path = self.folder / "solvers" / f"{name}.json"

        def read():
            if not path.exists():
                return None
            try:
                theta, info = bj.load_solver(path), json.loads(path.read_text()).get("info")
                if _is_of_a_fit(info) and theta.nfe == nfe:
                    return theta, info
                reason = "no fit of this run wrote it"
            except OSError as error:
                raise cannot_read(path, error) from error
            except ValueError as error:
                reason = str(error)
            say(f"{path}: cannot be read ({reason}); learned again, from the last checkpoint.")

        return from_first(read)

    def keep_solver(
        self, name: str, theta: Solver, info: dict[str, Any], flow: bj.Flow | None = None, folder: str = "solvers"
    ) -> pathlib.Path:
        """Keep a solver in `<folder>/<name>.json`; returns the path.

        Args:
            name: of the file.
            theta: the solver.
            info: what is known of it, for JSON.
            flow: the flow that it was fitted to, whose fingerprint is kept with it; None where the fit has not ended.
            folder: of the run's folder.
        """
        path = self.folder / folder / f"{name}.json"
        flow = None if flow is None else bj.sharding.on_one_device(flow)

        def write():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                bj.save_solver(path, theta, info, flow)

        from_first(write)
        return path

    def validations(self, flow: bj.Flow) -> dict[str, list[tuple[int, bj.Theta | bj.SolverTable]]]:
        """Name of each solver whose fit has ended -> [(iteration, the solver then)] of its validations, in order.

        Raises:
            ValueError: if a file is damaged, or its name is not an iteration; names the file.
        """
        found = {}
        for path in self.solver_files():
            bj.load_solver(path, flow=flow)  # warns if it was fitted to another flow
            files = _visible((self.folder / "validations" / path.stem).glob("*.json"))
            if files:
                found[path.stem] = [
                    (iteration, bj.load_solver(file))
                    for iteration, file in sorted((_iteration_of(f), f) for f in files)
                ]
        return found

    def solver_files(self) -> list[pathlib.Path]:
        """The files in `solvers/`, sorted by name."""
        return _visible((self.folder / "solvers").glob("*.json"))

    def checkpoints(self, name: str) -> Checkpoints:
        """The checkpoints of solver `name`, for a `with` statement."""
        return Checkpoints(self.folder / "checkpoints" / name)

    def scalars(self, name: str, start: int) -> Scalars:
        """The TensorBoard scalars of solver `name`; those that an earlier start wrote from iteration `start` on are void."""
        return Scalars(self.folder / "tensorboard" / name, start)


def _visible(paths) -> list[pathlib.Path]:
    """The paths, sorted, without the hidden files that macOS leaves beside others (._name.json)."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _iteration_of(file: pathlib.Path) -> int:
    if not file.stem.isdecimal():
        raise ValueError(f"{file}: wanted a name of the form <iteration>.json, as validations have; move it away.")
    return int(file.stem)


def _arrays_in(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz. Raises ValueError if it is damaged, ReadError if it cannot be read now."""
    try:
        with open(path, "rb") as file, np.load(file) as content:
            return dict(content)
    except MemoryError as error:
        raise cannot_read(path, error) from error
    except Exception as error:  # zipfile, zlib and NumPy have many kinds for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_read(path, error) from error
        raise ValueError(reason_of(error)) from None


def _is_of_a_fit(info) -> bool:
    """Whether this is the info that a fit of `experiments.train` keeps with a solver."""
    if not isinstance(info, dict) or not info.keys() >= {"history", "cost", "validation"}:
        return False
    history = info["history"]
    if not isinstance(history, list) or not history:
        return False
    return all(
        isinstance(record, dict) and {"rmse", "psnr"} <= record.keys() for record in (*history, info["validation"])
    )
