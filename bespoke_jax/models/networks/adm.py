"""ADM, the U-Net of Dhariwal & Nichol 2021 (arXiv:2105.05233), with options for its relatives.

One architecture serves three families of published weights, which the importers of `bespoke_jax.models` translate:

| | `scale_shift` | `resampling` | `groups`, `group_width` | time |
|---|---|---|---|---|
| EDM's ADM (ImageNet-64) | True | "block" | 32, 4 | log(sigma) / 4 |
| torchcfm, guided-diffusion | as trained | "conv" or "block" | 32, 1 | t in [0, 1], or steps |
| diffusers' DDPM | False | "conv" or "conv_end" | as trained, 1 | steps 0..999; `frequency_shift` 1 |
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from bespoke_jax.checks import check_choice
from bespoke_jax.models.networks.blocks import Norm, check_sides, frequencies, recomputed, resample
from bespoke_jax.types import Array, Scalar

__all__ = ["ADM"]

_PADDING = {"conv": ((1, 1), (1, 1)), "conv_end": ((0, 1), (0, 1))}


class ADM(nn.Module):
    """The ADM U-Net. The defaults are those of EDM's ImageNet-64 network, 296 M parameters.

    Attributes:
        channels: width of each level; every level after the first halves the resolution.
        num_blocks: residual blocks of each level on the way down; one more on the way up.
        heads: attention heads after each block of each level, 0 for none.
        middle_heads: the same in the middle of the coarsest level.
        time_channels: number of sines and cosines of the time; the embedding is four times as wide.
        num_classes: length of the class label, 0 for an unconditional network.
        out_channels: channels of the result.
        scale_shift: whether the embedding enters blocks as scale and shift, or is added.
        resampling: "block" (a residual block that resamples), "conv" (down by a convolution of stride 2, up by nearest neighbours
            and a convolution), or "conv_end" (the same, with padding at the lower and right edges only).
        groups, group_width, eps: of the group normalisations, see `blocks.Norm`.
        frequency_shift: see `blocks.frequencies`.
        dropout: in training, see `blocks.ResidualBlock`.
        dtype: computation type, e.g. `jnp.bfloat16`; parameters and the result stay float32.
        remat: recompute every block in the backward pass instead of storing its intermediate results.

    Call with `t`, the network's own time, of shape [] or [B], and `x` [B, H, W, C]; H and W must be divisible by
    `2 ** (len(channels) - 1)`. Returns [B, H, W, out_channels] in x's dtype. A conditional network has its label as the variable
    `condition/label`, [num_classes] or [B, num_classes]; `init` sets it to zeros (no class).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = ADM(channels=(8, 16), num_blocks=1, heads=(0, 2), middle_heads=2, time_channels=8, groups=4)
        >>> out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), 0.5, jnp.zeros((3, 8, 8, 3)))
        >>> out.shape
        (3, 8, 8, 3)
    """

    channels: tuple[int, ...] = (192, 384, 576, 768)
    num_blocks: int = 3
    heads: tuple[int, ...] = (0, 6, 9, 12)
    middle_heads: int = 12
    time_channels: int = 192
    num_classes: int = 0
    out_channels: int = 3
    scale_shift: bool = True
    resampling: str = "block"
    groups: int = 32
    group_width: int = 4
    eps: float = 1e-5
    frequency_shift: int = 0
    dropout: float = 0.0
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, t: Scalar | Float[Array, "B"], x: Float[Array, "B H W C"]
    ) -> Float[jax.Array, "B H W out_channels"]:
        self._check(x)
        norm = Norm(self.groups, self.group_width, self.eps)
        Block, Attend = recomputed(self.remat)
        emb = self._embedding(t, len(x))

        def block(h, name, width, direction="", heads=0):
            options = dict(scale_shift=self.scale_shift, dropout=self.dropout, dtype=self.dtype)
            h = Block(width, norm, direction, name=name, **options)(h, emb)
            return Attend(heads, norm, dtype=self.dtype, name=f"{name}_attention")(h) if heads else h

        def conv(h, name, width, **options):
            return nn.Conv(width, (3, 3), dtype=self.dtype, name=name, **options)(h)

        h = conv(x, "conv_in", self.channels[0])
        skips = [h]
        for level, (width, heads) in enumerate(zip(self.channels, self.heads, strict=True)):
            if level:
                name = f"down{level}_resample"
                if self.resampling == "block":
                    h = block(h, name, h.shape[-1], "down")
                else:
                    h = conv(h, name, h.shape[-1], strides=(2, 2), padding=_PADDING[self.resampling])
                skips.append(h)
            for i in range(self.num_blocks):
                h = block(h, f"down{level}_block{i}", width, heads=heads)
                skips.append(h)

        h = block(h, "middle_block0", h.shape[-1], heads=self.middle_heads)
        h = block(h, "middle_block1", h.shape[-1])

        for level, width in reversed(list(enumerate(self.channels))):
            if level < len(self.channels) - 1:
                name = f"up{level}_resample"
                if self.resampling == "block":
                    h = block(h, name, h.shape[-1], "up")
                else:
                    h = conv(resample(h, "up"), name, h.shape[-1])
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"up{level}_block{i}", width, heads=self.heads[level])

        h = nn.silu(norm(h, "norm_out", self.dtype))
        return conv(h, "conv_out", self.out_channels, kernel_init=nn.initializers.zeros).astype(x.dtype)

    def _check(self, x: Array) -> None:
        check_choice("resampling", self.resampling, ("block", *_PADDING))
        if len(self.heads) != len(self.channels):
            raise ValueError(f"heads: wanted a number for each of {len(self.channels)} levels, got {self.heads}.")
        check_sides(x, 2 ** (len(self.channels) - 1), "ADM")

    def _embedding(self, t: Any, batch: int) -> jax.Array:
        """The embedding of time and class, [B, 4 time_channels], after SiLU."""
        angles = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,))[:, None] * frequencies(
            self.time_channels // 2, self.frequency_shift
        )
        emb = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        width = 4 * self.time_channels
        emb = nn.silu(nn.Dense(width, dtype=self.dtype, name="time_0")(emb))
        emb = nn.Dense(width, dtype=self.dtype, name="time_1")(emb)
        if self.num_classes:
            label = self.variable("condition", "label", jnp.zeros, (self.num_classes,)).value
            emb = emb + nn.Dense(width, use_bias=False, dtype=self.dtype, name="classes")(label)
        return nn.silu(emb)
