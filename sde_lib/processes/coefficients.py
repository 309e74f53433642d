"""Processes specified by their coefficients: α and σ by quadrature.

Given f(t) and g(t), the moment equations have the solution

    L(t) = ∫₀ᵗ f,   α(t) = exp L(t),   V(t) = σ(t)² = σ(0)² exp 2L(t) + ∫₀ᵗ g²(u) exp 2(L(t) − L(u)) du         (1)

(Särkkä & Solin 2019, section 6.2). An interval [a, b] has two numbers: ΔL = L(b) − L(a), and ΔV, the variance at b of
the noise added on [a, b]. Intervals compose by

    (L, V) ∘ (ΔL, ΔV) = (L + ΔL, V exp 2ΔL + ΔV).                                                        (2)

[0, t_max] is divided into panels whose lengths halve toward both ends, so that a coefficient may be singular just
outside. On a panel, f and g² are evaluated at the 12 Gauss–Legendre nodes, and the inner integral L(u) is that of the
polynomial through them. The panels are composed once. A time then costs the rest of its own panel: 12 evaluations.
"""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.node import Scalar, number
from sde_lib.sde import SDE, Coefficient, GaussianSDE, Time

_HALVINGS = 20  # the panels at the ends are t_max 2⁻²⁰ long, about what float32 resolves
_HALF = 0.5 ** np.arange(_HALVINGS, 0, -1)
_EDGES = np.concatenate([[0.0], _HALF, 1 - _HALF[-2::-1]])  # fractions of t_max, where panels begin


def _gauss_legendre(n: int):
    """Nodes and weights on [0, 1], and I with (I f)_i = ∫₀^{node i} of the polynomial with values f at the nodes."""
    x, w = np.polynomial.legendre.leggauss(n)
    to_coefficients = np.linalg.inv(np.polynomial.legendre.legvander(x, n - 1))
    integrals = np.stack(
        [np.polynomial.legendre.legval(x, np.polynomial.legendre.legint(row, lbnd=-1)) for row in np.eye(n)], axis=1
    )
    return (x + 1) / 2, w / 2, integrals @ to_coefficients / 2


_NODES, _WEIGHTS, _INTEGRALS = _gauss_legendre(12)


class LinearSDE(GaussianSDE):
    """A process with a linear drift, specified by its coefficients: dx = f(t) x dt + g(t) dw.

    A subclass defines `drift_rate` and `diffusion`, smooth on [0, t_max]. α and σ are (1), accurate to 1e-6, under jit,
    and differentiable in t and in the process's parameters. A feature much narrower than t_max/50 in the middle of the
    interval is not resolved: define α and σ of a `GaussianSDE` instead. `sigma_start` is σ(0), 0 if the data are clean
    at t = 0.

    >>> class Linear(LinearSDE):
    ...     def drift_rate(self, t):
    ...         return -0.5 * (0.1 + 19.9 * t)
    ...
    ...     def diffusion(self, t):
    ...         return jnp.sqrt(0.1 + 19.9 * t)
    >>> print(f"{Linear().alpha(0.5):.5f}")  # exp(−½ (0.1 t + 9.95 t²))
    0.28118
    """

    sigma_start: Scalar = number(0.0, at_least=0)

    @abc.abstractmethod
    def drift_rate(self, t: Time) -> Coefficient:
        """f(t)."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Coefficient:
        """g(t)."""

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(self._moments(t)[0])

    def sigma(self, t: Time) -> Coefficient:
        return jnp.sqrt(self._moments(t)[1])

    def log_snr(self, t: Time) -> Coefficient:
        log_alpha, variance = self._moments(t)
        return 2 * log_alpha - jnp.log(variance)

    def alpha_ts(self, t: Time, s: Time) -> Coefficient:
        return jnp.exp(self._moments(t)[0] - self._moments(s)[0])

    @jax.jit  # a hundred small operations, slow when a user calls them outside jit
    def _moments(self, t: Time) -> tuple[Array, Array]:
        """L(t) and V(t) (1), coefficients."""
        t = jnp.asarray(t)
        flat = t.reshape(-1)
        edges = jnp.asarray(_EDGES, t.dtype) * jnp.asarray(self.t_max, t.dtype)
        log_alpha, variance = self._at_edges(edges)
        panel = jnp.searchsorted(edges[1:-1], flat, side="right")
        dlog_alpha, dvariance = self._increments(edges[panel], flat - edges[panel])
        log_alpha, variance = _compose((log_alpha[panel], variance[panel]), (dlog_alpha, dvariance))
        event = self._event(t.dtype)
        shape = (*(t.shape if t.ndim or not event else (1,)), *event)
        return log_alpha.reshape(shape), variance.reshape(shape)

    def _at_edges(self, edges: Float[Array, " P"]) -> tuple[Array, Array]:
        """L and V at the panels' edges [P, D]: the panels composed by (2), starting with σ(0)."""
        dlog_alpha, dvariance = self._increments(edges[:-1], jnp.diff(edges))
        start = jnp.full_like(dvariance[:1], jnp.square(self.sigma_start))
        steps = jnp.concatenate([jnp.zeros_like(start), dlog_alpha]), jnp.concatenate([start, dvariance])
        return jax.lax.associative_scan(_compose, steps)

    def _increments(self, start: Float[Array, " N"], length: Float[Array, " N"]) -> tuple[Array, Array]:
        """ΔL and ΔV over the intervals [start, start + length], each [N, D]; D is 1 where coordinates are alike."""
        nodes, weights, integrals = (jnp.asarray(a, start.dtype) for a in (_NODES, _WEIGHTS, _INTEGRALS))
        u = start[:, None] + length[:, None] * nodes[None]
        f, g = _at_nodes(self.drift_rate, u), _at_nodes(self.diffusion, u)
        length = length[:, None]
        exact = jax.lax.Precision.HIGHEST
        dlog_alpha = length * jnp.einsum("i,nid->nd", weights, f, precision=exact)
        rest = dlog_alpha[:, None] - length[:, None] * jnp.einsum("ij,njd->nid", integrals, f, precision=exact)
        noise = g**2 * jnp.exp(2 * rest)
        dvariance = length * jnp.einsum("i,nid->nd", weights, noise, precision=exact)
        return jnp.broadcast_to(dlog_alpha, dvariance.shape), dvariance

    def _event(self, dtype) -> tuple[int, ...]:
        """The event shape of the coefficients; () where all coordinates are alike."""
        shapes = [jax.eval_shape(c, jnp.zeros(1, dtype)).shape[1:] for c in (self.drift_rate, self.diffusion)]
        return np.broadcast_shapes(*shapes)


def _at_nodes(coefficient, u: Float[Array, "N p"]) -> Float[Array, "N p D"]:
    """The coefficient at all nodes, with its coordinates on one axis."""
    values = jnp.asarray(coefficient(u.reshape(-1)), u.dtype)
    values = jnp.broadcast_to(values, (u.size,)) if values.ndim == 0 else values
    return values.reshape(*u.shape, -1)


def _compose(first, second):
    """(2)."""
    (log_alpha, variance), (dlog_alpha, dvariance) = first, second
    return log_alpha + dlog_alpha, variance * jnp.exp(2 * dlog_alpha) + dvariance


class _PureNoise(LinearSDE):
    """dx = g(t) dw with the g of another process."""

    process: SDE

    def drift_rate(self, t: Time) -> Coefficient:
        return jnp.zeros_like(t)

    def diffusion(self, t: Time) -> Coefficient:
        return self.process.diffusion(t)


def accumulated_noise_std(sde: SDE, t: Time) -> Coefficient:
    """√∫₀ᵗ g²: the standard deviation of the noise added up to t, if the drift is ignored."""
    return _PureNoise(process=sde, t_max=sde.t_max).sigma(t)
