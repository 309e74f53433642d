"""DiT, a transformer over patches (Peebles & Xie 2023, arXiv 2212.09748, section 3, with adaLN-Zero), for events of
one, two and three spatial axes: signals, images, volumes.

    x ── patches ── dense ── + positions ── block ── … ── block ── norm, modulated ── dense ── patches ──► F
    c_noise ── features ── dense ── act ── dense ── + class, vector ──► c

    block    h ── norm, modulated ── attention ── · gate ── + ── norm, modulated ── MLP ── · gate ── + ──►
             └──────────────────────────────────────────────┘ └──────────────────────────────────────┘
    c ── act ── dense, 0 at first ── shift, scale, gate of each of the two;    modulated:  h (1 + scale) + shift     (1)

A patch is a cube of `patch` positions along every spatial axis. An axis whose length `patch` does not divide is padded
by repeating the last position, and the output is cropped. The norms have no learned gains. Every gate and the last map
start at 0, so at first each block is the identity and F is 0 (adaLN-Zero). Without `positions`, permuting the patches
permutes the output. With `position_counts`, the table of positions is a parameter that is not trained, for images of
that many patches along each axis: a published table (`published_lib`). With `learned_variance` the output has 2 C
channels: F, then the fraction v of a log variance (`sde_lib.solvers`).

Sizes, from Table 1 there, for 32 x 32 x 4 with `patch` 2, 1000 classes and an output of 8 channels (ours has x's):

    DIT_SIZES  S: 33 million parameters   B: 130 million   L: 458 million   XL: 675 million
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.blocks import ContextAttention
from models.conditioning import Conditioned, conditioned
from models.layers import (
    EMBEDDINGS,
    Number,
    at_least_float32,
    attention,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    dense,
    noise_features,
    positional_features,
    rematerialized,
)
from models.resampling import spatial_axes

DIT_SIZES = {
    "S": dict(depth=12, features=384, heads=6),
    "B": dict(depth=12, features=768, heads=12),
    "L": dict(depth=24, features=1024, heads=16),
    "XL": dict(depth=28, features=1152, heads=16),
}
"""Name → the options of `DiT` for that size. Peebles & Xie 2023, table 1."""


def to_patches(x: Float[Array, "B *spatial C"], size: int) -> Float[Array, "B N F"]:
    """The cubes of `size` positions along every axis, as rows: [B, *n, C] -> [B, prod ceil(n/size), size^axes C]."""
    widths = [(0, -x.shape[axis] % size) if axis in spatial_axes(x) else (0, 0) for axis in range(x.ndim)]
    x = jnp.pad(x, widths, mode="edge")
    axes, counts = x.ndim - 2, [n // size for n in x.shape[1:-1]]
    split = x.reshape(x.shape[0], *(n for count in counts for n in (count, size)), x.shape[-1])
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return split.transpose(order).reshape(x.shape[0], math.prod(counts), -1)


def from_patches(h: Float[Array, "B N F"], size: int, shape: tuple[int, ...]) -> Float[Array, "B *spatial C"]:
    """The inverse of `to_patches`, for events of this shape."""
    axes, counts = len(shape) - 1, [-(-n // size) for n in shape[:-1]]
    split = h.reshape(h.shape[0], *counts, *(size,) * axes, shape[-1])
    order = (0, *(axis for i in range(1, axes + 1) for axis in (i, axes + i)), 2 * axes + 1)
    x = split.transpose(order).reshape(h.shape[0], *(count * size for count in counts), shape[-1])
    return x[(slice(None), *(slice(n) for n in shape[:-1]))]


def positions_of(counts: tuple[int, ...], features: int) -> Float[Array, "N features"]:
    """The sines and cosines of each patch's position along every axis, in equal parts; the remaining features are 0.

    ValueError for fewer than 2 features per axis."""
    part = features // (2 * len(counts)) * 2
    if part == 0:
        raise ValueError(
            f"features: expected at least {2 * len(counts)} for {len(counts)} spatial axes, got {features}"
        )
    places = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in counts), indexing="ij")
    table = jnp.concatenate([positional_features(place.reshape(-1), part) for place in places], axis=1)
    return jnp.pad(table, ((0, 0), (0, features - table.shape[1])))


def zero_dense(x: Float[Array, "..."], features: int) -> Float[Array, "..."]:
    """A linear map that starts at 0."""
    return nn.Dense(features, dtype=x.dtype, kernel_init=nn.initializers.zeros)(x)


def modulated(
    h: Float[Array, "B N D"], shift: Float[Array, "B D"], scale: Float[Array, "B D"]
) -> Float[Array, "B N D"]:
    """Eq. (1) of h with each token normalized to mean 0 and variance 1; computed in at least float32."""
    wide = at_least_float32(h)
    centered = wide - wide.mean(axis=-1, keepdims=True)
    normed = centered * jax.lax.rsqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-6)
    shift, scale = (each.astype(wide.dtype)[:, None] for each in (shift, scale))
    return (normed * (1 + scale) + shift).astype(h.dtype)


class DiTBlock(nn.Module):
    """The block above: h [B, N, D], c [B, D] -> [B, N, D]. With a context, attention to it follows the first part."""

    heads: int
    mlp_ratio: int = 4

    @nn.compact
    def __call__(
        self, h: Float[Array, "B N D"], c: Float[Array, "B D"], context: Float[Array, "B L D"] | None = None
    ) -> Float[Array, "B N D"]:
        batch, tokens, features = h.shape
        changes = jnp.split(zero_dense(nn.swish(c), 6 * features), 6, axis=1)
        gates = [gate.astype(h.dtype)[:, None] for gate in changes[2::3]]
        normed = modulated(h, *changes[:2])
        q, k, v = jnp.split(dense(normed, 3 * features).reshape(batch, tokens, 3 * self.heads, -1), 3, axis=2)
        h = h + gates[0] * dense(attention(q, k, v).reshape(h.shape), features)
        if context is not None:
            h = ContextAttention()(h, context)
        inner = nn.gelu(dense(modulated(h, *changes[3:5]), self.mlp_ratio * features))
        return h + gates[1] * dense(inner, features)


class DiT(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    cond is as in `models.conditioning`; dtype and remat are as in NCSNpp. Errors: ValueError for an invalid option,
    rank of x, or cond."""

    features: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    mlp_ratio: int = 4
    positions: bool = True
    embedding: str = "positional"
    frequencies: int = 256
    fourier_scale: Number = 16.0
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0
    cond_channels: int = 0
    context_dim: int = 0
    cond_dropout_each: Number = 0.0
    cond_null: str = "zero"
    position_counts: tuple[int, ...] = ()
    learned_variance: bool = False
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_option("embedding", self.embedding, EMBEDDINGS)
        check_dtype(self.dtype)
        check_numbers(self)
        if self.features % self.heads:
            got = f"features={self.features}, heads={self.heads}"
            raise ValueError(f"DiT: expected heads that divide the features, got {got}")
        super().__post_init__()

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The output's shape for x of this shape: that of x, or with 2 C channels."""
        return (*shape[:-1], shape[-1] * (2 if self.learned_variance else 1))

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        if not 3 <= x.ndim <= 5:
            raise ValueError(f"DiT: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
        c, inputs, context = self._conditioned(x, c_noise, cond, train)
        h = self._tokens(inputs.astype(compute_dtype(self.dtype, x)))
        arrays = (c,) if context is None else (c, context)
        for _ in range(self.depth):
            h = rematerialized(self.remat, self._block)(self, h, *arrays)
        h = modulated(at_least_float32(h), *jnp.split(zero_dense(nn.swish(c), 2 * self.features), 2, axis=1))
        shape = self.output_shape(x.shape)[1:]
        out = zero_dense(h, self.patch ** (x.ndim - 2) * shape[-1])
        return from_patches(out, self.patch, shape).astype(x.dtype)

    @staticmethod
    def _block(module: "DiT", h: Array, *arrays: Array) -> Array:
        return DiTBlock(module.heads, module.mlp_ratio)(h, *arrays)

    @nn.nowrap
    def _conditioned(self, x: Array, c_noise: Array, cond: object, train: bool) -> Conditioned:
        c = dense(noise_features(c_noise, self.frequencies, self.embedding, self.fourier_scale), self.features)
        c = dense(nn.swish(c), self.features)
        return conditioned(self, c, cond, train, x)

    @nn.nowrap
    def _tokens(self, x: Array) -> Array:
        h = dense(to_patches(x, self.patch), self.features)
        counts = tuple(-(-n // self.patch) for n in x.shape[1:-1])
        if self.position_counts:
            h = h + self._table(counts).astype(h.dtype)[None]
        elif self.positions:
            h = h + positions_of(counts, self.features).astype(h.dtype)[None]
        return h

    @nn.nowrap
    def _table(self, counts: tuple[int, ...]) -> Array:
        if counts != self.position_counts:
            raise ValueError(f"DiT: its table of positions has {self.position_counts} patches, x has {counts}")
        table = self.param("positions_table", lambda _: positions_of(counts, self.features))
        return jax.lax.stop_gradient(table)
