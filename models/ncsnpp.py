"""NCSN++ and DDPM++ (Song et al. 2021, arXiv 2011.13456, sections 4.4 and H): one U-Net and its options.

    x ── conv ── level 0 ──────────────── all activations ─────────────── level 0 ── norm, act, conv ──► F
                    └ half ── level 1 ─── all activations ─── level 1 ── twice ┘
                                 └ half ── … ── block, attention, block ── … ┘
    c_noise ── features ── dense ── act ── dense ── + class, vector ──► emb, which enters every block
    cond: a field is concatenated with x; a sequence is attended to after each self-attention

Down: each level has `num_res_blocks` residual blocks, then the size is halved. Middle: block, attention, block. Up:
each level has `num_res_blocks + 1` blocks, each of which also takes an activation of the down path; then the size is
doubled.

    block="biggan"   halves and doubles inside a residual block
    block="ddpm"     between the blocks: by filter and convolution, or the filter alone (resample_with_conv=False)

    progressive_input: x at the lower levels      "input_skip": filtered, a convolution of size 1, combined with h
                                                  "residual": filtered and convolved from level to level, added to h
    progressive: the output of each level         "output_skip": a sum over levels, each with a convolution of its own
                                                  "residual": convolved and filtered from level to level, added to h

The published networks differ in a few options:

    NCSN++ (VE, continuous)   embedding="fourier", fir_taps=(1, 3, 3, 1), progressive_input="residual"
    DDPM++ (VP, continuous)   embedding="positional", fir_taps=(1, 1)
    NCSN++ at 256^2 and more  as NCSN++ with progressive_input="input_skip", progressive="output_skip"
    DDPM (Ho et al. 2020)     block="ddpm", fir_taps=(), skip_rescale=False

With fir_taps=() there is no filter: nearest neighbors, means, plain convolutions. c_noise is used as given: log sigma
for NCSN++, 999 t for DDPM++. x must be centered about 0. The output is not divided by sigma: the parameterization does
that.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.blocks import AttentionBlock, ContextAttention, ConvDownsample, ConvUpsample, ResidualBlock
from models.conditioning import OPTIONS, check_features_kinds, conditioned, conditioned_features
from models.layers import (
    EMBEDDINGS,
    NONLINEARITIES,
    GroupNorm,
    Number,
    activation,
    at_least_float32,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    conv1x1,
    conv3x3,
    dense,
    noise_features,
    over_sqrt2,
    rematerialized,
)
from models.resampling import crop_like, fir_downsample, fir_upsample

PROGRESSIVE_INPUTS = ("none", "input_skip", "residual")
PROGRESSIVES = ("none", "output_skip", "residual")
BLOCKS = ("biggan", "ddpm")
COMBINES = ("sum", "cat")

Block = Callable[..., Array]


class Combine(nn.Module):
    """The activations with the input pyramid added, or concatenated along the channels."""

    method: str = "sum"

    @nn.compact
    def __call__(self, pyramid: Float[Array, "..."], h: Float[Array, "..."]) -> Float[Array, "..."]:
        projected = conv1x1(pyramid, h.shape[-1])
        return projected + h if self.method == "sum" else jnp.concatenate([projected, h], axis=-1)


class NCSNpp(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    Attention is on the levels whose first spatial size is in `attn_resolutions`, or whose index (0: full size) is in
    `attn_levels`. A norm has groups of `min_group` channels or more (GroupNorm). cond is as in `models.conditioning`.
    With noise_conditional=False, c_noise has no influence, and cond must be None.
    The noise level has `noise_features` features or random frequencies (0: nf), and an embedding of emb_mult · nf
    entries; the kinds of cond in `cond_at_features`, "labels" and "vector", are added to the features, before its maps.

    It computes in `dtype`, "bfloat16" or "float32", or in the dtype of x. The output has x's dtype, and norms,
    embeddings and the last convolution are in at least float32 (`layers`). With `remat`, the backward pass recomputes
    each block, for less memory. Errors: ValueError for an invalid option, rank of x, or cond."""

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    attn_levels: tuple[int, ...] = ()
    dropout: Number = 0.1
    block: str = "biggan"
    nonlinearity: str = "swish"
    min_group: int = 4
    fir_taps: tuple[Number, ...] = (1, 1)
    resample_with_conv: bool = True
    skip_rescale: bool = True
    embedding: str = "positional"
    fourier_scale: Number = 16.0
    progressive_input: str = "none"
    progressive: str = "none"
    progressive_combine: str = "sum"
    init_scale: Number = 0.0
    noise_conditional: bool = True
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0
    cond_channels: int = 0
    context_dim: int = 0
    cond_dropout_each: Number = 0.0
    cond_null: str = "zero"
    cond_at_features: tuple[str, ...] = ()
    emb_mult: int = 4
    noise_features: int = 0
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_option("block", self.block, BLOCKS)
        check_option("nonlinearity", self.nonlinearity, NONLINEARITIES)
        check_option("embedding", self.embedding, EMBEDDINGS)
        check_option("progressive_input", self.progressive_input, PROGRESSIVE_INPUTS)
        check_option("progressive", self.progressive, PROGRESSIVES)
        check_option("progressive_combine", self.progressive_combine, COMBINES)
        check_dtype(self.dtype)
        check_numbers(self)
        check_features_kinds(self.cond_at_features)
        for name in OPTIONS.values():
            if getattr(self, name) and not self.noise_conditional:
                raise ValueError(f"{name}: expected 0 with noise_conditional=False, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        c_noise: Float[Array, " B"],
        cond: object = None,
        train: bool = False,
    ) -> Float[Array, "..."]:
        if not 3 <= x.ndim <= 5:
            raise ValueError(f"NCSNpp: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
        emb, inputs, context = self._conditioned(x, c_noise, cond, train)
        block, attend = partial(self._block, emb, train), partial(self._attention, context)
        skips = self._down(inputs, block, attend)
        h = block(skips[-1], skips[-1].shape[-1])
        h = attend(h)
        h = block(h, h.shape[-1])
        return self._up(h, skips, block, attend, x)

    @nn.nowrap
    def _block(self, emb: Array | None, train: bool, x: Array, features: int, resample: str = "none") -> Array:
        options = (self.dropout, self.skip_rescale, self.init_scale, self.nonlinearity, self.min_group)

        def block(_, x: Array, emb: Array | None) -> Array:
            return ResidualBlock(features, resample, self.fir_taps, *options)(x, emb, train)

        return rematerialized(self.remat, block)(self, x, emb)

    @nn.nowrap
    def _resampled(self, x: Array, block: Block, resample: str) -> Array:
        features = x.shape[-1]
        if self.block == "biggan":
            return block(x, features, resample)
        if self.resample_with_conv:
            return (ConvUpsample if resample == "up" else ConvDownsample)(features, self.fir_taps)(x)
        return (fir_upsample if resample == "up" else fir_downsample)(x, self._taps)

    @property
    def _taps(self) -> tuple[Number, ...]:
        return self.fir_taps or (1, 1)

    @nn.nowrap
    def _attention(self, context: Array | None, h: Array) -> Array:
        def block(_, h: Array, *context: Array) -> Array:
            h = AttentionBlock(self.skip_rescale, self.init_scale, self.min_group)(h)
            return ContextAttention(norm=True, min_group=self.min_group)(h, *context) if context else h

        return rematerialized(self.remat, block)(self, h, *(() if context is None else (context,)))

    @nn.nowrap
    def _level_attention(self, h: Array, level: int, attend: Block) -> Array:
        wanted = h.shape[1] in self.attn_resolutions or level in self.attn_levels
        return attend(h) if wanted else h

    @nn.nowrap
    def _conditioned(
        self, x: Array, c_noise: Array, cond: object, train: bool
    ) -> tuple[Array | None, Array, Array | None]:
        # Also without noise_conditional: the published networks have these frequencies, unused.
        emb = noise_features(c_noise, self.noise_features or self.nf, self.embedding, self.fourier_scale)
        emb = conditioned_features(self, emb, cond, train, x)
        if self.noise_conditional:
            emb = dense(emb, self.emb_mult * self.nf)
            emb = dense(activation(self.nonlinearity)(emb), self.emb_mult * self.nf)
        emb, inputs, context = conditioned(self, emb, cond, train, x)
        return (emb if self.noise_conditional else None), inputs, context

    @nn.nowrap
    def _down(self, x: Array, block: Block, attend: Block) -> list[Array]:
        pyramid = x.astype(compute_dtype(self.dtype, x))
        skips = [conv3x3(pyramid, self.nf)]
        for level, mult in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                h = block(skips[-1], self.nf * mult)
                skips.append(self._level_attention(h, level, attend))
            if level < len(self.ch_mult) - 1:
                h = self._resampled(skips[-1], block, "down")
                h, pyramid = self._add_input(h, pyramid)
                skips.append(h)
        return skips

    @nn.nowrap
    def _add_input(self, h: Array, pyramid: Array) -> tuple[Array, Array]:
        """h with the next level of the input pyramid, and that level."""
        if self.progressive_input == "none":
            return h, pyramid
        if self.progressive_input == "input_skip":
            pyramid = fir_downsample(pyramid, self._taps)
            return Combine(self.progressive_combine)(pyramid, h), pyramid
        pyramid = ConvDownsample(h.shape[-1], self.fir_taps)(pyramid)
        h = over_sqrt2(pyramid + h, self.skip_rescale)
        return h, h

    @nn.nowrap
    def _up(self, h: Array, skips: list[Array], block: Block, attend: Block, x: Array) -> Array:
        pyramid = None
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.nf * mult)
            h = self._level_attention(h, level, attend)
            h, pyramid = self._add_output(h, pyramid, x)
            if level > 0:
                h = crop_like(self._resampled(h, block, "up"), skips[-1])
        if self.progressive == "output_skip" and pyramid is not None:
            return pyramid
        return self._to_output(h, x)

    @nn.nowrap
    def _to_output(self, h: Array, x: Array) -> Array:
        """The output, with x's channels and dtype; computed in at least float32."""
        return self._normed_conv(at_least_float32(h), x.shape[-1], self.init_scale).astype(x.dtype)

    @nn.nowrap
    def _normed_conv(self, h: Array, features: int, scale: Number = 1.0) -> Array:
        return conv3x3(activation(self.nonlinearity)(GroupNorm(self.min_group)(h)), features, scale)

    @nn.nowrap
    def _add_output(self, h: Array, pyramid: Array | None, x: Array) -> tuple[Array, Array | None]:
        """h with the output pyramid of the levels below, and the pyramid at this level."""
        if self.progressive == "none":
            return h, None
        if self.progressive == "output_skip":
            out = self._to_output(h, x)
            return h, out if pyramid is None else out + crop_like(fir_upsample(pyramid, self._taps), out)
        if pyramid is None:
            return h, self._normed_conv(h, h.shape[-1])
        pyramid = crop_like(ConvUpsample(h.shape[-1], self.fir_taps)(pyramid), h)
        h = over_sqrt2(pyramid + h, self.skip_rescale)
        return h, h
