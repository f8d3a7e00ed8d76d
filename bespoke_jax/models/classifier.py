"""Image classifiers whose features serve a Frechet distance, for data on which InceptionV3's features say little.

Such a distance is no FID: it compares solvers and flows of one data set with each other, not with published figures.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int, Real
from safetensors.flax import save_file

from bespoke_jax.checks import check_count
from bespoke_jax.fid import FeatureStatistics
from bespoke_jax.models.inception import eight_bits
from bespoke_jax.models.weights_io.safetensors_file import find_safetensors, read_header, read_safetensors
from bespoke_jax.models.weights_io.state_dict import check_variables
from bespoke_jax.types import Array, PathLike

__all__ = ["CLASSIFIERS", "Classifier", "ConvClassifier", "load_classifier", "save_classifier"]

CLASSIFIERS = {
    "fashion_classifier": "Fashion-MNIST 28 x 28 x 1 in [-1, 1], ten classes, 64 features; statistics of its 10,000 test images",
}
"""The classifiers that come with the package: name -> description."""


class ConvClassifier(nn.Module):
    """x [B, H, W, C] in [-1, 1] -> (features [B, channels[-1]], logits [B, num_classes]).

    Convolutions that each halve the sides. The features are the average of the last one over the image, and the logits are linear
    in them. No normalisation couples the samples of a batch.

    Attributes:
        channels: width of each convolution.
        num_classes: number of logits.

    Examples:
        >>> net = ConvClassifier(channels=(4, 6), num_classes=3)
        >>> out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
        >>> [leaf.shape for leaf in out]
        [(2, 6), (2, 3)]
    """

    channels: tuple[int, ...] = (24, 48, 64)
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> tuple[Float[jax.Array, "B D"], Float[jax.Array, "B num_classes"]]:
        # Full float32 precision, on GPUs too: a distance should not depend on the machine.
        for width in self.channels:
            x = nn.relu(nn.Conv(width, (3, 3), 2, precision=jax.lax.Precision.HIGHEST)(x))
        features = jnp.mean(x, (1, 2))
        return features, nn.Dense(self.num_classes, precision=jax.lax.Precision.HIGHEST)(features)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(network, variables, images):
    return network.apply(variables, eight_bits(images) / 127.5 - 1)  # 8-bit images, as in training


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network, and the statistics of its features on held-out images.

    Attributes:
        network: the module.
        variables: its variables.
        image_shape: (H, W, C).
        statistics: of the features of the data set's held-out images; None if there are none yet.
    """

    network: ConvClassifier
    variables: Any
    image_shape: tuple[int, int, int]
    statistics: FeatureStatistics | None = None

    def features(self, images: Real[Array, "B H W C"]) -> Float[jax.Array, "B D"]:
        """The features of images.

        Args:
            images: [B, H, W, C] in [-1, 1]; they are rounded to 8 bits.

        Raises:
            ValueError: for images of another shape.
        """
        return self._outputs(images)[0]

    def classes(self, images: Real[Array, "B H W C"]) -> Int[jax.Array, "B"]:
        """The most likely class of each image.

        Args:
            images: as for `features`.

        Raises:
            ValueError: for images of another shape.
        """
        return jnp.argmax(self._outputs(images)[1], axis=-1)

    def _outputs(self, images: Array) -> Any:
        images = jnp.asarray(images, jnp.float32)
        if images.shape[1:] != self.image_shape:
            wanted = f"[B, {', '.join(map(str, self.image_shape))}]"
            raise ValueError(f"images: wanted shape {wanted}, got {images.shape}.")
        return _outputs(self.network, self.variables, images)


def save_classifier(path: PathLike, classifier: Classifier) -> None:
    """Write a classifier to `path` (*.safetensors), its weights rounded to float16, its statistics in float32.

    The statistics should be those of the rounded weights: save without statistics, load, and compute them with the result.

    Examples:
        >>> import tempfile
        >>> net = ConvClassifier(channels=(4,), num_classes=3)
        >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_classifier(f"{folder}/it.safetensors", Classifier(net, variables, (8, 8, 1)))
        ...     load_classifier(f"{folder}/it.safetensors").features(jnp.zeros((5, 8, 8, 1))).shape
        (5, 4)
    """
    flat: dict[str, Any] = dict(flatten_dict(classifier.variables, sep="/"))
    arrays = {name: jnp.asarray(value, jnp.float16) for name, value in flat.items()}
    header: dict[str, Any] = dict(
        channels=classifier.network.channels,
        num_classes=classifier.network.num_classes,
        image_shape=classifier.image_shape,
    )
    if (found := classifier.statistics) is not None:
        arrays |= dict(mu=jnp.asarray(found.mean, jnp.float32), sigma=jnp.asarray(found.covariance, jnp.float32))
        header["count"] = found.count
    save_file(arrays, path, {"classifier": json.dumps(header)})


def load_classifier(name: PathLike) -> Classifier:
    """A classifier that comes with the package, or one from a file of `save_classifier`.

    Args:
        name: a name in `CLASSIFIERS`, or a path.

    Raises:
        TypeError: if `name` is neither a string nor a path.
        ValueError: for another name, or a file that is truncated or holds no classifier.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> classifier = load_classifier("fashion_classifier")
        >>> classifier.features(jnp.zeros((2, 28, 28, 1))).shape, classifier.statistics.count
        ((2, 64), 10000)
    """
    path = find_safetensors(name, CLASSIFIERS, "load_classifier")
    flat, metadata = read_safetensors(path)
    header = read_header(path, metadata, "classifier", "not of a classifier; wanted a file of save_classifier")
    arrays = {key: np.asarray(value, np.float32) for key, value in flat.items()}
    network, image_shape = _described(path, header, arrays)
    statistics = None
    if "count" in header:
        count, width = check_count(f"{path}: count", header["count"], 2), network.channels[-1]
        for part, shape in (("mu", (width,)), ("sigma", (width, width))):
            if (found := arrays[part].shape if part in arrays else "missing") != shape:
                raise ValueError(f"{path}: {part} of the statistics: wanted shape {shape}, got {found}.")
        mean, covariance = (arrays.pop(part).astype(np.float64) for part in ("mu", "sigma"))
        statistics = FeatureStatistics(count, mean, covariance * (count - 1))
    check_variables(
        path, network, jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *image_shape))), arrays
    )
    return Classifier(network, unflatten_dict(arrays, sep="/"), image_shape, statistics)


def _described(path: PathLike, header: dict, arrays: dict) -> tuple[ConvClassifier, tuple[int, int, int]]:
    """(network, image shape) of a header, if the file's arrays are large enough for them."""
    most = max([1, *(size for array in arrays.values() for size in array.shape)])

    def listed(name, least, longest, most):
        value = header.get(name)
        if not isinstance(value, list) or not least <= len(value) <= longest:
            raise ValueError(f"{path}: {name}: wanted a list of {least} to {longest} integers, got {value!r:.80}.")
        return tuple(check_count(f"{path}: {name}", each, 1, most) for each in value)

    classes = check_count(f"{path}: num_classes", header.get("num_classes"), 1, most)
    network = ConvClassifier(listed("channels", 1, min(32, len(arrays)), most), classes)
    height, width, channels = listed("image_shape", 3, 3, 2**16)
    return network, (height, width, channels)
