"""Reading weights from pickles (.pkl, .pt, .bin) without torch, and without running anything in them (see `safe_pickle`).

Formats: zip files of torch >= 1.6, the older stream of `torch.save`, and plain pickles that contain tensors.
"""

import functools
import io
import pathlib
import zipfile
from typing import Any

import numpy as np

from bespoke_jax.models.weights_io.contents import Record, Refused, Storage, Tensor
from bespoke_jax.models.weights_io.safe_pickle import Unpickler
from bespoke_jax.types import PathLike

__all__ = ["Record", "Tensor", "read_torch_file"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_UNPACKED, _FREE = 16, 2**24  # a zip file may unpack to this multiple of its size, plus this number of bytes


def _read_legacy(data: bytes) -> Any:
    """The format of `torch.save` before torch 1.6, still used for tensors inside pickles: pickles, then the storages."""
    file = io.BytesIO(data)
    if Unpickler(file, _read_legacy).load() != _LEGACY_MAGIC:
        raise ValueError("tensors in no known format")
    for _ in range(2):  # protocol version; sizes of types
        Unpickler(file, _read_legacy).load()
    found, dtypes = {}, {}

    @functools.cache  # tensors that share a storage get the same object
    def storage(key, dtype):
        dtypes.setdefault(key, np.dtype(dtype))
        return Storage(dtype, lambda: len(found[key]), lambda start, stop: found[key][start:stop])

    content = Unpickler(file, _read_legacy, storage).load()
    for key in Unpickler(file, _read_legacy).load():
        count = int.from_bytes(file.read(8), "little")
        found[key] = file.read(count * dtypes[key].itemsize) if key in dtypes else b""
    return content


def _read_zip(path: pathlib.Path) -> Any:
    archive = zipfile.ZipFile(path)
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl")
    folder = pickled.removesuffix("data.pkl")
    unpacked, packed = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if unpacked > _MOST_UNPACKED * packed + _FREE:
        raise Refused(f"its {packed} bytes unpack to {unpacked} (torch.save does not compress)")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("numbers in big-endian order")
    # Numbers stay in the file until `Tensor.numpy` reads them, because a checkpoint also holds the optimiser's state.

    @functools.cache  # tensors that share a storage get the same object
    def storage(key, dtype):
        name = f"{folder}data/{key}"

        def read(start, stop):
            with archive.open(name) as member:
                member.seek(start)
                return member.read(stop - start)

        return Storage(dtype, lambda: archive.getinfo(name).file_size, read)

    return Unpickler(io.BytesIO(archive.read(pickled)), _read_legacy, storage).load()


def read_torch_file(path: PathLike) -> Any:
    """The content of a pickle of tensors: dictionaries, lists, numbers, `Tensor`s and `Record`s. Nothing in it is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or foreign, asks for a function or class other than a few harmless ones (the error
            names it), or for more memory or time than its size justifies.

    Examples:
        >>> import os, pickle, tempfile
        >>> class Malicious:
        ...     def __reduce__(self):
        ...         return os.system, ("echo never printed",)
        >>> with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        ...     _ = file.write(pickle.dumps(Malicious()))
        ...     file.flush()
        ...     try:
        ...         read_torch_file(file.name)
        ...     except ValueError as error:
        ...         print(str(error).split(": ", 1)[1])
        refused: it asks for posix.system, which a file of weights has no need of. Nothing was run. ...
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        data = path.read_bytes()
        if _LEGACY_MAGIC.to_bytes(10, "little") in data[:20]:
            return _read_legacy(data)
        return Unpickler(io.BytesIO(data), _read_legacy).load()
    except Refused as error:
        raise ValueError(
            f"{path}: refused: {error}. Nothing was run. If you trust the file, save its tensors from its own framework "
            "as a plain state dictionary."
        ) from None
    except Exception as error:  # bytes that are no pickle may raise anything
        raise ValueError(
            f"{path}: truncated, or no pickle of tensors ({type(error).__name__}: {str(error)[:200]})."
        ) from None
