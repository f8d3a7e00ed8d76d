"""Fashion-MNIST: 28 x 28 x 1, ten classes, in the four idx files of the MNIST format."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from experiments.data.dataset import DataSet

__all__ = ["load"]

_FOLDERS = ("/usr/share/datasets/fashion-mnist", "~/.cache/fashion-mnist", "data/fashion-mnist")


def load(folder: str, part: str = "train") -> DataSet:
    """The training set ("train") or the test set ("t10k"), from a folder with the idx files, gzipped or not.

    `folder` "" stands for the usual places.
    """
    images, labels = (_read_idx(_find(folder, f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    return DataSet.in_memory(images[..., None], labels, 10, source="config.data.folder")


def _find(folder: str, name: str) -> pathlib.Path:
    folders = [pathlib.Path(f).expanduser() for f in ([folder] if folder else _FOLDERS)]
    for candidate in (parent / f"{name}{suffix}" for suffix in (".gz", "") for parent in folders):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{name}(.gz) of Fashion-MNIST not found in {', '.join(map(str, folders))}.\n"
        "Install the Debian package dataset-fashion-mnist, or set config.data.folder to a folder that holds the four idx files."
    )


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Read one idx file (the MNIST format), gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: truncated or not gzipped ({error}).") from None
    if raw[:3] != b"\x00\x00\x08" or len(raw) < 4:
        raise ValueError(f"{path}: not an idx file of unsigned bytes (wrong first bytes).")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise ValueError(f"{path}: truncated in its header.")
    shape = [int(size) for size in np.frombuffer(raw[4:start], ">u4")]
    values = np.frombuffer(raw, np.uint8, offset=start)
    if values.size != math.prod(shape):
        raise ValueError(
            f"{path}: truncated; the header promises {shape} = {math.prod(shape)} bytes, got {values.size}."
        )
    return values.reshape(shape)
