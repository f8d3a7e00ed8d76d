"""torchcfm's image flows (Tong et al. 2023, arXiv:2302.00482; github.com/atong01/conditional-flow-matching).

Their U-Net is guided-diffusion's (Dhariwal & Nichol 2021), called with t in [0, 1]: t = 0 noise, t = 1 data, as here.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.checks import check_count, check_flag
from bespoke_jax.flow.flow import Flow
from bespoke_jax.models.flow_file import NetworkVelocity
from bespoke_jax.models.labels import check_labels_given, labelled
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.weights_io.state_dict import (
    check_computation,
    load_arrays,
    some,
    variables_from_state,
    weight_shape,
)
from bespoke_jax.models.weights_io.torch_file import read_torch_file
from bespoke_jax.types import DTypeLike, Labels, PathLike

__all__ = ["load"]

_PARTS = {
    "norm_0": "in_layers.0",
    "conv_0": "in_layers.2",
    "emb": "emb_layers.1",
    "norm_1": "out_layers.0",
    "conv_1": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}


# The network of their CIFAR10 script: 4 heads of 64 channels, images of side 32.
_CIFAR10 = ADM(
    channels=(128, 256, 256, 256),
    num_blocks=2,
    heads=(0, 4, 0, 0),
    middle_heads=4,
    time_channels=128,
    out_channels=3,
    scale_shift=False,
    resampling="conv",
    group_width=1,
)


def load(
    path: PathLike,
    weights: str | None = None,
    image_size: int | None = None,
    scheduler: schedulers.Scheduler | str | None = "condot",
    num_heads: int | None = None,
    head_channels: int | None = None,
    new_attention_order: bool = False,
    labels: Labels | None = None,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> Flow:
    """A flow from a checkpoint of torchcfm, e.g. `otcfm_cifar10_weights_step_400000.pt`. Nothing in the file is run.

    The file does not say everything: give `image_size`, and `num_heads` or `head_channels`. Only a network of exactly the
    widths, blocks and attention of their CIFAR10 script is assumed to have that script's values: side 32, heads of 64 channels.

    Args:
        path: the .pt file, on your disk: a dictionary of state dictionaries, or one state dictionary.
        weights: which of them; None for "ema_model", which their own evaluation uses, or else the "state_dict" of Lightning.
            "net_model" is the network without averaging.
        image_size: side of the images.
        scheduler: "condot" for models "otcfm", "icfm" and "fm", "cosine" for "si"; None if you do not know.
        num_heads, head_channels: of the attention. As in their code, `head_channels` takes precedence if it is given and not -1.
            The default of their `UNetModelWrapper` is num_heads=1.
        new_attention_order: their option `use_new_attention_order`.
        labels: the class, or those of the samples, as for `load_flow`; required by a class-conditional network.
        dtype: computation type of the network, e.g. `jnp.bfloat16`; None for float32.
        remat: recompute activations in backward passes.

    Raises:
        TypeError: if `dtype` is not a floating dtype.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, foreign or asks for code to be run; if tensors are missing, left over, or of other
            shapes than the network's; if heads or image size are neither given nor known; if the class does not fit.

    Examples:
        >>> load("nowhere.pt")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.pt: no such file.
    """
    _check_options(image_size, num_heads, head_channels, new_attention_order)
    check_computation(dtype, remat)
    if isinstance(scheduler, str):
        scheduler = schedulers.by_name(scheduler)
    source, content = str(path), read_torch_file(path)
    state = load_arrays(_chosen(content, weights, source), source)
    heads = _known(state, image_size, num_heads, head_channels, source)
    network, names = _network(state, heads, source)
    if not new_attention_order:
        _reorder_attention(state, heads, source)
    if "label_emb.weight" in state:
        state["label_emb.weight"] = state["label_emb.weight"].T  # an embedding table; our layer is a dense one
    image_shape = (heads.image_size, heads.image_size, network.out_channels)
    variables = variables_from_state(network, image_shape, state, names, source)
    check_labels_given(labels, network.num_classes, source)
    flow = Flow(NetworkVelocity(network.clone(dtype=dtype, remat=remat)), variables, image_shape, scheduler)
    return labelled(flow, labels, network.num_classes)


def _check_options(image_size, num_heads, head_channels, new_attention_order) -> None:
    for name, value in (("image_size", image_size), ("num_heads", num_heads)):
        if value is not None:
            check_count(name, value)
    if head_channels not in (None, -1):
        check_count("head_channels", head_channels)
    check_flag("new_attention_order", new_attention_order)


def _chosen(content: Any, weights: str | None, source: str) -> dict:
    """The state dictionary to read, of those in the file."""
    if not isinstance(content, dict):
        raise ValueError(f"{source}: wanted a dictionary of weights, got {type(content).__name__}.")
    inside = [key for key, value in content.items() if isinstance(value, dict)]
    if not inside:
        return content
    names = ("ema_model", "state_dict") if weights is None else (weights,)
    for name in names:
        if name in inside:
            return content[name]
    raise ValueError(f"{source}: no {names[0]!r} in it; weights= may be one of {some(map(repr, inside))}.")


class _Unsaid(NamedTuple):
    """What the file does not say: side of the images; number of heads, or channels of each (-1: the number counts)."""

    image_size: int
    num_heads: int
    head_channels: int

    def heads(self, width: int, source: str) -> int:
        """The number of heads of attention of this width."""
        heads = self.num_heads if self.head_channels == -1 else width // max(self.head_channels, 1)
        if heads < 1 or width % heads or (self.head_channels != -1 and width != heads * self.head_channels):
            raise ValueError(
                f"{source}: attention of {width} channels does not divide into heads by num_heads={self.num_heads}, "
                f"head_channels={self.head_channels}; give those that it was trained with."
            )
        return heads


def _known(
    state: dict, image_size: int | None, num_heads: int | None, head_channels: int | None, source: str
) -> _Unsaid:
    """The arguments, with those of the CIFAR10 script for missing ones if the network is that script's."""
    heads_given = num_heads is not None or head_channels not in (None, -1)
    if image_size is None or not heads_given:
        network, _ = _network(state, _Unsaid(0, 1, -1), source)
        known = network == _CIFAR10.clone(heads=(0, 1, 0, 0), middle_heads=1)
        if not known and not heads_given:
            raise ValueError(
                f"{source}: the file does not say how many heads its attention has; give num_heads= or head_channels= (the "
                "default of their code is num_heads=1)."
            )
        if not known:
            raise ValueError(f"{source}: the file does not say how large its images are; give image_size=.")
        image_size = 32 if image_size is None else image_size
        head_channels = head_channels if heads_given else 64
    return _Unsaid(image_size, num_heads or 1, -1 if head_channels is None else head_channels)


def _reorder_attention(state: dict[str, np.ndarray], unsaid: _Unsaid, source: str) -> None:
    """Their channels of query, key and value are [heads, 3, width / heads]; ours are [3, heads, width / heads]."""
    for key in [key for key in state if ".qkv." in key]:
        heads = unsaid.heads(len(state[key]) // 3, source)
        if len(state[key]) % (3 * heads) == 0:  # otherwise the check of shapes that follows raises
            split = state[key].reshape(heads, 3, -1, *state[key].shape[1:])
            state[key] = np.moveaxis(split, 1, 0).reshape(state[key].shape)


class _Plan(NamedTuple):
    """Levels and blocks of a state, and how it resamples.

    Attributes:
        levels: their number.
        num_blocks: of each level on the way down.
        up: level it leads to -> the prefix of the tensors that resample up.
        by_block: whether residual blocks resample, rather than convolutions.
    """

    levels: int
    num_blocks: int
    up: dict[int, str]
    by_block: bool

    def down_index(self, level: int) -> int:
        """The number of the level's first block in input_blocks, where resampling lies between levels."""
        return 1 + level * (self.num_blocks + 1)


def _plan(state: dict[str, np.ndarray], source: str) -> _Plan:
    def count(blocks):
        numbers = (re.match(rf"{blocks}\.(\d{{1,4}})\.", key) for key in state)
        return 1 + max((int(found[1]) for found in numbers if found), default=-1)

    # The last block of a level on the way up also holds what leads to the next one: a convolution, or a second residual block.
    resamplers = {}
    for key in state:
        if found := re.match(r"output_blocks\.(\d{1,4})\.([1-9])\.(conv|in_layers)\.", key):
            resamplers[int(found[1])] = (f"output_blocks.{found[1]}.{found[2]}", found[3])
    blocks_up = min(resamplers, default=count("output_blocks") - 1) + 1
    num_blocks, levels = blocks_up - 1, len(resamplers) + 1
    if num_blocks < 1 or count("output_blocks") != levels * blocks_up:
        raise ValueError(
            f"{source}: missing some of input_blocks.*, output_blocks.*, found {some(state)}; it is no whole U-Net of torchcfm."
        )
    missing = ("output_blocks.?", "")
    up = {level - 1: resamplers.get((levels - level) * blocks_up - 1, missing)[0] for level in range(1, levels)}
    return _Plan(levels, num_blocks, up, "in_layers" in {kind for _, kind in resamplers.values()})


def _names(plan: _Plan) -> dict[str, str]:
    """Our module -> the prefix of its tensors."""
    names = {"conv_in": "input_blocks.0.0", "time_0": "time_embed.0", "time_1": "time_embed.2", "classes": "label_emb"}
    names |= {"norm_out": "out.0", "conv_out": "out.2"}

    def add_block(ours, theirs, attention):
        names.update({f"{ours}/{part}": f"{theirs}.{name}" for part, name in _PARTS.items()})
        names.update({f"{ours}_attention/{part}": f"{attention}.{name}" for part, name in _ATTENTION.items()})

    for level in range(plan.levels):
        first = plan.down_index(level)
        for i in range(plan.num_blocks):
            add_block(f"down{level}_block{i}", f"input_blocks.{first + i}.0", f"input_blocks.{first + i}.1")
        for i in range(plan.num_blocks + 1):
            theirs = f"output_blocks.{(plan.levels - 1 - level) * (plan.num_blocks + 1) + i}"
            add_block(f"up{level}_block{i}", f"{theirs}.0", f"{theirs}.1")
        if level:
            resamples = (
                (f"down{level}_resample", f"input_blocks.{first - 1}.0", "op"),
                (f"up{level - 1}_resample", plan.up[level - 1], "conv"),
            )
            for ours, theirs, layer in resamples:
                if plan.by_block:
                    add_block(ours, theirs, "?")
                else:
                    names[ours] = f"{theirs}.{layer}"
    for i, theirs in enumerate(("middle_block.0", "middle_block.2")):
        add_block(f"middle_block{i}", theirs, "middle_block.1")
    return names


def _network(state: dict[str, np.ndarray], unsaid: _Unsaid, source: str) -> tuple[ADM, dict[str, str]]:
    """(network, {our module: the prefix of its tensors}), read off the names and shapes of the state."""

    def shape(key):
        return weight_shape(state, key, source)

    plan = _plan(state, source)
    channels, heads = [], []
    for level in range(plan.levels):
        first = plan.down_index(level)
        width = shape(f"input_blocks.{first}.0.out_layers.3.weight")[0]
        channels.append(width)
        attends = f"input_blocks.{first}.1.qkv.weight" in state
        heads.append(unsaid.heads(width, source) if attends else 0)
    image_channels = shape("input_blocks.0.0.weight")[1]
    if shape("out.2.weight")[0] != image_channels:
        raise ValueError(
            f"{source}: {shape('out.2.weight')[0]} channels out, {image_channels} in: no velocity (learn_sigma?)."
        )
    network = ADM(
        channels=tuple(channels),
        num_blocks=plan.num_blocks,
        heads=tuple(heads),
        middle_heads=unsaid.heads(channels[-1], source),
        time_channels=shape("time_embed.0.weight")[1],
        num_classes=shape("label_emb.weight")[0] if "label_emb.weight" in state else 0,
        out_channels=image_channels,
        scale_shift=shape("input_blocks.1.0.emb_layers.1.weight")[0] == 2 * channels[0],
        resampling="block" if plan.by_block else "conv",
        group_width=1,
    )
    return network, _names(plan)
