"""From a PyTorch state dictionary to the variables of one of our Flax networks, with every key and shape accounted for."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bespoke_jax.checks import check_flag, check_float_dtype
from bespoke_jax.models.weights_io.contents import Record, Tensor
from bespoke_jax.types import DTypeLike

__all__ = [
    "check_computation",
    "check_variables",
    "flatten_record",
    "from_torch_layout",
    "load_arrays",
    "some",
    "variable_shapes",
    "variables_from_state",
    "weight_shape",
]


def flatten_record(record: Record, source: str) -> dict[str, Any]:
    """The `state_dict()` of a module that is a Record: its parameters and buffers by dotted names.

    Args:
        record: the module.
        source: name of the file in errors; the same in all functions here.

    Raises:
        ValueError: if its parts are not modules by name, or more numerous or deeper than those of any network.
    """
    state, seen = {}, 0
    ahead: list[tuple[str, int, Record]] = [("", 0, record)]
    while ahead:
        prefix, depth, module = ahead.pop()
        parts = {kind: module.state.get(kind, {}) for kind in ("_parameters", "_buffers", "_modules")}
        names = [name for part in parts.values() for name in (part if isinstance(part, dict) else [None])]
        seen += 1 + len(names)
        if seen > 100_000 or depth > 32 or not all(type(name) is str for name in names):
            raise ValueError(f"{source}: its modules are not those of a network ({prefix[:80]!r}, {seen} parts).")
        for kind in ("_parameters", "_buffers"):
            state |= {prefix + name: value for name, value in parts[kind].items() if value is not None}
        ahead += [
            (f"{prefix}{name}.", depth + 1, child)
            for name, child in parts["_modules"].items()
            if isinstance(child, Record)
        ]
    return state


def load_arrays(state: Any, source: str) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary as float32 arrays, by the network's own names.

    Traces of wrappers are removed: the `state_dict` of a checkpoint of Lightning, the counter of torch's `AveragedModel`, and
    a common beginning of all names ("module." of DataParallel, "_orig_mod." of torch.compile, "net." of Lightning).

    Raises:
        ValueError: if it is no dictionary of tensors, if one of them is truncated (names the key), or if together they need much
            more memory than their storages have.
    """
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        got = "an empty one" if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{source}: wanted a dictionary of tensors, got {got}.")
    arrays, storages, held, asked = {}, set(), 0, 0
    for key, value in state.items():
        try:
            if isinstance(value, Tensor):
                if value.storage not in storages:
                    storages.add(value.storage)
                    held += value.storage.size()
                asked += max(0, math.prod(value.shape)) * np.dtype(value.storage.dtype).itemsize
                if asked > 4 * held + 2**20:
                    raise ValueError(f"tensors of {asked} bytes from storages that have {held}")
                value = value.numpy()
            if not isinstance(value, np.ndarray | jax.Array):
                raise TypeError(f"a {type(value).__name__}")
            arrays[str(key)] = np.asarray(value, np.float32)
        except Exception as error:  # a hostile file may have attributes of any type
            name = repr(key)[:80]
            raise ValueError(f"{source}: {name} is no tensor that can be read ({str(error)[:200]}).") from None
    return _unwrapped(arrays)


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without the counter of `AveragedModel`, and without leading parts of the names that all names share."""
    arrays = {key: value for key, value in arrays.items() if key != "n_averaged"}
    while len(arrays) > 1 and all("." in key for key in arrays) and len({key.split(".")[0] for key in arrays}) == 1:
        arrays = {key.split(".", 1)[1]: value for key, value in arrays.items()}
    return arrays


def weight_shape(state: dict[str, np.ndarray], key: str, source: str) -> tuple[int, ...]:
    """The shape of a weight from which the network's widths are read.

    Raises:
        ValueError: if it is missing, empty, or has fewer than two axes.
    """
    if key not in state:
        raise ValueError(f"{source}: missing {key}, found {some(state)}. Is it a file of this kind of network?")
    if state[key].ndim < 2 or 0 in state[key].shape:
        raise ValueError(f"{source}: {key}: wanted a matrix or a kernel, got shape {state[key].shape}.")
    return state[key].shape


@functools.lru_cache(maxsize=16)
def variable_shapes(network: Any, event_shape: tuple[int, ...]) -> dict[str, Any]:
    """The result of `network.init` for x of [1, *event_shape], as `ShapeDtypeStruct`s; traced once for equal networks."""
    x, t = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *event_shape), ()))
    return jax.eval_shape(network.init, jax.random.key(0), t, x)


def check_computation(dtype: DTypeLike | None, remat: bool = False) -> None:
    """Raise TypeError unless `dtype` is a floating dtype or None, and ValueError unless `remat` is True or False."""
    if dtype is not None:
        check_float_dtype("dtype", dtype)
    check_flag("remat", remat)


def check_variables(source: Any, network: Any, shapes: Any, flat: dict[str, Any]) -> None:
    """Raise ValueError unless one of our files has exactly the variables of the network that its header describes.

    Args:
        source: the file, for errors.
        network: the network.
        shapes: of the network's variables, as a tree.
        flat: the content of the file, "collection/module/.../leaf" -> array.
    """
    tree: dict[str, Any] = dict(flatten_dict(shapes, sep="/"))
    wanted = {name: leaf.shape for name, leaf in tree.items()}
    got = {name: value.shape for name, value in flat.items()}
    wrong = sorted(name for name in wanted | got if wanted.get(name) != got.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{source}: {len(wrong)} variables are not those of the {type(network).__name__} that its header describes; "
            f"{name[:80]} is {got.get(name, 'missing')}, wanted {wanted.get(name, 'none')}. Save it again."
        )


def some(keys: Iterable[Any]) -> str:
    """The first few of many names, for an error."""
    names = sorted(str(key)[:80] for key in keys)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def variables_from_state(
    network: Any,
    image_shape: tuple[int, ...],
    state: dict[str, np.ndarray],
    names: dict[str, str],
    source: str,
) -> dict[str, Any]:
    """The Flax variables of `network` from a state dictionary of arrays.

    Args:
        network: a Flax module, called as `network(t, x)`.
        image_shape: (H, W, C) of its input.
        state: name -> array, in PyTorch's layout. Entries without a place in the network are an error.
        names: Flax module ("down0_block1/conv_0") -> the prefix of its tensors ("enc.32x32_block1.conv0").
        source: name of the file in errors.

    Raises:
        ValueError: for missing keys, left over keys and other shapes; names some of the keys.
    """
    kind = type(network).__name__
    if len(state) < network.num_blocks * len(network.channels):
        raise ValueError(
            f"{source}: {len(state)} tensors ({some(state)}), too few for {len(network.channels)} levels of "
            f"{network.num_blocks} blocks."
        )
    try:
        shapes = variable_shapes(network, tuple(image_shape))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{source}: no {kind} has the numbers of this file: {error}") from None
    found, state, missing, wrong, params = some(state), dict(state), [], [], {}
    wanted: dict[tuple[str, ...], Any] = dict(flatten_dict(shapes["params"]))
    for path, leaf in wanted.items():
        key = names["/".join(path[:-1])] + (".bias" if path[-1] == "bias" else ".weight")
        array = state.pop(key, None)
        if array is None:
            missing.append(key)
            continue
        translated = from_torch_layout(array, path[-1], leaf.ndim)
        if translated.shape != leaf.shape:
            wrong.append(f"{key} of shape {array.shape}, wanted {leaf.shape} (in our layout)")
        params[path] = jnp.asarray(translated, jnp.float32)
    hint = f"Is it a file of {kind}, channels {network.channels}, {network.num_blocks} blocks a level?"
    if missing:
        raise ValueError(f"{source}: missing {some(missing)}; found {found}. {hint}")
    if wrong:
        raise ValueError(f"{source}: {some(wrong)}. {hint}")
    if state:
        raise ValueError(f"{source}: {some(state)}: no place for these. {hint}")
    variables = {"params": unflatten_dict(params)}
    if "condition" in shapes:  # no class
        variables["condition"] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["condition"])
    return variables


def from_torch_layout(array: np.ndarray, leaf: str, ndim: int) -> np.ndarray:
    """A tensor of PyTorch in the layout of a Flax leaf ("kernel", "bias", ...) with `ndim` axes."""
    if leaf != "kernel":
        return array
    if ndim == 4:
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array  # OIHW -> HWIO
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):  # a 1 x 1 convolution is a dense layer
        array = array.reshape(array.shape[:2])
    return array.T
