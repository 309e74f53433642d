"""A multilayer perceptron with residual layers for low-dimensional data: tutorials, tests, tabular data.

    x ── dense ── + ── … ── + ── swish ── dense, nearly 0 at first ──► F          `num_layers` times the inner part
                  └ h ── swish, dense ── + ── swish, dense ──► + h
    c_noise ── features ── dense ── + cond ── swish ── dense ┘

The features are those of Ho et al. 2020 (positional), or random Fourier features (Tancik et al. 2020, arXiv 2006.10739,
section 5; Song et al. 2021, section H).
"""

import math

from flax import linen as nn
from jaxtyping import Array, Float

from models.blocks import ContextAttention
from models.conditioning import conditioned
from models.layers import (
    EMBEDDINGS,
    Number,
    at_least_float32,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    dense,
    noise_features,
)


class MLP(nn.Module):
    """F(x, c_noise, cond): x [B, ...] of any event shape, c_noise [B] -> x's shape; nearly zero at initialization.

        emb = dense(features(c_noise)) + embed(cond)
        h <- h + dense(swish(dense(swish(h)) + dense(swish(emb))))        num_layers times

    cond is as in `models.conditioning`: a field is concatenated with x, a sequence is attended to by emb. dtype is as
    in NCSNpp.
    Errors: ValueError for an invalid option or cond."""

    features: int = 128
    num_layers: int = 3
    embedding: str = "positional"
    fourier_scale: Number = 1.0
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0
    cond_channels: int = 0
    context_dim: int = 0
    cond_dropout_each: Number = 0.0
    cond_null: str = "zero"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_option("embedding", self.embedding, EMBEDDINGS)
        check_dtype(self.dtype)
        check_numbers(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "B ..."]:
        emb = noise_features(c_noise, self.features, self.embedding, self.fourier_scale)
        emb = dense(emb, self.features)
        emb, inputs, context = conditioned(self, emb, cond, train, x)
        if context is not None:
            emb = ContextAttention()(emb, context)
        emb = nn.swish(emb)
        h = dense(inputs.reshape(x.shape[0], -1).astype(compute_dtype(self.dtype, x)), self.features)
        for _ in range(self.num_layers):
            r = dense(nn.swish(h), self.features) + dense(emb, self.features).astype(h.dtype)
            h = h + dense(nn.swish(r), self.features)
        out = dense(nn.swish(at_least_float32(h)), math.prod(x.shape[1:]), scale=0.0)
        return out.astype(x.dtype).reshape(x.shape)
