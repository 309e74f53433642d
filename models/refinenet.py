"""The parts of NCSN and NCSNv2: residual blocks, and the RefineNet that joins their levels.

A residual network computes the levels, each smaller or more dilated than the one before. From the lowest level up, a
refine block then joins each level with the output of the block below (Lin et al. 2017, arXiv 1611.06612, figures 2 and
3; Song & Ermon 2019, arXiv 1907.05600, appendix A):

    level of the residual network ── RCU ─┐
                                          ├─ MSF: conv each, resize to the larger, add ── CRP ── RCU ──►
    from the refine block below ──── RCU ─┘

    RCU    x + conv(act(conv(act x))), twice at the inputs, once at the output
           (three times in the last block)                                             residual convolution units
    CRP    x ← act x, p ← x; then twice:  p ← conv(pool p),  x ← x + p                 chained residual pooling
    MSF    multi-resolution fusion

    block  x ── norm, act, conv ── norm, act, conv ── + ──►       a halving block averages 2 neighbors after its last
           └────────────── conv, if needed ──────────┘            convolutions; a dilated block does not halve

In NCSN there is also a norm before each activation of an RCU and before each convolution of CRP and MSF, and the pool
is a mean. In NCSNv2 the pool is a maximum. The norm is instance normalization plus. Let μ, s² be the mean and variance
of a channel of an image over the positions, and m, v² those of μ over the channels:

    γ ((x − μ)/s + α (μ − m)/v) + β,    α, β, γ per channel, and in NCSN per channel and noise level               (1)

x is [B, *spatial, C], for any number of spatial axes. Everything computes in the dtype of x, moments in at least
float32.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from models.layers import at_least_float32, dense
from models.resampling import fir_downsample, fir_filter, spatial_axes

Map = Callable[[Array], Array]


def ncsn_conv(
    x: Float[Array, "..."], features: int, size: int = 3, dilation: int = 1, use_bias: bool = True
) -> Float[Array, "..."]:
    """A convolution whose weights and bias start uniform within ±1/sqrt(fan_in), as the published ones do."""
    axes = x.ndim - 2
    bound = 1 / math.sqrt(x.shape[-1] * size**axes)

    def within_bound(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Conv(
        features,
        (size,) * axes,
        kernel_dilation=dilation,
        use_bias=use_bias,
        dtype=x.dtype,
        kernel_init=within_bound,
        bias_init=within_bound,
    )(x)


class InstanceNormPlus(nn.Module):
    """Eq. (1). With `num_levels` each level [B] has its own α, β, γ; emb [B, E], if not None, shifts all three.

    The variance v² over C channels divides by C, or by C − 1 if `unbiased`."""

    num_levels: int = 0
    unbiased: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        level: Integer[Array, " B"] | None = None,
        emb: Float[Array, "B E"] | None = None,
    ) -> Float[Array, "B *spatial C"]:
        wide = at_least_float32(x)
        alpha, gamma, beta = (gain.astype(wide.dtype) for gain in self._gains(x.shape[-1], level, emb))
        mean = wide.mean(axis=tuple(spatial_axes(x)))
        across = _standardized(mean, (1,), int(self.unbiased))
        within = _standardized(wide, tuple(spatial_axes(x)))
        return (_at(gamma, x) * (within + _at(alpha * across, x)) + _at(beta, x)).astype(x.dtype)

    @nn.nowrap
    def _gains(self, channels: int, level: Array | None, emb: Array | None) -> list[Array]:
        """α, γ, β, each [1, C] or [B, C]."""
        shape = (self.num_levels, channels) if self.num_levels else (channels,)
        about_1 = lambda key, shape, dtype: 1 + 0.02 * jax.random.normal(key, shape, dtype)  # noqa: E731
        starts = {"alpha": about_1, "gamma": about_1, "beta": nn.initializers.zeros}
        gains = [self.param(name, start, shape, jnp.float32) for name, start in starts.items()]
        gains = [gain[level] if self.num_levels else gain[None] for gain in gains]
        if emb is not None:
            shifts = jnp.split(dense(nn.elu(emb), 3 * channels, 0.0), 3, axis=1)
            gains = [gain.astype(emb.dtype) + shift for gain, shift in zip(gains, shifts, strict=True)]
        return gains


def _standardized(x: Array, axes: tuple[int, ...], ddof: int = 0) -> Array:
    centered = x - x.mean(axis=axes, keepdims=True)
    count = math.prod(x.shape[axis] for axis in axes) - ddof
    return centered * jax.lax.rsqrt((centered**2).sum(axis=axes, keepdims=True) / max(count, 1) + 1e-5)


def _at(gain: Array, x: Array) -> Array:
    """[B, C] with the axes of x."""
    return jnp.expand_dims(gain, tuple(spatial_axes(x)))


class ConvMeanPool(nn.Module):
    """A convolution, then the mean of two neighbors along every spatial axis: [B, *n, C] -> [B, *ceil(n/2), F]."""

    features: int
    size: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return fir_downsample(ncsn_conv(x, self.features, self.size))


class DilatedBlock(nn.Module):
    """A residual block of the down path. The first convolution changes the channels, or with `down` the last one; with
    `down` and without dilation the block halves the size."""

    features: int
    down: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "..."], norm: Map, act: Map) -> Float[Array, "..."]:
        inner = x.shape[-1] if self.down else self.features
        h = ncsn_conv(act(norm(x)), inner, dilation=self.dilation)
        h = act(norm(h))
        if self.down and self.dilation == 1:
            return ConvMeanPool(self.features)(h) + ConvMeanPool(self.features, size=1)(x)
        h = ncsn_conv(h, self.features, dilation=self.dilation)
        if self.down or x.shape[-1] != self.features:
            x = ncsn_conv(x, self.features, 1 if self.dilation == 1 else 3, self.dilation)
        return h + x


class RCUBlock(nn.Module):
    """`units` residual convolution units."""

    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "..."], norm: Map, act: Map) -> Float[Array, "..."]:
        for _ in range(self.units):
            h = x
            for _ in range(2):
                h = ncsn_conv(act(norm(h)), x.shape[-1], use_bias=False)
            x = x + h
        return x


def mean_of_5(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The mean of 5 neighbors along every spatial axis, zeros outside."""
    return fir_filter(x, (1,) * 5, 2, 2)


def max_of_5(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The largest of 5 neighbors along every spatial axis."""
    return nn.max_pool(x, (5,) * (x.ndim - 2), padding="SAME")


class CRPBlock(nn.Module):
    """Chained residual pooling over 5 neighbors along every spatial axis."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "..."], norm: Map, act: Map, pool: Map) -> Float[Array, "..."]:
        x = act(x)
        path = x
        for _ in range(2):
            path = ncsn_conv(pool(norm(path)), self.features, use_bias=False)
            x = x + path
        return x


class MSFBlock(nn.Module):
    """The sum of all inputs, each convolved and resized to the size of the first."""

    features: int

    @nn.compact
    def __call__(self, inputs: list[Array], norm: Map, resize: Callable[..., Array]) -> Float[Array, "..."]:
        size = inputs[0].shape[1:-1]
        return reduce(jnp.add, (resize(ncsn_conv(norm(x), self.features), size) for x in inputs))


class RefineBlock(nn.Module):
    """One refine block. Inputs: a level and the output of the block below; at the lowest level, the level alone."""

    features: int
    end: bool = False

    @nn.compact
    def __call__(
        self, inputs: list[Array], norm: Map, act: Map, pool: Map, resize: Callable[..., Array]
    ) -> Float[Array, "..."]:
        adapted = [RCUBlock(2)(x, norm, act) for x in inputs]
        h = MSFBlock(self.features)(adapted, norm, resize) if len(inputs) > 1 else adapted[0]
        h = CRPBlock(self.features)(h, norm, act, pool)
        return RCUBlock(3 if self.end else 1)(h, norm, act)


def resized(x: Float[Array, "..."], size: tuple[int, ...], method: str = "linear") -> Float[Array, "..."]:
    """x interpolated to a larger size: [B, *n, C] -> [B, *size, C].

    "linear" and "nearest" interpolate between the centers of the pixels; "corners" is linear, with the first and last
    positions of input and output aligned."""
    if x.shape[1:-1] == tuple(size):
        return x
    if method != "corners":
        return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), method)
    for axis, n in zip(spatial_axes(x), size, strict=True):
        x = _between_corners(x, axis, n)
    return x


def _between_corners(x: Array, axis: int, n: int) -> Array:
    last = x.shape[axis] - 1
    place = jnp.linspace(0.0, last, n)
    low = jnp.clip(jnp.floor(place), 0, max(last - 1, 0)).astype(jnp.int32)
    weight = (place - low.astype(place.dtype)).astype(x.dtype)
    weight = jnp.expand_dims(weight, [i for i in range(x.ndim) if i != axis])
    below, above = jnp.take(x, low, axis), jnp.take(x, jnp.minimum(low + 1, last), axis)
    return below * (1 - weight) + above * weight
