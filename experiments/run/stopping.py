"""Preemption: SIGTERM asks a run to stop, and it does so where nothing is lost, between updates and not within a write.

A scheduler that wants its machine back sends SIGTERM, waits for a while, and kills. What a run has done by then lies in its
folder; exit status 75 (EX_TEMPFAIL of sysexits.h) tells the scheduler that the same command, started again, goes on.
"""

import contextlib
import signal
import threading

from experiments.run import processes

__all__ = ["RESUME", "asked", "listening", "stop_if_asked"]

RESUME = 75
"""Exit status of a run that was asked to stop: start the same command again."""

_asked = threading.Event()


@contextlib.contextmanager
def listening():
    """While this lasts SIGTERM is a request."""
    _asked.clear()
    before = signal.signal(signal.SIGTERM, lambda *_: _asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.clear()


def asked() -> bool:
    """Whether SIGTERM has come, to whichever process. All processes have to call it."""
    return not processes.all_of(not _asked.is_set())


def stop_if_asked():
    """Leave the program with status `RESUME` if SIGTERM has come, to whichever process. Called where all that is done is written.

    All processes have to call it: they stop at the same place.
    """
    if asked():
        processes.say("Stopped by SIGTERM. The same command goes on from here.")
        raise SystemExit(RESUME)
