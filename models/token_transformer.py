"""A transformer over tokens: embeddings, blocks of attention with rotary positions, logits.

    x ── embedding ── block ── … ── block ── norm ── dense ──► logits [B, L, num_outputs]
    c_noise ── features ── dense ── act ── dense ──► c, if `time`

    block    h ── norm ── attention ── + ── norm ── MLP ── + ──►                                             (1)

Queries and keys are rotated by angles that grow with the position (Su et al. 2021, arXiv 2104.09864, eq. 34),

    (q_j, q_{j+d/2}) → rotation by p ω_j,   ω_j = 10000^{−2j/d},                                           (2)

so that attention depends on distances only. Attention is in both directions: every token receives all others. A masked
process requires no noise level (`sde_lib.discrete`). With `time` the norms, which have no gains of their own, are
scaled and shifted by functions of c, as in `models.dit`. The logits are 0 at first.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.dit import modulated, zero_dense
from models.layers import (
    Dropout,
    Number,
    at_least_float32,
    attention,
    check_dtype,
    check_numbers,
    compute_dtype,
    dense,
    noise_features,
)


def rotated(x: Float[Array, "B L heads D"]) -> Float[Array, "B L heads D"]:
    """(2): each pair of features turned by an angle proportional to the position. D is even."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies[None]
    cos, sin = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def normed(h: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Each token normalized to mean 0 and variance 1."""
    nothing = jnp.zeros((h.shape[0], h.shape[2]), h.dtype)
    return modulated(h, nothing, nothing)


class TokenBlock(nn.Module):
    """(1): h [B, L, D], c [B, D] or None → [B, L, D]."""

    heads: int
    mlp_ratio: int = 4
    dropout: Number = 0.0

    @nn.compact
    def __call__(
        self, h: Float[Array, "B L D"], c: Float[Array, "B D"] | None = None, train: bool = False
    ) -> Float[Array, "B L D"]:
        batch, length, features = h.shape
        qkv = dense(self._normed(h, c), 3 * features).reshape(batch, length, 3 * self.heads, -1)
        q, k, v = jnp.split(qkv, 3, axis=2)
        mixed = attention(rotated(q), rotated(k), v).reshape(h.shape)
        h = h + Dropout(self.dropout)(dense(mixed, features), train)
        inner = nn.gelu(dense(self._normed(h, c), self.mlp_ratio * features))
        return h + Dropout(self.dropout)(dense(inner, features), train)

    @nn.nowrap
    def _normed(self, h: Array, c: Array | None) -> Array:
        if c is None:
            return normed(h)
        return modulated(h, *jnp.split(zero_dense(nn.swish(c), 2 * h.shape[-1]), 2, axis=1))


class TokenTransformer(nn.Module):
    """F(x, c_noise): tokens x [B, L], of any length, c_noise [B] → logits [B, L, num_outputs], in float32 or wider.

    `num_states` is the number of values of x: num_tokens + 1 with a mask. `num_outputs` is the number of tokens for
    `PredictTokens`, of states for `PredictRatios`; 0 means num_states − 1, as for the masked process. x may be an array
    of floats that are whole numbers. `time` conditions on c_noise. ValueError for an invalid option or rank of x."""

    num_states: int
    num_outputs: int = 0
    features: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    time: bool = False
    dropout: Number = 0.0
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        check_numbers(self)
        if self.features % (2 * self.heads):
            got = f"features={self.features}, heads={self.heads}"
            raise ValueError(f"TokenTransformer: expected an even number of features per head, got {got}")
        super().__post_init__()

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the logits."""
        return (*shape, self.num_outputs or self.num_states - 1)

    @nn.compact
    def __call__(self, x: Array, c_noise: Float[Array, " B"], train: bool = False) -> Float[Array, "B L V"]:
        if x.ndim != 2:
            raise ValueError(f"TokenTransformer: expected tokens of shape [B, L], got {x.shape}")
        wide = jnp.float64 if c_noise.dtype == jnp.float64 else jnp.float32
        table = nn.Embed(self.num_states, self.features, embedding_init=nn.initializers.normal(0.02))
        h = table(x.astype(jnp.int32)).astype(compute_dtype(self.dtype, c_noise.astype(wide)))
        c = None
        if self.time:
            c = dense(noise_features(1000 * c_noise, self.features, "positional", 1.0), self.features)
            c = dense(nn.swish(c), self.features)
        for _ in range(self.depth):
            h = TokenBlock(self.heads, self.mlp_ratio, self.dropout)(h, c, train)
        return zero_dense(normed(at_least_float32(h)), self.output_shape(x.shape)[-1])
