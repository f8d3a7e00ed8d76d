"""The parts of the published U-Nets: residual blocks, self-attention, resampling, the embedding of time.

One residual block serves all of them: ADM and DDPM++ / NCSN++ differ only in its options, as Karras et al. 2022
(arXiv:2206.00364, App. F.2) observe. Images are [B, H, W, C].
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from bespoke_jax.types import Array, DTypeLike

__all__ = ["Attention", "Norm", "ResidualBlock", "check_sides", "frequencies", "recomputed", "resample"]


def check_sides(x: Array, multiple: int, network: str) -> None:
    """Raise ValueError unless `x` is [B, H, W, C] with H and W divisible by `multiple`, so that `network` can halve them."""
    if x.ndim != 4 or x.shape[1] % multiple or x.shape[2] % multiple:
        raise ValueError(
            f"x: wanted [B, H, W, C], H and W divisible by {multiple} for this {network}, got {x.shape}; pad the images."
        )


def frequencies(count: int, shift: int = 0, max_period: float = 10000.0) -> Float[jax.Array, "count"]:
    """Angular frequencies, geometrically from 1 down to `1 / max_period` (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        count: their number.
        shift: 1 to make the last one exactly `1 / max_period` (DDPM), 0 to end one step before it (ADM).
        max_period: see above.

    Examples:
        >>> [round(float(f), 4) for f in frequencies(3, shift=1)]
        [1.0, 0.01, 0.0001]
    """
    return jnp.asarray(max_period ** (-np.arange(count) / (count - shift)), jnp.float32)


def resample(
    x: Float[Array, "B H W C"], direction: str, taps: tuple[int, ...] = (1, 1), padded: bool = False
) -> Float[jax.Array, "B h w C"]:
    """Halve or double the sides of images with a separable filter.

    Args:
        x: the images.
        direction: "down" or "up".
        taps: the filter, symmetric, of even length. (1, 1) averages two pixels, or repeats each of them.
        padded: whether `x` includes the margin that the filter needs beyond the edges; otherwise the margin is zeros.

    Raises:
        ValueError: for a filter of odd length, or whose sum is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> image = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> resample(image, "down").ravel().tolist(), resample(image, "up").shape
        ([1.5], (1, 4, 4, 1))
    """
    batch, height, width, channels = x.shape
    if len(taps) % 2 or not sum(taps) > 0:
        raise ValueError(f"taps: wanted an even number of them, with a positive sum, got {taps}.")
    if taps == (1, 1):  # the usual case, without a convolution by channel, which is slow on CPUs
        if direction == "up":
            return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), (2, 4))
    weights = np.asarray(taps, np.float64)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    margin = 0 if padded else (len(taps) - 1) // 2
    stride, dilation = 2, 1
    if direction == "up":  # the transpose of "down", times 4 because three of four input pixels are zeros
        kernel, margin, stride, dilation = 4 * kernel, len(taps) - 1 - margin, 1, 2
    kernel = jnp.tile(jnp.asarray(kernel, x.dtype)[:, :, None, None], (1, 1, 1, channels))
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


@dataclasses.dataclass(frozen=True)
class Norm:
    """Group normalisation with `groups` groups, or fewer so that each holds at least `group_width` channels."""

    groups: int = 32
    group_width: int = 1
    eps: float = 1e-5

    def __call__(self, x: Float[jax.Array, "*shape"], name: str, dtype: DTypeLike | None) -> Float[jax.Array, "*shape"]:
        """The normalised `x` [..., C]. Call it inside a Flax module, of which it becomes the child `name`.

        Raises:
            ValueError: if the channels do not divide into the groups.
        """
        groups = min(self.groups, x.shape[-1] // self.group_width)
        if groups < 1 or x.shape[-1] % groups:
            raise ValueError(
                f"x: wanted channels that divide into {groups} groups, got {x.shape[-1]}; change the widths."
            )
        # The variance is a mean of squared differences, because the faster formula loses digits where the mean is large.
        return nn.GroupNorm(groups, epsilon=self.eps, dtype=dtype, use_fast_variance=False, name=name)(x)


class Attention(nn.Module):
    """Self-attention over all positions of the feature map, added to the input; the sum is multiplied by `skip_scale`."""

    num_heads: int
    norm: Norm
    skip_scale: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        batch, height, width, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(f"x: wanted channels that divide into {self.num_heads} heads, got {channels}.")
        h = self.norm(x, "norm", self.dtype).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, height * width, 3, self.num_heads, channels // self.num_heads)
        h = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(h.shape)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="proj")(h)
        return (x + h.reshape(x.shape)) * self.skip_scale


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, the embedding, norm, SiLU, conv; added to the input, and the sum multiplied by `skip_scale`.

    Attributes:
        channels: width of the result.
        norm: both normalisations.
        direction: "down" or "up" to resample input and result by two before the first convolution; "" for neither.
        taps: the filter for resampling.
        scale_shift: whether the embedding enters as a scale and a shift after the second normalisation, or is added before it.
        project: whether every block that resamples has a 1 x 1 convolution on its skip path, not only those that change the
            width.
        skip_scale: the factor of the sum.
        dropout: share of the last convolution's input that is zeroed in training, which is when random numbers "dropout" are
            given.
        dtype: computation type.

    Call with `x` [B, H, W, C] and the embedding `emb` [B, E] after SiLU.
    """

    channels: int
    norm: Norm
    direction: str = ""
    taps: tuple[int, ...] = (1, 1)
    scale_shift: bool = True
    project: bool = False
    skip_scale: float = 1.0
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B H W C"], emb: Float[jax.Array, "B E"]
    ) -> Float[jax.Array, "B h w channels"]:
        skip, h = x, nn.silu(self.norm(x, "norm_0", self.dtype))
        if self.direction:
            skip, h = (resample(image, self.direction, self.taps) for image in (skip, h))
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_0")(h)

        outputs = self.channels * (2 if self.scale_shift else 1)
        emb = nn.Dense(outputs, dtype=self.dtype, name="emb")(emb)[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = self.norm(h, "norm_1", self.dtype) * (1 + scale) + shift
        else:
            h = self.norm(h + emb, "norm_1", self.dtype)
        # The last convolution starts at zero, so that a new block is the identity.
        last = nn.Conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_1")
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"), name="dropout")(nn.silu(h))
        h = last(h)
        if skip.shape[-1] != self.channels or (self.project and self.direction):
            skip = nn.Dense(self.channels, dtype=self.dtype, name="skip")(skip)
        return (skip + h) * self.skip_scale


def recomputed(remat: bool) -> tuple[Any, Any]:
    """(ResidualBlock, Attention), which recompute their intermediate results in the backward pass if `remat`."""
    return (nn.remat(ResidualBlock), nn.remat(Attention)) if remat else (ResidualBlock, Attention)
