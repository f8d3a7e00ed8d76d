"""Images of any size and format in a folder or a .zip, as ImageNet, AFHQ and the data sets of EDM and StyleGAN are distributed.

Classes come from dataset.json, {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null} for none, as EDM's and
StyleGAN's tools write it. Without that file the top-level folders are the classes, unless they are those tools' batches of 1000.
"""

import io
import itertools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.data.dataset import DataSet
from experiments.run.errors import reason_of

__all__ = ["cropped", "load"]

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_LABELS = "dataset.json"
_BUCKETED = re.compile(r"\d{5}/img\d{8}\.\w+")  # EDM's and StyleGAN's names: a thousand images a folder
_LARGEST = 2**28  # bytes of an unpacked file of a .zip: a few bytes may claim to be many


class _Files(NamedTuple):
    """The files below a folder, on disk or in a .zip."""

    source: pathlib.Path
    names: list[str]  # of the files, with / between folders
    folders: set[str]  # those directly in the folder
    read: Callable[[str], bytes]  # name -> bytes; OSError or ValueError if it cannot be read


def load(folder: str, image_size: int) -> DataSet:
    """All images below a folder or in a .zip, read when they are needed: RGB, `image_size` x `image_size`.

    An image's class is the one in dataset.json, or else the alphabetical rank of the top-level folder that it is
    below. If all images are in the folder itself, there are no classes. Hidden files and folders, and macOS's own
    (__MACOSX), are skipped.

    Raises:
        ValueError: if there are no images, or names and classes are inconsistent; names the file.
        FileNotFoundError: if there is no such folder or file.
    """
    root = pathlib.Path(folder).expanduser()
    if not folder or not root.exists():
        state = f"is {folder!r}, where there is no folder" if folder else "is empty"
        raise FileNotFoundError(f"config.data.folder {state}; missing: a folder of images, or a .zip of them.")
    files = _in_folder(root) if root.is_dir() else _in_zip(root)
    images = sorted(name for name in files.names if name.lower().endswith(_SUFFIXES))
    if not images:
        raise ValueError(f"{root}: no images in it ({', '.join(_SUFFIXES)}).")
    if len(set(images)) < len(images):
        twice = next(name for name, following in itertools.pairwise(images) if name == following)
        raise ValueError(f"{root}: wanted each image once, got {twice} twice.")
    if _LABELS in files.names:
        labels, num_classes = _labels_of_file(files, images)
    else:
        labels, num_classes = _labels_of_folders(files, images)

    def read(indices):
        return np.stack([_read(files, images[index], image_size) for index in indices])

    return DataSet(read, np.array(labels, np.int32), (image_size, image_size, 3), num_classes)


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _in_folder(root: pathlib.Path) -> _Files:
    names = [
        pathlib.Path(os.path.relpath(os.path.join(parent, name), root)).as_posix()
        for parent, _, found in os.walk(root)
        for name in found
    ]
    folders = {path.name for path in root.iterdir() if path.is_dir() and _is_visible(path.name)}
    return _Files(root, list(filter(_is_visible, names)), folders, lambda name: (root / name).read_bytes())


def _in_zip(path: pathlib.Path) -> _Files:
    """The files of a .zip, which is not unpacked. The folder of its only dataset.json, if any, is the root."""
    try:
        archive = zipfile.ZipFile(path)
        entries = [entry for entry in archive.infolist() if _is_visible(entry.filename.rstrip("/"))]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(
            f"{path}: wanted a folder or a .zip, got a truncated or another file ({reason_of(error)})."
        ) from None
    of_labels = [entry.filename for entry in entries if entry.filename.rsplit("/", 1)[-1] == _LABELS]
    top = of_labels[0].removesuffix(_LABELS) if len(of_labels) == 1 else ""
    found = [(entry.filename.removeprefix(top), entry) for entry in entries if entry.filename.startswith(top)]
    by_name = dict(found)

    def read(name):
        entry = by_name[name]
        if entry.file_size > _LARGEST:
            raise ValueError(f"wanted at most {_LARGEST} bytes, got {entry.file_size}")
        try:
            with archive.open(entry) as file:
                return file.read(_LARGEST)
        except Exception as error:  # zipfile has many kinds for damage, passwords and unknown packings
            raise ValueError(reason_of(error)) from None

    names = [name for name, entry in found if not entry.is_dir()]
    return _Files(path, names, {name.split("/")[0] for name, _ in found if "/" in name}, read)


def _labels_of_file(files: _Files, images: list[str]) -> tuple[list[int], int]:
    """(class of each image, number of classes) from dataset.json; zeros and 0 if it lists none."""
    where = f"{files.source}: {_LABELS}"
    try:
        content = json.loads(files.read(_LABELS))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: wanted JSON, got a damaged or another file ({reason_of(error)}).") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise ValueError(f'{where}: wanted an object with "labels", a list or null, got {content!r:.100}.')
    pairs = content["labels"]
    if pairs is None:
        return [0] * len(images), 0
    if not isinstance(pairs, list):
        raise ValueError(f'{where}: wanted "labels" to be a list or null, got {type(pairs).__name__}.')
    labels = {}
    for pair in pairs:
        name, label = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(name, str) or isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
            raise ValueError(
                f'{where}: wanted pairs like ["00000/img00000000.png", 6], a class from 0, got {pair!r:.100}.'
            )
        if name in labels:
            raise ValueError(f"{where}: wanted each image once, got {name} twice.")
        labels[name] = label
    if bare := set(images) - set(labels):
        raise ValueError(f"{where}: wanted a label for every image, got none for {len(bare)}, such as {min(bare)}.")
    if stray := set(labels) - set(images):
        raise ValueError(f"{where}: wanted labels of existing images, got {len(stray)} others, such as {min(stray)}.")
    return [labels[name] for name in images], max(labels.values()) + 1


def _labels_of_folders(files: _Files, images: list[str]) -> tuple[list[int], int]:
    """(class of each image, number of classes) from the sub-folders; zeros and 0 if there are none, or they are buckets."""
    if deeper := [name for name in files.names if name.endswith(f"/{_LABELS}")]:
        raise ValueError(
            f"{files.source}: wanted {_LABELS} beside the folders of its images, got {min(deeper)}; name its folder."
        )
    parts = [name.split("/")[0] if "/" in name else "" for name in images]
    classes = sorted(set(parts))
    if classes == [""] or all(_BUCKETED.fullmatch(name) for name in images):
        return [0] * len(images), 0
    if "" in classes:
        stray = images[parts.index("")]
        raise ValueError(
            f"{files.source}: wanted all images in class folders, got {stray} beside the folders; move it."
        )
    if empty := files.folders - set(classes):
        raise ValueError(
            f"{files.source}: wanted images in every class folder, got none in {min(empty)}; add some, or delete it."
        )
    number = {name: index for index, name in enumerate(classes)}
    return [number[part] for part in parts], len(classes)


def _read(files: _Files, name: str, size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            return np.asarray(cropped(_as_rgb(image), size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's for damage
        path = files.source / name if files.source.is_dir() else f"{files.source}: {name}"
        raise ValueError(f"{path}: cannot be read as an image ({error}); replace or delete it.") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits a colour. Greys of 16 bits lose the lower 8; transparent parts become white."""
    if image.mode.startswith("I"):  # Pillow's own conversion turns all but the darkest white
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() >= 2**16:
            raise ValueError(f"wanted greys from 0 to {2**16 - 1}, got {grey.min()} to {grey.max()}")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("wanted 8 or 16 bits, got floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def cropped(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, `size` x `size`, as Dhariwal & Nichol 2021 (arXiv:2105.05233) crop ImageNet.

    The image is halved by averaging while its shorter side stays at least `size`, resized to `size` by cubic interpolation,
    and cropped.

    Examples:
        >>> cropped(Image.new("RGB", (100, 70)), 32).size
        (32, 32)
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
