"""What every data set provides, wherever its images are stored."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from bespoke_jax.types import Array

__all__ = ["DataSet", "to_model"]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Images and their classes.

    Attributes:
        read: indices [B] -> images, uint8 [B, H, W, C]. Called from several threads at once.
        labels: int32 [N], from 0 to num_classes - 1; zeros if there are no classes.
        image_shape: (H, W, C).
        num_classes: 0 if the images have no classes.
    """

    read: Callable[[Int[np.ndarray, "B"]], UInt8[np.ndarray, "B H W C"]]
    labels: Int32[np.ndarray, "N"]
    image_shape: tuple[int, int, int]
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def in_memory(
        cls, images: UInt8[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"], num_classes: int, source: object
    ) -> "DataSet":
        """A data set of arrays: `images` uint8 [N, H, W, C] and `labels` [N]. `source` is what an error names.

        Raises:
            ValueError: if there are no images, if the number of labels differs, or if a label is out of range.
        """
        labels = np.asarray(labels)
        if not len(images):
            raise ValueError(f"{source}: wanted images, got none.")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"{source}: wanted a label for each of {len(images)} images, got labels of shape {labels.shape}."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"{source}: wanted labels from 0 to {num_classes - 1}, got {wrong}.")
        return cls(images.__getitem__, labels.astype(np.int32), images.shape[1:], num_classes)


def to_model(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0
