"""Downsampled ImageNet (Chrabaszcz et al. 2017, arXiv:1707.08819): a thousand classes, in ten .npz files of 128,000 images."""

import pathlib
import zipfile
import zlib

import numpy as np

from experiments.data.dataset import DataSet

__all__ = ["load"]

_NUM_CLASSES = 1000


def load(folder: str, side: int) -> DataSet:
    """The training set of `side` x `side` images, from a folder with train_data_batch_*.npz.

    All images are kept in memory: 15.7 GB for all 1,281,167 of 64 x 64. Leave out files to load fewer.
    """
    path = pathlib.Path(folder).expanduser()
    files = sorted(path.glob("train_data_batch_*.npz"), key=lambda file: (len(file.name), file.name)) if folder else []
    if not files:
        state = f"is {folder!r}, where there is no train_data_batch_*.npz" if folder else "is empty"
        raise FileNotFoundError(
            f"config.data.folder {state}; missing: downsampled ImageNet {side} x {side}.\n"
            f"Get Imagenet{side}_train (npz) from image-net.org (needs an account), unzip it, and add --config.data.folder=FOLDER"
        )
    labels = [_labels_in(file) for file in files]
    shape = (sum(map(len, labels)), side, side, 3)
    try:
        images = np.empty(shape, np.uint8)  # filled file by file: a second copy may not fit
    except MemoryError:
        raise ValueError(f"{path}: not enough memory for {shape[0]} images; take fewer of its files.") from None
    start = 0
    for file, part in zip(files, labels, strict=True):
        pixels = _read(file, "data")
        if pixels.shape != (len(part), 3 * side**2) or pixels.dtype != np.uint8:
            raise ValueError(
                f"{file}: wanted {len(part)} images, as many as labels, of 3 x {side} x {side} bytes, "
                f"got {pixels.dtype} {pixels.shape}."
            )
        images[start : start + len(part)] = pixels.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
        start += len(part)
    return DataSet.in_memory(images, np.concatenate(labels).astype(np.int64) - 1, _NUM_CLASSES, source=path)


def _labels_in(file) -> np.ndarray:
    labels = _read(file, "labels")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{file}: labels: wanted a row of integers, got {labels.dtype} {labels.shape}.")
    return labels


def _read(file, name: str) -> np.ndarray:
    try:
        with open(file, "rb") as raw, np.load(raw) as content:  # NumPy refuses pickles by default
            return content[name]
    except KeyError:
        raise ValueError(f"{file}: wanted arrays data and labels, got no {name!r}.") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: truncated, or not an .npz ({error}).") from None
