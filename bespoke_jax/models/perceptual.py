"""Features of images to learn a solver by, for `bj.perceptual`: smooth, so without the rounding to 8 bits that a distance wants.

Each function returns the same object for equal arguments, so that equal recipes share compiled programs. The network's weights
are constants of those programs.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_count, check_type
from bespoke_jax.models import inception
from bespoke_jax.models.classifier import Classifier, load_classifier
from bespoke_jax.types import PathLike

__all__ = ["classifier_features", "inception_features"]

Features: TypeAlias = Callable[[Float[jax.Array, "B H W C"]], Float[jax.Array, "B D"]]
"""Images in [-1, 1] -> their features."""


def classifier_features(name: PathLike = "fashion_classifier", layers: Sequence[int] = (1, 2)) -> Features:
    """The activations of a classifier's convolutions, as a function of images [B, H, W, C] in [-1, 1].

    The activations of each layer are divided by their root mean square over the image, so that all layers count alike.

    Args:
        name: as for `load_classifier`. A file is read once.
        layers: the numbers of the convolutions, from 1. The last one's average over the image is what a Frechet distance on this
            classifier measures: leave it out if you measure by that.

    Raises:
        TypeError, ValueError, FileNotFoundError: as `load_classifier`; for layers that the classifier does not have.

    Examples:
        >>> features = classifier_features("fashion_classifier", layers=[1])
        >>> features(jnp.zeros((2, 28, 28, 1))).shape, features is classifier_features(layers=(1,))
        ((2, 4704), True)
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
        raise TypeError(f"layers: wanted the numbers of one or more convolutions, such as (1, 2), got {layers!r}.")
    check_type("name", name, str | os.PathLike, "a name or a path")
    return _of_classifier(os.fspath(name), tuple(layers))


@functools.cache
def _of_classifier(name: str, layers: tuple[int, ...]) -> Features:
    classifier = load_classifier(name)
    for layer in layers:
        check_count("layers", layer, 1, len(classifier.network.channels))

    def features(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B D"]:
        return jnp.concatenate([_scaled(part) for part in _activations(classifier, x, layers)], axis=-1)

    return features


def _activations(classifier: Classifier, x: jax.Array, layers: tuple[int, ...]) -> list[jax.Array]:
    """The activations of these convolutions, each [B, H, W, C]."""
    captured: Any
    _, captured = classifier.network.apply(
        classifier.variables, x, capture_intermediates=lambda module, _: isinstance(module, nn.Conv)
    )
    return [nn.relu(captured["intermediates"][f"Conv_{layer - 1}"]["__call__"][0]) for layer in layers]


def _scaled(part: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H W C], of root mean square 1."""
    part = part.reshape(len(part), -1)
    return part / jnp.sqrt(jnp.mean(part**2, axis=-1, keepdims=True) + 1e-12)


def inception_features(path: PathLike, convention: str = "pytorch-fid") -> Features:
    """InceptionV3's features, as a function of images [B, H, W, C] in [-1, 1] of three channels, or one.

    They are those that the FID measures: a solver learned by them is then measured by what it was taught.

    Args:
        path, convention: as for `inception.load`. A file is read once.

    Raises:
        TypeError: if `path` is no path.
        FileNotFoundError, ValueError: as `inception.load`.

    Examples:
        >>> inception_features("nowhere.pth")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.pth: no such file.
    """
    check_type("path", path, str | os.PathLike, "a path")
    return _of_inception(os.fspath(path), check_choice("convention", convention, inception.CONVENTIONS))


@functools.cache
def _of_inception(path: str, convention: str) -> Features:
    return inception.load(path, convention).smooth
