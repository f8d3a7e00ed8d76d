"""A pickle is a program: it may call any function of any module. This unpickler calls none but its own.

It looks up the few names that files of tensors and containers need among the functions and classes here; any other name ends the
reading with an error that says which. Networks saved as objects (EDM's files carry their own source code) become inert records
of their attributes.
"""

import collections
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["Record", "Refused", "Storage", "Tensor", "Unpickler"]

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "UntypedStorage": np.uint8,
}


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that a file of weights has no need of."""


class Record:
    """An object of a class that is not known here: what it was called, and its attributes as a dictionary."""

    class_name = "?"

    def __new__(cls, *_):
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state):
        self.state = state if isinstance(state, dict) else {}


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers behind one or several tensors; `read` gets their bytes when they are wanted."""

    dtype: Any
    read: Callable[[], bytes]

    def __setstate__(self, state):
        raise Refused("it changes a storage that it was given")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read yet: `numpy()` reads it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state):
        raise Refused("it changes a tensor that it was given")

    def numpy(self) -> np.ndarray:
        """The values, a copy. Raises ValueError if the storage is too small for them."""
        data, dtype = self.storage.read(), np.dtype(self.storage.dtype)
        values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
        sizes = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError(
                f"a tensor of impossible shape {self.shape}, strides {self.strides}, offset {self.offset}."
            )
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        # The second condition also stops strides of 0, by which a few bytes would fill all memory.
        if 0 not in self.shape and max(last + 1, math.prod(self.shape)) > len(values):
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {len(values)} numbers: truncated.")
        steps = tuple(step * values.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps, writeable=False)
        return view.copy()


def _known_names(load_bytes):
    """(module, name) -> what stands for it. Made anew for each file: a pickle can set attributes of what it is given."""

    def rebuild_tensor(storage, offset, size, stride, *_):
        if not isinstance(storage, Storage):
            raise Refused(f"it makes a tensor of a {type(storage).__name__}")
        return Tensor(storage, offset, tuple(size), tuple(stride))

    def rebuild_parameter(data, *_):
        return data

    def reconstruct_persistent(meta):
        # meta["module_src"] is source code that the original would execute here.
        record = Record()
        record.class_name, record.state = str(meta.get("class_name")), dict(meta.get("state", {}))
        return record

    def numpy_dtype(text, *_):
        found = np.dtype(text)
        if found.hasobject:
            raise Refused("it has a numpy array of objects")
        return NumpyDtype(found)

    def numpy_scalar(dtype, data):
        return np.frombuffer(data, dtype.dtype)[0].item()

    class NumpyDtype:
        def __init__(self, dtype):
            self.dtype = dtype

        def __setstate__(self, state):
            if state[1] in ("<", ">"):
                self.dtype = self.dtype.newbyteorder(state[1])

    class NumpyArray:
        value = None

        def __setstate__(self, state):
            _, shape, dtype, fortran, data = state
            self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")

    def numpy_array(*_):
        return NumpyArray()

    class EasyDict(dict):
        pass

    class OrderedDict(collections.OrderedDict):
        pass

    def size(sizes=()):
        return tuple(sizes)

    def encode(text, encoding="latin1"):  # how old protocols write bytes
        return text.encode("latin1")

    names = {
        ("collections", "OrderedDict"): OrderedDict,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("dnnlib", "EasyDict"): EasyDict,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): reconstruct_persistent,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): lambda data: load_bytes(data),
        ("torch", "Size"): size,
        ("torch", "device"): lambda *_: None,
        ("_codecs", "encode"): encode,
        ("numpy", "dtype"): numpy_dtype,
        ("numpy", "ndarray"): type("ndarray", (), {}),
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "scalar"], names[module, "_reconstruct"] = numpy_scalar, numpy_array
    for name in ("ModuleDict", "ModuleList", "Sequential"):
        names["torch.nn.modules.container", name] = type(name, (Record,), {"class_name": name})
    for name, dtype in _STORAGES.items():
        names["torch", name] = names["torch.storage", name] = type(name, (), {"dtype": dtype})
    return names


class Unpickler(pickle.Unpickler):
    """Reads a pickle of tensors and containers.

    Args:
        file: an open binary file.
        load_bytes: bytes -> content, for the files that plain pickles hold within them.
        storage: (key, dtype) -> Storage, for pickles whose numbers are outside of them; None if there are none.
        encoding: of the strings that Python 2 wrote; "bytes" leaves them bytes.
    """

    def __init__(self, file, load_bytes, storage=None, encoding="ASCII"):
        super().__init__(file, encoding=encoding)
        self._names = _known_names(load_bytes)
        self._storage = storage

    def find_class(self, module, name):
        try:
            return self._names[module, name]
        except KeyError:
            raise Refused(f"it asks for {module}.{name}, which a file of weights has no need of") from None

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or self._storage is None:
            raise pickle.UnpicklingError(f"data outside the pickle, {pid!r:.100}")
        if len(pid) > 5 and pid[5] is not None:  # before torch 0.4
            raise pickle.UnpicklingError("a storage that is part of another")
        return self._storage(str(pid[2]), pid[1].dtype)
