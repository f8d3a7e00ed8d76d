"""A run's folder: the stamp of its config, solved paths, checkpoints, learned solvers, TensorBoard scalars, results.

    config.json             what the run was started with; another config is refused
    lock                    held by the process that works here, and free as soon as that is gone; a second one is refused
    paths/                  solved paths (a pure function of config and seed: may be deleted)
    checkpoints/<solver>/   Orbax: the fit as of the last validations
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
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorboardX
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

import bespoke_jax as bj
from experiments.processes import all_of, from_first, say

__all__ = ["Checkpoints", "Run", "Scalars", "WriteError", "open_run"]


class WriteError(OSError):
    """A run cannot write to its folder: no space, no permission. What it wrote before is whole."""


def open_run(workdir, stamp: dict) -> "Run":
    """The run in folder `workdir`, made if there is none. It is this process's until `Run.close`, or until the process ends.

    Raises:
        ValueError: if the folder cannot be written to, if another process works in it, or if it holds a run with another
            stamp; names the fields that differ.
    """
    run = Run(pathlib.Path(workdir).expanduser().absolute())
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


def _lock(path: pathlib.Path) -> int:
    """The descriptor of a file that is locked until it is closed, which the end of a process does, whatever ends it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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
def _writing(path: pathlib.Path, *errors: type[Exception]):
    """Whatever keeps a file from being written becomes a `WriteError` that says what to do."""
    try:
        yield
    except (OSError, *errors) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise WriteError(
            f"{path}: cannot be written ({reason:.200}). What was written before is whole: once there is room, the same "
            "command goes on from there."
        ) from error


@contextlib.contextmanager
def _written(path: pathlib.Path):
    """A path to write to, renamed to `path` afterwards. Its suffix stays, which some writers look at."""
    temporary = path.with_name(f".part.{path.name}")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        folder, path = self.folder, self.folder / "config.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.close = weakref.finalize(self, os.close, _lock(folder / "lock"))
            with _written(folder / ".writable") as probe:
                probe.touch()
            (folder / ".writable").unlink()
            there = json.loads(path.read_text()) if path.exists() else None
            if there is None and (folder / "checkpoints").exists():
                raise ValueError("it holds checkpoints of something else and no config.json")
            here = json.loads(json.dumps(stamp))  # tuples become lists, as they did in the file
            if there is None:
                self.write_text(path.name, json.dumps(here, indent=2) + "\n")
        except (OSError, ValueError) as error:
            raise ValueError(f"workdir: {folder} cannot be used ({error}); give another --workdir.") from None
        if there is not None and (differences := _differences(there, here)):
            raise ValueError(
                f"workdir: {folder} holds a run of another config. It differs in\n"
                + "\n".join(f"  {field}: {old} there, {new} here" for field, old, new in differences)
                + "\nGive another --workdir, or delete that folder to start again."
            )

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
        target, stored = self.folder / "paths" / f"{name}.npz", None
        if target.exists():
            try:
                with open(target, "rb") as file, np.load(file) as content:
                    stored = dict(content)
            except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
                say(f"{target}: cannot be read ({error}); computed again.")
        if all_of(stored is not None):
            return stored
        arrays = {key: np.asarray(value) for key, value in compute().items()}

        def write():
            with _written(target) as path:
                np.savez(path, **arrays)

        from_first(write)
        return arrays

    def finished(self, name: str) -> tuple[bj.Theta, dict] | None:
        """(theta, info) of a solver whose fit has ended, or None."""
        path = self.folder / "solvers" / f"{name}.json"

        def read():
            if not path.exists():
                return None
            try:
                theta, info = bj.load_solver(path), json.loads(path.read_text())["info"]
                if info.keys() >= {"history", "cost"}:
                    return theta, info
                reason = "no fit of this run wrote it"
            except (OSError, ValueError) as error:
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
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                bj.save_solver(path, theta, info, flow)

        from_first(write)
        return path

    def validations(self, flow: bj.Flow) -> dict[str, list[tuple[int, bj.Theta | bj.SolverTable]]]:
        """Solver whose fit has ended -> (iteration, what it was then) of every validation, in their order.

        Raises:
            ValueError: if a file is damaged; names it.
        """
        found = {}
        for path in sorted((self.folder / "solvers").glob("*.json")):
            bj.load_solver(path, flow=flow)  # warns if it was fitted to another flow
            files = sorted((self.folder / "validations" / path.stem).glob("*.json"), key=lambda file: int(file.stem))
            if files:
                found[path.stem] = [(int(file.stem), bj.load_solver(file)) for file in files]
        return found

    def checkpoints(self, name: str) -> "Checkpoints":
        """The checkpoints of solver `name`, to be used in a `with` statement."""
        return Checkpoints(self.folder / "checkpoints" / name)

    def scalars(self, name: str, start: int) -> "Scalars":
        """The TensorBoard scalars of solver `name`; what an earlier start wrote from iteration `start` on is void."""
        return Scalars(self.folder / "tensorboard" / name, start)


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
        with _writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = EventsWriter(str(self._folder / "events"), f".{self._start}")
                status = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._writer.write_event(event_pb2.Event(step=self._start, session_log=status))
            for name, value in values.items():
                summary = tensorboardX.summary.scalar(name, value)
                self._writer.write_event(event_pb2.Event(step=iteration, summary=summary, wall_time=time.time()))
            self._writer.flush()


class Checkpoints:
    """The last states of one fit, by Orbax. A state is any pytree of arrays."""

    def __init__(self, folder: pathlib.Path):
        # Synchronous: a state is some hundred numbers, and once `save` returns it is safe.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._folder = folder
        with _writing(folder):
            self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def save(self, iteration: int, state):
        """Keep `state` as the one after `iteration` updates."""
        with _writing(self._folder / str(iteration), Exception):  # Orbax has errors of many kinds
            self._manager.save(iteration, args=ocp.args.StandardSave(_on_host(state)))

    def restore(self, target):
        """The last state that can be read, in the form of `target`, or None if there is none."""
        for iteration in sorted(self._manager.all_steps(), reverse=True):
            state = None
            try:
                state = self._manager.restore(iteration, args=ocp.args.StandardRestore(_on_host(target)))
            except Exception as error:  # of many kinds, again
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                say(f"{self._folder / str(iteration)}: cannot be read ({reason:.200}); going on from the one before.")
            if all_of(state is not None):
                return jax.tree.map(jnp.asarray, state)
            self._manager.delete(iteration)
        return None


def _on_host(state):
    """All processes have the same numbers, each on a device of its own: to Orbax they are no array of all."""
    return jax.tree.map(np.asarray, state)
