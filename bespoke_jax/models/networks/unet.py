"""A small U-Net, the network of the shipped flows.

Its architecture is the usual one of diffusion models: residual blocks with group normalisation, the time entering each block as a
scale and a shift, skip connections, attention at the coarsest level. To be cheap on small machines, it folds images into
`patch_size x patch_size` patches before the first level and unfolds them after the last, so that no block works at full
resolution. A light head at full resolution removes the seams between patches.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from bespoke_jax.models.networks.blocks import check_sides
from bespoke_jax.types import Array, Scalar

__all__ = ["UNet", "time_embedding"]


def time_embedding(t: Float[Array, "*shape"], dim: int, max_frequency: float = 50.0) -> Float[jax.Array, "*shape dim"]:
    """Sines and cosines of `t` in [0, 1] at `dim // 2` frequencies, spaced geometrically from 1 to `max_frequency`.

    The customary 1000 makes the velocity oscillate in t at wavelengths that no sampler resolves: on Fashion-MNIST the adaptive
    solver then needed 300 evaluations for a path, all of equal length. 50 suffices for flows on [0, 1].
    """
    frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(max_frequency), dim // 2, dtype=jnp.float32))
    angles = jnp.asarray(t, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _norm(dtype: Any) -> nn.GroupNorm:
    # In networks this narrow, one group is as good as many, and several times cheaper on a CPU.
    return nn.GroupNorm(num_groups=1, dtype=dtype)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm with the time's scale and shift, SiLU, conv; added to the input."""

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B H W C"], emb: Float[jax.Array, "B E"]
    ) -> Float[jax.Array, "B H W channels"]:
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(nn.silu(_norm(self.dtype)(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.channels, dtype=self.dtype)(emb)[..., None, None, :], 2, axis=-1)
        h = nn.silu(_norm(self.dtype)(h) * (1 + scale) + shift)
        # The last convolution starts at zero, so that a new block is the identity.
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros)(h)
        skip = x if x.shape[-1] == self.channels else nn.Dense(self.channels, dtype=self.dtype)(x)
        return skip + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of the feature map, added to the input."""

    num_heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        height, width, channels = x.shape[-3:]
        h = _norm(self.dtype)(x).reshape(*x.shape[:-3], height * width, channels)
        h = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, out_kernel_init=nn.initializers.zeros)(h)
        return x + h.reshape(x.shape)


def _fold(x: Array, p: int) -> Array:
    """Space to depth, [B, H, W, C] -> [B, H/p, W/p, p*p*C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // p, w // p, p * p * c)


def _unfold(x: Array, p: int) -> Array:
    """The inverse of `_fold`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, p, p, c // (p * p)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * p, w * p, c // (p * p))


class UNet(nn.Module):
    """A network of images and times, for a velocity or another prediction.

    Attributes:
        channels: width of each level; every level after the first halves the resolution.
        num_blocks: residual blocks of each level, the same number on the way down and up.
        patch_size: side of the patches that images are folded into before the first level.
        head_channels: width of the full-resolution head.
        num_heads: attention heads at the coarsest level; 0 for none.
        num_classes: length of the class label, 0 for an unconditional network.
        dtype: computation type, e.g. `jnp.bfloat16`; parameters and the result stay float32.

    Call with `t` of shape [] or [B] in [0, 1] and `x` of shape [B, H, W, C]; H and W must be divisible by
    `patch_size * 2 ** (len(channels) - 1)`. Returns an array of x's shape. A conditional network has its label as the variable
    `condition/label`, [num_classes] or [B, num_classes]; `init` sets it to zeros (no class).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = UNet(channels=(8, 16), num_blocks=(1, 1))
        >>> out, params = jax.eval_shape(net.init_with_output, jax.random.key(0), 0.5, jnp.zeros((3, 8, 8, 1)))
        >>> out.shape
        (3, 8, 8, 1)
    """

    channels: tuple[int, ...] = (48, 96)
    num_blocks: tuple[int, ...] = (2, 2)
    patch_size: int = 2
    head_channels: int = 12
    num_heads: int = 4
    num_classes: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, t: Scalar | Float[Array, "B"], x: Float[Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        check_sides(x, self.patch_size * 2 ** (len(self.channels) - 1), "UNet")
        batch, _, _, out_channels = x.shape
        emb_dim = 4 * self.channels[0]
        emb = time_embedding(jnp.broadcast_to(t, (batch,)), self.channels[0])
        emb = nn.Dense(emb_dim, dtype=self.dtype)(emb)
        emb = nn.Dense(emb_dim, dtype=self.dtype)(nn.silu(emb))
        if self.num_classes:
            label = self.variable("condition", "label", jnp.zeros, (self.num_classes,)).value
            emb = emb + nn.Dense(emb_dim, use_bias=False, dtype=self.dtype, name="classes")(label)
        emb = nn.silu(emb)

        image = x
        h = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype)(_fold(x, self.patch_size))
        skips = []
        for level, width_ in enumerate(self.channels):
            if level:
                h = nn.Conv(width_, (3, 3), strides=(2, 2), dtype=self.dtype)(h)
            for _ in range(self.num_blocks[level]):
                h = ResidualBlock(width_, self.dtype)(h, emb)
            skips.append(h)

        if self.num_heads:
            h = AttentionBlock(self.num_heads, self.dtype)(h)

        for level, width_ in reversed(list(enumerate(self.channels))):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            for _ in range(self.num_blocks[level]):
                h = ResidualBlock(width_, self.dtype)(h, emb)
            if level:
                h = nn.Dense(4 * self.channels[level - 1], dtype=self.dtype)(h)
                h = _unfold(h, 2)

        h = nn.Dense(self.patch_size**2 * self.head_channels, dtype=self.dtype)(nn.silu(_norm(self.dtype)(h)))
        h = jnp.concatenate([_unfold(h, self.patch_size), image.astype(h.dtype)], axis=-1)
        h = nn.silu(nn.Conv(self.head_channels, (3, 3), dtype=self.dtype)(h))
        h = nn.Conv(out_channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros)(h)
        return h.astype(x.dtype)
