"""The pieces of the U-Nets, for any number of spatial axes: x is [B, *spatial, C].

Resampling by 2 follows a finite impulse response k of length L along every spatial axis (Karras et al. 2020,
arXiv 1912.04958; Zhang 2019, arXiv 1904.11486):

    down:  y[m] = sum_j k[L-1-j] x[2m + j - lo],             sum k = 1,   lo = (L-1)//2              (1)
    up:    y[n] = sum_j k[L-1-j] u[n + j - lo],              sum k = 2,   lo = (L-1)//2 + 1          (2)

where x is zero outside its range, and u is x with a zero after every element. So k = (1, 1) is the mean of
two neighbours in (1) and nearest-neighbour upsampling in (2). Both are sums of shifted slices, one phase of the
output or input at a time: on a CPU that is some thirty times faster than a convolution.

The functions that own parameters (conv, dense, noise_features, add_class) are called inside a compact
method. Everything computes in the dtype of x.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Number = float | int
Taps = Sequence[Number]

EMBEDDINGS = ("positional", "fourier")
RESAMPLINGS = ("none", "up", "down")


def variance_scaling(scale: Number = 1.0) -> nn.initializers.Initializer:
    """Uniform weights of variance scale / fan_avg (Ho et al. 2020); scale 0 means 1e-10, so nearly zero."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def dense(x: Float[Array, "..."], features: int, scale: Number = 1.0, use_bias: bool = True) -> Float[Array, "..."]:
    """A linear map of the last axis; on [B, *spatial, C] it is the 1x1 convolution."""
    return nn.Dense(features, use_bias, dtype=x.dtype, kernel_init=variance_scaling(scale))(x)


def conv(
    x: Float[Array, "..."],
    features: int,
    size: int,
    scale: Number = 1.0,
    stride: int = 1,
    padding: str = "SAME",
) -> Float[Array, "..."]:
    """A convolution of `size` along every spatial axis."""
    axes = x.ndim - 2
    initializer = variance_scaling(scale)
    layer = nn.Conv(features, (size,) * axes, stride, padding, dtype=x.dtype, kernel_init=initializer)
    return layer(x)


def conv3x3(x: Float[Array, "..."], features: int, scale: Number = 1.0) -> Float[Array, "..."]:
    """A convolution over 3 neighbours along every spatial axis, zeros outside."""
    return conv(x, features, 3, scale)


def conv1x1(x: Float[Array, "..."], features: int, scale: Number = 1.0) -> Float[Array, "..."]:
    """A convolution of size 1: a change of channels."""
    return conv(x, features, 1, scale)


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-6) scale + bias, over all positions and the channels of a group (Wu & He 2018).

    There are min(C // 4, 32) groups, or the next fewer that divide C. Mean and variance are at least float32; flax's
    own layer does not take other dtypes under strict promotion, nor does its variance survive a large mean."""

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        groups = max(1, min(channels // 4, 32))
        while channels % groups:
            groups -= 1
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        wide = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32).reshape(batch, -1, channels)

        def group_mean(values: Array) -> Array:
            # Positions before channels: two small reductions instead of one over a transposed array.
            means = values.mean(axis=1).reshape(batch, groups, -1).mean(axis=2)
            return jnp.repeat(means, channels // groups, axis=1)[:, None]

        centred = wide - group_mean(wide)
        factor = jax.lax.rsqrt(group_mean(centred**2) + 1e-6) * scale.astype(wide.dtype)[None, None]
        return (centred * factor + bias.astype(wide.dtype)[None, None]).astype(x.dtype).reshape(x.shape)


def over_sqrt2(x: Float[Array, "..."], rescale: bool) -> Float[Array, "..."]:
    """x / sqrt(2) if rescale: keeps the variance of a sum of two branches (Song et al. 2021, section H)."""
    return x / math.sqrt(2.0) if rescale else x


# Embeddings of the noise level


def positional_features(c_noise: Float[Array, " B"], dim: int) -> Float[Array, "B dim"]:
    """(sin w_k c, cos w_k c) with w_k = 10000^(-k/(half-1)), k < half = dim // 2; an odd dim ends in a zero.

    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) / max(half - 1, 1) * jnp.arange(half, dtype=c_noise.dtype))
    angles = c_noise[:, None] * frequencies[None]
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, dim % 2)))


class GaussianFourierProjection(nn.Module):
    """(sin 2 pi W c, cos 2 pi W c) with W ~ N(0, scale^2) drawn once and held fixed: [B] -> [B, 2 dim].

    Source: Tancik et al. 2020, section 5; Song et al. 2021, section H.1."""

    dim: int
    scale: Number = 16.0

    @nn.compact
    def __call__(self, c_noise: Float[Array, " B"]) -> Float[Array, "B features"]:
        frequencies = self.param("W", nn.initializers.normal(self.scale), (self.dim,))
        frequencies = jax.lax.stop_gradient(frequencies).astype(c_noise.dtype)
        angles = c_noise[:, None] * frequencies[None] * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def noise_features(c_noise: Float[Array, " B"], dim: int, embedding: str, scale: Number) -> Float[Array, "B features"]:
    """`dim` positional features of c_noise, or the sine and cosine of its product with `dim` random frequencies."""
    if embedding == "fourier":
        return GaussianFourierProjection(dim, scale)(c_noise)
    return positional_features(c_noise, dim)


def add_class(emb: Float[Array, "B E"], cond: Array | None, num_classes: int) -> Float[Array, "B E"]:
    """emb plus a learned vector for each label; cond is integers [B]; None stands for the null label num_classes.

    Errors: ValueError for a cond without classes, or one that is not integers [B]."""
    if num_classes == 0:
        if cond is not None:
            raise ValueError("cond: expected None, since the network has num_classes=0, got an array")
        return emb
    batch = emb.shape[:1]
    labels = jnp.full(batch, num_classes, jnp.int32) if cond is None else cond
    if labels.shape != batch or not jnp.issubdtype(labels.dtype, jnp.integer):
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"cond: expected integer labels of shape {batch}, got {got}")
    return emb + nn.Embed(num_classes + 1, emb.shape[-1], dtype=emb.dtype)(labels)


def check_option(name: str, value: str, valid: Sequence[str]) -> None:
    """Raises ValueError, listing the valid values, unless value is one of them."""
    if value not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, valid))}, got {value!r}")


# Resampling


def _taps(taps: Taps, gain: float) -> list[float]:
    total = sum(taps)
    if len(taps) < 2 or total == 0:
        raise ValueError(f"taps: expected at least two numbers with a sum other than 0, got {tuple(taps)}")
    return [float(gain * tap / total) for tap in reversed(taps)]


def _pad(x: Array, axis: int, low: int, high: int, mode: str = "constant") -> Array:
    return jnp.pad(x, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)], mode=mode)


def _window(x: Array, axis: int, start: int, length: int) -> Array:
    return jax.lax.slice_in_dim(x, start, start + length, axis=axis)


def _spatial(x: Array) -> range:
    return range(1, x.ndim - 1)


def fir_upsample(x: Float[Array, "..."], taps: Taps = (1, 1)) -> Float[Array, "..."]:
    """Twice the size along every spatial axis, filtered by taps: eq. (2). [B, *n, C] -> [B, *2n, C]."""
    kernel = _taps(taps, 2.0)
    for axis in _spatial(x):
        x = _upsample_axis(x, axis, kernel)
    return x


def _upsample_axis(x: Array, axis: int, kernel: list[float]) -> Array:
    # y[2m + r] takes the taps j with r + j - lo even, which meet x[m + (r + j - lo) / 2].
    n, low = x.shape[axis], (len(kernel) - 1) // 2 + 1
    margin = len(kernel)
    padded = _pad(x, axis, margin, margin)
    phases = []
    for r in (0, 1):
        shifts = [((r + j - low) // 2, k) for j, k in enumerate(kernel) if (r + j - low) % 2 == 0]
        phases.append(sum(k * _window(padded, axis, margin + shift, n) for shift, k in shifts))
    stacked = jnp.stack(phases, axis=axis + 1)
    return stacked.reshape((*x.shape[:axis], 2 * n, *x.shape[axis + 1 :]))


def fir_downsample(x: Float[Array, "..."], taps: Taps = (1, 1)) -> Float[Array, "..."]:
    """Half the size along every spatial axis, filtered by taps: eq. (1). [B, *n, C] -> [B, *ceil(n/2), C].

    An odd size is first made even by repeating its last element."""
    kernel = _taps(taps, 1.0)
    x = pad_to_even(x)
    for axis in _spatial(x):
        x = _downsample_axis(x, axis, kernel)
    return x


def _downsample_axis(x: Array, axis: int, kernel: list[float]) -> Array:
    n, length = x.shape[axis], len(kernel)
    # An odd number of taps needs one more zero, so that the two phases have the same size.
    padded = _pad(x, axis, (length - 1) // 2, (length - 2) // 2 + length % 2)
    halves = padded.reshape((*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]))
    phases = [jax.lax.index_in_dim(halves, r, axis + 1, keepdims=False) for r in (0, 1)]
    return sum(k * _window(phases[j % 2], axis, j // 2, n // 2) for j, k in enumerate(kernel))


def fir_filter(x: Float[Array, "..."], taps: Taps, low: int, high: int) -> Float[Array, "..."]:
    """taps at full rate along every spatial axis after zeros of low and high: n -> n + low + high - L + 1."""
    kernel = _taps(taps, 1.0)
    for axis in _spatial(x):
        n = x.shape[axis] + low + high - len(kernel) + 1
        padded = _pad(x, axis, low, high)
        x = sum(k * _window(padded, axis, j, n) for j, k in enumerate(kernel))
    return x


def pad_to_even(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Repeats the last element along every spatial axis of odd size."""
    for axis in _spatial(x):
        x = _pad(x, axis, 0, x.shape[axis] % 2, mode="edge")
    return x


def crop_like(x: Float[Array, "..."], other: Float[Array, "..."]) -> Float[Array, "..."]:
    """The leading part of x with the spatial sizes of other: the inverse of pad_to_even after upsampling."""
    return x[(slice(None), *(slice(other.shape[axis]) for axis in _spatial(x)))]


# Blocks


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
        h = h + jnp.expand_dims(shift, tuple(_spatial(h)))
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
