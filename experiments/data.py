"""Image data sets from the user's own files. Images come back as uint8 [N, H, W, C]; `to_model` scales them to [-1, 1]."""

import gzip
import math
import pathlib

import numpy as np

__all__ = ["batch_indices", "load", "to_model"]

_FASHION_FOLDERS = ("/usr/share/datasets/fashion-mnist", "~/.cache/fashion-mnist", "data/fashion-mnist")


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Read one idx file (the MNIST format), gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
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


def _fashion_mnist(folder: str | None) -> np.ndarray:
    folders = [pathlib.Path(f).expanduser() for f in ([folder] if folder else _FASHION_FOLDERS)]
    for name in ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"):
        for candidate in folders:
            if (candidate / name).exists():
                return _read_idx(candidate / name)[..., None]
    raise FileNotFoundError(
        f"train-images-idx3-ubyte(.gz) of Fashion-MNIST not found in {', '.join(map(str, folders))}.\n"
        "Install the Debian package dataset-fashion-mnist, or set config.data.folder to a folder that holds the four idx files."
    )


def load(name: str, folder: str | None = None) -> np.ndarray:
    """The training images of data set `name` as uint8 [N, H, W, C]; raises FileNotFoundError that says what to install."""
    loaders = {"fashion_mnist": _fashion_mnist}
    if name not in loaders:
        raise ValueError(f"config.data.name: got {name!r}, wanted one of {sorted(loaders)}.")
    return loaders[name](folder)


def to_model(images):
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> np.ndarray:
    """Which images batch number `step` holds: a fresh permutation each epoch, and a pure function of (seed, step)."""
    if not 1 <= batch_size <= num_images:
        raise ValueError(f"batch_size: wanted 1 to {num_images}, the number of images, got {batch_size}.")
    per_epoch = num_images // batch_size
    epoch, position = divmod(step, per_epoch)
    permutation = np.random.default_rng((seed, epoch)).permutation(num_images)
    return permutation[position * batch_size : (position + 1) * batch_size]
