"""TensorBoard scalars, without TensorFlow."""

import contextlib
import pathlib
import time
from typing import Self

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # which makes its classes while it is imported
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # each event is on disk already
                self._writer.close()

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Add values by name."""
        from_first(lambda: self._add(iteration, values))

    def _add(self, iteration, values):
        with writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = EventsWriter(str(self._folder / "events"), f".{self._start}")
                self._writer.write_event(Event(step=self._start, session_log=SessionLog(status=SessionLog.START)))
            for name, value in values.items():
                event = Event(step=iteration, summary=summary.scalar(name, value), wall_time=time.time())
                self._writer.write_event(event)
            self._writer.flush()
