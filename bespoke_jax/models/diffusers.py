"""DDPMs of Hugging Face diffusers: `UNet2DModel` and its noise schedule, from a folder that `save_pretrained` wrote.

A model like google/ddpm-cifar10-32 is Ho et al.'s (2020, arXiv:2006.11239): a network of steps 0..N-1 that predicts noise.
Here it is a denoiser of noise levels (see `denoiser`). Step k stands for the level sqrt(1 / abar_k - 1), with abar_k the product
of 1 - beta_j over j <= k; between steps, the logarithm of the level is linear. So time t of a scheduler is the step, a
fraction usually, whose level is sigma_t / alpha_t.
"""

import json
import math
import pathlib
import re

import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.flow import Flow
from bespoke_jax.models.adm import ADM
from bespoke_jax.models.denoiser import Denoiser, Preconditioning
from bespoke_jax.models.labels import check_labels_given
from bespoke_jax.models.safetensors_file import read_safetensors
from bespoke_jax.models.state_dict import load_arrays, variables_from_state
from bespoke_jax.models.torch_file import read_torch_file

__all__ = ["load", "load_denoiser"]

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
_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}

# What UNet2DModel can be told and ADM cannot: option -> the values that mean "as in a DDPM". First, what it is if not told.
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


def load(path, scheduler=None, labels=None, dtype=None, remat: bool = False) -> Flow:
    """The flow of a DDPM of diffusers under a scheduler.

    Args:
        path: the folder of the pipeline or of its U-Net, or the weights' file (.safetensors or .bin) with config.json beside
            it. Nothing in it is run. Without a scheduler_config.json the noise schedule is taken to be Ho et al.'s.
        scheduler: as for `Denoiser.flow`; None for `VariancePreserving` with the constants of the noise schedule if that is
            linear in beta, else `Cosine`.
        labels: the class, or those of the samples, as for `load_flow`; a conditional network wants some.
        dtype: what the network computes in, e.g. `jnp.bfloat16`; None for float32.
        remat: recompute activations in backward passes.

    Raises:
        FileNotFoundError: if there is no such folder or file, or no config.json.
        ValueError: if the network is of a kind not supported here (names the option), if the file is truncated or asks for code
            to be run, or if tensors are missing, left over, or of other shapes than the network's.

    Examples:
        >>> load("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere: no such file or folder.
    """
    denoiser, usual = _load(path, dtype, remat)
    check_labels_given(labels, denoiser.num_classes, str(path))
    return denoiser.flow(usual if scheduler is None else scheduler, labels)


def load_denoiser(path, dtype=None, remat: bool = False) -> Denoiser:
    """The same as a `Denoiser`: `.denoise(x, sigma)`, and `.flow(scheduler)` for several schedulers."""
    return _load(path, dtype, remat)[0]


def _load(path, dtype, remat):
    weights, config_file, scheduler_config = _find(pathlib.Path(path))
    source, config = str(weights), _read_json(config_file)
    network, image_shape, names = _network(config, str(config_file))
    preconditioning, usual = _preconditioning(scheduler_config)
    tensors = read_safetensors(weights)[0] if weights.suffix == ".safetensors" else read_torch_file(weights)
    state = _renamed(load_arrays(tensors, source), source)
    frequencies, classes = "time_embedding.linear_1.weight", "class_embedding.weight"
    if config.get("flip_sin_to_cos", True) is False and frequencies in state:
        # Their sines come first, ours last.
        state[frequencies] = np.roll(state[frequencies], network.time_channels // 2, axis=1)
    if classes in state:
        state[classes] = state[classes].T  # a table of classes, as the layer that reads it
    variables = variables_from_state(network, image_shape, state, names, source)
    return Denoiser(network.clone(dtype=dtype, remat=remat), variables, image_shape, preconditioning), usual


def _find(path: pathlib.Path):
    """(weights, config.json, scheduler_config.json or None)."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.is_file():
        weights, folder = path, path.parent
    else:
        folder = path / "unet" if (path / "unet").is_dir() else path
        weights = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if weights is None:
            raise FileNotFoundError(f"{folder}: wanted {' or '.join(_FILES)} in it, found neither.")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json beside the weights; save_pretrained writes it.")
    places = (folder, folder / "scheduler", folder.parent / "scheduler")
    found = [place / "scheduler_config.json" for place in places if (place / "scheduler_config.json").is_file()]
    return weights, folder / "config.json", found[0] if found else None


def _read_json(path) -> dict:
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}).") from None


def _renamed(state, source: str):
    """Attention under its present names, with query, key and value as one layer."""
    renamed = {}
    for key, value in state.items():
        *parents, layer, leaf = key.split(".")
        layer = _OLD_ATTENTION.get(layer, layer) if "attentions" in parents else layer
        renamed[".".join([*parents, layer, leaf])] = value
    layers = {re.sub(r"\.to_[qkv]\.", ".to_{}.", key) for key in renamed if re.search(r"\.to_[qkv]\.", key)}
    for layer in sorted(layers):
        parts = [layer.format(name) for name in "qkv"]
        if missing := [part for part in parts if part not in renamed]:
            raise ValueError(f"{source}: missing {', '.join(missing)}.")
        renamed[layer.replace(".to_{}.", ".qkv.")] = np.concatenate([renamed.pop(part) for part in parts])
    return renamed


def _network(config: dict, source: str):
    """(network, image shape, {our module: the prefix of its tensors})."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{source}: a {config['_class_name']}; wanted a UNet2DModel.")
    for option, allowed in _FIXED.items():
        if config.get(option, allowed[0]) not in allowed:
            raise ValueError(f"{source}: {option} = {config[option]!r} is not supported; wanted {allowed[0]!r}.")
    try:
        channels, size = tuple(config["block_out_channels"]), config["sample_size"]
        attends = tuple(_DOWN[kind] for kind in config["down_block_types"])
        attends_up = tuple(_UP[kind] for kind in config["up_block_types"])
        num_blocks, head_channels = int(config["layers_per_block"]), config["attention_head_dim"]
    except KeyError as error:
        raise ValueError(
            f"{source}: {error} is missing or not supported; the blocks must be of {sorted(_DOWN)}, {sorted(_UP)}."
        ) from None
    if attends_up != attends[::-1]:
        raise ValueError(f"{source}: attention at other levels on the way up than on the way down is not supported.")
    if config.get("out_channels", 3) != config.get("in_channels", 3):
        raise ValueError(f"{source}: as many channels out as in were wanted (a learned variance is not supported).")
    if config.get("downsample_padding", 1) not in (0, 1):
        raise ValueError(f"{source}: downsample_padding = {config['downsample_padding']!r}; wanted 0 or 1.")
    heads = [width // head_channels if head_channels else 1 for width in channels]
    height, width = (size, size) if isinstance(size, int) else size
    network = ADM(
        channels=channels,
        num_blocks=num_blocks,
        heads=tuple(count * attend for count, attend in zip(heads, attends, strict=True)),
        middle_heads=heads[-1],
        time_channels=channels[0],
        num_classes=config.get("num_class_embeds") or 0,
        out_channels=config.get("out_channels", 3),
        scale_shift=False,
        resampling="conv" if config.get("downsample_padding", 1) else "conv_end",
        groups=config.get("norm_num_groups", 32),
        group_width=1,
        eps=config.get("norm_eps", 1e-5),
        frequency_shift=config.get("freq_shift", 0),
    )
    names = {"conv_in": "conv_in", "time_0": "time_embedding.linear_1", "time_1": "time_embedding.linear_2"}
    names |= {"classes": "class_embedding", "norm_out": "conv_norm_out", "conv_out": "conv_out"}

    def add_block(ours, theirs, i):
        names.update({f"{ours}/{part}": f"{theirs}.resnets.{i}.{name}" for part, name in _PARTS.items()})
        attention = f"{theirs}.attentions.{0 if theirs == 'mid_block' else i}"
        names.update({f"{ours}_attention/{part}": f"{attention}.{name}" for part, name in _ATTENTION.items()})

    for level in range(len(channels)):
        down, up = f"down_blocks.{level}", f"up_blocks.{len(channels) - 1 - level}"
        for i in range(num_blocks + 1):
            add_block(f"down{level}_block{i}", down, i)
            add_block(f"up{level}_block{i}", up, i)
        # Theirs belong to the level they leave, ours to the one they lead to.
        names[f"down{level + 1}_resample"] = f"{down}.downsamplers.0.conv"
        names[f"up{level - 1}_resample"] = f"{up}.upsamplers.0.conv"
    for i in range(2):
        add_block(f"middle_block{i}", "mid_block", i)
    return network, (height, width, config.get("in_channels", 3)), names


def _preconditioning(path):
    """(preconditioning, the scheduler nearest to it) from scheduler_config.json; Ho et al.'s (2020) if there is none."""
    config = {} if path is None else _read_json(path)
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(f"{path}: prediction_type = {prediction!r}; wanted one of {sorted(_PREDICTIONS)}.")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path}: rescale_betas_zero_snr is not supported: its last step has no noise level.")
    usual = schedulers.Cosine()
    if config.get("trained_betas") is not None:
        betas = config["trained_betas"]
    elif kind == "linear":
        betas = np.linspace(start, end, count)
        usual = schedulers.VariancePreserving(count * start, count * end)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    elif kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17
        remaining = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - remaining[1:] / remaining[:-1], 0.999)
    else:
        raise ValueError(f"{path}: beta_schedule = {kind!r} is not supported; give the betas as trained_betas.")
    return Preconditioning.ddpm(betas, _PREDICTIONS[prediction]), usual
