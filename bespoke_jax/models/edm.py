"""EDM's published networks (Karras et al. 2022, arXiv:2206.00364; github.com/NVlabs/edm).

Their .pkl files hold modules as objects, with the source code of their classes. Only the tensors are read (see `safe_pickle`);
their names and shapes determine the network.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bespoke_jax.checks import check_choice
from bespoke_jax.models.denoiser import Denoiser
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.networks.songunet import SongUNet
from bespoke_jax.models.preconditioning import Preconditioning
from bespoke_jax.models.weights_io.contents import Record
from bespoke_jax.models.weights_io.state_dict import (
    check_computation,
    flatten_record,
    load_arrays,
    some,
    variables_from_state,
    weight_shape,
)
from bespoke_jax.models.weights_io.torch_file import read_torch_file
from bespoke_jax.types import DTypeLike, PathLike

__all__ = ["from_state", "load"]

_HEAD_CHANNELS = 64  # of ADM's attention


def load(path: PathLike, dtype: DTypeLike | None = None, remat: bool = False) -> Denoiser:
    """A denoiser from one of EDM's .pkl files: VP, VE or EDM preconditioning; DDPM++, NCSN++ or ADM network.

    Args:
        path: the file, on your disk. Nothing in it is run.
        dtype: computation type of the network, e.g. `jnp.bfloat16`; None for float32.
        remat: recompute activations in backward passes.

    Raises:
        TypeError: if `dtype` is not a floating dtype.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, foreign or asks for code to be run; if tensors are missing, left over, or of other
            shapes than the network's.

    Examples:
        >>> load("nowhere.pkl")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.pkl: no such file.
    """
    check_computation(dtype, remat)
    content = read_torch_file(path)
    model = content.get("ema") if isinstance(content, dict) else content
    if not isinstance(model, Record) or "_modules" not in model.state:
        raise ValueError(f"{path}: wanted EDM's network (a dictionary with 'ema'), got {_describe(content)}.")
    kinds = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
    if model.class_name not in kinds:
        raise ValueError(f"{path}: wanted a network of class {sorted(kinds)}, got {model.class_name[:80]!r}.")
    try:
        preconditioning = _preconditioning(kinds[model.class_name], model.state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its preconditioning cannot be read ({error}).") from None
    state = load_arrays(flatten_record(model, str(path)), str(path))
    return from_state(state, preconditioning, dtype=dtype, remat=remat, source=str(path))


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dictionary with {some(content) or 'nothing in it'}"
    return content.class_name[:80] if isinstance(content, Record) else type(content).__name__


def _preconditioning(kind: str, attributes: dict) -> Preconditioning:
    """The preconditioning with the attributes of EDM's module. Like EDM's samplers, [0.002, 80] replaces unlimited levels."""
    numbers: dict[str, Any] = {
        key: attributes[key] for key in ("sigma_data", "beta_min", "beta_d") if key in attributes
    }
    if "M" in attributes:
        numbers["steps"] = int(attributes["M"])
    low, high = float(attributes.get("sigma_min", 0.0)), float(attributes.get("sigma_max", math.inf))
    numbers = {key: float(value) if key != "steps" else value for key, value in numbers.items()}
    return Preconditioning(kind, low if low > 0 else 0.002, high if high < math.inf else 80.0, **numbers)


def from_state(
    state: dict[str, np.ndarray],
    preconditioning: Preconditioning | str = "edm",
    dtype: DTypeLike | None = None,
    remat: bool = False,
    source: str = "state",
) -> Denoiser:
    """A denoiser from the state dictionary of EDM's network, e.g. saved with NumPy: names as in their code, PyTorch's layout.

    Args:
        state: name -> array, the names beginning with "model.".
        preconditioning: "edm", "vp" or "ve" with their usual constants, or a `Preconditioning`.
        dtype, remat: as for `load`.
        source: name of the state in errors.

    Raises:
        ValueError: as `load`.
    """
    check_computation(dtype, remat)
    if isinstance(preconditioning, str):
        check_choice("preconditioning", preconditioning, ("edm", "vp", "ve"))
        low, high = {"edm": (0.002, 80.0), "vp": (1e-3, 152.0), "ve": (0.02, 100.0)}[preconditioning]
        preconditioning = Preconditioning(preconditioning, low, high)
    state = load_arrays(state, source)
    # Sampling sets the augmentation label to zeros, and its layer has no bias.
    state.pop("map_augment.weight", None)
    network, image_shape, names = _network(state, source)
    network = network.clone(dtype=dtype, remat=remat)
    constants = {}
    if isinstance(network, SongUNet) and network.fourier:
        frequencies = jax.device_put(state.pop("map_noise.freqs"))
        if frequencies.shape != (network.noise_channels // 2,):
            raise ValueError(
                f"{source}: map_noise.freqs: wanted shape ({network.noise_channels // 2},), got {frequencies.shape}."
            )
        constants = {"constants": {"frequencies": frequencies}}
    for key in list(state):
        if key.endswith("resample_filter"):
            del state[key]
        elif ".qkv." in key:
            heads = 1 if isinstance(network, SongUNet) else max(1, len(state[key]) // (3 * _HEAD_CHANNELS))
            if len(state[key]) % (3 * heads) == 0:  # otherwise the check of shapes that follows raises
                # Their channels are [heads, width / heads, 3]; ours are [3, heads, width / heads].
                split = state[key].reshape(heads, -1, 3, *state[key].shape[1:])
                state[key] = np.moveaxis(split, 2, 0).reshape(state[key].shape)
    variables = variables_from_state(network, image_shape, state, names, source)
    return Denoiser(network, variables | constants, image_shape, preconditioning)


def _network(state: dict[str, np.ndarray], source: str) -> tuple[ADM | SongUNet, tuple[int, int, int], dict[str, str]]:
    """(network, image shape, {our module: the prefix of its tensors}), read off the names and shapes of the state."""

    def shape(key):
        return weight_shape(state, key, source)

    sides = sorted({int(found[1]) for key in state if (found := re.match(r"enc\.(\d{1,5})x", key))}, reverse=True)
    if not sides:
        raise ValueError(f"{source}: wanted tensors enc.*, dec.*, map_layer0.* of an EDM network, found {some(state)}.")
    sizes = [f"{side}x{side}" for side in sides]
    num_blocks = len({key.split(".")[1] for key in state if key.startswith(f"enc.{sizes[0]}_block")})
    stem, image_channels = shape(f"enc.{sizes[0]}_conv.weight")[:2]
    channels = tuple(shape(f"enc.{size}_block0.conv0.weight")[0] for size in sizes)
    attends = tuple(f"enc.{size}_block0.qkv.weight" in state for size in sizes)
    common: dict[str, Any] = dict(
        channels=channels,
        num_blocks=num_blocks,
        num_classes=shape("map_label.weight")[1] if "map_label.weight" in state else 0,
        out_channels=image_channels,
    )
    names = {"conv_in": f"enc.{sizes[0]}_conv", "time_0": "map_layer0", "time_1": "map_layer1", "classes": "map_label"}
    for ours, theirs in _blocks(sizes, num_blocks):
        names |= {f"{ours}/{part}": f"{theirs}.{their_part}" for part, their_part in _PARTS.items()}
        names |= {f"{ours}_attention/{part}": f"{theirs}.{their_part}" for part, their_part in _ATTENTION.items()}

    if any("_aux_" in key for key in state):
        extra = {found[0] for key in state if (found := re.search(r"_aux_(down|skip|up)", key))}
        if extra:
            raise ValueError(
                f"{source}: parts {sorted(extra)} belong to a kind of NCSN++ that EDM did not publish; not supported."
            )
        residual_input = any("_aux_residual" in key for key in state)
        if residual_input and "map_noise.freqs" not in state:  # published networks have both or neither
            raise ValueError(f"{source}: missing map_noise.freqs, the frequencies of an NCSN++.")
        names |= {"norm_out": f"dec.{sizes[0]}_aux_norm", "conv_out": f"dec.{sizes[0]}_aux_conv"}
        names |= {f"down{level}_input": f"enc.{size}_aux_residual" for level, size in enumerate(sizes)}
        network = SongUNet(
            stem_channels=stem,
            attention_levels=tuple(level for level, attend in enumerate(attends) if attend),
            noise_channels=shape("map_layer0.weight")[1],
            fourier="map_noise.freqs" in state,
            residual_input=residual_input,
            taps=_taps(state, source),
            **common,
        )
    else:
        names |= {"norm_out": "out_norm", "conv_out": "out_conv"}
        network = ADM(
            heads=tuple(width // _HEAD_CHANNELS * attend for width, attend in zip(channels, attends, strict=True)),
            middle_heads=channels[-1] // _HEAD_CHANNELS,
            time_channels=shape("map_layer0.weight")[1],
            **common,
        )
    return network, (sides[0], sides[0], image_channels), names


_PARTS = {"norm_0": "norm0", "conv_0": "conv0", "emb": "affine", "norm_1": "norm1", "conv_1": "conv1", "skip": "skip"}
_ATTENTION = {"norm": "norm2", "qkv": "qkv", "proj": "proj"}


def _blocks(sizes: list[str], num_blocks: int) -> Iterator[tuple[str, str]]:
    """All pairs (our block, their block)."""
    for level, size in enumerate(sizes):
        yield f"down{level}_resample", f"enc.{size}_down"
        yield f"up{level}_resample", f"dec.{size}_up"
        for i in range(num_blocks + 1):
            yield f"down{level}_block{i}", f"enc.{size}_block{i}"
            yield f"up{level}_block{i}", f"dec.{size}_block{i}"
    for i in range(2):
        yield f"middle_block{i}", f"dec.{sizes[-1]}_in{i}"


def _taps(state: dict[str, np.ndarray], source: str) -> tuple[int, ...]:
    """The filter of up- and downsampling in whole numbers, from the 2-D filter that each layer using it keeps as a buffer."""
    filters = [value for key, value in state.items() if key.endswith("resample_filter")]
    if not filters:
        return (1, 1)
    two_dimensional = filters[0].reshape(filters[0].shape[-2:]) if filters[0].ndim > 1 else filters[0]
    rows = two_dimensional.sum(axis=-1)
    if rows.ndim != 1 or len(rows) not in (2, 4, 6, 8) or not np.all(rows / (rows[0] or np.nan) >= 0.5):
        raise ValueError(f"{source}: resample_filter: wanted one of EDM's filters, got shape {filters[0].shape}.")
    return tuple(round(float(value)) for value in rows / rows[0])
