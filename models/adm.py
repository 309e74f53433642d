"""The U-Net of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3) in the form of Karras et al. (2022, arXiv
2206.00364, appendix F.2), who trained EDM's ImageNet networks with it.

Down: each level has `num_res_blocks` blocks, then a block that halves the size. Middle: a block with attention, a
block. Up: each level except the lowest starts with a block that doubles the size. Then come `num_res_blocks + 1`
blocks, each of which also takes an activation of the down path.

    block   x ── norm, act ── resample ── conv ── norm · (1 + scale) + shift ── act, dropout ── conv ── + ── attention►
            │                          emb ── dense ── scale, shift                                     │
            └──────────── resample ── conv of size 1, if the channels change ───────────────────────────┘

    emb     c_noise ── features ── dense ── act ── dense ── + class, vector ── act ──►

In contrast to NCSN++, the noise level also scales the activations. Attention has heads of `head_features` channels, and
a level with attention has it in every block. Resampling is by means and nearest neighbors. The last convolutions start
nearly at zero.

    ImageNet 64^2, EDM        nf=192, ch_mult=(1, 2, 3, 4), num_res_blocks=3, attn_resolutions=(32, 16, 8), dropout=0.1,
                              num_classes=1000                                            295.9 million parameters
    CIFAR-10, EDM             is DDPM++: NCSNpp(nf=128, ch_mult=(2, 2, 2), num_res_blocks=4, dropout=0.13)

There, augmentation parameters are a vector of 9 (`cond_dim`).

The published networks differ in a few options (`published_lib`):

    EDM                   embedding="timestep", norm_eps=1e-5, min_attention=64, cond_at_features=("vector",)
    ADM                   embedding="timestep", norm_eps=1e-5, min_group=1, learned_variance=True
    improved DDPM         as ADM with num_heads=4, resample="conv" (Nichol & Dhariwal 2021, arXiv 2102.09672)
    diffusers' DDPM       resample="conv", scale_shift=False, min_group=1, max_groups=32 (its norm_num_groups)

    resample="block"      halves and doubles inside a residual block
    resample="conv"       by a convolution of stride 2, with zeros on both sides (padding="both") or right and below
                          ("after"); by nearest neighbors and a convolution
    scale_shift=False     norm(conv + dense(emb)) in place of norm · (1 + scale) + shift

With `learned_variance` the output has 2 C channels: F, then the fraction v of a log variance (`sde_lib.solvers`).
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.blocks import ContextAttention, ConvUpsample
from models.conditioning import Conditioned, check_features_kinds, conditioned, conditioned_features
from models.layers import (
    EMBEDDINGS,
    Dropout,
    GroupNorm,
    Number,
    at_least_float32,
    attention,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    conv,
    conv1x1,
    conv3x3,
    dense,
    noise_features,
    rematerialized,
)
from models.resampling import crop_like, fir_downsample, fir_upsample, spatial_axes

RESAMPLES = ("block", "conv")
PADDINGS = ("both", "after")
ATTENTION_ORDERS = ("by_head", "by_kind")


class HeadsAttention(nn.Module):
    """x + W_o of softmax(q k^T / sqrt D) v over all positions, in heads of D = `head_features` channels.

    With `heads` there are that many, of C/heads channels each. The 3 C channels of the first map are [head][q, k, v],
    or with order="by_kind" [q, k, v][head]."""

    head_features: int = 64
    heads: int = 0
    norm: tuple[int, int, Number] = (4, 32, 1e-6)
    order: str = "by_head"

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        heads = self.heads or max(1, channels // self.head_features)
        if channels % heads:
            name, got = ("num_heads", heads) if self.heads else ("head_features", self.head_features)
            raise ValueError(f"{name}: expected to divide the {channels} channels, got {got}")
        normed = GroupNorm(*self.norm)(x).reshape(batch, -1, channels)
        both, axis = ((heads, 3), 3) if self.order == "by_head" else ((3, heads), 2)
        y = dense(normed, 3 * channels).reshape(batch, -1, *both, channels // heads)
        q, k, v = (jnp.squeeze(each, axis) for each in jnp.split(y, 3, axis))
        return x + dense(attention(q, k, v).reshape(x.shape), channels, 0.0)


class ADMBlock(nn.Module):
    """The block above, at the same, twice or half the size; `attend` adds the attention.

    `norm` has the options of its norms: min_group, max_groups, eps."""

    features: int
    resample: str = "none"
    attend: bool = False
    head_features: int = 64
    dropout: Number = 0.0
    heads: int = 0
    scale_shift: bool = True
    norm: tuple[int, int, Number] = (4, 32, 1e-6)
    attention_order: str = "by_head"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        emb: Float[Array, "B E"],
        train: bool = False,
        context: Float[Array, "B L E"] | None = None,
    ) -> Float[Array, "..."]:
        resampled = {"none": _same, "up": fir_upsample, "down": fir_downsample}[self.resample]
        h = conv3x3(resampled(nn.swish(GroupNorm(*self.norm)(x))), self.features)
        h = nn.swish(self._conditioned(h, emb))
        h = Dropout(self.dropout)(h, train)
        h = conv3x3(h, self.features, 0.0)
        skip = resampled(x)
        h = h + (skip if x.shape[-1] == self.features else conv1x1(skip, self.features))
        if self.attend:
            h = HeadsAttention(self.head_features, self.heads, self.norm, self.attention_order)(h)
        return ContextAttention(norm=True)(h, context) if self.attend and context is not None else h

    @nn.nowrap
    def _conditioned(self, h: Array, emb: Array) -> Array:
        """The second norm, with the changes that the embedding makes."""
        changes = dense(emb, (2 if self.scale_shift else 1) * self.features).astype(h.dtype)
        changes = jnp.expand_dims(changes, tuple(spatial_axes(h)))
        if not self.scale_shift:
            return GroupNorm(*self.norm)(h + changes)
        scale, shift = jnp.split(changes, 2, axis=-1)
        return GroupNorm(*self.norm)(h) * (1 + scale) + shift


def _same(x: Array) -> Array:
    return x


class ADM(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    Level i has round(nf · ch_mult[i]) channels. Attention is on the levels whose first spatial size is in
    `attn_resolutions`, or whose index (0: full size) is in `attn_levels`, and in the middle; blocks of less than
    `min_attention` channels have none. It has `num_heads` heads, or heads of `head_features` channels. Norms have
    min(C // min_group, max_groups) groups. cond is as in `models.conditioning`; its kinds of
    `cond_at_features`, dtype and remat are as in NCSNpp. With `learned_variance` the output has 2 C channels. Errors:
    ValueError for an invalid option, rank of x, or cond."""

    nf: int = 192
    ch_mult: tuple[Number, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    attn_levels: tuple[int, ...] = ()
    head_features: int = 64
    dropout: Number = 0.1
    embedding: str = "positional"
    fourier_scale: Number = 16.0
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
    num_heads: int = 0
    attention_order: str = "by_head"
    min_attention: int = 0
    scale_shift: bool = True
    resample: str = "block"
    padding: str = "both"
    min_group: int = 4
    max_groups: int = 32
    norm_eps: Number = 1e-6
    learned_variance: bool = False
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_option("embedding", self.embedding, EMBEDDINGS)
        check_option("resample", self.resample, RESAMPLES)
        check_option("padding", self.padding, PADDINGS)
        check_option("attention_order", self.attention_order, ATTENTION_ORDERS)
        check_dtype(self.dtype)
        check_numbers(self)
        check_features_kinds(self.cond_at_features)
        super().__post_init__()

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The output's shape for x of this shape: that of x, or with 2 C channels."""
        return (*shape[:-1], shape[-1] * (2 if self.learned_variance else 1))

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        if not 3 <= x.ndim <= 5:
            raise ValueError(f"ADM: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
        emb, inputs, context = self._conditioned(x, c_noise, cond, train)
        block = partial(self._block, nn.swish(emb), context, train)
        skips = self._down(inputs, block)
        h = block(skips[-1], skips[-1].shape[-1], attend=True)
        h = block(h, h.shape[-1])
        h = at_least_float32(self._up(h, skips, block))
        return conv3x3(nn.swish(GroupNorm(*self._norm)(h)), self.output_shape(x.shape)[-1], 0.0).astype(x.dtype)

    @property
    def _norm(self) -> tuple[int, int, Number]:
        return self.min_group, self.max_groups, self.norm_eps

    @nn.nowrap
    def _block(
        self,
        emb: Array,
        context: Array | None,
        train: bool,
        h: Array,
        features: int,
        resample: str = "none",
        attend: bool = False,
    ) -> Array:
        attend = attend and features >= self.min_attention
        options = (resample, attend, self.head_features, self.dropout, self.num_heads, self.scale_shift)

        def block(_, h: Array, emb: Array, *context: Array) -> Array:
            return ADMBlock(features, *options, self._norm, self.attention_order)(h, emb, train, *context)

        return rematerialized(self.remat, block)(self, h, emb, *(() if context is None else (context,)))

    @nn.nowrap
    def _resampled(self, h: Array, block, resample: str) -> Array:
        features = h.shape[-1]
        if self.resample == "block":
            return block(h, features, resample)
        if resample == "up":
            return ConvUpsample(features)(h)
        return conv(h, features, 3, stride=2, padding=1 if self.padding == "both" else "SAME")

    @nn.nowrap
    def _conditioned(self, x: Array, c_noise: Array, cond: object, train: bool) -> Conditioned:
        features = noise_features(c_noise, self.noise_features or self.nf, self.embedding, self.fourier_scale)
        emb = dense(conditioned_features(self, features, cond, train, x), self.emb_mult * self.nf)
        emb = dense(nn.swish(emb), self.emb_mult * self.nf)
        return conditioned(self, emb, cond, train, x)

    @nn.nowrap
    def _width(self, level: int) -> int:
        return round(self.nf * self.ch_mult[level])

    @nn.nowrap
    def _attends(self, h: Array, level: int) -> bool:
        return h.shape[1] in self.attn_resolutions or level in self.attn_levels

    @nn.nowrap
    def _down(self, x: Array, block) -> list[Array]:
        skips = [conv3x3(x.astype(compute_dtype(self.dtype, x)), self._width(0))]
        for level in range(len(self.ch_mult)):
            if level > 0:
                skips.append(self._resampled(skips[-1], block, "down"))
            for _ in range(self.num_res_blocks):
                skips.append(block(skips[-1], self._width(level), attend=self._attends(skips[-1], level)))
        return skips

    @nn.nowrap
    def _up(self, h: Array, skips: list[Array], block) -> Array:
        for level in reversed(range(len(self.ch_mult))):
            if level < len(self.ch_mult) - 1:
                h = crop_like(self._resampled(h, block, "up"), skips[-1])
            for _ in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self._width(level), attend=self._attends(h, level))
        return h
