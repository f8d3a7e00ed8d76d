"""U-Nets of Hugging Face diffusers: `UNet2DModel` and what its scheduler says of it, from a folder that `save_pretrained` wrote.

A model like google/ddpm-cifar10-32 is Ho et al.'s (2020, arXiv:2006.11239): a network of steps 0..N-1 that predicts noise.
Here it is a denoiser of noise levels (see `denoiser`). Step k stands for the level sqrt(1 / abar_k - 1), with abar_k the product
of 1 - beta_j over j <= k; between steps, the logarithm of the level is linear. So time t of a scheduler is the step, a
fraction usually, whose level is sigma_t / alpha_t.

Networks of flow matching predict noise - data at the time 1000 s of the straight path (1 - s) data + s noise: the velocity
at t = 1 - s, with the other sign. Those of EDM's schedulers have EDM's preconditioning.
"""

import json
import math
import pathlib
import re

import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.checks import check_choice, check_count, check_flag, check_number, check_positive
from bespoke_jax.flow.flow import Flow
from bespoke_jax.models.denoiser import Denoiser, Preconditioning
from bespoke_jax.models.labels import check_labels_given
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.weights_io.safetensors_file import read_safetensors
from bespoke_jax.models.weights_io.state_dict import check_computation, load_arrays, some, variables_from_state
from bespoke_jax.models.weights_io.torch_file import read_torch_file

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
_FILE = re.compile(r"diffusion_pytorch_model(?:\.(\w+))?\.(?:safetensors|bin)")
_INDEX = re.compile(r"diffusion_pytorch_model\.(?:safetensors|bin)\.index(?:\.(\w+))?\.json")  # of several files
_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}

# Schedulers that describe the betas of a DDPM (whatever they do when sampling): class -> beta_start, beta_end if not told.
_DDPM = {
    f"{name}Scheduler": (1e-4, 0.02)
    for name in (
        *(
            "DDPM",
            "DDPMParallel",
            "DDIM",
            "DDIMInverse",
            "DDIMParallel",
            "PNDM",
            "RePaint",
            "LMSDiscrete",
            "UniPCMultistep",
        ),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DEISMultistep", "SASolver"),
        *("EulerDiscrete", "EulerAncestralDiscrete"),
    )
}
_DDPM |= {
    f"{name}Scheduler": (0.00085, 0.012)
    for name in ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
}
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")

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


def load(path, scheduler=None, labels=None, dtype=None, remat: bool = False, image_size=None) -> Flow:
    """The flow of a U-Net of diffusers under a scheduler.

    Args:
        path: the folder of the pipeline or of its U-Net, or the weights' file (.safetensors, .bin, or the .index.json of several)
            with config.json beside it. Nothing in it is run. scheduler_config.json, which says what the network predicts, is
            looked for in the U-Net's folder and the one above, and in the `scheduler` of either; above a checkpoint-N too.
            Where there is none, the network is taken to be a DDPM with the noise schedule of Ho et al.
        scheduler: as for `Denoiser.flow`. None is, for a DDPM, `VariancePreserving` with the constants of the noise schedule if
            that is linear in beta, else `Cosine`; for a network of flow matching `CondOT`; for one of EDM's schedulers `EDM`.
        labels: the class, or those of the samples, as for `load_flow`; a conditional network wants some.
        dtype: what the network computes in, e.g. `jnp.bfloat16`; None for float32.
        remat: recompute activations in backward passes.
        image_size: side of the images, or (H, W); None for the `sample_size` of config.json.

    Raises:
        TypeError: if `dtype` is not a floating dtype.
        FileNotFoundError: if there is no such folder or file, no config.json, or no weights.
        ValueError: if network or scheduler are of a kind not supported here (names it), if the folder leaves open which weights
            are meant or how large the images are, if a file is truncated or asks for code to be run, or if tensors are missing,
            left over, or of other shapes than the network's.

    Examples:
        >>> load("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere: no such file or folder.
    """
    denoiser, usual = _load(path, dtype, remat, image_size)
    check_labels_given(labels, denoiser.num_classes, str(path))
    return denoiser.flow(usual if scheduler is None else scheduler, labels)


def load_denoiser(path, dtype=None, remat: bool = False, image_size=None) -> Denoiser:
    """The same as a `Denoiser`: `.denoise(x, sigma)`, and `.flow(scheduler)` for several schedulers."""
    return _load(path, dtype, remat, image_size)[0]


def _load(path, dtype, remat, image_size):
    check_computation(dtype, remat)
    weights, config_file, scheduler_config = _find(pathlib.Path(path))
    source, config = str(weights), _read_json(config_file)
    network, image_shape, names = _network(config, str(config_file), image_size)
    preconditioning, usual = _preconditioning(scheduler_config)
    state = _renamed(load_arrays(_read_tensors(weights), source), source)
    frequencies, classes = "time_embedding.linear_1.weight", "class_embedding.weight"
    flipped = check_flag(f"{config_file}: flip_sin_to_cos", config.get("flip_sin_to_cos", True))
    if not flipped and frequencies in state:
        # Their sines come first, ours last.
        state[frequencies] = np.roll(state[frequencies], network.time_channels // 2, axis=1)
    if classes in state:
        state[classes] = state[classes].T  # a table of classes, as the layer that reads it
    variables = variables_from_state(network, image_shape, state, names, source)
    return Denoiser(network.clone(dtype=dtype, remat=remat), variables, image_shape, preconditioning), usual


def _find(path: pathlib.Path):
    """(weights or their index, config.json, scheduler_config.json or None)."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.is_file():
        weights, folder = path, path.parent
        if re.search(r"-\d{5}-of-\d{5}\.", path.name):
            raise ValueError(f"{path}: one of several files of weights; give their folder.")
    else:
        folder = _network_folder(path)
        weights = _weights(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json beside the weights; save_pretrained writes it.")
    above = folder.resolve().parent
    homes = [folder, above, *([above.parent] if above.name.startswith("checkpoint") else [])]
    places = [place / "scheduler_config.json" for home in homes for place in (home, home / "scheduler")]
    return weights, folder / "config.json", next((place for place in places if place.is_file()), None)


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of the U-Net: `path`, or that in the folder of a pipeline."""
    networks = [path / name for name in ("unet", "unet_ema") if (path / name).is_dir()]
    if len(networks) > 1:
        raise ValueError(
            f"{path}: has unet and unet_ema (averaged weights, mostly the better ones); give the path of one of them."
        )
    if networks:
        return networks[0]
    if (path / "transformer").is_dir():
        config = path / "transformer" / "config.json"
        kind = _read_json(config).get("_class_name") if config.is_file() else "transformer"
        raise ValueError(
            f"{path}: a pipeline with a {kind!s:.80}; of diffusers' networks only UNet2DModel is supported."
        )
    return path


def _weights(folder: pathlib.Path) -> pathlib.Path:
    """The file of the weights in a U-Net's folder, or the index of several: in full precision if there is one."""
    found = {}
    for name in sorted(file.name for file in folder.iterdir()):
        if match := _INDEX.fullmatch(name) or _FILE.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    if not found:
        wanted = "diffusion_pytorch_model.safetensors or .bin, or the .index.json of several such files"
        raise FileNotFoundError(
            f"{folder}: wanted {wanted}, found {some(file.name for file in folder.iterdir()) or 'nothing'}."
        )
    variant = None if None in found else next(iter(found))
    if variant is not None and (len(found) > 1 or variant not in ("fp16", "bf16")):
        raise ValueError(
            f"{folder}: has {some(name for names in found.values() for name in names)}; give the path of one of them."
        )
    return folder / min(found[variant], key=lambda name: (".safetensors" not in name, ".index." in name))


def _read_tensors(path: pathlib.Path) -> dict:
    """name -> tensor, of a file, or of all files of an index."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix != ".json":
        return read_torch_file(path)
    places = _read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path}: wanted a dictionary weight_map of tensors and their files.")
    tensors = {}
    for name in sorted(set(places.values())):
        file = path.parent / name
        if pathlib.PurePath(name).name != name or file.suffix not in (".safetensors", ".bin"):
            raise ValueError(f"{path}: wanted files of weights beside it, got {name[:80]!r}.")
        if not file.is_file():
            raise FileNotFoundError(f"{path}: {name} of its files is not there.")
        content = _read_tensors(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: wanted a dictionary of tensors, got {type(content).__name__}.")
        tensors |= {key: value for key, value in content.items() if places.get(key) == name}
    if missing := places.keys() - tensors.keys():
        raise ValueError(f"{path}: missing {some(missing)} in its files.")
    return tensors


def _read_json(path) -> dict:
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted a dictionary, got {type(content).__name__}.")
    return content


def _renamed(state, source: str):
    """Attention under its present names, with query, key and value as one layer."""
    renamed = {}
    for key, value in state.items():
        if "." not in key:
            raise ValueError(f"{source}: {key[:80]}: no name of a tensor of a UNet2DModel; found {some(state)}.")
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


def _network(config: dict, source: str, image_size):
    """(network, image shape, {our module: the prefix of its tensors})."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{source}: a {config['_class_name']!s:.80}; wanted a UNet2DModel.")
    for option, allowed in _FIXED.items():
        if config.get(option, allowed[0]) not in allowed:
            raise ValueError(f"{source}: {option} = {config[option]!r:.80} is not supported; wanted {allowed[0]!r}.")
    given = {option: config.get(option, value) for option, value in _DEFAULTS.items()}

    def count(option, least=1, most=_WIDEST, value=None):
        return check_count(f"{source}: {option}", given[option] if value is None else value, least, most)

    def listed(option):
        if not isinstance(given[option], list | tuple) or not 1 <= len(given[option]) <= _MOST_LEVELS:
            raise ValueError(f"{source}: {option}: wanted 1 to {_MOST_LEVELS} levels, got {given[option]!r:.80}.")
        return given[option]

    channels = tuple(count("block_out_channels", value=width) for width in listed("block_out_channels"))
    attends, attends_up = (
        tuple(kinds[check_choice(f"{source}: {option}", kind, kinds)] for kind in listed(option))
        for option, kinds in (("down_block_types", _DOWN), ("up_block_types", _UP))
    )
    if not len(channels) == len(attends) == len(attends_up):
        raise ValueError(f"{source}: wanted as many block_out_channels as down_block_types and up_block_types.")
    if attends_up != attends[::-1]:
        raise ValueError(f"{source}: attention at other levels on the way up than on the way down is not supported.")
    num_blocks = count("layers_per_block", most=_MOST_BLOCKS)
    if count("out_channels") != count("in_channels"):
        raise ValueError(f"{source}: as many channels out as in were wanted (a learned variance is not supported).")
    if given["downsample_padding"] not in (0, 1):
        raise ValueError(f"{source}: downsample_padding = {given['downsample_padding']!r:.80}; wanted 0 or 1.")
    network = ADM(
        channels=channels,
        num_blocks=num_blocks,
        heads=tuple(_heads(width, given, source) * attend for width, attend in zip(channels, attends, strict=True)),
        middle_heads=_heads(channels[-1], given, source),
        time_channels=channels[0],
        num_classes=0 if given["num_class_embeds"] is None else count("num_class_embeds", most=2**24),
        out_channels=given["out_channels"],
        scale_shift=False,
        resampling="conv" if given["downsample_padding"] else "conv_end",
        groups=count("norm_num_groups"),
        group_width=1,
        eps=check_positive(f"{source}: norm_eps", given["norm_eps"]),
        frequency_shift=count("freq_shift", least=0, most=max(0, channels[0] // 2 - 1)),
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
    return network, (*_sides(given["sample_size"], image_size, source), given["in_channels"]), names


def _heads(width: int, given: dict, source: str) -> int:
    """How many heads diffusers has attention of this width in. A level without attention may be of any width."""
    each = given["attention_head_dim"]
    if each is None:
        return 1
    return max(1, width // check_count(f"{source}: attention_head_dim", each))


def _sides(configured, image_size, source: str) -> tuple[int, int]:
    """(H, W), of the argument `image_size` if it is given, else of config.json."""
    name, size = ("image_size", image_size) if image_size is not None else (f"{source}: sample_size", configured)
    if size is None:
        raise ValueError(f"{source}: its sample_size is None; say how large the images are by image_size=.")
    sides = (size, size) if not isinstance(size, list | tuple) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"{name}: wanted a side, or (H, W), got {size!r:.80}.")
    return tuple(check_count(name, side, 1, _WIDEST) for side in sides)


def _preconditioning(path):
    """(preconditioning, the scheduler nearest to it) from scheduler_config.json; Ho et al.'s (2020) if there is none."""
    config = {} if path is None else _read_json(path)
    kind = str(config.get("_class_name", "DDPMScheduler")).removeprefix("Flax")
    prediction = config.get("prediction_type", "epsilon")
    if config.get("predict_epsilon") is False:  # what diffusers had before prediction_type
        prediction = "sample"
    if kind in _FLOW or (kind in _DDPM and config.get("use_flow_sigmas")):
        return _flow_matching(config, kind, prediction, path), schedulers.CondOT()
    if kind in _EDM:
        return _edm(config, prediction, path)
    if kind not in _DDPM:
        raise ValueError(
            f"{path}: networks of {kind[:80]} are not supported; supported are those of {', '.join((*_DDPM, *_EDM, *_FLOW))}."
        )
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ValueError(f"{path}: prediction_type = {prediction!r:.80}; wanted one of {sorted(_PREDICTIONS)}.")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path}: rescale_betas_zero_snr is not supported: its last step has no noise level.")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(
            f"{path}: timestep_type = {config['timestep_type']!r:.80} is not supported; wanted 'discrete'."
        )
    betas, usual = _betas(config, _DDPM[kind], path)
    return Preconditioning.ddpm(betas, _PREDICTIONS[prediction]), usual


def _flow_matching(config: dict, kind: str, prediction, path) -> Preconditioning:
    if kind not in _FLOW and prediction != "flow_prediction":
        raise ValueError(
            f"{path}: prediction_type = {prediction!r:.80} with use_flow_sigmas is not supported; wanted 'flow_prediction'."
        )
    if config.get("invert_sigmas"):
        raise ValueError(f"{path}: invert_sigmas is not supported; wanted times that are 0 at the data.")
    # What else it says, such as `shift`, is at which times to sample; the network's field does not depend on it.
    steps = check_count(f"{path}: num_train_timesteps", config.get("num_train_timesteps", 1000), 3, 10**6)
    return Preconditioning.flow_matching(steps)


def _edm(config: dict, prediction, path):
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"{path}: prediction_type = {prediction!r:.80}; wanted 'epsilon' or 'v_prediction'.")
    usual = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    numbers = {name: check_positive(f"{path}: {name}", config.get(name, value)) for name, value in usual.items()}
    low, high = numbers["sigma_min"], numbers["sigma_max"]
    if low >= high:
        raise ValueError(f"{path}: wanted sigma_min < sigma_max, got {low}, {high}.")
    rho = check_positive(f"{path}: rho", config.get("rho", 7.0))
    return Preconditioning("edm", **numbers, prediction=_PREDICTIONS[prediction]), schedulers.EDM(low, high, rho)


def _betas(config: dict, usual, path):
    """(the variances added by each step, the scheduler nearest to them)."""
    if (betas := config.get("trained_betas")) is not None:
        if not isinstance(betas, list):
            raise ValueError(f"{path}: trained_betas: wanted a list of numbers, got {betas!r:.80}.")
        return [check_number(f"{path}: trained_betas", beta, 0, 1) for beta in betas], schedulers.Cosine()
    count = check_count(f"{path}: num_train_timesteps", config.get("num_train_timesteps", 1000), 2, 10**6)
    start, end = (
        check_number(f"{path}: {name}", config.get(name, value), 0, 1, above=True)
        for name, value in zip(("beta_start", "beta_end"), usual, strict=True)
    )
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return np.linspace(start, end, count), schedulers.VariancePreserving(count * start, count * end)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2, schedulers.Cosine()
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17
        remaining = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - remaining[1:] / remaining[:-1], 0.999), schedulers.Cosine()
    raise ValueError(f"{path}: beta_schedule = {kind!r:.80} is not supported; give the betas as trained_betas.")
