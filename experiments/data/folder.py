"""A folder of images of any size and format; its sub-folders, if there are any, are the classes. ImageNet and AFHQ come so."""

import os
import pathlib

import numpy as np
from PIL import Image

from experiments.data.dataset import DataSet

__all__ = ["cropped", "load"]

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def load(folder: str, image_size: int) -> DataSet:
    """All images below a folder, read when they are wanted: RGB, `image_size` x `image_size`.

    An image's class is the sub-folder it is in, however deep, in alphabetical order; images in the folder itself have none.
    """
    root = pathlib.Path(folder).expanduser()
    if not folder or not root.is_dir():
        state = f"is {folder!r}, where there is no folder" if folder else "is empty"
        raise FileNotFoundError(f"config.data.folder {state}; missing: a folder of images.")
    files = [
        os.path.relpath(os.path.join(parent, name), root)
        for parent, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    ]
    if not files:
        raise ValueError(f"{root}: no images in it ({', '.join(_SUFFIXES)}).")
    files.sort()
    parts = [file.split(os.sep, 1)[0] if os.sep in file else "" for file in files]
    classes = sorted(set(parts))
    if len(classes) > 1 and "" in classes:
        stray = files[parts.index("")]
        raise ValueError(f"{root}: images beside folders of images, {stray} for one; classes are folders: move them.")
    number = {name: index for index, name in enumerate(classes)}

    def read(indices):
        return np.stack([_read(root / files[index], image_size) for index in indices])

    return DataSet(
        read=read,
        labels=np.array([number[part] for part in parts], np.int32),
        image_shape=(image_size, image_size, 3),
        num_classes=0 if classes == [""] else len(classes),
    )


def _read(path: pathlib.Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(cropped(image.convert("RGB"), size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's ways to say damaged
        raise ValueError(f"{path}: cannot be read as an image ({error}); replace or delete it.") from None


def cropped(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, `size` x `size`, as Dhariwal & Nichol 2021 (arXiv:2105.05233) take it of ImageNet.

    Halved by averages as often as the shorter side stays above `size`, brought to it by cubic interpolation, and cropped.

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
