"""Image data sets from the user's own files. Images are uint8 [B, H, W, C]; `to_model` scales them to [-1, 1]."""

import dataclasses
import gzip
import math
import pathlib

import numpy as np

from experiments.checks import fields, one_of

__all__ = ["DataSet", "batch", "batch_indices", "load", "to_model"]

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


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Images and their classes, in memory.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N], from 0 to num_classes - 1.
        num_classes: 0 if the images have no classes; labels are zeros then.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __len__(self):
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.images.shape[1:]


def _fashion_mnist(folder: str) -> DataSet:
    images, labels = (
        _read_idx(_fashion_file(folder, f"train-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1")
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"config.data.folder: {len(images)} images, but labels of shape {labels.shape}.")
    if labels.max(initial=0) > 9:
        raise ValueError(f"config.data.folder: wanted labels from 0 to 9, got {labels.max()}.")
    return DataSet(images[..., None], labels.astype(np.int32), num_classes=10)


def _fashion_file(folder: str, name: str) -> pathlib.Path:
    folders = [pathlib.Path(f).expanduser() for f in ([folder] if folder else _FASHION_FOLDERS)]
    for candidate in (parent / f"{name}{suffix}" for suffix in (".gz", "") for parent in folders):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{name}(.gz) of Fashion-MNIST not found in {', '.join(map(str, folders))}.\n"
        "Install the Debian package dataset-fashion-mnist, or set config.data.folder to a folder that holds the four idx files."
    )


_LOADERS = {"fashion_mnist": _fashion_mnist}


def load(section) -> DataSet:
    """The training images of `config.data`.

    Raises:
        ValueError: for an unknown name or field, or files that are damaged or do not fit together.
        FileNotFoundError: if there are none; says which, and how to get them.
    """
    fields("config.data", section, ("name", "folder", "flip"))
    one_of("config.data.name", section.name, _LOADERS)
    return _LOADERS[section.name](section.folder)


def to_model(images):
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def batch(dataset: DataSet, seed: int, step: int, batch_size: int, flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of batch number `step`, a pure function of (seed, step). `flip`: half of them mirrored, left and right."""
    indices = batch_indices(seed, step, batch_size, len(dataset))
    images = dataset.images[indices]
    if flip:
        mirrored = np.random.default_rng((seed, step, 1)).random(batch_size) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images, dataset.labels[indices]


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> np.ndarray:
    """Which images batch number `step` holds: a fresh permutation each epoch, and a pure function of (seed, step)."""
    if not 1 <= batch_size <= num_images:
        raise ValueError(f"batch_size: wanted 1 to {num_images}, the number of images, got {batch_size}.")
    per_epoch = num_images // batch_size
    epoch, position = divmod(step, per_epoch)
    permutation = np.random.default_rng((seed, epoch)).permutation(num_images)
    return permutation[position * batch_size : (position + 1) * batch_size]
