"""Files as torch and EDM write them, without torch: for tests of the importers.

Pickle writes a function as its module and name, and looks whether they exist; so for the time of writing they do, as stubs.
"""

import collections
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np

__all__ = ["Persistent", "pickled", "write_edm", "write_zip"]

_LEGACY_HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


def _stub(module, name):
    def function(*_):
        raise AssertionError(f"{module}.{name} was called")

    function.__module__, function.__qualname__ = module, name
    return function


_REBUILD = _stub("torch._utils", "_rebuild_tensor_v2")
_FROM_BYTES = _stub("torch.storage", "_load_from_bytes")
_RECONSTRUCT = _stub("torch_utils.persistence", "_reconstruct_persistent_obj")
_FLOATS = type("FloatStorage", (), {"__module__": "torch"})


class _Storage:
    def __init__(self, array):
        self.array = array

    def __reduce__(self):  # inside plain pickles: a file of its own
        file = io.BytesIO()
        for part in _LEGACY_HEAD:
            pickle.dump(part, file, protocol=2)
        _Pickler(file, []).dump(self)
        pickle.dump(["0"], file, protocol=2)
        file.write(self.array.size.to_bytes(8, "little") + self.array.tobytes())
        return _FROM_BYTES, (file.getvalue(),)


class _Tensor:
    def __init__(self, array):
        self.array = np.ascontiguousarray(array, np.float32)

    def __reduce__(self):
        strides = tuple(step // 4 for step in self.array.strides)
        return _REBUILD, (_Storage(self.array), 0, self.array.shape, strides, False, collections.OrderedDict())


class Persistent:
    """An object of one of EDM's classes."""

    def __init__(self, class_name, **state):
        self.meta = dict(type="class", version=6, module_src="raise SystemExit", class_name=class_name, state=state)

    def __reduce__(self):
        return _RECONSTRUCT, (self.meta,)


class _Pickler(pickle.Pickler):
    """With storages outside: `found` collects them."""

    def __init__(self, file, found):
        super().__init__(file, protocol=2)
        self.found = found

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        self.found.append(value.array)
        return ("storage", _FLOATS, str(len(self.found) - 1), "cpu", value.array.size)


def _tensors(value):
    if isinstance(value, np.ndarray):
        return _Tensor(value)
    if isinstance(value, dict):
        return {key: _tensors(each) for key, each in value.items()}
    return value


def _stubbed():
    modules = {}
    for what in (_REBUILD, _FROM_BYTES, _RECONSTRUCT, _FLOATS):
        parts = what.__module__.split(".")
        for i in range(len(parts)):
            modules.setdefault(name := ".".join(parts[: i + 1]), types.ModuleType(name))
        setattr(modules[what.__module__], what.__qualname__, what)
    return mock.patch.dict(sys.modules, modules)


def pickled(content, protocol: int | None = None) -> bytes:
    """A plain pickle of dictionaries, arrays (as tensors) and Persistent objects."""
    with _stubbed():
        return pickle.dumps(_tensors(content), protocol)


def write_zip(path, content):
    """As `torch.save` does."""
    with _stubbed():
        found, file = [], io.BytesIO()
        _Pickler(file, found).dump(_tensors(content))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        for key, array in enumerate(found):
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_edm(path, class_name, state, **attributes):
    """One of EDM's .pkl files; all tensors as parameters of one module."""
    tensors = _tensors({key.removeprefix("model."): value for key, value in state.items()})
    model = Persistent("Network", _parameters=tensors, _buffers={}, _modules={})
    ema = Persistent(class_name, _parameters={}, _buffers={"u": None}, _modules={"model": model}, **attributes)
    path.write_bytes(pickled({"ema": ema, "loss_fn": Persistent("EDMLoss")}))
