"""The blocks of the U-Nets, for any number of spatial axes: x is [B, *spatial, C].

    residual   x ── norm, act ── resample ── conv ── + dense(act(emb)) ── norm, act ── dropout ── conv ── + ──► / sqrt 2
               └────────────────────────── resample ── conv of size 1 ────────────────────────────────────┘
    down       x ── taps ── conv of size 3, stride 2 ──►
    up         x ── taps at twice the size ── conv of size 3 ──►
    attention  x ── norm ── q, k, v ── softmax(q kᵀ / sqrt C) v ── dense ── + x ──► / sqrt 2

The residual block is that of Ho et al. 2020 (arXiv 2006.11239, appendix B). Where it resamples, it is that of BigGAN
(Brock et al. 2019, arXiv 1809.11096, appendix B). Song et al. 2021 (arXiv 2011.13456, section H) combine the two, with
the filtered resampling of StyleGAN2 (`resampling`). Everything computes in the dtype of x, except dense(act(emb)),
which computes in that of emb.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.layers import (
    Dropout,
    GroupNorm,
    activation,
    attention,
    check_option,
    conv,
    conv1x1,
    conv3x3,
    dense,
    over_sqrt2,
)
from models.resampling import Number, Taps, fir_downsample, fir_filter, fir_upsample, pad_to_even, spatial_axes
from models.xla import gradient_written

RESAMPLINGS = ("none", "up", "down")


class ConvDownsample(nn.Module):
    """The filter at full rate, then a convolution of size 3 and stride 2: [B, *n, C] -> [B, *ceil(n/2), features].

    Without taps, y[m] = sum_j w[j] x[2m + j] (Ho et al. 2020)."""

    features: int
    taps: Taps = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        x = pad_to_even(x)
        if not self.taps:
            return conv(x, self.features, 3, stride=2)
        total = (len(self.taps) - 2) + (3 - 1)
        filtered = fir_filter(x, self.taps, (total + 1) // 2, total // 2)
        return conv(filtered, self.features, 3, stride=2, padding="VALID")


class ConvUpsample(nn.Module):
    """Filtered upsampling by 2, then a convolution of size 3: [B, *n, C] -> [B, *2n, features].

    The convolution uses the filter's output one position beyond the edge of x, as the published transposed convolution
    does. Without taps: nearest neighbors, which are taps (1, 1)."""

    features: int
    taps: Taps = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        axes = spatial_axes(x)
        inside = tuple(slice(1, -1) if i in axes else slice(None) for i in range(x.ndim))
        wider = jnp.pad(x, [(1, 1) if i in axes else (0, 0) for i in range(x.ndim)])
        return conv(fir_upsample(wider, self.taps or (1, 1))[inside], self.features, 3, padding="VALID")


class ResidualBlock(nn.Module):
    """h + F(h, emb), at the same, twice or half the size (Brock et al. 2019; Song et al. 2021, section H).

    F is norm, act, resampling, conv, + dense(act(emb)), norm, act, dropout, conv. emb is [B, E], or None for a block
    that is not conditioned on the noise level. With resample="none" it is the block of Ho et al. 2020."""

    features: int
    resample: str = "none"
    taps: Taps = (1, 1)
    dropout: Number = 0.0
    skip_rescale: bool = True
    init_scale: Number = 0.0
    nonlinearity: str = "swish"
    min_group: int = 4

    def _resampled(self, x: Array) -> Array:
        if self.resample == "none":
            return x
        taps, x = self.taps or (1, 1), gradient_written(x)
        return fir_upsample(x, taps) if self.resample == "up" else fir_downsample(x, taps)

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], emb: Float[Array, "B E"] | None, train: bool = False
    ) -> Float[Array, "..."]:
        check_option("resample", self.resample, RESAMPLINGS)
        x = gradient_written(x)
        act = activation(self.nonlinearity)
        h = self._resampled(act(GroupNorm(self.min_group)(x)))
        h = conv3x3(h, self.features)
        if emb is not None:
            shift = dense(act(emb), self.features)
            h = h + jnp.expand_dims(shift.astype(h.dtype), tuple(spatial_axes(h)))
        h = act(GroupNorm(self.min_group)(h))
        h = Dropout(self.dropout)(h, train)
        h = conv3x3(h, self.features, self.init_scale)
        skip = self._resampled(x)
        if x.shape[-1] != self.features or self.resample != "none":
            skip = conv1x1(skip, self.features)
        return over_sqrt2(skip + h, self.skip_rescale)


class AttentionBlock(nn.Module):
    """x + W_o softmax(q k^T / sqrt C) v over all positions, one head (Ho et al. 2020, appendix B)."""

    skip_rescale: bool = True
    init_scale: Number = 0.0
    min_group: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        x = gradient_written(x)
        normed = GroupNorm(self.min_group)(x).reshape(batch, -1, channels)
        q, k, v = (dense(normed, channels, 0.1)[:, :, None] for _ in range(3))
        h = attention(q, k, v).reshape(x.shape)
        return over_sqrt2(x + dense(h, channels, self.init_scale), self.skip_rescale)


class ContextAttention(nn.Module):
    """x + W_o softmax(q k^T / sqrt C) v: q from the positions of x [B, *spatial, C], k and v from a context [B, L, F].

    One head, nearly 0 at first (Rombach et al. 2022, arXiv 2112.10752, section 3.3). `norm` normalizes x for q."""

    norm: bool = False
    min_group: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"], context: Float[Array, "B L F"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        normed = GroupNorm(self.min_group)(x) if self.norm else x
        q = dense(normed.reshape(batch, -1, channels), channels, 0.1)[:, :, None]
        k, v = (dense(context.astype(x.dtype), channels, scale)[:, :, None] for scale in (0.1, 1.0))
        return x + dense(attention(q, k, v).reshape(x.shape), channels, 0.0)
