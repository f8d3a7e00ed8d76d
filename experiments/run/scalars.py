"""TensorBoard scalars, without TensorFlow."""

import contextlib
import pathlib
import time

import tensorboardX
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from experiments.run.errors import writing
from experiments.run.processes import from_first

__all__ = ["Scalars"]


class Scalars:
    """A TensorBoard event file, to be used in a `with` statement.

    Events are written at once. tensorboardX's own SummaryWriter writes in a thread, which may lose the last events and hangs on
    a full disk.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        """Write below `folder`; TensorBoard discards what an earlier start wrote from iteration `start` on."""
        self._folder, self._start, self._writer = folder, start, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer is not None:
            with contextlib.suppress(OSError):  # each event is on disk already
                self._writer.close()

    def add(self, iteration: int, values: dict[str, float]):
        """Add values by name."""
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
