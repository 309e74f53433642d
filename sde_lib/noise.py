"""Randomness: every sample owns its key.

Keys are passed as an array [B], one per sample, and noise is drawn sample by sample. So the noise of sample i depends
on the seed and on i only: not on the batch size, the other samples, or the number of devices.
"""

import jax
from jaxtyping import Array, Float, Integer, Key

from sde_lib.numbers.keys import require_key, require_keys


def sample_keys(key: Key[Array, ""], indices: Integer[Array, " B"]) -> Key[Array, " B"]:
    """One key per sample: fold_in(key, i) for each i in `indices`, the global indices of the samples."""
    require_key(key)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold(keys: Key[Array, " B"], data: int | Integer[Array, ""]) -> Key[Array, " B"]:
    """fold_in(key, data) of each sample's key: a new, independent stream for the step or purpose `data`."""
    require_keys(keys)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def answer_keys(
    key: Key[Array, ""], observations: Integer[Array, " B"], answers: Integer[Array, " B"]
) -> Key[Array, " B"]:
    """One key per answer: fold_in(fold_in(key, i), j) for answer j to observation i."""
    require_key(key)
    return jax.vmap(lambda i, j: jax.random.fold_in(jax.random.fold_in(key, i), j))(observations, answers)


def normal(keys: Key[Array, " B"], shape: tuple[int, ...], dtype=None) -> Float[Array, "B ..."]:
    """Standard normal noise [B, *shape]; row i is a function of keys[i]."""
    require_keys(keys)
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def normal_like(keys: Key[Array, " B"], x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Standard normal noise of x's shape and dtype; row i is a function of keys[i]."""
    return normal(keys, x.shape[1:], x.dtype)
