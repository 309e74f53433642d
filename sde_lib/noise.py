"""Randomness: every sample owns its key.

Keys travel as an array [B], one a sample, and noise is drawn sample by sample. So what sample i sees depends on the
seed and on i alone: not on the batch size, on its neighbors, or on how many devices share the batch.
"""

import jax
from jaxtyping import Array, Float, Integer, Key


def sample_keys(key: Key[Array, ""], indices: Integer[Array, " B"]) -> Key[Array, " B"]:
    """One key for each sample: fold_in(key, i) for i in `indices`, the samples' global numbers."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold(keys: Key[Array, " B"], data: int | Integer[Array, ""]) -> Key[Array, " B"]:
    """The same fold_in for every sample: a new, independent stream for step or purpose `data`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, " B"], shape: tuple[int, ...], dtype=None) -> Float[Array, "B ..."]:
    """Standard normal noise [B, *shape]; row i is a function of keys[i]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def normal_like(keys: Key[Array, " B"], x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Standard normal noise of x's shape and dtype; row i is a function of keys[i]."""
    return normal(keys, x.shape[1:], x.dtype)
