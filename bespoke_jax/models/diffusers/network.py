"""The network that the config.json of a `UNet2DModel` describes, and the names of its tensors."""

import re
from typing import Any

import numpy as np

from bespoke_jax.checks import check_choice, check_count, check_positive
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.weights_io.state_dict import some

__all__ = ["network_of", "renamed"]

_PARTS = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "emb": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "skip": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15

# Options of UNet2DModel that ADM does not have: option -> the supported values, first the one it has by default.
_FIXED = {
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "attn_norm_num_groups": (None,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}
_DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
_DEFAULTS = dict(  # of UNet2DModel
    attention_head_dim=8,
    block_out_channels=(224, 448, 672, 896),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    downsample_padding=1,
    freq_shift=0,
    in_channels=3,
    layers_per_block=2,
    norm_eps=1e-5,
    norm_num_groups=32,
    num_class_embeds=None,
    out_channels=3,
    sample_size=None,
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)
_MOST_LEVELS, _MOST_BLOCKS, _WIDEST = 16, 1000, 2**16


def network_of(
    config: dict[str, Any], source: str, image_size: int | tuple[int, int] | None
) -> tuple[ADM, tuple[int, int, int], dict[str, str]]:
    """(network, image shape, {our module: the prefix of its tensors}) of a config.json.

    Args:
        config: its content.
        source: name of the file in errors.
        image_size: side of the images, or (H, W); None for the one in `config`.

    Raises:
        ValueError: if it describes a network that `ADM` cannot be, or no image size is given.
    """
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{source}: wanted a UNet2DModel, got a {config['_class_name']!s:.80}.")
    for option, allowed in _FIXED.items():
        if config.get(option, allowed[0]) not in allowed:
            raise ValueError(f"{source}: {option}: wanted {allowed[0]!r}, got {config[option]!r:.80}.")
    given = {option: config.get(option, value) for option, value in _DEFAULTS.items()}
    channels, attends = _levels(given, source)
    num_blocks = _count(given, source, "layers_per_block", most=_MOST_BLOCKS)
    if _count(given, source, "out_channels") != _count(given, source, "in_channels"):
        raise ValueError(f"{source}: wanted as many channels out as in (a learned variance is not supported).")
    if given["downsample_padding"] not in (0, 1):
        raise ValueError(f"{source}: downsample_padding: wanted 0 or 1, got {given['downsample_padding']!r:.80}.")
    classes = given["num_class_embeds"]
    network = ADM(
        channels=channels,
        num_blocks=num_blocks,
        heads=tuple(_heads(width, given, source) * attend for width, attend in zip(channels, attends, strict=True)),
        middle_heads=_heads(channels[-1], given, source),
        time_channels=channels[0],
        num_classes=0 if classes is None else _count(given, source, "num_class_embeds", most=2**24),
        out_channels=given["out_channels"],
        scale_shift=False,
        resampling="conv" if given["downsample_padding"] else "conv_end",
        groups=_count(given, source, "norm_num_groups"),
        group_width=1,
        eps=check_positive(f"{source}: norm_eps", given["norm_eps"]),
        frequency_shift=_count(given, source, "freq_shift", least=0, most=max(0, channels[0] // 2 - 1)),
    )
    image_shape = (*_sides(given["sample_size"], image_size, source), given["in_channels"])
    return network, image_shape, _names(len(channels), num_blocks)


def _count(given: dict, source: str, option: str, least: int = 1, most: int = _WIDEST) -> int:
    return check_count(f"{source}: {option}", given[option], least, most)


def _levels(given: dict, source: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """(width, whether it has attention) of each level."""

    def listed(option):
        if not isinstance(given[option], list | tuple) or not 1 <= len(given[option]) <= _MOST_LEVELS:
            raise ValueError(f"{source}: {option}: wanted 1 to {_MOST_LEVELS} levels, got {given[option]!r:.80}.")
        return given[option]

    widths = listed("block_out_channels")
    channels = tuple(check_count(f"{source}: block_out_channels", width, 1, _WIDEST) for width in widths)
    attends, attends_up = (
        tuple(kinds[check_choice(f"{source}: {option}", kind, kinds)] for kind in listed(option))
        for option, kinds in (("down_block_types", _DOWN), ("up_block_types", _UP))
    )
    if not len(channels) == len(attends) == len(attends_up):
        raise ValueError(f"{source}: wanted as many block_out_channels as down_block_types and up_block_types.")
    if attends_up != attends[::-1]:
        raise ValueError(f"{source}: attention on the way up at other levels than on the way down is not supported.")
    return channels, attends


def _names(num_levels: int, num_blocks: int) -> dict[str, str]:
    """Our module -> the prefix of its tensors."""
    names = {"conv_in": "conv_in", "time_0": "time_embedding.linear_1", "time_1": "time_embedding.linear_2"}
    names |= {"classes": "class_embedding", "norm_out": "conv_norm_out", "conv_out": "conv_out"}

    def add_block(ours, theirs, i):
        names.update({f"{ours}/{part}": f"{theirs}.resnets.{i}.{name}" for part, name in _PARTS.items()})
        attention = f"{theirs}.attentions.{0 if theirs == 'mid_block' else i}"
        names.update({f"{ours}_attention/{part}": f"{attention}.{name}" for part, name in _ATTENTION.items()})

    for level in range(num_levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{num_levels - 1 - level}"
        for i in range(num_blocks + 1):
            add_block(f"down{level}_block{i}", down, i)
            add_block(f"up{level}_block{i}", up, i)
        # Their resampling layers belong to the level they leave, ours to the level they lead to.
        names[f"down{level + 1}_resample"] = f"{down}.downsamplers.0.conv"
        names[f"up{level - 1}_resample"] = f"{up}.upsamplers.0.conv"
    for i in range(2):
        add_block(f"middle_block{i}", "mid_block", i)
    return names


def _heads(width: int, given: dict, source: str) -> int:
    """The number of heads that diffusers gives attention of this width, which may be any on a level without attention."""
    each = given["attention_head_dim"]
    if each is None:
        return 1
    return max(1, width // check_count(f"{source}: attention_head_dim", each))


def _sides(configured: Any, image_size: Any, source: str) -> tuple[int, int]:
    """(H, W) from the argument `image_size` if it is given, else from config.json."""
    name, size = ("image_size", image_size) if image_size is not None else (f"{source}: sample_size", configured)
    if size is None:
        raise ValueError(f"{source}: sample_size: wanted a size, got None; give image_size=.")
    sides = (size, size) if not isinstance(size, list | tuple) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"{name}: wanted a side, or (H, W), got {size!r:.80}.")
    height, width = (check_count(name, side, 1, _WIDEST) for side in sides)
    return height, width


def renamed(state: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The state with attention under its present names, and query, key and value as one layer.

    Raises:
        ValueError: if a name is none of a UNet2DModel's tensors, or one of the three layers is missing.
    """
    found = {}
    for key, value in state.items():
        if "." not in key:
            raise ValueError(f"{source}: {key[:80]} names no tensor of a UNet2DModel; found {some(state)}.")
        *parents, layer, leaf = key.split(".")
        layer = _OLD_ATTENTION.get(layer, layer) if "attentions" in parents else layer
        found[".".join([*parents, layer, leaf])] = value
    layers = {re.sub(r"\.to_[qkv]\.", ".to_{}.", key) for key in found if re.search(r"\.to_[qkv]\.", key)}
    for layer in sorted(layers):
        parts = [layer.format(name) for name in "qkv"]
        if missing := [part for part in parts if part not in found]:
            raise ValueError(f"{source}: missing {', '.join(missing)}.")
        found[layer.replace(".to_{}.", ".qkv.")] = np.concatenate([found.pop(part) for part in parts])
    return found
