"""An observation y = A(x_0) + σ_y n of data x_0, with n ~ N(0, I).

A is any function x [B, *event] → y [B, *measurement], row by row: the shipped `operators`, or your own. If it is not
linear, the methods use its linearization at the current estimate of x_0 (Gauss–Newton). y and σ_y must be in the same
space as A's argument. If the data are transformed affinely, x = a x_data + b, then for a linear A

    A x = A(a x_data) + A b,   so   y ↦ a y + A b,   σ_y ↦ a σ_y   where a is one number.               (1)
"""

from collections.abc import Callable
from inspect import isfunction
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from sde_lib.node import Leaf, PyTreeNode, Scalar, number

Operator = Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]


class Observation(PyTreeNode):
    """y [B, *measurement], or [*measurement] once for all rows with a first axis of 1; the operator A; σ_y ≥ 0."""

    y: Leaf
    operator: Any
    noise_std: Scalar = number(0.0, at_least=0)

    def __post_init__(self):
        if isfunction(self.operator):
            object.__setattr__(self, "operator", Partial(self.operator))  # a pytree, which a program may receive

    def minus(self, found: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """y − found, of found = A(x0). ValueError for another shape than y's."""
        y = jnp.asarray(self.y, found.dtype)
        if y.shape[1:] != found.shape[1:] or y.shape[0] not in (1, found.shape[0]):
            raise ValueError(f"observation: the operator makes {found.shape}, but y has shape {y.shape}")
        return y - found

    def take(self, rows: Leaf) -> "Observation":
        """That of these rows [n]: of y, and of an operator that has values per row (`Mask.take`).

        A y with a first axis of 1, and its operator, are for all rows.
        """
        if len(self.y) == 1:
            return self
        operator = self.operator.take(rows, jnp.ndim(self.y) - 1) if hasattr(self.operator, "take") else self.operator
        return self.replace(y=jnp.asarray(self.y)[rows], operator=operator)

    def in_model_space(self, slope: Leaf, offset: Leaf, shape: tuple[int, ...]) -> "Observation":
        """(1): of data x_data, for a model of x = slope x_data + offset. A must be linear; the slope is one number.

        ValueError for a slope per coordinate, under which A x is no function of A x_data.
        """
        a = jnp.asarray(slope)
        if a.size != 1:
            raise ValueError(f"observation: expected a transform with one slope, got slopes of shape {a.shape}")
        y = jnp.asarray(self.y)
        b = jnp.broadcast_to(jnp.asarray(offset, y.dtype), (1, *shape))
        a = a.reshape(()).astype(y.dtype)
        return self.replace(y=a * y + self.operator(b), noise_std=jnp.abs(a) * self.noise_std)


def adjoint(operator: Operator, x: Float[Array, "B ..."]) -> Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]:
    """u ↦ Aᵀ u for a linear operator on arrays like x, by `jax.linear_transpose`: ⟨A x, u⟩ = ⟨x, Aᵀ u⟩."""
    transposed = jax.linear_transpose(operator, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return lambda u: transposed(u)[0]
