"""Preemption: SIGTERM asks a run to stop. It does so where nothing is lost: between updates, and not within a write.

A scheduler that wants its machine back sends SIGTERM, waits for a while, and kills. By then the run has written its state to its
folder. Exit status 75 (EX_TEMPFAIL of sysexits.h) tells the scheduler that the same command, started again, continues.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

from experiments.run import processes

__all__ = ["RESUME", "asked", "listening", "stop_if_asked"]

RESUME = 75
"""Exit status of a run that was asked to stop: the same command continues it."""

_asked = threading.Event()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within this context SIGTERM is a request to stop."""
    _asked.clear()
    before = signal.signal(signal.SIGTERM, lambda *_: _asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.clear()


def asked() -> bool:
    """Whether any process has received SIGTERM. All processes must call this."""
    return not processes.all_of(not _asked.is_set())


def stop_if_asked() -> None:
    """Exit with status `RESUME` if any process has received SIGTERM. Call it where everything done so far is written.

    All processes must call it, so that they stop at the same place.
    """
    if asked():
        processes.say("Stopped by SIGTERM. The same command continues from here.")
        raise SystemExit(RESUME)
