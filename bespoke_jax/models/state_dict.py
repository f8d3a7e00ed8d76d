"""A PyTorch state dictionary -> the variables of one of our Flax networks, with every key and shape accounted for."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.models.torch_file import Record, Tensor

__all__ = [
    "flatten_record",
    "from_torch_layout",
    "load_arrays",
    "variable_shapes",
    "variables_from_state",
    "weight_shape",
]


def flatten_record(record: Record, prefix: str = "") -> dict:
    """`state_dict()` of a module that is a Record: its parameters and buffers by dotted names."""
    state = {}
    for kind in ("_parameters", "_buffers"):
        state |= {prefix + name: value for name, value in record.state.get(kind, {}).items() if value is not None}
    for name, module in record.state.get("_modules", {}).items():
        if isinstance(module, Record):
            state |= flatten_record(module, f"{prefix}{name}.")
    return state


def load_arrays(state: dict, source: str) -> dict[str, np.ndarray]:
    """Read the tensors of a state dictionary, as float32.

    Raises:
        ValueError: if it is no dictionary of tensors, or one of them is truncated; names the key.
    """
    arrays = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        try:
            arrays[str(key)] = np.asarray(value.numpy() if isinstance(value, Tensor) else value, np.float32)
        except Exception as error:  # attributes of a hostile file may be of any type
            raise ValueError(f"{source}: {key!r} is no tensor that can be read ({error}).") from None
    if not arrays:
        raise ValueError(f"{source}: wanted a dictionary of tensors, got {type(state).__name__}, or an empty one.")
    return arrays


def weight_shape(state: dict[str, np.ndarray], key: str, source: str) -> tuple[int, ...]:
    """The shape of a weight that tells what network it is of. Raises ValueError if it is missing or no matrix at least."""
    if key not in state:
        raise ValueError(f"{source}: missing {key}, got {_some(state)}. Is it a file of this kind of network?")
    if state[key].ndim < 2:
        raise ValueError(f"{source}: {key} of shape {state[key].shape}, where a matrix or a kernel was wanted.")
    return state[key].shape


@functools.lru_cache(maxsize=16)
def variable_shapes(network, event_shape: tuple[int, ...]) -> dict:
    """What `network.init` would return for x of [1, *event_shape], as `ShapeDtypeStruct`s: traced once for equal networks."""
    x, t = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *event_shape), ()))
    return jax.eval_shape(network.init, jax.random.key(0), t, x)


def _some(keys) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def variables_from_state(
    network, image_shape, state: dict[str, np.ndarray], names: dict[str, str], source: str
) -> dict:
    """The Flax variables of `network` from a state dictionary of arrays.

    Args:
        network: a Flax module, called as `network(t, x)`.
        image_shape: (H, W, C) of its input.
        state: name -> array, in PyTorch's layout. What is left after the translation is an error.
        names: Flax module ("down0_block1/conv_0") -> the prefix of its tensors ("enc.32x32_block1.conv0").
        source: what to call the file in errors.

    Raises:
        ValueError: for missing keys, left over keys and other shapes; each names keys.
    """
    shapes = variable_shapes(network, tuple(image_shape))
    state, missing, wrong, params = dict(state), [], [], {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes["params"]).items():
        key = names["/".join(path[:-1])] + (".bias" if path[-1] == "bias" else ".weight")
        array = state.pop(key, None)
        if array is None:
            missing.append(key)
            continue
        translated = from_torch_layout(array, path[-1], leaf.ndim)
        if translated.shape != leaf.shape:
            wrong.append(f"{key} of shape {array.shape}, where {leaf.shape} was wanted (in our layout)")
        params[path] = jnp.asarray(translated, jnp.float32)
    hint = (
        f"Is it a file of {type(network).__name__}, channels {network.channels}, {network.num_blocks} blocks a level?"
    )
    if missing:
        raise ValueError(f"{source}: missing {_some(missing)}. {hint}")
    if wrong:
        raise ValueError(f"{source}: {_some(wrong)}. {hint}")
    if state:
        raise ValueError(f"{source}: {_some(state)}: no place for these. {hint}")
    variables = {"params": flax.traverse_util.unflatten_dict(params)}
    if "condition" in shapes:  # no class, unless one is asked for
        variables["condition"] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["condition"])
    return variables


def from_torch_layout(array, leaf: str, ndim: int):
    """A tensor of PyTorch as the leaf ("kernel", "bias", ...) of `ndim` axes of a Flax layer."""
    if leaf != "kernel":
        return array
    if ndim == 4:
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array  # OIHW -> HWIO
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):  # a 1 x 1 convolution is a dense layer
        array = array.reshape(array.shape[:2])
    return array.T
