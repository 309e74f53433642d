"""A multilayer perceptron for low-dimensional data: tutorials, tests, tables of numbers."""

import math

from flax import linen as nn
from jaxtyping import Array, Float

from models.conditioning import Conditioning
from models.layers import EMBEDDINGS, Number, check_option, dense, noise_features


class MLP(nn.Module):
    """F(x, c_noise, cond): x [B, ...] of any event shape, c_noise [B] -> x's shape; zero at initialisation.

        emb = dense(features(c_noise)) + embed(cond)
        h <- h + dense(swish(dense(swish(h)) + dense(swish(emb))))        num_layers times

    cond is labels [B], a vector [B, cond_dim], or both, as `Conditioning` says.
    Errors: ValueError for an option or a cond that does not fit."""

    features: int = 128
    num_layers: int = 3
    embedding: str = "positional"
    fourier_scale: Number = 1.0
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0

    def __post_init__(self) -> None:
        check_option("embedding", self.embedding, EMBEDDINGS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "B ..."]:
        emb = noise_features(c_noise, self.features, self.embedding, self.fourier_scale)
        emb = dense(emb, self.features)
        emb = Conditioning(self.num_classes, self.cond_dim, self.cond_dropout)(emb, cond, train)
        emb = nn.swish(emb.astype(x.dtype))
        h = dense(x.reshape(x.shape[0], -1), self.features)
        for _ in range(self.num_layers):
            r = dense(nn.swish(h), self.features) + dense(emb, self.features)
            h = h + dense(nn.swish(r), self.features)
        return dense(nn.swish(h), math.prod(x.shape[1:]), scale=0.0).reshape(x.shape)
