"""Keys of JAX, indices of samples, and conditions, where they are given: the error says what to write."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.numbers import concrete


def require_key(key: Any) -> None:
    """Raises TypeError unless it is one key: jax.random.key(0), or a raw one, jax.random.PRNGKey(0)."""
    if _axes_of_keys(key) != 0:
        raise TypeError(f"key: expected one key, jax.random.key(0) for instance; got {described(key)}")


def require_keys(keys: Any) -> None:
    """Raises TypeError unless these are keys on one axis or more."""
    if _axes_of_keys(keys) < 1:
        example = "sample_keys(jax.random.key(0), jnp.arange(n))"
        raise TypeError(f"keys: expected one key for each sample, {example}; got {described(keys)}")


def require_indices(indices: Any) -> None:
    """Raises TypeError unless these are whole numbers [B]."""
    if jnp.ndim(indices) != 1 or not jnp.issubdtype(getattr(indices, "dtype", object), np.integer):
        raise TypeError(f"indices: expected whole numbers [B], jnp.arange(5) for instance; got {described(indices)}")


def rows_of_shape(x: Any, shape: tuple[int, ...]) -> Any:
    """x as an array, of NumPy or JAX. Raises ValueError unless it is [B, *shape]."""
    if is_key(x) or np.ndim(x) == 0 or np.shape(x)[1:] != shape:
        got = np.shape(x) if not is_key(x) and np.ndim(x) else described(x)
        raise ValueError(f"expected data of shape [B, {', '.join(map(str, shape))}], got {got}")
    return x if isinstance(x, jax.Array) else np.asarray(x)


def require_rows(cond: Any, rows: int) -> None:
    """Raises ValueError unless all arrays of the condition have these rows."""
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(cond)}
    if wrong := [shape for shape in shapes if shape[:1] != (rows,)]:
        raise ValueError(f"cond: expected {rows} rows, one for each sample; got shape {wrong[0]}")


def require_labels(labels: Any, classes: int) -> None:
    """Raises ValueError for whole numbers outside 0 … classes, if they are concrete; 0 classes: nothing is checked."""
    whole = jnp.issubdtype(getattr(labels, "dtype", object), np.integer)
    values = concrete(labels) if classes and whole else None
    if values is not None and np.any((values < 0) | (values > classes)):
        bad = ", ".join(f"{v:g}" for v in np.unique(values[(values < 0) | (values > classes)])[:5])
        raise ValueError(f"cond: expected labels from 0 to {classes - 1}, or {classes} for no class; got {bad}")


def by_rows(program: Callable, *rows: Any) -> Any:
    """program(*rows); without rows its result is empty, of the shapes that one row has."""
    if len(rows[0]):
        return program(*rows)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *jnp.shape(a)[1:]), jnp.asarray(a).dtype), rows)
    return jax.tree.map(lambda a: jnp.zeros((0, *a.shape[1:]), a.dtype), jax.eval_shape(program, *one))


def is_key(value: Any) -> bool:
    """Whether it is a key, or an array of keys, of the typed kind."""
    return jnp.issubdtype(getattr(value, "dtype", np.dtype(object)), jax.dtypes.prng_key)


def described(value: Any) -> str:
    """For errors: `int 0`, `float32 of shape (3, 2)`."""
    if is_key(value):
        return f"keys of shape {value.shape}" if value.shape else "one key"
    if getattr(value, "shape", ()):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, bool | int | float | str) else type(value).__name__


def _axes_of_keys(value: Any) -> int:
    """The number of axes of an array of keys; −1 for anything else."""
    if is_key(value):
        return value.ndim
    raw = getattr(value, "dtype", None) == np.uint32 and value.ndim > 0
    return value.ndim - 1 if raw else -1
