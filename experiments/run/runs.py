"""A run's folder: the stamp of its config, solved paths, checkpoints, learned solvers, TensorBoard scalars, results.

    config.json             what the run was started with, and by which version; another config, or states of another, is refused
    lock                    held by the process that works here, and free as soon as that is gone; a second one is refused
    paths/                  solved paths (a pure function of config and seed: may be deleted)
    checkpoints/<solver>/   Orbax: the fit as of the last validations (experiments.checkpoints)
    solvers/<solver>.json   learned, finished; how it went is kept under "info"
    validations/<solver>/   the solver as of every validation of its fit, <iteration>.json
    failed/<solver>.json    the best theta before a loss that was not finite
    by_fid/, by_classifier_distance/    the validation of the smallest distance (experiments.fid --select=fid, ...)
    tensorboard/<solver>/   loss, rmse, psnr against iteration
    results.csv, results_detail.csv, report.html, figures/
    ablation.csv, ablation.md, costs.json      of experiments.ablate
    evaluate.csv, evaluate_screening.csv, figures/evaluate.png      of experiments.evaluate

Files are written beside their place and renamed into it: a kill leaves the old one or the new one, never half of one. What
cannot be read all the same, after a power cut say, is made again, and that is said.

Of several processes all read the folder, which they share, and the first one writes; all save checkpoints, as Orbax wants it.
"""

import contextlib
import csv
import fcntl
import json
import os
import pathlib
import socket
import time
import weakref
from collections.abc import Callable

import numpy as np
import tensorboardX
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

import bespoke_jax as bj
from experiments.run.checkpoints import STATE, Checkpoints, version, written_by
from experiments.run.errors import ReadError, WriteError, reason_of, writing
from experiments.run.processes import all_of, from_first, say

__all__ = ["Checkpoints", "ReadError", "Run", "Scalars", "WriteError", "open_run"]


def open_run(workdir, stamp: dict) -> "Run":
    """The run in folder `workdir`, made if there is none. It is this process's until `Run.close`, or until the process ends.

    Raises:
        ValueError: if the folder cannot be written to, if another process works in it, or if it holds a run with another
            stamp, or of a version whose states are others; names the fields that differ, or both versions.
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


def _differences(old, new, field="config") -> list[tuple[str, str, str]]:
    """(field, old, new) of every leaf in which two nested dictionaries differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{field}.{key}")]
    return [] if old == new else [(field, *("nothing" if v is None else json.dumps(v) for v in (old, new)))]


def _as_in_file(stamp: dict) -> dict:
    """A stamp as it comes back from config.json: tuples become lists, NumPy's numbers Python's."""

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


def _stamp_in(path: pathlib.Path) -> dict | None:
    """What config.json holds; None if there is none."""
    if not path.exists():
        return None
    try:
        there = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: wanted JSON, got a damaged file or none of a run; {reason_of(error)}") from None
    if not isinstance(there, dict) or not isinstance(there.get("written_by", {}), dict):
        raise ValueError(f"{path.name}: wanted a JSON object with the config of a run, got another program's")
    return there


def _check_stamp(folder: pathlib.Path, there: dict, here: dict):
    """Raise ValueError unless a run with the stamp `there` can be gone on from with `here`."""
    begun_by = there.pop("written_by", _BEFORE_VERSIONS)
    if there.keys() != here.keys():
        other = min(there.keys() ^ here.keys())
        raise ValueError(
            f"workdir: {folder} holds the config.json of another launcher, version or program: the field {other} is "
            f"{'not there' if other in here else 'there alone'}. Give another --workdir."
        )
    if differences := _differences(there, here):
        raise ValueError(
            f"workdir: {folder} holds a run of another config. It differs in\n"
            + "\n".join(f"  {field}: {old} there, {new} here" for field, old, new in differences)
            + "\nGive another --workdir, or delete that folder to start again."
        )
    if begun_by.get("state") != STATE:
        raise ValueError(
            f"workdir: {folder} holds a run of version {begun_by.get('version')}, whose states are of form "
            f"{begun_by.get('state')}; this is version {version()}, whose states are of form {STATE}. Give another --workdir, "
            "or go on with that version."
        )


def _lock(path: pathlib.Path) -> int:
    """The descriptor of a file that is locked until it is closed, which the end of a process does, whatever ends it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if (content := os.pread(descriptor, 8, 0)) and content != b"process ":
        os.close(descriptor)
        raise ValueError("its file named lock is another program's")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(f"another run works in it, {owner or 'just begun'}") from None
    except OSError as error:  # a file system without locks
        say(f"{path}: cannot be locked ({error.strerror}); make sure that nothing else runs in this workdir.")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


@contextlib.contextmanager
def _written(path: pathlib.Path):
    """A path to write to, renamed to `path` afterwards. Its suffix stays, which some writers look at."""
    temporary = path.with_name(f".part.{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file)  # or a power cut may leave the name without the content
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


_BEFORE_VERSIONS = dict(version="unknown", state=1)  # of runs whose config.json says nothing of it


class Run:
    """What is in a run's folder, by name. Made by `open_run`; in a `with` statement it lets go of the folder at its end."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.close = lambda: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def claim(self, stamp: dict):
        """Make the folder if need be, lock it and leave the stamp in it."""
        folder, path, here = self.folder, self.folder / "config.json", _as_in_file(stamp)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.close = weakref.finalize(self, os.close, _lock(folder / "lock"))
            with _written(folder / ".writable") as probe:
                probe.touch()
            (folder / ".writable").unlink()
            there = _stamp_in(path)
            if there is None and (folder / "checkpoints").exists():
                raise ValueError("it holds checkpoints of something else and no config.json")
            if there is None:
                self.write_text(path.name, json.dumps(here | dict(written_by=written_by()), indent=2) + "\n")
        except FileExistsError:
            raise ValueError(f"workdir: wanted a folder, got the file {folder}; give another --workdir.") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"workdir: {folder} cannot be used ({error}); give another --workdir.") from None
        if there is not None:
            _check_stamp(folder, there, here)
        self._sweep()

    def _sweep(self):
        """Delete what a process that was killed had not written to its end."""
        for pattern in (".part.*", "*.json.part"):
            for litter in self.folder.rglob(pattern):
                if litter.is_file() and not litter.is_symlink():
                    with contextlib.suppress(OSError):
                        litter.unlink()

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

    def arrays(
        self, name: str, compute: Callable[[], dict], check: Callable[[dict], None] = lambda arrays: None
    ) -> dict[str, np.ndarray]:
        """The arrays of `paths/<name>.npz`, computed and kept there if this run has not done so yet.

        Args:
            check: raises ValueError of arrays that cannot be this run's.

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
        if all_of(stored is not None):
            return stored
        arrays = {key: np.asarray(value) for key, value in compute().items()}

        def write():
            with _written(target) as path:
                np.savez(path, **arrays)

        from_first(write)
        return arrays

    def finished(self, name: str, nfe: int) -> tuple[bj.Theta, dict] | None:
        """(theta, info) of a solver of so many evaluations whose fit has ended, or None."""
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
                raise _cannot_read(path, error) from error
            except ValueError as error:
                reason = str(error)
            say(f"{path}: cannot be read ({reason}); learned again, from the last checkpoint.")

        return from_first(read)

    def finish(
        self, name: str, theta: bj.Theta, info: dict, flow: bj.Flow | None = None, folder: str = "solvers"
    ) -> pathlib.Path:
        """Keep a solver, if the fit has ended with the fingerprint of the flow that it was fitted to. Returns its file."""
        path = self.folder / folder / f"{name}.json"
        flow = None if flow is None else bj.sharding.on_one_device(flow)

        def write():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                bj.save_solver(path, theta, info, flow)

        from_first(write)
        return path

    def validations(self, flow: bj.Flow) -> dict[str, list[tuple[int, bj.Theta | bj.SolverTable]]]:
        """Solver whose fit has ended -> (iteration, what it was then) of every validation, in their order.

        Raises:
            ValueError: if a file is damaged, or has a name that is no iteration; names it.
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
        """The files in `solvers/`, in the order of their names."""
        return _visible((self.folder / "solvers").glob("*.json"))

    def checkpoints(self, name: str) -> "Checkpoints":
        """The checkpoints of solver `name`, to be used in a `with` statement."""
        return Checkpoints(self.folder / "checkpoints" / name)

    def scalars(self, name: str, start: int) -> "Scalars":
        """The TensorBoard scalars of solver `name`; what an earlier start wrote from iteration `start` on is void."""
        return Scalars(self.folder / "tensorboard" / name, start)


def _visible(paths) -> list[pathlib.Path]:
    """Those that no operating system has left beside the others (._name.json, of macOS), in their order."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _iteration_of(file: pathlib.Path) -> int:
    if not file.stem.isdecimal():
        raise ValueError(f"{file}: wanted a name of the form <iteration>.json, of a validation; move it away.")
    return int(file.stem)


def _cannot_read(path: pathlib.Path, error: Exception) -> ReadError:
    return ReadError(
        f"{path}: cannot be read now ({reason_of(error)}). Nothing was changed: start again when it can be."
    )


def _arrays_in(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz. ValueError if it is damaged, ReadError if it cannot be read now."""
    try:
        with open(path, "rb") as file, np.load(file) as content:
            return dict(content)
    except MemoryError as error:
        raise _cannot_read(path, error) from error
    except Exception as error:  # of the kinds that zipfile, zlib and NumPy have for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise _cannot_read(path, error) from error
        raise ValueError(reason_of(error)) from None


def _is_of_a_fit(info) -> bool:
    """Whether this is what `learn` keeps with a solver."""
    if not isinstance(info, dict) or not info.keys() >= {"history", "cost", "validation"}:
        return False
    history = info["history"]
    if not isinstance(history, list) or not history:
        return False
    return all(
        isinstance(record, dict) and {"rmse", "psnr"} <= record.keys() for record in (*history, info["validation"])
    )


class Scalars:
    """A TensorBoard event file. Written at once: SummaryWriter's thread may lose the last ones, and hangs on a full disk."""

    def __init__(self, folder: pathlib.Path, start: int):
        self._folder, self._start, self._writer = folder, start, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer is not None:
            with contextlib.suppress(OSError):  # each event is on disk already
                self._writer.close()

    def add(self, iteration: int, values: dict[str, float]):
        """Keep values by name."""
        from_first(lambda: self._add(iteration, values))

    def _add(self, iteration, values):
        with writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = EventsWriter(str(self._folder / "events"), f".{self._start}")
                status = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._writer.write_event(event_pb2.Event(step=self._start, session_log=status))
            for name, value in values.items():
                summary = tensorboardX.summary.scalar(name, value)
                self._writer.write_event(event_pb2.Event(step=iteration, summary=summary, wall_time=time.time()))
            self._writer.flush()
