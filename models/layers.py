"""The layers of the networks, for any number of spatial axes: x is [B, *spatial, C].

The functions that own parameters (conv, dense, noise_features) are called inside a compact method. Everything computes
in the dtype of x, with float32 parameters. So a network computes in bfloat16 if it casts x first. The parts that are
sensitive to rounding stay in float32:

    x ── cast ── convolutions, maps, activations: bfloat16 ──────────────────── cast ── last norm and convolution ──►
                   │ norms: moments, scale and shift in float32          │ the softmax of attention in float32
    c_noise ── features, maps of the embedding: float32 ── cast, added to each block
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.xla import dropout_stream, group_moments, random_halves

Number = float | int

DTYPES = ("bfloat16", "float32")
EMBEDDINGS = ("positional", "fourier", "timestep")
NONLINEARITIES = ("swish", "elu", "relu", "lrelu")


def compute_dtype(name: str | None, x: Array) -> jnp.dtype:
    """The dtype of that name, or x's own for None. float16 is not offered: it requires scaled losses."""
    return x.dtype if name is None else jnp.dtype(name)


def at_least_float32(x: Array) -> Array:
    """x, in float32 if its dtype is narrower."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def check_dtype(name: str | None) -> None:
    """Raises ValueError, listing the valid ones, unless the name is None or one of them."""
    if name is not None:
        check_option("dtype", name, DTYPES)


POSITIVE = (
    "nf",
    "emb_mult",
    "min_group",
    "max_groups",
    "features",
    "depth",
    "heads",
    "patch",
    "mlp_ratio",
    "frequencies",
    "head_features",
    "num_levels",
)
NOT_NEGATIVE = (
    "num_classes",
    "noise_features",
    "num_heads",
    "min_attention",
    "cond_dim",
    "cond_channels",
    "context_dim",
    "num_layers",
    "num_res_blocks",
)
PROBABILITIES = ("dropout", "cond_dropout", "cond_dropout_each")


def check_numbers(module: nn.Module) -> None:
    """Raises ValueError for a width below 1, a negative count, or a probability outside [0, 1]."""
    for names, low, high in ((POSITIVE, 1, math.inf), (NOT_NEGATIVE, 0, math.inf), (PROBABILITIES, 0, 1)):
        for name in names:
            value = getattr(module, name, low)
            if not low <= value <= high:
                limit = "" if high == math.inf else f" and <= {high}"
                raise ValueError(f"{type(module).__name__}: expected {name} >= {low}{limit}; got {name}={value:g}")


def rematerialized(wanted: bool, block: Callable[..., Array]) -> Callable[..., Array]:
    """`block(module, *arrays)`, which makes its layers in `module`; if `wanted`, the backward pass recomputes it.

    Then only the inputs of each block are stored (Chen et al. 2016, arXiv 1604.06174): less memory, for one more
    forward pass. The parameters have the same names, and dropout draws the same mask again."""
    return nn.remat(block) if wanted else block


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
    padding: str | int = "SAME",
) -> Float[Array, "..."]:
    """A convolution of `size` along every spatial axis."""
    axes = x.ndim - 2
    initializer = variance_scaling(scale)
    layer = nn.Conv(features, (size,) * axes, stride, padding, dtype=x.dtype, kernel_init=initializer)
    return layer(x)


def conv3x3(x: Float[Array, "..."], features: int, scale: Number = 1.0) -> Float[Array, "..."]:
    """A convolution over 3 neighbors along every spatial axis, zeros outside."""
    return conv(x, features, 3, scale)


def conv1x1(x: Float[Array, "..."], features: int, scale: Number = 1.0) -> Float[Array, "..."]:
    """A convolution of size 1: a change of channels."""
    return conv(x, features, 1, scale)


def activation(name: str) -> Callable[[Array], Array]:
    """The non-linearity of that name; "lrelu" has slope 0.2 below zero. ValueError, listing them, for another name."""
    check_option("nonlinearity", name, NONLINEARITIES)
    return partial(nn.leaky_relu, negative_slope=0.2) if name == "lrelu" else getattr(nn, name)


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) scale + bias, over all positions and the channels of a group (Wu & He 2018).

    There are min(C // min_group, max_groups) groups, or the next smaller number that divides C. Mean and variance are
    computed in at least float32. flax's own layer fails for other dtypes under strict promotion, and loses the variance
    if the mean is large."""

    min_group: int = 4
    max_groups: int = 32
    eps: Number = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        batch, *_, channels = x.shape
        groups = max(1, min(channels // self.min_group, self.max_groups))
        while channels % groups:
            groups -= 1
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        shifted, mean, variance = group_moments(at_least_float32(x).reshape(batch, -1, channels), groups)
        factor = jax.lax.rsqrt(variance + self.eps) * scale.astype(shifted.dtype)[None, None]
        offset = bias.astype(shifted.dtype)[None, None] - mean * factor
        return (shifted * factor + offset).astype(x.dtype).reshape(x.shape)


def attention(
    q: Float[Array, "B N heads D"], k: Float[Array, "B M heads D"], v: Float[Array, "B M heads D"]
) -> Float[Array, "B N heads D"]:
    """softmax(q k^T / sqrt D) v for each head, in the dtype of q; the softmax is always in float32."""
    with jax.numpy_dtype_promotion("standard"):  # inside, jax mixes q's dtype with float32
        return jax.nn.dot_product_attention(q, k, v)


class Dropout(nn.Module):
    """In training, entries of x [..., C] are 0 with probability `rate`, the others divided by 1 − rate.

    An entry uses 16 random bits, so the rate is rounded to a multiple of 2^−16. The mask is a function of the key, the
    layer and the entry's index. Error: ValueError for a rate outside [0, 1)."""

    rate: Number = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1 - 2**-16:
            raise ValueError(f"dropout: expected 0 or more, below 1, got {self.rate}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool = False) -> Float[Array, "..."]:
        dropped = round(self.rate * 2**16)
        if not train or not dropped:
            return x
        keep = random_halves(*dropout_stream(self), x.shape) >= dropped
        return jnp.where(keep, x / (1 - dropped / 2**16), jnp.zeros_like(x))


def over_sqrt2(x: Float[Array, "..."], rescale: bool) -> Float[Array, "..."]:
    """x / sqrt(2) if rescale: preserves the variance of a sum of two branches (Song et al. 2021, section H)."""
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


def timestep_features(c_noise: Float[Array, " B"], dim: int) -> Float[Array, "B dim"]:
    """(cos w_k c, sin w_k c) with w_k = 10000^(-k/half), k < half = dim // 2; an odd dim ends in a zero.

    Those of the networks after Nichol & Dhariwal 2021 (arXiv 2102.09672, their code); the lowest frequency is not
    1/10000, as in `positional_features`, but a step above it."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) / max(half, 1) * jnp.arange(half, dtype=c_noise.dtype))
    angles = c_noise[:, None] * frequencies[None]
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, dim % 2)))


class GaussianFourierProjection(nn.Module):
    """(sin 2 pi W c, cos 2 pi W c) with W ~ N(0, scale^2) drawn once and not trained: [B] -> [B, 2 dim].

    Source: Tancik et al. 2020, section 5; Song et al. 2021, section H.1."""

    dim: int
    scale: Number = 16.0

    @nn.compact
    def __call__(self, c_noise: Float[Array, " B"]) -> Float[Array, "B features"]:
        frequencies = self.param("W", nn.initializers.normal(self.scale), (self.dim,), jnp.float32)
        frequencies = jax.lax.stop_gradient(frequencies).astype(c_noise.dtype)
        angles = c_noise[:, None] * frequencies[None] * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def noise_features(c_noise: Float[Array, " B"], dim: int, embedding: str, scale: Number) -> Float[Array, "B features"]:
    """`dim` positional or timestep features of c_noise, or sine and cosine of its product with `dim` random numbers."""
    if embedding == "fourier":
        return GaussianFourierProjection(dim, scale)(c_noise)
    return positional_features(c_noise, dim) if embedding == "positional" else timestep_features(c_noise, dim)


def check_option(name: str, value: str, valid: Sequence[str]) -> None:
    """Raises ValueError, listing the valid values, unless value is one of them."""
    if value not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, valid))}, got {value!r}")
