"""A folder that one process works in: its lock, and files that are written whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from experiments.run.errors import writing
from experiments.run.processes import say

__all__ = ["lock", "sweep", "written"]


def lock(path: pathlib.Path) -> int:
    """The descriptor of a file that stays locked until it is closed, which happens at the latest when the process ends.

    Raises:
        ValueError: if another process holds the lock, or the file is another program's.
    """
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
def written(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which is then renamed to `path`. It keeps the suffix: some writers choose the format by it.

    Raises:
        WriteError: if the file cannot be written.
    """
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


def sweep(folder: pathlib.Path) -> None:
    """Delete the files that a killed process left half-written."""
    for pattern in (".part.*", "*.json.part"):
        for litter in folder.rglob(pattern):
            if litter.is_file() and not litter.is_symlink():
                with contextlib.suppress(OSError):
                    litter.unlink()
