"""Conditioning: class labels, a vector, or both. All networks share this embedding.

    labels [B]          ── E[label]     ─┐
    vector [B, cond_dim] ── W vector    ─┴─ + emb [B, F]

    cond          meaning
    labels        classes 0 … num_classes − 1, or num_classes: the null label, for no class
    vector        any real numbers: augmentation parameters, an embedding of text; zeros add nothing (no bias)
    (both)        a pair, for a network with both; each may be None; labels alone are (labels, None)
    None          the null label, and the vector of zeros

In training, an example's cond is replaced by None with probability `dropout`. So one network learns the conditional and
the unconditional score (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.layers import Number, dense


class Conditioning(nn.Module):
    """emb [B, F] -> emb + E[label] + W vector; without classes and vector it is emb, and there are no parameters.

    Errors: ValueError for a cond of another kind, shape or dtype."""

    num_classes: int = 0
    cond_dim: int = 0
    dropout: Number = 0.0

    @nn.compact
    def __call__(self, emb: Float[Array, "B F"], cond: object = None, train: bool = False) -> Float[Array, "B F"]:
        labels, vector = self._parts(emb, cond)
        conditioned = self._conditioned(emb.shape[0], train)
        if labels is not None:
            labels = labels if conditioned is None else jnp.where(conditioned, labels, self.num_classes)
            emb = emb + nn.Embed(self.num_classes + 1, emb.shape[-1], dtype=emb.dtype)(labels)
        if vector is not None:
            vector = vector.astype(emb.dtype)
            if conditioned is not None:
                vector = jnp.where(conditioned[:, None], vector, jnp.zeros_like(vector))
            emb = emb + dense(vector, emb.shape[-1], use_bias=False)
        return emb

    @nn.nowrap
    def _parts(self, emb: Array, cond: object) -> tuple[Array | None, Array | None]:
        """The labels if there are classes, and the vector if there is one."""
        if not (self.num_classes or self.cond_dim):
            if cond is not None:
                raise ValueError("cond: expected None, since the network has num_classes=0 and cond_dim=0, got one")
            return None, None
        if self.num_classes and self.cond_dim:
            pair = cond if isinstance(cond, tuple | list) else (cond, None)
            if len(pair) != 2:
                raise ValueError(f"cond: expected a pair (labels, vector), got {len(pair)} values")
            labels, vector = pair
        else:
            labels, vector = (cond, None) if self.num_classes else (None, cond)
        batch = emb.shape[0]
        return (
            checked_labels(labels, batch, self.num_classes) if self.num_classes else None,
            checked_vector(vector, batch, self.cond_dim, emb.dtype) if self.cond_dim else None,
        )

    @nn.nowrap
    def _conditioned(self, batch: int, train: bool) -> Array | None:
        """[B], false for examples whose cond is dropped; None if none is ever dropped."""
        if not train or not self.dropout or not (self.num_classes or self.cond_dim):
            return None
        return jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, (batch,))


def checked_labels(labels: object, batch: int, num_classes: int) -> Array:
    """The labels, or for None the null label num_classes everywhere. ValueError unless they are integers [B]."""
    if labels is None:
        return jnp.full(batch, num_classes, jnp.int32)
    shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", None)
    if shape != (batch,) or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        got = type(labels).__name__ if shape is None else f"{dtype} of shape {shape}"
        raise ValueError(f"cond: expected integer labels of shape {(batch,)}, got {got}")
    return jnp.asarray(labels)


def checked_vector(vector: object, batch: int, size: int, dtype: jnp.dtype) -> Array:
    """The vector, or for None zeros. ValueError unless it is of shape [B, size]."""
    if vector is None:
        return jnp.zeros((batch, size), dtype)
    shape = getattr(vector, "shape", None)
    if shape != (batch, size):
        got = type(vector).__name__ if shape is None else shape
        raise ValueError(f"cond: expected a vector of shape {(batch, size)}, got {got}")
    return jnp.asarray(vector)
