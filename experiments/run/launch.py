"""What every launcher does around its own work: it reports mistakes in one line, holds the run's folder, and returns a status."""

import contextlib
from collections.abc import Callable

from experiments.run.errors import ReadError, WriteError, WrongType, reason_of

__all__ = ["launch"]


def launch(
    prepare: Callable[[], tuple], work: Callable[..., int | None], ends: tuple[type[Exception], ...] = ()
) -> int:
    """Prepare a run, do its work, and release its folder. Returns the exit status: 1 if a part of the work failed.

    Mistakes in the user's input are found in `prepare` and end the program with their message alone. In `work` an exception is
    a bug, and keeps its stack, unless it is one of `ends`.

    Args:
        prepare: `() -> (*arguments, run)`; reads and checks the input, and opens the run, before any work.
        work: `(*arguments, run) -> number of parts that failed`, or None.
        ends: errors of `work` that the user can fix.
    """
    with _without_stack():
        *arguments, run = prepare()
    with run:
        try:
            failed = work(*arguments, run)
        except ends as error:
            raise SystemExit(str(error)) from None
    return min(failed or 0, 1)


@contextlib.contextmanager
def _without_stack():
    """End the program with the message alone of a wrong value, or of a file that cannot be read."""
    try:
        yield
    except (ValueError, WrongType, FileNotFoundError, ReadError, WriteError) as error:
        raise SystemExit(str(error)) from None
    except OSError as error:  # a file that the user has named
        raise SystemExit(f"{error.filename or 'a file'}: cannot be read ({reason_of(error)}).") from None
