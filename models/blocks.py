"""The blocks of the U-Nets, for any number of spatial axes: x is [B, *spatial, C].

    residual   x ── norm, act ── resample ── conv ── + dense(act(emb)) ── norm, act ── dropout ── conv ── + ──► / sqrt 2
               └────────────────────────── resample ── conv of size 1 ────────────────────────────────────┘

Everything computes in the dtype of x.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.layers import GroupNorm, check_option, conv, conv1x1, conv3x3, dense, over_sqrt2
from models.resampling import Number, fir_downsample, fir_filter, fir_upsample, pad_to_even, spatial_axes

RESAMPLINGS = ("none", "up", "down")


class ConvDownsample(nn.Module):
    """taps at full rate, then a convolution of size 3 and stride 2: [B, *n, C] -> [B, *ceil(n/2), features]."""

    features: int
    taps: tuple[Number, ...] = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        total = (len(self.taps) - 2) + (3 - 1)
        filtered = fir_filter(pad_to_even(x), self.taps, (total + 1) // 2, total // 2)
        return conv(filtered, self.features, 3, stride=2, padding="VALID")


class ResidualBlock(nn.Module):
    """h + F(h, emb), at the same, twice or half the size (Brock et al. 2019; Song et al. 2021, section H).

    F is norm, swish, resampling, conv, + dense(swish(emb)), norm, swish, dropout, conv. emb is [B, E]."""

    features: int
    resample: str = "none"
    taps: tuple[Number, ...] = (1, 1)
    dropout: Number = 0.0
    skip_rescale: bool = True
    init_scale: Number = 0.0

    def _resampled(self, x: Array) -> Array:
        if self.resample == "none":
            return x
        return fir_upsample(x, self.taps) if self.resample == "up" else fir_downsample(x, self.taps)

    @nn.compact
    def __call__(self, x: Float[Array, "..."], emb: Float[Array, "B E"], train: bool = False) -> Float[Array, "..."]:
        check_option("resample", self.resample, RESAMPLINGS)
        h = self._resampled(nn.swish(GroupNorm()(x)))
        h = conv3x3(h, self.features)
        shift = dense(nn.swish(emb), self.features)
        h = h + jnp.expand_dims(shift, tuple(spatial_axes(h)))
        h = nn.swish(GroupNorm()(h))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv3x3(h, self.features, self.init_scale)
        skip = self._resampled(x)
        if x.shape[-1] != self.features or self.resample != "none":
            skip = conv1x1(skip, self.features)
        return over_sqrt2(skip + h, self.skip_rescale)


class AttentionBlock(nn.Module):
    """x + W_o softmax(q k^T / sqrt C) v over all positions, one head (Ho et al. 2020, appendix B)."""

    skip_rescale: bool = True
    init_scale: Number = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        normed = GroupNorm()(x).reshape(batch, -1, channels)
        q, k, v = (dense(normed, channels, 0.1) for _ in range(3))
        # Not jax.nn.dot_product_attention: it refuses dtypes other than float32 under strict promotion.
        weights = nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) / math.sqrt(channels))
        h = jnp.einsum("bqk,bkc->bqc", weights, v).reshape(x.shape)
        return over_sqrt2(x + dense(h, channels, self.init_scale), self.skip_rescale)
