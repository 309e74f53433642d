"""Forward processes: stochastic differential equations that turn data into noise.

A forward process runs from t = 0 (data) to t = t_max (prior),

    dx = f(x, t) dt + g(t) dw.                                                                     (1)

Its time reversal uses the score ∇log p_t(x) (Anderson 1982; Song et al. 2021, eq. 6),

    dx = [f(x, t) − g(t)² ∇log p_t(x)] dt + g(t) dw̄.                                               (2)

The ordinary differential equation with the same marginals is the probability flow (Song et al. 2021, eq. 13),

    dx = [f(x, t) − ½ g(t)² ∇log p_t(x)] dt.                                                       (3)

Where the drift is linear, f(x, t) = f(t) x, two functions of time, α and σ, give everything in closed form:

    p(x_t | x_0) = N(α(t) x_0, σ(t)² I),                                                           (4)
    f(t)  = d log α / dt,                                                                          (5)
    g²(t) = dσ²/dt − 2 f(t) σ²(t),                                                                 (6)
    p(x_t | x_s) = N(α_ts x_s, σ_ts² I),   α_ts = α(t)/α(s),   σ_ts² = σ(t)² − α_ts² σ(s)²,   s < t.   (7)

(5) and (6) follow from the moment equations of (1) (Särkkä & Solin 2019, eq. 5.50 and 5.51). With the log
signal-to-noise ratio λ = log α²/σ², the variance in (7) is σ_ts² = σ(t)² (1 − exp(λ(t) − λ(s))). It is computed in this
form, which never turns negative.

Time t is a scalar or [B], one value per sample. A coefficient has t's shape. Where the coordinates of x differ, it has
as many axes as x, with the batch first. A coefficient meets x only in `expand`; `per_time` reduces a coefficient that
differs between coordinates to one number per time.

At the ends of time α or σ may vanish: σ at the data, α at the noise of a rectified flow or a cosine. There, and only
there, the score −ε/σ, the rate d log α/dt and λ are infinite. So a process is used on [t_min, t_max] only. The ends are
chosen where the noise left in the data (σ/α at t_min) and the data left in the noise (α/σ at t_max) no longer matter.
On that interval every function here is finite in float32.

Song et al. 2021: "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

import abc
import math
from typing import NamedTuple, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode, Scalar, number
from sde_lib.noise import normal, normal_like
from sde_lib.numbers.jax_values import explain_tracers

Time = float | Float[Array, "..."]
Coefficient = float | Float[Array, "..."]
METHODS = ("alpha", "sigma", "drift", "diffusion", "drift_rate", "log_snr", "alpha_ts", "prior_std", "prior_logp")
KERNEL = ("alpha", "sigma")
"""The methods that define p(x_t | x_0): what a loss or a solver requires that uses it."""


def expand(coefficient: Coefficient, x: Float[Array, "B ..."]) -> Float[Array, "..."]:
    """The coefficient as an array of x's dtype that broadcasts against x [B, ...].

    Accepts a scalar, one value per sample [B], or an array with as many axes as x: one value per coordinate, with the
    batch axis first, of length 1 or B. Any other shape raises ValueError, which names both shapes.
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
    """The coefficient as one number per time, of t's shape: its mean over coordinates where they differ."""
    c, shape = jnp.asarray(coefficient), jnp.shape(t)
    return jnp.broadcast_to(c, shape) if c.ndim <= len(shape) else jnp.mean(c.reshape(*shape, -1), axis=-1)


def time_derivative(function, t: Time) -> tuple[Array, Array]:
    """(function(t), d function/dt), elementwise in t, by forward-mode differentiation."""
    t = jnp.asarray(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


class SDE(PyTreeNode, abc.ABC):
    """dx = f(x, t) dt + g(t) dw (1), with t in [t_min, t_max].

    Training and sampling stop at t_min, short of the data, since the score may be infinite at t = 0. Raises ValueError
    unless 0 ≤ t_min < t_max.
    """

    t_min: Scalar = number(1e-5, at_least=0, below="t_max")
    t_max: Scalar = number(1.0, above=0)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        explain_tracers(cls, METHODS)

    @abc.abstractmethod
    def drift(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        """f(x, t), of x's shape."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Coefficient:
        """g(t), a coefficient."""

    @abc.abstractmethod
    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        """Draws [B, *shape] from the prior, which replaces p(x) at t_max; row i is a function of keys[i]."""

    @abc.abstractmethod
    def prior_logp(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        """Log density of the prior [B], in nats."""

    def alpha_ts(self, t: Time, s: Time) -> Coefficient:
        """α_ts, by which the drift multiplies the mean from s to t; 1 where it is unknown."""
        return 1.0

    def reverse_drift(self, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
        """f(x, t) − g(t)² score, the drift of the reverse SDE (2)."""
        return self.drift(x, t) - expand(self.diffusion(t), x) ** 2 * score

    def flow_drift(self, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
        """f(x, t) − ½ g(t)² score, the drift of the probability-flow ODE (3)."""
        return self.drift(x, t) - 0.5 * expand(self.diffusion(t), x) ** 2 * score


Process = TypeVar("Process", bound=SDE, contravariant=True)
"""The SDEs that a part works with: a `Solver[GaussianSDE]` is a solver for SDEs with a kernel."""


class Transition(NamedTuple):
    """α_ts and σ_ts of p(x_t | x_s) (7)."""

    alpha: Coefficient
    sigma: Coefficient


class GaussianSDE(SDE):
    """A process with a linear drift, specified by its kernel p(x_t | x_0) = N(α(t) x_0, σ(t)² I).

    A subclass defines `alpha` and `sigma`. The drift, diffusion, signal-to-noise ratio and prior follow from them. It
    may override `drift_rate` or `diffusion` with a closed form, which the tests compare with the derived one.

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
        """α(t), the factor of the data; 1 at t = 0."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Coefficient:
        """σ(t), the standard deviation of the noise; positive on [t_min, t_max]."""

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

        Where coordinates differ, λ is its mean over them (`per_time`).
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
        """(α(t) x_0, σ(t)), the mean and standard deviation of p(x_t | x_0) (4); both broadcast against x0."""
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
        """Standard deviation of the prior N(0, prior_std² I): σ(t_max), unless a subclass overrides it."""
        return self.sigma(self.t_max)

    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        z = normal(keys, shape)
        return expand(self.prior_std(), z) * z

    def prior_logp(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        std = jnp.broadcast_to(expand(self.prior_std(), x), x.shape)
        logp = -0.5 * (x / std) ** 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi)
        return jnp.sum(logp, axis=tuple(range(1, x.ndim)))


def has_kernel(sde: object) -> TypeGuard[GaussianSDE]:
    """Whether the SDE has the methods of p(x_t | x_0), `alpha` and `sigma`."""
    return all(hasattr(sde, name) for name in KERNEL)
