"""The trace of a Jacobian from products with it: ∇·F for likelihoods.

The trace of A = ∂F/∂x is estimated, in forward mode, by products A v with random v:

    Hutchinson   tr A = E vᵀ A v,     E v vᵀ = I                                                            (1)
    Hutch++      tr A = tr Qᵀ A Q + (d − m) E uᵀ A u,     Q = orth (A − cI) S, u ⊥ Q, ‖u‖ = 1             (2)

(Hutchinson 1990; Meyer et al. 2021, arXiv:2010.09649, algorithm 1, with u uniform in place of their Gaussian, as in
Epperly et al. 2024, arXiv:2301.07825, which is exact for multiples of the identity; S are signs, and c their mean of
vᵀ A v/d, so that Q finds what deviates from such a multiple.) In (1) signs are exact where A is diagonal. Each is
unbiased; the spread of the probes gives the error.
"""

import abc
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from sde_lib.node import Node, static

Field = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""A vector field on one event: x → F(x), of x's shape."""


class Divergence(Node, abc.ABC):
    """How ∇·F at one x is found from products with the Jacobian of F."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], x: Float[Array, "..."]) -> PyTree:
        """The probes for an event like x."""

    @abc.abstractmethod
    def __call__(
        self, probes: PyTree, field: Field, x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Float[Array, " m"]]:
        """(F(x), unbiased estimates [m] of ∇·F at x, one for each probe)."""

    @abc.abstractmethod
    def standard_error(self, estimates: Float[Array, " m"]) -> Float[Array, ""]:
        """The standard error of the mean of the estimates."""


class Exact(Divergence):
    """tr A by the product with each basis vector: d products."""

    def draw(self, key, x):
        return jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)

    def __call__(self, probes, field, x):
        value, products = _products(field, x, probes)
        return value, jnp.sum(probes * products)[None]

    def standard_error(self, estimates):
        return jnp.zeros_like(estimates[0])


class Hutchinson(Divergence):
    """(1), with signs or standard normal v. The error is NaN for a single probe."""

    probes: int = static(1)
    law: Literal["rademacher", "gaussian"] = static("rademacher")

    def draw(self, key, x):
        draw = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}[self.law]
        return draw(key, (self.probes, *x.shape), x.dtype)

    def __call__(self, probes, field, x):
        value, products = _products(field, x, probes)
        return value, _dots(probes, products)

    def standard_error(self, estimates):
        return _standard_error(estimates)


class HutchPlusPlus(Divergence):
    """(2), with `probes` products in all: a third for Q, a third for the trace on it, a third for the rest.

    It beats Hutchinson's at equal cost where few directions carry most of the Jacobian's deviation from a multiple
    of the identity. ValueError where `probes` is no multiple of 3, or a third of it no smaller than the dimension.
    """

    probes: int = static(6)

    def __post_init__(self):
        if self.probes < 3 or self.probes % 3:
            raise ValueError(f"Hutch++ splits its probes in three; got probes={self.probes}")

    def draw(self, key, x):
        if self.probes // 3 >= x.size:
            raise ValueError(f"{self.probes} probes are too many for {x.size} dimensions: take Exact()")
        for_range, for_rest = jax.random.split(key)
        shape = (self.probes // 3, *x.shape)
        return jax.random.rademacher(for_range, shape, x.dtype), jax.random.normal(for_rest, shape, x.dtype)

    def __call__(self, probes, field, x):
        for_range, for_rest = probes
        value, products = _products(field, x, for_range)
        deviation = products - jnp.mean(_dots(for_range, products)) / x.size * for_range
        q = jnp.linalg.qr(deviation.reshape(len(deviation), -1).T)[0].T
        rest = for_rest.reshape(q.shape)
        rest = rest - (rest @ q.T) @ q
        rest = rest - (rest @ q.T) @ q  # once more, for what rounding left
        rest = rest / jnp.linalg.norm(rest, axis=1, keepdims=True)
        both = jnp.concatenate([q, rest]).reshape(-1, *x.shape)
        on_range, on_rest = jnp.split(_dots(both, _products(field, x, both)[1]), 2)
        return value, jnp.sum(on_range) + (x.size - len(q)) * on_rest

    def standard_error(self, estimates):
        return _standard_error(estimates)


def _products(field, x, vectors) -> tuple[Array, Array]:
    """(F(x), A v for each v of `vectors` [m, *event])."""
    along = lambda v: jax.jvp(field, (x,), (v,))  # noqa: E731
    return jax.vmap(along, out_axes=(None, 0))(vectors)


def _dots(a, b) -> Float[Array, " m"]:
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _standard_error(estimates):
    m = len(estimates)
    return jnp.std(estimates, ddof=1) / jnp.sqrt(m) if m > 1 else jnp.full_like(estimates[0], jnp.nan)
