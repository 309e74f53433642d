"""Another floating-point dtype for a value and all its arrays."""

import inspect
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def cast(tree: Tree, dtype: Any) -> Tree:
    """The pytree with all floating-point arrays in float32 or float64; numbers of Python take the dtype of arrays.

    Raises ValueError for another dtype, and for float64 without `jax_enable_x64`.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"astype: expected float32 or float64, got {dtype}")
    if dtype == np.dtype("float64") and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError("astype: float64 requires JAX_ENABLE_X64=1 in the environment, before jax is imported")

    def of_dtype(leaf: Any) -> Any:
        floating = jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    return jax.tree.map(of_dtype, tree)


def forward(transform: Any, x: Any, dtype: Any) -> Any:
    """The transform's `forward` of x, in this dtype; None is its own. Without a transform x itself, as floats."""
    return (
        jnp.asarray(x, dtype or float)
        if transform is None
        else jnp.asarray(_apply(transform.forward, np.asarray(x), dtype))
    )


def inverse(transform: Any, x: Any, dtype: Any) -> np.ndarray:
    """The transform's `inverse` of x, as `forward`."""
    return np.asarray(x) if transform is None else _apply(transform.inverse, np.asarray(x), dtype)


def _apply(function: Any, x: Any, dtype: Any) -> np.ndarray:
    """function(x) in this dtype. Raises ValueError if it takes none."""
    if dtype is None:
        return function(x)
    if "dtype" not in inspect.signature(function).parameters:
        raise ValueError(f"{function.__qualname__} takes no dtype: write (self, x, dtype=np.float32), to use {dtype}")
    return function(x, dtype=dtype)
