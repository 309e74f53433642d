"""Forward processes: stochastic differential equations that turn data into noise.

A forward process runs from t = 0 (data) to t = t_max (prior),

    dx = f(x, t) dt + g(t) dw.                                                                     (1)

Run backwards in time with the score ∇log p_t(x) it is (Anderson 1982; Song et al. 2021, eq. 6)

    dx = [f(x, t) − g(t)² ∇log p_t(x)] dt + g(t) dw̄,                                               (2)

and the ordinary differential equation with the same marginals, the probability flow, is (Song et al. 2021, eq. 13)

    dx = [f(x, t) − ½ g(t)² ∇log p_t(x)] dt.                                                       (3)

Where the drift is linear, f(x, t) = f(t) x, everything has a closed form through two functions of time, α and σ:

    p(x_t | x_0) = N(α(t) x_0, σ(t)² I),                                                           (4)
    f(t)  = d log α / dt,                                                                          (5)
    g²(t) = dσ²/dt − 2 f(t) σ²(t),                                                                 (6)
    p(x_t | x_s) = N(α_ts x_s, σ_ts² I),   α_ts = α(t)/α(s),   σ_ts² = σ(t)² − α_ts² σ(s)²,   s < t.   (7)

(5) and (6) follow from the moment equations of (1) (Särkkä & Solin 2019, eq. 5.50 and 5.51). With the log
signal-to-noise ratio λ = log α²/σ², the variance in (7) is σ_ts² = σ(t)² (1 − exp(λ(t) − λ(s))), which is how it is
computed: it never turns negative.

Time t is a scalar or one value a sample, [B]. A coefficient has t's shape, or, where the coordinates of x differ, as
many axes as x with the batch first. `expand` is the one place where a coefficient meets x, and `per_time` the one
where a coefficient of many coordinates becomes one number a time.

Toward an end of time α or σ may vanish: σ at the data, α at the noise of a straight line or a cosine. There the score
−ε/σ, the rate d log α/dt and λ are infinite, and only there: so a process is used on [t_min, t_max] alone, and its ends
are set where the noise that is left in the data (σ/α at t_min), or the data that are left in the noise (α/σ at t_max),
no longer matter. On that interval every function here is finite, in float32.

Song et al. 2021: "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

import abc
import math
from typing import NamedTuple, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode, Scalar
from sde_lib.noise import normal, normal_like

Time = float | Float[Array, "..."]
Coefficient = float | Float[Array, "..."]
KERNEL = ("alpha", "sigma")
"""The methods that p(x_t | x_0) takes: what a loss or a solver requires that uses it."""


def expand(coefficient: Coefficient, x: Float[Array, "B ..."]) -> Float[Array, "..."]:
    """The coefficient as an array of x's dtype that broadcasts against x [B, ...].

    Accepts a scalar, one value a sample [B], or an array with as many axes as x (a coefficient for each coordinate,
    batch axis first, of length 1 or B). Anything else raises ValueError naming both shapes.
    """
    a = jnp.asarray(coefficient, x.dtype)
    if a.ndim == 0:
        return a
    if a.ndim == 1 and a.shape[0] == x.shape[0]:
        return a.reshape(a.shape + (1,) * (x.ndim - 1))
    if a.ndim == x.ndim and all(m in (1, n) for m, n in zip(a.shape, x.shape, strict=True)):
        return a
    raise ValueError(
        f"a coefficient of shape {a.shape} does not fit x of shape {x.shape}: "
        f"expected (), ({x.shape[0]},), or {x.ndim} axes that broadcast against {x.shape}"
    )


def per_time(coefficient: Coefficient, t: Time) -> Float[Array, "..."]:
    """The coefficient as one number a time, of t's shape: its mean over coordinates where they differ."""
    c, shape = jnp.asarray(coefficient), jnp.shape(t)
    return jnp.broadcast_to(c, shape) if c.ndim <= len(shape) else jnp.mean(c.reshape(*shape, -1), axis=-1)


def time_derivative(function, t: Time) -> tuple[Array, Array]:
    """(function(t), d function/dt), each entry of t on its own, by forward-mode differentiation."""
    t = jnp.asarray(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


class SDE(PyTreeNode, abc.ABC):
    """dx = f(x, t) dt + g(t) dw (1), with t in [t_min, t_max]: t_min > 0 is where training and sampling stop short
    of the data, since the score may be infinite at t = 0."""

    t_min: Scalar = 1e-5
    t_max: Scalar = 1.0

    @abc.abstractmethod
    def drift(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        """f(x, t), of x's shape."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Coefficient:
        """g(t), a coefficient."""

    @abc.abstractmethod
    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        """Draws [B, *shape] from the prior, which stands for p(x) at t_max; row i is a function of keys[i]."""

    @abc.abstractmethod
    def prior_logp(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        """log density of the prior, in nats."""

    def alpha_ts(self, t: Time, s: Time) -> Coefficient:
        """The factor α_ts by which the drift shrinks the mean from s to t; 1 where it is not known."""
        return 1.0

    def reverse_drift(self, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
        """f(x, t) − g(t)² score, the drift of the reverse SDE (2)."""
        return self.drift(x, t) - expand(self.diffusion(t), x) ** 2 * score

    def flow_drift(self, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
        """f(x, t) − ½ g(t)² score, the drift of the probability-flow ODE (3)."""
        return self.drift(x, t) - 0.5 * expand(self.diffusion(t), x) ** 2 * score


Process = TypeVar("Process", bound=SDE, contravariant=True)
"""The SDEs that a part works with: `Solver[GaussianSDE]` is a solver for those with a kernel."""


class Transition(NamedTuple):
    """α_ts and σ_ts of p(x_t | x_s) (7)."""

    alpha: Coefficient
    sigma: Coefficient


class GaussianSDE(SDE):
    """A process with a linear drift, given by its kernel p(x_t | x_0) = N(α(t) x_0, σ(t)² I).

    A subclass writes `alpha` and `sigma`; the drift, the diffusion, the signal-to-noise ratio and the prior follow.
    It may override `drift_rate` or `diffusion` by a closed form, which the tests compare with the derived one.

    >>> class Cosine(GaussianSDE):
    ...     t_max: float = 0.99
    ...
    ...     def alpha(self, t):
    ...         return jnp.cos(0.5 * jnp.pi * t)
    ...
    ...     def sigma(self, t):
    ...         return jnp.sin(0.5 * jnp.pi * t)
    >>> print(f"{Cosine().diffusion(0.5):.4f}")  # g² = π tan(πt/2) for this process
    1.7725
    """

    @abc.abstractmethod
    def alpha(self, t: Time) -> Coefficient:
        """α(t): the data's share; 1 at t = 0."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Coefficient:
        """σ(t): the noise's standard deviation; positive on [t_min, t_max]."""

    def drift_rate(self, t: Time) -> Coefficient:
        """f(t) = d log α / dt (5)."""
        return time_derivative(lambda t: jnp.log(self.alpha(t)), t)[1]

    def diffusion(self, t: Time) -> Coefficient:
        """g(t) = √(dσ²/dt − 2 f(t) σ²(t)) (6)."""
        sigma, dsigma = time_derivative(self.sigma, t)
        return jnp.sqrt(2 * sigma * (dsigma - self.drift_rate(t) * sigma))

    def drift(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        return expand(self.drift_rate(t), x) * x

    def log_snr(self, t: Time) -> Coefficient:
        """λ(t) = log(α²/σ²), decreasing in t."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    @jax.jit
    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "..."]:
        """The t in [t_min, t_max] with λ(t) = log_snr, by bisection; the nearer end where there is none.

        λ is meant over the coordinates where they differ (`per_time`).
        """
        target = jnp.asarray(log_snr)
        low = jnp.full_like(target, self.t_min)
        high = jnp.full_like(target, self.t_max)

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            later = per_time(self.log_snr(middle), middle) > target
            return jnp.where(later, middle, low), jnp.where(later, high, middle)

        low, high = jax.lax.fori_loop(0, 64, halve, (low, high))
        return 0.5 * (low + high)

    def marginal(self, x0: Float[Array, "B ..."], t: Time) -> tuple[Float[Array, "B ..."], Float[Array, "..."]]:
        """(α(t) x_0, σ(t)): mean and standard deviation of p(x_t | x_0) (4), both fit to broadcast against x0."""
        return expand(self.alpha(t), x0) * x0, expand(self.sigma(t), x0)

    def perturb(self, keys: Key[Array, " B"], x0: Float[Array, "B ..."], t: Time):
        """(x_t, eps) with x_t = α(t) x_0 + σ(t) eps and eps standard normal, each [B, ...] (4)."""
        mean, std = self.marginal(x0, t)
        eps = normal_like(keys, x0)
        return mean + std * eps, eps

    def transition(self, t: Time, s: Time) -> Transition:
        """α_ts, σ_ts of p(x_t | x_s) for s ≤ t (7); σ_ts is 0 for s = t."""
        shrink = jnp.minimum(self.log_snr(t) - self.log_snr(s), 0.0)
        return Transition(self.alpha_ts(t, s), self.sigma(t) * jnp.sqrt(-jnp.expm1(shrink)))

    def alpha_ts(self, t: Time, s: Time) -> Coefficient:
        return self.alpha(t) / self.alpha(s)

    def prior_std(self) -> Coefficient:
        """Standard deviation of the prior N(0, prior_std² I); σ(t_max) unless a subclass knows better."""
        return self.sigma(self.t_max)

    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        z = normal(keys, shape)
        return expand(self.prior_std(), z) * z

    def prior_logp(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        std = jnp.broadcast_to(expand(self.prior_std(), x), x.shape)
        logp = -0.5 * (x / std) ** 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi)
        return jnp.sum(logp, axis=tuple(range(1, x.ndim)))


def has_kernel(sde: SDE) -> TypeGuard[GaussianSDE]:
    """Whether the SDE has the methods of p(x_t | x_0), `alpha` and `sigma`."""
    return all(hasattr(sde, name) for name in KERNEL)
