"""A multilayer perceptron for low-dimensional data: tutorials, tests, tables of numbers."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.layers import EMBEDDINGS, Number, add_class, check_option, dense, noise_features


class MLP(nn.Module):
    """F(x, c_noise, cond): x [B, ...] of any event shape, c_noise [B] -> x's shape; zero at initialisation.

        emb = dense(features(c_noise)) + embed(cond)
        h <- h + dense(swish(dense(swish(h)) + dense(swish(emb))))        num_layers times

    cond is labels [B] if num_classes > 0 (num_classes itself is the null label, which None stands for), a vector
    [B, cond_dim] if cond_dim > 0 (None stands for zeros), otherwise None.
    Errors: ValueError for an option or a cond that does not fit."""

    features: int = 128
    num_layers: int = 3
    embedding: str = "positional"
    fourier_scale: Number = 1.0
    num_classes: int = 0
    cond_dim: int = 0

    def __post_init__(self) -> None:
        check_option("embedding", self.embedding, EMBEDDINGS)
        if self.num_classes and self.cond_dim:
            raise ValueError(f"MLP: expected num_classes or cond_dim, got both ({self.num_classes}, {self.cond_dim})")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], c_noise: Float[Array, " B"], cond: Array | None = None
    ) -> Float[Array, "B ..."]:
        emb = noise_features(c_noise, self.features, self.embedding, self.fourier_scale)
        emb = dense(emb, self.features).astype(x.dtype)
        emb = nn.swish(self._add_cond(emb, cond))
        h = dense(x.reshape(x.shape[0], -1), self.features)
        for _ in range(self.num_layers):
            r = dense(nn.swish(h), self.features) + dense(emb, self.features)
            h = h + dense(nn.swish(r), self.features)
        return dense(nn.swish(h), math.prod(x.shape[1:]), scale=0.0).reshape(x.shape)

    @nn.nowrap
    def _add_cond(self, emb: Array, cond: Array | None) -> Array:
        if not self.cond_dim:
            return add_class(emb, cond, self.num_classes)
        shape = (emb.shape[0], self.cond_dim)
        vector = jnp.zeros(shape, emb.dtype) if cond is None else cond
        if vector.shape != shape:
            raise ValueError(f"cond: expected a vector of shape {shape}, got {vector.shape}")
        return emb + dense(vector.astype(emb.dtype), self.features, use_bias=False)
