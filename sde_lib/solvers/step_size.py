"""One controller for all adaptive solvers. A step is accepted if its error E is at most 1, and the next step is

    h ← h · clip(θ E^{−r}, low, high),                                                                     (1)

rounded to the nearest power of 2^¼. Without rounding, h would depend on the last digit of E. That digit depends on the
order in which a sum is rounded, which differs between batches and devices.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sde_lib.node import PyTreeNode, Scalar, number


class StepSize(PyTreeNode):
    """θ and r of (1), and the bounds of the factor."""

    safety: Scalar = number(above=0)
    exponent: Scalar = number(above=0)
    low: Scalar = number(0.0, at_least=0, at_most="high")
    high: Scalar = number(jnp.inf, above=0, finite=False)

    def next(self, h: Float[Array, " B"], error: Float[Array, " B"], accepted: Bool[Array, " B"]) -> Float[Array, " B"]:
        """(1) for each row [B]; after a rejected step the factor is at most θ."""
        high = jnp.where(accepted, self.high, self.safety)
        return rounded(h * jnp.clip(self.safety * error**-self.exponent, self.low, high))


def rounded(h: Float[Array, "..."]) -> Float[Array, "..."]:
    """h rounded to the nearest power of 2^¼; 0, infinity and NaN are unchanged."""
    return jnp.exp2(jnp.round(4 * jnp.log2(h)) / 4)


def where_row(mask: Bool[Array, " B"], x: Float[Array, "B ..."], otherwise) -> Float[Array, "B ..."]:
    """x in the rows whose mask is true, `otherwise` in the rest."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, otherwise)
