"""The trace of a Jacobian from products with it: ∇·F for likelihoods.

The trace of A = ∂F/∂x is estimated, in forward mode, by products A v with random v:

    Hutchinson   tr A = E vᵀ A v,     E v vᵀ = I                                                            (1)
    Hutch++      tr A = tr Qᵀ A Q + (d − m) E uᵀ A u,     Q = orth (A − cI) S, u ⊥ Q, ‖u‖ = 1             (2)

(1) Hutchinson 1990; with signs it is exact where A is diagonal. (2) Meyer et al. 2021, arXiv:2010.09649, algorithm 1. S
are signs, and c is their mean of vᵀ A v/d, so that Q finds the deviation from a multiple of the identity. u is uniform
in place of their Gaussian, as in Epperly et al. 2024, arXiv:2301.07825, which is exact for such a multiple. Both are
unbiased; the spread of the probes gives the error.
"""

import abc
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from sde_lib.node import PyTreeNode, static
from sde_lib.noise import fold
from sde_lib.sde import expand

Field = Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]
"""A vector field on events: x → F(x), of x's shape; row i of F is a function of row i of x only."""


class Divergence(PyTreeNode, abc.ABC):
    """An estimator of ∇·F at each row of x, from products with the Jacobian of F.

    One product serves the whole batch: the batch's Jacobian consists of the rows' own.
    """

    @abc.abstractmethod
    def draw(self, keys: Key[Array, " B"], x: Float[Array, "B ..."]) -> PyTree:
        """The probes for events of x's shape; those of row i are a function of keys[i]."""

    @abc.abstractmethod
    def __call__(
        self, probes: PyTree, field: Field, x: Float[Array, "B ..."]
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B m"]]:
        """(F(x), unbiased estimates [B, m] of ∇·F at each row, one per probe)."""

    @abc.abstractmethod
    def standard_error(self, estimates: Float[Array, "B m"]) -> Float[Array, " B"]:
        """The standard error of the mean of each row's estimates."""


class Exact(Divergence):
    """tr A by the product with each basis vector: d products."""

    def draw(self, keys, x):
        basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
        return jnp.broadcast_to(basis, (len(basis), *x.shape))

    def __call__(self, probes, field, x):
        value, products = _products(field, x, probes)
        return value, jnp.sum(_dots(probes, products), axis=1, keepdims=True)

    def standard_error(self, estimates):
        return jnp.zeros_like(estimates[:, 0])


class Hutchinson(Divergence):
    """(1), with v of signs or standard normal. The error of a single probe is inf: nothing bounds it."""

    probes: int = static(1, at_least=1)
    law: Literal["rademacher", "gaussian"] = static("rademacher")

    def draw(self, keys, x):
        draw = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}[self.law]
        return _draw(draw, keys, self.probes, x)

    def __call__(self, probes, field, x):
        value, products = _products(field, x, probes)
        return value, _dots(probes, products)

    def standard_error(self, estimates):
        return _standard_error(estimates)


class HutchPlusPlus(Divergence):
    """(2), with `probes` products in all: a third for Q, a third for the trace on it, a third for the rest.

    More accurate than Hutchinson's at equal cost if few directions carry most of the Jacobian's deviation from a
    multiple of the identity. Raises ValueError if `probes` is no multiple of 3, or if a third of it is not below the
    dimension.
    """

    probes: int = static(6, at_least=3)

    def __post_init__(self):
        if self.probes < 3 or self.probes % 3:
            raise ValueError(f"Hutch++ splits its probes in three; got probes={self.probes}")

    def draw(self, keys, x):
        third = self.probes // 3
        if third >= x[0].size:
            raise ValueError(f"{self.probes} probes are too many for {x[0].size} dimensions: take Exact()")
        return _draw(jax.random.rademacher, fold(keys, 0), third, x), _draw(jax.random.normal, fold(keys, 1), third, x)

    def __call__(self, probes, field, x):
        for_range, for_rest = probes
        value, products = _products(field, x, for_range)
        multiple = expand(jnp.mean(_dots(for_range, products), axis=1) / x[0].size, x)
        both = jax.vmap(_range_and_rest, 1, 1)(products - multiple[None] * for_range, for_rest)
        on_range, on_rest = jnp.split(_dots(both, _products(field, x, both)[1]), 2, axis=1)
        return value, jnp.sum(on_range, axis=1, keepdims=True) + (x[0].size - on_range.shape[1]) * on_rest

    def standard_error(self, estimates):
        return _standard_error(estimates)


def _range_and_rest(deviation: Float[Array, "m ..."], rest: Float[Array, "m ..."]) -> Float[Array, "n ..."]:
    """Q, an orthonormal basis of the span of `deviation`, and `rest`, made orthogonal to it and of length 1.

    For one event; n = 2 m. Constant in gradients: (2) is unbiased for any Q, and so is its derivative. The QR of a
    vanishing matrix has no derivative.
    """
    deviation = jax.lax.stop_gradient(deviation)
    q = jnp.linalg.qr(deviation.reshape(len(deviation), -1).T)[0].T
    u = rest.reshape(q.shape)
    for _ in range(2):  # again, against rounding errors
        u = u - (u @ q.T) @ q
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    return jnp.concatenate([q, u]).reshape(-1, *rest.shape[1:])


def _draw(law, keys, count: int, x) -> Float[Array, "m B ..."]:
    """`count` probes for each row of x."""
    return jax.vmap(lambda key: law(key, (count, *x.shape[1:]), x.dtype), out_axes=1)(keys)


def _products(field, x, vectors: Float[Array, "m B ..."]) -> tuple[Array, Float[Array, "m B ..."]]:
    """(F(x), A v for each v of `vectors`)."""
    along = lambda v: jax.jvp(field, (x,), (v,))  # noqa: E731
    if len(vectors) == 1:  # vmap over one vector compiles to a slower program
        value, product = along(vectors[0])
        return value, product[None]
    return jax.vmap(along, out_axes=(None, 0))(vectors)


def _dots(a: Float[Array, "m B ..."], b: Float[Array, "m B ..."]) -> Float[Array, "B m"]:
    return jnp.sum(a * b, axis=tuple(range(2, a.ndim))).T


def _standard_error(estimates):
    m = estimates.shape[1]
    return jnp.std(estimates, axis=1, ddof=1) / jnp.sqrt(m) if m > 1 else jnp.full_like(estimates[:, 0], jnp.inf)
