"""A pickle is a program: it may call any function of any module. This unpickler calls none but its own.

It looks up the few names that files of tensors and containers need among the functions and classes here; any other name ends the
reading with an error that says which. Networks saved as objects (EDM's files carry their own source code) become inert records
of their attributes.

What a pickle may cost is bounded by its length, and looked at before anything is built: see `check_program`.
"""

import collections
import dataclasses
import math
import pickle
import pickletools
import re
import types
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

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


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that a file of weights has no need of."""


def check_program(file) -> None:
    """Raise Refused if the pickle that begins here would take more memory or time than its length gives reason to.

    A few bytes can name a place in the memo that makes it fill all memory, or a tuple of tuples that has 2^50 items when it is
    hashed. This reads the program without running it: which tuples it makes, of what depth and of how many items all told.

    Examples:
        >>> import io
        >>> check_program(io.BytesIO(pickle.dumps({"weight": (1, 2)})))
        >>> check_program(io.BytesIO(b"Nr\\xff\\xff\\xff\\x7f."))
        Traceback (most recent call last):
        bespoke_jax.models.safe_pickle.Refused: it numbers what it keeps up to 2147483647 in a program of 2 steps
    """
    plain = (0, 1)  # depth as a tuple, items all told
    stack, memo, spent = [], {}, 0
    for count, (code, argument, _) in enumerate(pickletools.genops(file), start=1):
        before, after = code.stack_before, code.stack_after
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if argument is None else argument
            if place > count:
                raise Refused(f"it numbers what it keeps up to {place} in a program of {count} steps")
            memo[place] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
            stack.append(stack[-1] if argument is None else memo[argument])
            spent += stack[-1][1]
        elif code.name == "LONG4":
            raise Refused("it has an integer of more than 255 bytes")
        elif code.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = _taken_from(stack, before)
            stack.append((1 + max((depth for depth, _ in items), default=0), 1 + sum(size for _, size in items)))
            spent += stack[-1][1]
            if stack[-1][0] > _DEEPEST:
                raise Refused(f"it has tuples in tuples, more than {_DEEPEST} deep")
        elif code.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
            _taken_from(stack, before[1:])  # what is changed stays where it is
        elif code.name == "POP":
            stack.pop()
        else:
            _taken_from(stack, before)
            stack.extend(None if item is pickletools.markobject else plain for item in after)
        if spent > _FREE + _ITEMS_A_STEP * count:
            raise Refused(f"it has tuples of {spent} items all told, after {count} steps")


_DEEPEST = 100
_FREE, _ITEMS_A_STEP = 100_000, 100
_MOST_COPIES = 4  # old protocols have text of what becomes bytes, which become a storage


def _taken_from(stack: list, before: list) -> list:
    """Take from the simulated stack what a step takes that finds `before` there; what was above the mark, or all of it."""
    if pickletools.markobject not in before:
        taken = stack[len(stack) - len(before) :]
        del stack[len(stack) - len(before) :]
        return taken
    mark = len(stack) - 1 - stack[::-1].index(None)
    taken = stack[mark + 1 :]
    del stack[mark - before.index(pickletools.markobject) :]
    return taken


def _refuse_change(*_):
    raise Refused("it changes a function or class that it was given")


class _Fixed:
    """What a pickle cannot give attributes of its own."""

    def __setstate__(self, state):
        pass


class Record:
    """An object of a class that is not known here: what it was called, and its attributes as a dictionary."""

    class_name = "?"

    def __new__(cls, *_):
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state):
        self.state = state if isinstance(state, dict) else {}


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """The numbers behind one or several tensors: `size()` bytes of them, of which `read(start, stop)` gets some."""

    dtype: Any
    size: Callable[[], int]
    read: Callable[[int, int], bytes]

    def __setstate__(self, state):
        raise Refused("it changes a storage that it was given")


@dataclasses.dataclass(frozen=True, eq=False)
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
        dtype = np.dtype(self.storage.dtype)
        sizes = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError(
                f"a tensor of impossible shape {self.shape}, strides {self.strides}, offset {self.offset}."
            )
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        stop = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) + 1
        held = self.storage.size() // dtype.itemsize
        # The second condition also stops strides of 0, by which a few bytes would fill all memory.
        if max(stop, math.prod(self.shape)) > held:
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {held} numbers: truncated.")
        data = self.storage.read(self.offset * dtype.itemsize, stop * dtype.itemsize)
        if len(data) < (stop - self.offset) * dtype.itemsize:
            raise ValueError(f"a tensor of shape {self.shape}, of which {len(data)} bytes are there: truncated.")
        steps = tuple(step * dtype.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(np.frombuffer(data, dtype), self.shape, steps, writeable=False)
        return view.copy()


def _known_names(load_bytes, spend):
    """(module, name) -> what stands for it. Made anew for each file.

    Args:
        load_bytes: bytes -> content, of a pickle within the pickle.
        spend: called with the size of what is copied; ends the reading where a file has the same bytes copied again and again.
    """

    def rebuild_tensor(storage, offset, size, stride, *_):
        if not isinstance(storage, Storage):
            raise Refused(f"it makes a tensor of a {type(storage).__name__}")
        return Tensor(storage, offset, torch_size(size), torch_size(stride))

    def rebuild_parameter(data, *_):
        if not isinstance(data, Tensor):
            raise Refused(f"it makes a parameter of a {type(data).__name__}")
        return data

    def reconstruct_persistent(meta):
        # meta["module_src"] is source code that the original would execute here.
        record, name = Record(), meta.get("class_name")
        record.class_name = name if isinstance(name, str) else "?"
        record.__setstate__(meta.get("state", {}))
        return record

    def storage_of_bytes(data):
        spend(len(data))
        storage = load_bytes(data)
        if not isinstance(storage, Storage):
            raise Refused(f"it has a pickle within the pickle, of a {type(storage).__name__}")
        return storage

    def numpy_dtype(text, *_):
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(text, str) or not re.fullmatch(r"[<>|=]?([biufcSUV]\d{0,4}|[?])", text):
            raise Refused("it has a numpy array of objects, or of another kind that no weights have")
        return NumpyDtype(np.dtype(text))

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

    class EasyDict(_Fixed, dict):
        def __init__(self, items=()):
            spend(len(items))
            super().__init__(items)

    class OrderedDict(_Fixed, collections.OrderedDict):
        def __init__(self, items=()):
            spend(len(items))
            super().__init__(items)

    def torch_size(sizes=()):
        if not isinstance(sizes, tuple | list) or len(sizes) > 32 or any(type(size) is not int for size in sizes):
            raise Refused("it has the shape of a tensor that is no tuple of integers")
        return tuple(sizes)

    def names_set(names=()):  # of old protocols, and in EDM's modules: the names of what is not saved
        if not isinstance(names, list | tuple) or any(type(name) is not str for name in names):
            raise Refused("it has a set of other things than strings")
        spend(len(names))
        return frozenset(names)

    def encode(text, encoding="latin1"):  # how old protocols write bytes
        spend(len(text))
        return text.encode("latin1")

    names = {
        ("collections", "OrderedDict"): OrderedDict,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("dnnlib", "EasyDict"): EasyDict,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): reconstruct_persistent,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,  # with attributes that no sampling needs
        ("torch.storage", "_load_from_bytes"): storage_of_bytes,
        ("torch", "Size"): torch_size,
        ("torch", "device"): lambda *_: None,
        ("_codecs", "encode"): encode,
        ("numpy", "dtype"): numpy_dtype,
        ("numpy", "ndarray"): type("ndarray", (_Fixed,), {}),
    }
    for module in ("builtins", "__builtin__"):
        names[module, "set"] = names[module, "frozenset"] = names_set
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "scalar"], names[module, "_reconstruct"] = numpy_scalar, numpy_array
    for name in ("ModuleDict", "ModuleList", "Sequential"):
        names["torch.nn.modules.container", name] = type(name, (Record,), {"class_name": name})
    for name, dtype in _STORAGES.items():
        names["torch", name] = names["torch.storage", name] = type(name, (_Fixed,), {"dtype": dtype})
    for known in names.values():
        if isinstance(known, types.FunctionType):  # whatever else stands for a name is a class, which refuses by itself
            known.__setstate__ = _refuse_change
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
        self._file = file
        self._names = _known_names(load_bytes, self._spend)
        self._storage = storage
        self._copied = self._length = 0

    def load(self):
        """The content. Raises Refused, or any error there is of bytes that are no pickle."""
        start = self._file.tell()
        check_program(self._file)
        self._length = self._file.tell() - start
        self._file.seek(start)
        return super().load()

    def _spend(self, size: int):
        self._copied += size
        if self._copied > _MOST_COPIES * self._length:
            raise Refused("it copies the same data again and again")

    def find_class(self, module, name):
        try:
            return self._names[module, name]
        except KeyError:
            raise Refused(f"it asks for {module}.{name}, which a file of weights has no need of"[:200]) from None

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or self._storage is None:
            raise pickle.UnpicklingError("data outside the pickle")
        if len(pid) > 5 and pid[5] is not None:  # before torch 0.4
            raise pickle.UnpicklingError("a storage that is part of another")
        if not isinstance(pid[2], str | int):
            raise pickle.UnpicklingError(f"a storage whose key is a {type(pid[2]).__name__}")
        return self._storage(str(pid[2]), pid[1].dtype)
