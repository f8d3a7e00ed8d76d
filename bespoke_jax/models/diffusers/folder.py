"""The folder that diffusers' `save_pretrained` writes: which of its files hold the network, and their contents."""

import json
import pathlib
import re
from typing import Any

from bespoke_jax.models.weights_io.safetensors_file import read_safetensors
from bespoke_jax.models.weights_io.state_dict import some
from bespoke_jax.models.weights_io.torch_file import read_torch_file
from bespoke_jax.types import PathLike

__all__ = ["find", "read_json", "read_tensors"]

_FILE = re.compile(r"diffusion_pytorch_model(?:\.(\w+))?\.(?:safetensors|bin)")
_INDEX = re.compile(r"diffusion_pytorch_model\.(?:safetensors|bin)\.index(?:\.(\w+))?\.json")  # of several files


def find(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path | None]:
    """(weights or their index, config.json, scheduler_config.json or None).

    Raises:
        FileNotFoundError: if there is no such path, no config.json, or no weights.
        ValueError: if it is a single file of several, or if it leaves open which weights are meant.
    """
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
    """The folder of the U-Net: `path` itself, or its subfolder if `path` is the folder of a pipeline."""
    networks = [path / name for name in ("unet", "unet_ema") if (path / name).is_dir()]
    if len(networks) > 1:
        raise ValueError(
            f"{path}: has unet and unet_ema (averaged weights, usually better); give the path of one of them."
        )
    if networks:
        return networks[0]
    if (path / "transformer").is_dir():
        config = path / "transformer" / "config.json"
        kind = read_json(config).get("_class_name") if config.is_file() else "transformer"
        raise ValueError(
            f"{path}: a pipeline with a {kind!s:.80}; of diffusers' networks only UNet2DModel is supported."
        )
    return path


def _weights(folder: pathlib.Path) -> pathlib.Path:
    """The file of weights in a U-Net's folder, or the index of several; the one in full precision if there is one."""
    found: dict[str | None, list[str]] = {}
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


def read_tensors(path: pathlib.Path) -> Any:
    """name -> tensor, from a file, or from all files of an index.

    Raises:
        FileNotFoundError: if a file of the index is missing.
        ValueError: if a file is truncated, foreign or asks for code to be run, or lacks tensors that the index promises.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix != ".json":
        return read_torch_file(path)
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path}: wanted a dictionary weight_map of tensors and their files.")
    tensors = {}
    for name in sorted(set(places.values())):
        file = path.parent / name
        if pathlib.PurePath(name).name != name or file.suffix not in (".safetensors", ".bin"):
            raise ValueError(f"{path}: wanted files of weights beside it, got {name[:80]!r}.")
        if not file.is_file():
            raise FileNotFoundError(f"{path}: its file {name} is missing.")
        content = read_tensors(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: wanted a dictionary of tensors, got {type(content).__name__}.")
        tensors |= {key: value for key, value in content.items() if places.get(key) == name}
    if missing := places.keys() - tensors.keys():
        raise ValueError(f"{path}: missing {some(missing)} in its files.")
    return tensors


def read_json(path: PathLike) -> dict[str, Any]:
    """The dictionary in a JSON file. Raises ValueError if it is no JSON, or no dictionary."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted a dictionary, got {type(content).__name__}.")
    return content
