"""CIFAR10: 32 x 32 x 3, ten classes, in its Python or its binary version, unpacked or as the downloaded archive."""

import io
import pathlib
import tarfile
import zlib

import numpy as np

from bespoke_jax.models.weights_io.safe_pickle import Refused, Unpickler
from experiments.data.dataset import DataSet

__all__ = ["load"]

_SIDE = 32
_FOLDERS = (".", "cifar-10-batches-py", "cifar-10-batches-bin")
_REMEDY = "curl -LO https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and add --config.data.folder=cifar-10-python.tar.gz"


def load(folder: str) -> DataSet:
    """The training set: five batches of one version, from their folder or from a .tar.gz."""
    path = pathlib.Path(folder).expanduser()
    if not folder or not path.exists():
        state = f"is {folder!r}, where there is nothing" if folder else "is empty"
        raise FileNotFoundError(f"config.data.folder {state}; missing: CIFAR10.\n{_REMEDY}")
    names = [f"data_batch_{number}" for number in range(1, 6)]
    contents = _from_archive(path, names) if path.is_file() else _from_folder(path, names)
    for version, read in (("", _read_pickle), (".bin", _read_records)):
        batches = [f"{name}{version}" for name in names]
        if set(batches) <= set(contents):
            images, labels = zip(*(read(contents[name], f"{path}: {name}") for name in batches), strict=True)
            planes = np.concatenate(images).reshape(-1, 3, _SIDE, _SIDE)
            images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
            return DataSet.in_memory(images, np.concatenate(labels), 10, source=path)
    raise FileNotFoundError(f"{path}: wanted data_batch_1 to 5 (.bin), got {sorted(contents) or 'none'}.\n{_REMEDY}")


def _from_folder(path, names) -> dict[str, bytes]:
    found = (path / folder / f"{name}{suffix}" for folder in _FOLDERS for name in names for suffix in ("", ".bin"))
    return {file.name: file.read_bytes() for file in found if file.is_file()}


def _from_archive(path, names) -> dict[str, bytes]:
    """The batches in an archive, read in one pass in memory: nothing is unpacked to disk."""
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = pathlib.PurePosixPath(member.name).name
                if member.isfile() and name.removesuffix(".bin") in names and (file := archive.extractfile(member)):
                    contents[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: wanted an archive, got a truncated or another file ({error}); download it again."
        ) from None
    return contents


def _read_pickle(content: bytes, source: str):
    """(pixels [N, 3072], labels [N]) of a batch of the Python version, written by Python 2."""
    try:
        batch = Unpickler(io.BytesIO(content), load_bytes=None, encoding="bytes").load()
        pixels, labels = batch[b"data"].value, np.asarray(batch[b"labels"])
    except Refused as error:
        raise ValueError(f"{source}: refused: {error}. Nothing was run.") from None
    except Exception as error:  # bytes that are not a pickle raise any type
        raise ValueError(f"{source}: truncated, or not a batch of CIFAR10 ({type(error).__name__}: {error}).") from None
    if pixels.ndim != 2 or pixels.shape[1] != 3 * _SIDE**2 or pixels.dtype != np.uint8:
        raise ValueError(f"{source}: wanted images of 3 x 32 x 32 bytes, got {pixels.dtype} {pixels.shape[1:]}.")
    return pixels, labels


def _read_records(content: bytes, source: str):
    """(pixels [N, 3072], labels [N]) of a batch of the binary version: the label's byte, then the image's."""
    size = 1 + 3 * _SIDE**2
    if not content or len(content) % size:
        raise ValueError(f"{source}: truncated; wanted records of {size} bytes, got {len(content)} bytes.")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, 1:], records[:, 0]
