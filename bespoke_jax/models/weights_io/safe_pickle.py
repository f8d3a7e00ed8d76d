"""An unpickler that calls no function or class but its own.

A pickle is a program that may call any function of any module. This one finds the few names that files of tensors and containers
need among the functions and classes below; any other name stops the reading with an error that gives it. Networks saved as
objects (EDM's files carry their own source code) become inert records of their attributes.

The cost of a pickle is bounded by its length, which is checked before anything is built: see `check_program`.
"""

import collections
import io
import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from bespoke_jax.models.weights_io.contents import Record, Refused, Storage, Tensor
from bespoke_jax.models.weights_io.pickle_program import check_program

__all__ = ["Record", "Refused", "Storage", "Tensor", "Unpickler", "check_program"]

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
_MOST_COPIES = 4  # old protocols write bytes as text, which is copied into bytes and then into a storage

_Names = dict[tuple[str, str], Any]


class _Fixed:
    """A class whose instances ignore the attributes that a pickle gives them."""

    def __setstate__(self, state):
        pass


def _refuse_change(*_):
    raise Refused("it changes a function or class that it was given")


def _torch_names(load_bytes: Callable | None, spend: Callable[[int], None]) -> _Names:
    """Tensors, storages and modules of torch."""

    def torch_size(sizes=()):
        if not isinstance(sizes, tuple | list) or len(sizes) > 32 or any(type(size) is not int for size in sizes):
            raise Refused("it has the shape of a tensor that is no tuple of integers")
        return tuple(sizes)

    def rebuild_tensor(storage, offset, size, stride, *_):
        if not isinstance(storage, Storage):
            raise Refused(f"it makes a tensor of a {type(storage).__name__}")
        return Tensor(storage, offset, torch_size(size), torch_size(stride))

    def rebuild_parameter(data, *_):
        if not isinstance(data, Tensor):
            raise Refused(f"it makes a parameter of a {type(data).__name__}")
        return data

    def storage_of_bytes(data):
        spend(len(data))
        storage = None if load_bytes is None else load_bytes(data)
        if not isinstance(storage, Storage):
            raise Refused(f"it has a pickle within the pickle, of a {type(storage).__name__}")
        return storage

    names: _Names = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        (
            "torch._utils",
            "_rebuild_parameter_with_state",
        ): rebuild_parameter,  # with attributes that sampling does not need
        ("torch.storage", "_load_from_bytes"): storage_of_bytes,
        ("torch", "Size"): torch_size,
        ("torch", "device"): lambda *_: None,
    }
    for name in ("ModuleDict", "ModuleList", "Sequential"):
        names["torch.nn.modules.container", name] = type(name, (Record,), {"class_name": name})
    for name, dtype in _STORAGES.items():
        names["torch", name] = names["torch.storage", name] = type(name, (_Fixed,), {"dtype": dtype})
    return names


def _numpy_names() -> _Names:
    """Arrays, scalars and dtypes of NumPy."""

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

    def numpy_dtype(text, *_):
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(text, str) or not re.fullmatch(r"[<>|=]?([biufcSUV]\d{0,4}|[?])", text):
            raise Refused("it has a numpy array of objects, or of another kind that no weights have")
        return NumpyDtype(np.dtype(text))

    def numpy_scalar(dtype, data):
        return np.frombuffer(data, dtype.dtype)[0].item()

    def numpy_array(*_):
        return NumpyArray()

    names: _Names = {("numpy", "dtype"): numpy_dtype, ("numpy", "ndarray"): type("ndarray", (_Fixed,), {})}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "scalar"], names[module, "_reconstruct"] = numpy_scalar, numpy_array
    return names


def _container_names(spend: Callable[[int], None]) -> _Names:
    """Containers of Python, and the objects of EDM's files."""

    class EasyDict(_Fixed, dict):
        def __init__(self, items=()):
            spend(len(items))
            super().__init__(items)

    class OrderedDict(_Fixed, collections.OrderedDict):
        def __init__(self, items=()):
            spend(len(items))
            super().__init__(items)

    def names_set(names=()):  # old protocols, and the names that EDM's modules do not save
        if not isinstance(names, list | tuple) or any(type(name) is not str for name in names):
            raise Refused("it has a set of other things than strings")
        spend(len(names))
        return frozenset(names)

    def encode(text, encoding="latin1"):  # bytes in old protocols
        spend(len(text))
        return text.encode("latin1")

    def reconstruct_persistent(meta):
        # meta["module_src"] is source code that the original would execute here.
        record, name = Record(), meta.get("class_name")
        record.class_name = name if isinstance(name, str) else "?"
        record.__setstate__(meta.get("state", {}))
        return record

    names: _Names = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): encode,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("dnnlib", "EasyDict"): EasyDict,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): reconstruct_persistent,
    }
    for module in ("builtins", "__builtin__"):
        names[module, "set"] = names[module, "frozenset"] = names_set
    return names


def _known_names(load_bytes: Callable | None, spend: Callable[[int], None]) -> _Names:
    """(module, name) -> its substitute, made anew for each file.

    Args:
        load_bytes: bytes -> content, for a pickle within the pickle; None if there can be none.
        spend: called with the size of each copy; stops the reading when a file has the same bytes copied again and again.
    """
    names = _torch_names(load_bytes, spend) | _numpy_names() | _container_names(spend)
    for known in names.values():
        if isinstance(
            known, types.FunctionType
        ):  # the other substitutes are classes, which refuse changes by themselves
            known.__setstate__ = _refuse_change
    return names


class Unpickler(pickle.Unpickler):
    """Reads a pickle of tensors and containers.

    Args:
        file: an open binary file.
        load_bytes: bytes -> content, for files that hold pickles within a plain pickle; None if there can be none.
        storage: (key, dtype) -> Storage, for pickles whose numbers lie outside of them; None if there are none.
        encoding: of the strings that Python 2 wrote; "bytes" leaves them as bytes.
    """

    def __init__(
        self,
        file: io.BytesIO | io.BufferedReader,
        load_bytes: Callable[[bytes], Any] | None,
        storage: Callable[[str, Any], Storage] | None = None,
        encoding: str = "ASCII",
    ):
        super().__init__(file, encoding=encoding)
        self._file = file
        self._names = _known_names(load_bytes, self._spend)
        self._storage = storage
        self._copied = self._length = 0

    def load(self) -> Any:
        """The content. Raises Refused, or any other error for bytes that are no pickle."""
        start = self._file.tell()
        check_program(self._file)
        self._length = self._file.tell() - start
        self._file.seek(start)
        return super().load()

    def _spend(self, size: int) -> None:
        self._copied += size
        if self._copied > _MOST_COPIES * self._length:
            raise Refused("it copies the same data again and again")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise Refused(f"it asks for {module}.{name}, which a file of weights has no need of"[:200]) from None

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or self._storage is None:
            raise pickle.UnpicklingError("data outside the pickle")
        if len(pid) > 5 and pid[5] is not None:  # before torch 0.4
            raise pickle.UnpicklingError("a storage that is part of another")
        if not isinstance(pid[2], str | int):
            raise pickle.UnpicklingError(f"a storage whose key is a {type(pid[2]).__name__}")
        return self._storage(str(pid[2]), pid[1].dtype)
