"""What a file of weights holds: tensors, the storages behind them, and records of objects of unknown classes."""

import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Record", "Refused", "Storage", "Tensor"]


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that no file of weights needs."""


class Record:
    """An object of a class that is not known here: the name of its class, and its attributes as a dictionary."""

    class_name: str = "?"
    state: dict[str, Any]

    def __new__(cls, *_: Any) -> "Record":
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """The numbers behind one or several tensors.

    Attributes:
        dtype: their type, as `np.dtype` takes it.
        size: () -> their number of bytes.
        read: (start, stop) -> the bytes from `start` to `stop`.
    """

    dtype: Any
    size: Callable[[], int]
    read: Callable[[int, int], bytes]

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a storage that it was given")


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that has not been read yet; `numpy()` reads it.

    Attributes:
        storage: the numbers.
        offset: place of the first element in the storage, in elements.
        shape: the sizes.
        strides: steps in the storage along each axis, in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a tensor that it was given")

    def numpy(self) -> np.ndarray:
        """A copy of the values. Raises ValueError if the storage is too small for them."""
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
        # The second condition also catches strides of 0, by which a few bytes would fill all memory.
        if max(stop, math.prod(self.shape)) > held:
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {held} numbers: truncated.")
        data = self.storage.read(self.offset * dtype.itemsize, stop * dtype.itemsize)
        if len(data) < (stop - self.offset) * dtype.itemsize:
            raise ValueError(f"a tensor of shape {self.shape}, of which only {len(data)} bytes exist: truncated.")
        steps = tuple(step * dtype.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(np.frombuffer(data, dtype), self.shape, steps, writeable=False)
        return view.copy()
