"""Writing files."""

import os
import pathlib

__all__ = ["write_whole"]


def write_whole(path, content: bytes) -> None:
    """Write a file, whole or not at all: beside its place, and renamed into it."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
