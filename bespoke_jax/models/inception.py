"""The InceptionV3 of the FID (Szegedy et al. 2015, arXiv:1512.00567): TensorFlow's weights of 2015-12-05, features of pool3.

The weights are pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, which you download yourself. The graph differs from the
usual InceptionV3 in three places, as pytorch-fid (github.com/mseitzer/pytorch-fid) documents: averages near the edges are over
the pixels of the image, not over padding; the last block has a maximum in place of the average; 1008 classes, unused here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Real

from bespoke_jax.checks import check_choice
from bespoke_jax.models.weights_io.state_dict import from_torch_layout, load_arrays, some
from bespoke_jax.models.weights_io.torch_file import read_torch_file
from bespoke_jax.types import Array, PathLike

__all__ = ["InceptionFeatures", "InceptionV3", "eight_bits", "load", "resize"]

_SIDE = 299
CONVENTIONS = ("pytorch-fid", "tensorflow")
"""Ways to resize and scale images, see `InceptionFeatures`."""


class InceptionV3(nn.Module):
    """x [B, H, W, 3] in about [-1, 1], with sides of at least 75 -> the features of pool3, [B, 2048].

    Submodules have the names of the file of weights.

    Examples:
        >>> shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        21785568
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[jax.Array, "B 2048"]:
        x = _conv(x, "Conv2d_1a_3x3", 32, 3, 2, "VALID")
        x = _conv(x, "Conv2d_2a_3x3", 32, 3, padding="VALID")
        x = _halved(_conv(x, "Conv2d_2b_3x3", 64, 3))
        x = _conv(x, "Conv2d_3b_1x1", 80, 1)
        x = _halved(_conv(x, "Conv2d_4a_3x3", 192, 3, padding="VALID"))
        for block, name, *options in (
            (_mixed_5, "Mixed_5b", 32),
            (_mixed_5, "Mixed_5c", 64),
            (_mixed_5, "Mixed_5d", 64),
            (_mixed_6a, "Mixed_6a"),
            (_mixed_6, "Mixed_6b", 128),
            (_mixed_6, "Mixed_6c", 160),
            (_mixed_6, "Mixed_6d", 160),
            (_mixed_6, "Mixed_6e", 192),
            (_mixed_7a, "Mixed_7a"),
            (_mixed_7, "Mixed_7b", _average),
            (_mixed_7, "Mixed_7c", _largest),
        ):
            x = jnp.concatenate(block(x, name, *options), axis=-1)
        return x.mean((1, 2))


# The functions below make submodules of the InceptionV3 that calls them.


def _conv(x, name, width, kernel, stride=1, padding="SAME"):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    # Full float32 precision, on GPUs too: a distance should not depend on the machine.
    options: dict[str, Any] = dict(use_bias=False, precision=jax.lax.Precision.HIGHEST, name=f"{name}.conv")
    x = nn.Conv(width, kernel, stride, padding, **options)(x)
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=f"{name}.bn")(x))


def _branch(x, block, *layers):
    for name, width, kernel, *stride in layers:  # layers that halve the sides have no padding
        x = _conv(x, f"{block}.{name}", width, kernel, *stride, *(["VALID"] if stride else []))
    return x


def _mixed_5(x, block, pool_width):
    return [
        _branch(x, block, ("branch1x1", 64, 1)),
        _branch(x, block, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        _branch(x, block, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        _branch(_average(x), block, ("branch_pool", pool_width, 1)),
    ]


def _mixed_6a(x, block):
    return [
        _branch(x, block, ("branch3x3", 384, 3, 2)),
        _branch(x, block, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        _halved(x),
    ]


def _mixed_6(x, block, width):
    row, column = (1, 7), (7, 1)
    long = [("1", width, 1), ("2", width, column), ("3", width, row), ("4", width, column), ("5", 192, row)]
    return [
        _branch(x, block, ("branch1x1", 192, 1)),
        _branch(x, block, ("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)),
        _branch(x, block, *((f"branch7x7dbl_{i}", *rest) for i, *rest in long)),
        _branch(_average(x), block, ("branch_pool", 192, 1)),
    ]


def _mixed_7a(x, block):
    long = [("1", 192, 1), ("2", 192, (1, 7)), ("3", 192, (7, 1)), ("4", 192, 3, 2)]
    return [
        _branch(x, block, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        _branch(x, block, *((f"branch7x7x3_{i}", *rest) for i, *rest in long)),
        _halved(x),
    ]


def _mixed_7(x, block, pool):
    short = _branch(x, block, ("branch3x3_1", 384, 1))
    long = _branch(x, block, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
    return [
        _branch(x, block, ("branch1x1", 320, 1)),
        _branch(short, block, ("branch3x3_2a", 384, (1, 3))),
        _branch(short, block, ("branch3x3_2b", 384, (3, 1))),
        _branch(long, block, ("branch3x3dbl_3a", 384, (1, 3))),
        _branch(long, block, ("branch3x3dbl_3b", 384, (3, 1))),
        _branch(pool(x), block, ("branch_pool", 192, 1)),
    ]


def _average(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _largest(x):
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _halved(x):
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def resize(x: Float[Array, "B H W C"], convention: str = "pytorch-fid") -> Float[jax.Array, "B 299 299 C"]:
    """Resize images to 299 x 299, bilinearly, without smoothing when they shrink.

    Args:
        x: the images.
        convention: where output pixel i of 299 lies among H input pixels: at (i + 1/2) H / 299 - 1/2 ("pytorch-fid": pixel
            centres), or at i H / 299 ("tensorflow": the graph of 2015). Beyond the edges, the pixel at the edge.

    Examples:
        >>> x = jnp.arange(2.0).reshape(1, 1, 2, 1)
        >>> [round(float(resize(x, c)[0, 0, 100, 0]), 3) for c in CONVENTIONS]
        [0.172, 0.669]
    """
    for axis in (1, 2):
        size = x.shape[axis]
        places = (np.arange(_SIDE) + 0.5) * size / _SIDE - 0.5
        if convention == "tensorflow":
            places = np.arange(_SIDE) * size / _SIDE
        places = np.clip(places, 0, size - 1)
        low = np.floor(places).astype(int)
        share = jnp.asarray(places - low, x.dtype).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = jnp.take(x, low, axis) * (1 - share) + jnp.take(x, np.minimum(low + 1, size - 1), axis) * share
    return x


def eight_bits(images: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """Images in [-1, 1] as an 8-bit file would hold them: whole numbers from 0 to 255, as floats."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255)


@functools.partial(jax.jit, static_argnums=2)
def _features(variables, levels, convention):
    """The features of images of levels 0 to 255."""
    x = resize(jnp.broadcast_to(levels, (*levels.shape[:-1], 3)), convention)
    return InceptionV3().apply(variables, (x - 128) / 128 if convention == "tensorflow" else x / 127.5 - 1)


@dataclasses.dataclass(frozen=True)
class InceptionFeatures:
    """Images in [-1, 1] -> features; the images are rounded to 8 bits and resized to 299 x 299.

    Attributes:
        variables: of `InceptionV3`.
        convention: "pytorch-fid" (pixel centres, p / 127.5 - 1), for references made with pytorch-fid; "tensorflow" (see
            `resize`; (p - 128) / 128) for those of the original graph.

    Raises:
        ValueError: for another convention.
    """

    variables: Any
    convention: str = "pytorch-fid"

    def __post_init__(self):
        check_choice("convention", self.convention, CONVENTIONS)

    def __call__(self, images: Real[Array, "B H W C"]) -> Float[jax.Array, "B 2048"]:
        """The features of images of three channels, or one (grey).

        Raises:
            ValueError: for images of another shape.
        """
        # All published FIDs are of 8-bit images.
        return _features(self.variables, eight_bits(_checked(images)), self.convention)

    def smooth(self, images: Real[Array, "B H W C"]) -> Float[jax.Array, "B 2048"]:
        """The same without the rounding, so with a gradient: features to learn by.

        Raises:
            ValueError: for images of another shape.
        """
        return _features(self.variables, (_checked(images) + 1) * 127.5, self.convention)


def _checked(images: Array) -> jax.Array:
    images = jnp.asarray(images, jnp.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images: wanted shape [B, H, W, 3] or [B, H, W, 1], got {images.shape}.")
    return images


def load(path: PathLike, convention: str = "pytorch-fid") -> InceptionFeatures:
    """Features from pytorch-fid's file of weights. Nothing in it is run.

    Args:
        path: `pt_inception-2015-12-05-6726825d.pth`, on your disk.
        convention: see `InceptionFeatures`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, foreign or asks for code to be run; if tensors are missing or of other shapes; for
            another convention.

    Examples:
        >>> load("nowhere.pth")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.pth: no such file.
    """
    check_choice("convention", convention, CONVENTIONS)
    return InceptionFeatures(variables_from_state(load_arrays(read_torch_file(path), str(path)), str(path)), convention)


@functools.cache
def _shapes() -> dict[tuple[str, ...], Any]:
    x = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32)
    return dict(flatten_dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), x)))


_LEAVES = dict(kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var")


def variables_from_state(state: dict[str, np.ndarray], source: str = "state") -> dict[str, Any]:
    """The variables of `InceptionV3` from a state dictionary in PyTorch's layout; its classes and counters are ignored.

    Raises:
        ValueError: if a tensor is missing or of another shape.
    """
    variables = {}
    for path, leaf in _shapes().items():
        key = f"{path[1]}.{_LEAVES[path[2]]}"
        array = state.get(key)
        if array is not None:
            array = from_torch_layout(array, path[2], leaf.ndim)
        if array is None or array.shape != leaf.shape:
            got = "none" if array is None else f"{array.shape} (in our layout)"
            hint = f"Is it pytorch-fid's InceptionV3? Found {some(state)}."
            raise ValueError(f"{source}: {key}: wanted shape {leaf.shape}, got {got}. {hint}")
        variables[path] = jax.device_put(array)
    return unflatten_dict(variables)
