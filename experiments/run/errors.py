"""What goes wrong with a run's folder, in one line each: the launchers print it and exit."""

import contextlib
import pathlib

__all__ = ["ReadError", "WriteError", "reason_of", "writing"]


class WriteError(OSError):
    """A run cannot write to its folder: no space, no permission. What it wrote before is whole."""


class ReadError(OSError):
    """A run cannot go on from what is in its folder. Nothing there was changed."""


def reason_of(error: Exception) -> str:
    """The first line of what an exception says, or its kind."""
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return f"{said or type(error).__name__:.200}"


@contextlib.contextmanager
def writing(path: pathlib.Path, *errors: type[Exception]):
    """Whatever keeps a file from being written becomes a `WriteError` that says what to do."""
    try:
        yield
    except (OSError, *errors) as error:
        raise WriteError(
            f"{path}: cannot be written ({reason_of(error)}). What was written before is whole: once there is room, the same "
            "command goes on from there."
        ) from error
