"""What goes wrong with a run's folder or the user's own flow: the launchers print it without a stack, and exit."""

import contextlib
import pathlib
from collections.abc import Iterator

__all__ = ["ReadError", "WriteError", "WrongType", "cannot_read", "reason_of", "writing"]


class WriteError(OSError):
    """A run cannot write to its folder: no space, no permission. What it wrote before is whole."""


class ReadError(OSError):
    """A run cannot continue from what is in its folder. Nothing there was changed."""


class WrongType(TypeError):
    """The user's own code gave an object of the wrong type."""


def reason_of(error: BaseException) -> str:
    """The first line of an exception's message, or its type."""
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return f"{said or type(error).__name__:.200}"


def cannot_read(path: pathlib.Path, error: Exception) -> ReadError:
    """The error for a file that may be whole but cannot be read now: no permission, no memory, too many open files."""
    return ReadError(
        f"{path}: cannot be read now ({reason_of(error)}). Nothing was changed: once it can be read, the same command continues "
        "from there."
    )


@contextlib.contextmanager
def writing(path: pathlib.Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn whatever prevents a file from being written (OSError, and `errors`) into a `WriteError` that says what to do."""
    try:
        yield
    except (OSError, *errors) as error:
        raise WriteError(
            f"{path}: cannot be written ({reason_of(error)}). What was written before is whole: once there is room, the same "
            "command continues from there."
        ) from error
