"""torchcfm's image flows (Tong et al. 2023, arXiv:2302.00482; github.com/atong01/conditional-flow-matching).

Their U-Net is that of guided-diffusion (Dhariwal & Nichol 2021), called with t in [0, 1]: t = 0 noise, t = 1 data, as here.
"""

import re

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


# The network of their CIFAR10 script, which has 4 heads of 64 channels and images of side 32.
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
    path,
    weights: str | None = None,
    image_size: int | None = None,
    scheduler: schedulers.Scheduler | str | None = "condot",
    num_heads: int | None = None,
    head_channels: int | None = None,
    new_attention_order: bool = False,
    labels=None,
    dtype=None,
    remat: bool = False,
) -> Flow:
    """A flow from a checkpoint of torchcfm, e.g. `otcfm_cifar10_weights_step_400000.pt`. Nothing in the file is run.

    What the file does not say has to be given: `image_size`, and `num_heads` or `head_channels`. Only a network of exactly the
    widths, blocks and attention of their CIFAR10 script is taken for that script's: side 32, heads of 64 channels.

    Args:
        path: the .pt file, on your disk: a dictionary of state dictionaries, or one state dictionary.
        weights: which of them; None for "ema_model", what their own evaluation takes, or else the "state_dict" of Lightning.
            "net_model" is the network without averaging.
        image_size: side of the images.
        scheduler: "condot" for models "otcfm", "icfm" and "fm", "cosine" for "si"; None if you do not know.
        num_heads, head_channels: of the attention. As in their code, `head_channels` counts if it is given and not -1. Their
            `UNetModelWrapper` has num_heads=1 if not told.
        new_attention_order: their option `use_new_attention_order`.
        labels: the class, or those of the samples, as for `load_flow`; a class-conditional network wants some.
        dtype: what the network computes in, e.g. `jnp.bfloat16`; None for float32.
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
    if image_size is not None:
        check_count("image_size", image_size)
    if num_heads is not None:
        check_count("num_heads", num_heads)
    if head_channels not in (None, -1):
        check_count("head_channels", head_channels)
    check_flag("new_attention_order", new_attention_order)
    check_computation(dtype, remat)
    if isinstance(scheduler, str):
        scheduler = schedulers.by_name(scheduler)
    source, content = str(path), read_torch_file(path)
    state = load_arrays(_chosen(content, weights, source), source)
    image_size, num_heads, head_channels = _known(state, image_size, num_heads, head_channels, source)
    network, names = _network(state, num_heads, head_channels, source)
    for key in [key for key in state if ".qkv." in key]:
        heads = _heads(len(state[key]) // 3, num_heads, head_channels, source)
        if not new_attention_order and len(state[key]) % (3 * heads) == 0:  # if not, the next check says so
            # Their channels are [heads, 3, width / heads]; ours are [3, heads, width / heads].
            split = state[key].reshape(heads, 3, -1, *state[key].shape[1:])
            state[key] = np.moveaxis(split, 1, 0).reshape(state[key].shape)
    image_shape = (image_size, image_size, network.out_channels)
    if "label_emb.weight" in state:
        state["label_emb.weight"] = state["label_emb.weight"].T  # a table of classes, as the layer that reads it
    variables = variables_from_state(network, image_shape, state, names, source)
    check_labels_given(labels, network.num_classes, source)
    flow = Flow(NetworkVelocity(network.clone(dtype=dtype, remat=remat)), variables, image_shape, scheduler)
    return labelled(flow, labels, network.num_classes)


def _chosen(content, weights: str | None, source: str) -> dict:
    """The state dictionary that is meant, of those in the file."""
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


def _known(state, image_size, num_heads, head_channels, source: str) -> tuple[int, int, int]:
    """(image_size, num_heads, head_channels) with those that are not given, if the network is that of the CIFAR10 script."""
    heads_given = num_heads is not None or head_channels not in (None, -1)
    if image_size is None or not heads_given:
        network, _ = _network(state, 1, -1, source)
        known = network == _CIFAR10.clone(heads=(0, 1, 0, 0), middle_heads=1)
        if not known and not heads_given:
            raise ValueError(
                f"{source}: how many heads its attention has is not in the file; give num_heads= or head_channels= (where "
                "their code is told neither, num_heads=1)."
            )
        if not known:
            raise ValueError(f"{source}: how large its images are is not in the file; give image_size=.")
        image_size = 32 if image_size is None else image_size
        head_channels = head_channels if heads_given else 64
    return image_size, num_heads or 1, -1 if head_channels is None else head_channels


def _heads(width: int, num_heads: int, head_channels: int, source: str) -> int:
    heads = num_heads if head_channels == -1 else width // max(head_channels, 1)
    if heads < 1 or width % heads or (head_channels != -1 and width != heads * head_channels):
        raise ValueError(
            f"{source}: attention of {width} channels does not divide into heads by num_heads={num_heads}, "
            f"head_channels={head_channels}; give those that it was trained with."
        )
    return heads


def _network(state, num_heads: int, head_channels: int, source: str):
    """(network, {our module: the prefix of its tensors}), read off the names and shapes of the state."""

    def shape(key):
        return weight_shape(state, key, source)

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
    by_block = "in_layers" in {kind for _, kind in resamplers.values()}

    names = {"conv_in": "input_blocks.0.0", "time_0": "time_embed.0", "time_1": "time_embed.2", "classes": "label_emb"}
    names |= {"norm_out": "out.0", "conv_out": "out.2"}
    channels, heads = [], []

    def add_block(ours, theirs, attention):
        names.update({f"{ours}/{part}": f"{theirs}.{name}" for part, name in _PARTS.items()})
        names.update({f"{ours}_attention/{part}": f"{attention}.{name}" for part, name in _ATTENTION.items()})

    for level in range(levels):
        first = 1 + level * (num_blocks + 1)  # of this level in input_blocks; between levels there is what resamples
        width = shape(f"input_blocks.{first}.0.out_layers.3.weight")[0]
        channels.append(width)
        attends = f"input_blocks.{first}.1.qkv.weight" in state
        heads.append(_heads(width, num_heads, head_channels, source) if attends else 0)
        for i in range(num_blocks):
            add_block(f"down{level}_block{i}", f"input_blocks.{first + i}.0", f"input_blocks.{first + i}.1")
        for i in range(num_blocks + 1):
            theirs = f"output_blocks.{(levels - 1 - level) * blocks_up + i}"
            add_block(f"up{level}_block{i}", f"{theirs}.0", f"{theirs}.1")
        if level:
            theirs_up = resamplers.get((levels - level) * blocks_up - 1, ("output_blocks.?", ""))[0]
            for ours, theirs in (
                (f"down{level}_resample", f"input_blocks.{first - 1}.0"),
                (f"up{level - 1}_resample", theirs_up),
            ):
                if by_block:
                    add_block(ours, theirs, "?")
                else:
                    names[ours] = f"{theirs}.{'op' if ours.startswith('down') else 'conv'}"
    for i, theirs in enumerate(("middle_block.0", "middle_block.2")):
        add_block(f"middle_block{i}", theirs, "middle_block.1")

    image_channels = shape("input_blocks.0.0.weight")[1]
    if shape("out.2.weight")[0] != image_channels:
        raise ValueError(
            f"{source}: {shape('out.2.weight')[0]} channels out, {image_channels} in: no velocity (learn_sigma?)."
        )
    network = ADM(
        channels=tuple(channels),
        num_blocks=num_blocks,
        heads=tuple(heads),
        middle_heads=_heads(channels[-1], num_heads, head_channels, source),
        time_channels=shape("time_embed.0.weight")[1],
        num_classes=shape("label_emb.weight")[0] if "label_emb.weight" in state else 0,
        out_channels=image_channels,
        scale_shift=shape("input_blocks.1.0.emb_layers.1.weight")[0] == 2 * channels[0],
        resampling="block" if by_block else "conv",
        group_width=1,
    )
    return network, names
