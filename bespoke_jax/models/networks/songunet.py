"""DDPM++ and NCSN++, the U-Nets of Song et al. 2021 (arXiv:2011.13456), in the form trained by Karras et al. 2022."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from bespoke_jax.models.networks.blocks import Norm, check_sides, frequencies, recomputed, resample
from bespoke_jax.types import Array, Scalar

__all__ = ["SongUNet"]


class SongUNet(nn.Module):
    """DDPM++ and, with `fourier`, `residual_input` and `taps`, NCSN++.

    The defaults are those of EDM's CIFAR10 network, 55.7 M parameters.

    Attributes:
        stem_channels: width of the first convolution; the embedding is four times as wide.
        channels: width of each level; every level after the first halves the resolution.
        num_blocks: residual blocks of each level on the way down; one more on the way up.
        attention_levels: levels with self-attention of one head, after each block on the way down and the last on the way up.
        noise_channels: number of sines and cosines of the noise level (NCSN++: twice `stem_channels`).
        num_classes: length of the class label, 0 for an unconditional network.
        out_channels: channels of the result.
        fourier: use random frequencies (NCSN++), stored as `constants/frequencies`, instead of geometric ones.
        residual_input: add the downsampled input, after a convolution, at every level (NCSN++).
        taps: the filter of up- and downsampling, (1, 3, 3, 1) for NCSN++.
        dtype: computation type, e.g. `jnp.bfloat16`; parameters and the result stay float32.
        remat: recompute every block in the backward pass instead of storing its intermediate results.

    Call with `t`, the network's own time (EDM: log(sigma) / 4), of shape [] or [B], and `x` [B, H, W, C]; H and W must be
    divisible by `2 ** (len(channels) - 1)`. Returns [B, H, W, out_channels] in x's dtype. A conditional network has its label as
    the variable `condition/label`, [num_classes] or [B, num_classes]; `init` sets it to zeros (no class).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = SongUNet(stem_channels=8, channels=(8, 8), num_blocks=1, noise_channels=8)
        >>> out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), 0.5, jnp.zeros((3, 8, 8, 3)))
        >>> out.shape
        (3, 8, 8, 3)
    """

    stem_channels: int = 128
    channels: tuple[int, ...] = (256, 256, 256)
    num_blocks: int = 4
    attention_levels: tuple[int, ...] = (1,)
    noise_channels: int = 128
    num_classes: int = 0
    out_channels: int = 3
    fourier: bool = False
    residual_input: bool = False
    taps: tuple[int, ...] = (1, 1)
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, t: Scalar | Float[Array, "B"], x: Float[Array, "B H W C"]
    ) -> Float[jax.Array, "B H W out_channels"]:
        check_sides(x, 2 ** (len(self.channels) - 1), "SongUNet")
        norm = Norm(group_width=4, eps=1e-6)
        Block, Attend = recomputed(self.remat)
        half = math.sqrt(0.5)
        emb = self._embedding(t, len(x))

        def block(h, name, width, direction="", attention=False):
            options = dict(taps=self.taps, scale_shift=False, project=True, skip_scale=half, dtype=self.dtype)
            h = Block(width, norm, direction, name=name, **options)(h, emb)
            return Attend(1, norm, half, self.dtype, name=f"{name}_attention")(h) if attention else h

        h = nn.Conv(self.stem_channels, (3, 3), dtype=self.dtype, name="conv_in")(x)
        skips, image = [h], x
        for level, width in enumerate(self.channels):
            if level:
                h = block(h, f"down{level}_resample", h.shape[-1], "down")
                if self.residual_input:
                    image = h = (h + self._smaller_input(image, level, h.shape[-1])) * half
                skips.append(h)
            for i in range(self.num_blocks):
                h = block(h, f"down{level}_block{i}", width, attention=level in self.attention_levels)
                skips.append(h)

        h = block(h, "middle_block0", h.shape[-1], attention=True)
        h = block(h, "middle_block1", h.shape[-1])

        for level, width in reversed(list(enumerate(self.channels))):
            if level < len(self.channels) - 1:
                h = block(h, f"up{level}_resample", h.shape[-1], "up")
            for i in range(self.num_blocks + 1):
                attention = level in self.attention_levels and i == self.num_blocks
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), f"up{level}_block{i}", width, attention=attention)

        h = nn.silu(norm(h, "norm_out", self.dtype))
        zeros = nn.initializers.zeros
        return nn.Conv(self.out_channels, (3, 3), dtype=self.dtype, kernel_init=zeros, name="conv_out")(h).astype(
            x.dtype
        )

    def _smaller_input(self, image: Array, level: int, width: int) -> jax.Array:
        """A convolution of `image`, then the filter at stride 2; in this order the filter also sees the convolution's margin."""
        margin = (len(self.taps) - 1) // 2
        padding = ((1 + margin, 1 + margin),) * 2
        h = nn.Conv(width, (3, 3), padding=padding, dtype=self.dtype, name=f"down{level}_input")(image)
        return resample(h, "down", self.taps, padded=True)

    def _embedding(self, t: Any, batch: int) -> jax.Array:
        """The embedding of noise level and class, [B, 4 stem_channels], after SiLU."""
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,))
        count = self.noise_channels // 2
        if self.fourier:

            def random_frequencies():
                return 16 * nn.initializers.normal(1.0)(self.make_rng("params"), (count,))

            angles = t[:, None] * (2 * math.pi * self.variable("constants", "frequencies", random_frequencies).value)
        else:
            angles = t[:, None] * frequencies(count, shift=1)
        emb = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        if self.num_classes:
            label = self.variable("condition", "label", jnp.zeros, (self.num_classes,)).value
            # A one-hot label times sqrt(L) has the same mean square as the sines and cosines that it is added to.
            emb = emb + nn.Dense(self.noise_channels, dtype=self.dtype, name="classes")(
                label * math.sqrt(self.num_classes)
            )
        for i in range(2):
            emb = nn.silu(nn.Dense(4 * self.stem_channels, dtype=self.dtype, name=f"time_{i}")(emb))
        return emb
