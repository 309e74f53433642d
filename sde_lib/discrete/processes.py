"""Forward processes on tokens: Markov chains in continuous time that redraw tokens.

A sequence has L tokens from V values. Each is redrawn from a law π at the rate β(t), independently of the others. With
α(t) the probability that a token has not been redrawn by time t, and ρ = 1 − α,

    p(x_t = y | x_0 = v) = α δ_yv + ρ π_y,                                                          (1)
    β = −(dα/dt)/α = (dρ/dt)/α,                                                                     (2)
    p(x_t = y | x_s = z) = α_ts δ_yz + (1 − α_ts) π_y,   α_ts = α(t)/α(s),   s < t.                 (3)

The masked process has π = δ_M for one more state, the mask M = V (Austin et al. 2021, section 3.1; Shi et al. 2024,
eq. 1). The uniform process has π = 1/V (Austin et al. 2021, appendix A.2.1; Lou et al. 2024, section 3.3).

The role of the score is played by the ratios of probabilities of sequences that differ in one token, for x^{i→y} the
sequence x with y at position i,

    r_iy(x, t) = p_t(x^{i→y}) / p_t(x)                                                              (4)
               = Σ_v p(x_0^i = v | x_t = x) p(x_t^i = y | x_0^i = v) / p(x_t^i = x^i | x_0^i = v).  (5)

The reverse process jumps from x to x^{i→y} at the rate β π_{x^i} r_iy (Kelly 1979; Lou et al. 2024, eq. 3). By (5) the
conditionals q_iv = p(x_0^i = v | x_t) determine it, and also the law of one token at an earlier time s,

    p(x_s^i = y | x_t) = Σ_v q_iv p(x_s^i = y | x_0^i = v) p(x_t^i | x_s^i = y) / p(x_t^i | x_0^i = v).  (6)

What x_t^i itself says of x_0^i is known: by Bayes' rule,

    q_iv ∝ e^{F_iv} p(x_t^i | x_0^i = v),                                                           (7)

where F_i are the logits of x_0^i given the other tokens of x_t, which the network learns. F = 0 is exact for
independent tokens of equal probability, as for bits under an SDE (`sde_lib.discrete.bits`). For the masked process q is
softmax F at a mask, and x^i itself elsewhere.

Everything is computed from log q, as sums of positive terms, so small probabilities keep their digits.

Austin et al. 2021: "Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv:2107.03006.
Lou et al. 2024: "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", arXiv:2310.16834.
Shi et al. 2024: "Simplified and Generalized Masked Diffusion for Discrete Data", arXiv:2406.04329.
"""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Key

from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.noise import fold
from sde_lib.numbers import concrete
from sde_lib.sde import Coefficient, Time, time_derivative

Tokens = Integer[Array, "B L"]
SMALLEST = 1e-12
"""The least α: at t = 1, where β of (2) would be infinite."""


def linear(t: Time) -> Coefficient:
    """ρ = t (Lou et al. 2024, their log-linear schedule; Shi et al. 2024, table 1)."""
    return jnp.asarray(t)


def cosine(t: Time) -> Coefficient:
    """ρ = sin(πt/2), so that α = 1 − cos(π(1 − t)/2) (Shi et al. 2024, table 1)."""
    return jnp.sin(0.5 * math.pi * jnp.asarray(t))


def per_token(coefficient: Coefficient, like: Array) -> Float[Array, "..."]:
    """A coefficient [] or [B], as an array that broadcasts against `like` [B, ...]."""
    a = jnp.asarray(coefficient)
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (like.ndim - 1))


def one_hot(x: Tokens, size: int) -> Bool[Array, "B L S"]:
    """Whether x is y, for y = 0 … size − 1."""
    return x[..., None] == jnp.arange(size, dtype=x.dtype)[None, None]


def log_of(coefficient: Coefficient) -> Float[Array, "..."]:
    """log c, and −∞ for c = 0."""
    return jnp.log(jnp.asarray(coefficient))


class TokenProcess(PyTreeNode, abc.ABC):
    """A process (1), for tokens 0 … num_tokens − 1. Time goes from t_min to t_max.

    `schedule` is ρ(t): increasing, 0 at t = 0. A subclass defines π, and (5) and (6).
    """

    num_tokens: int = static(at_least=2)
    schedule: Callable = static(linear)
    t_min: Scalar = number(1e-4, at_least=0, below="t_max")
    t_max: Scalar = number(1.0, above=0, at_most=1)

    @property
    def num_states(self) -> int:
        """The number of values of x_t."""
        return self.num_tokens

    def redrawn(self, t: Time) -> Coefficient:
        """ρ(t), the probability that a token has been redrawn; of t's shape."""
        return self.schedule(t)

    def alpha(self, t: Time) -> Coefficient:
        """α(t) = 1 − ρ(t), at least SMALLEST; of t's shape."""
        return jnp.maximum(1 - self.redrawn(t), SMALLEST)

    def rate(self, t: Time) -> Coefficient:
        """β(t) (2), derived from ρ; of t's shape."""
        return time_derivative(self.redrawn, t)[1] / self.alpha(t)

    def time_of(self, redrawn: Time) -> Float[Array, "..."]:
        """The t in [0, 1] with ρ(t) = redrawn, by bisection."""
        target = jnp.asarray(redrawn)

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            early = self.redrawn(middle) < target
            return jnp.where(early, middle, low), jnp.where(early, high, middle)

        low, high = jax.lax.fori_loop(0, 50, halve, (jnp.zeros_like(target), jnp.ones_like(target)))
        return 0.5 * (low + high)

    @abc.abstractmethod
    def stationary(self) -> Float[Array, " S"]:
        """π, over the states."""

    def perturb(self, keys: Key[Array, " B"], x0: Tokens, t: Time) -> Tokens:
        """x_t given x_0 (1)."""
        u = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:]))(fold(keys, 0))
        drawn = self.prior_sample(fold(keys, 1), x0.shape[1:]).astype(x0.dtype)
        return jnp.where(u < per_token(self.redrawn(t), x0), drawn, x0)

    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Tokens:
        """Draws [B, *shape] from π; row i is a function of keys[i]."""
        draw = lambda key: jax.random.categorical(key, log_of(self.stationary()), shape=shape)  # noqa: E731
        return jax.vmap(draw)(keys).astype(jnp.int32)

    def log_transition(self, x: Tokens, t: Time, s: Time) -> Float[Array, "B L S"]:
        """log p(x_t = x | x_s = y) for every y (3)."""
        same = one_hot(x, self.num_states)
        a, gone = (per_token(c, same) for c in (self.alpha(t) / self.alpha(s), self._lost(t, s)))
        return log_of(jnp.where(same, a, 0.0) + gone * self.stationary()[x][..., None])

    def log_rates(self, log_ratios: Float[Array, "B L S"], x: Tokens, t: Time) -> Float[Array, "B L S"]:
        """log of the reverse rates β π_{x^i} r_iy; −∞ for y = x^i."""
        same = one_hot(x, self.num_states)
        into = log_of(self.stationary())[x][..., None] + per_token(log_of(self.rate(t)), same)
        return jnp.where(same, -jnp.inf, into.astype(log_ratios.dtype) + log_ratios)

    def log_conditionals(self, logits: Float[Array, "B L V"], x: Tokens, t: Time) -> Float[Array, "B L V"]:
        """log q of the network's logits F (7)."""
        own = self.log_transition(x, t, jnp.zeros_like(jnp.asarray(t)))[..., : self.num_tokens]
        return jax.nn.log_softmax(logits + own.astype(logits.dtype), axis=-1)

    @abc.abstractmethod
    def log_ratios(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time) -> Float[Array, "B L S"]:
        """log r (5), 0 for y = x^i; −∞ where no reverse jump depends on it."""

    @abc.abstractmethod
    def log_posterior(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time, s: Time) -> Float[Array, "B L S"]:
        """log p(x_s^i = y | x_t = x) (6), for 0 ≤ s < t, up to a constant of each token."""

    @abc.abstractmethod
    def prior_divergence(self, x0: Tokens) -> Float[Array, " B"]:
        """KL(p(x_T | x_0) ‖ π) at T = t_max, in nats."""

    @abc.abstractmethod
    def condition(self, keys: Key[Array, " B"], known: Tokens, t: Time) -> Tokens:
        """What x_t is at positions whose x_0 is known, in infilling."""

    def _lost(self, t: Time, s: Time) -> Coefficient:
        """1 − α_ts, by the difference of ρ, which is accurate at small ρ."""
        return (self.redrawn(t) - self.redrawn(s)) / self.alpha(s)


class MaskedProcess(TokenProcess):
    """π = δ_M: a token is replaced by the mask M = num_tokens, and then stays masked.

    Given x_t, a token that is not masked is known. So q is the network's output at masked positions only, and the
    network requires no time (Shi et al. 2024, section 4; Ou et al. 2024, arXiv:2406.03736, theorem 1). By (5), r_iy is
    (α/ρ) q_iy at masked positions. ValueError unless ρ(t_max) = 1: the prior has masks only.
    """

    def _check_numbers(self) -> None:
        super()._check_numbers()
        if concrete(self.t_max) is not None and not (self.t_max == 1 and abs(float(self.redrawn(1.0)) - 1) < 1e-6):
            raise ValueError(f"MaskedProcess: expected t_max = 1 and schedule(1) = 1, got t_max={self.t_max}")

    @property
    def num_states(self) -> int:
        return self.num_tokens + 1

    @property
    def mask(self) -> int:
        """M, the token of masked positions."""
        return self.num_tokens

    def stationary(self) -> Float[Array, " S"]:
        return jnp.zeros(self.num_states).at[self.mask].set(1.0)

    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Tokens:
        return jnp.full((keys.shape[0], *shape), self.mask, jnp.int32)

    def log_ratios(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time) -> Float[Array, "B L S"]:
        log_odds = per_token(log_of(self.alpha(t)) - log_of(self.redrawn(t)), log_q).astype(log_q.dtype)
        tokens = jnp.where((x == self.mask)[..., None], log_odds + log_q, log_q)  # log q is 0 and −∞ where x is seen
        to_mask = jnp.where(x[..., None] == self.mask, 0.0, -log_odds)
        return jnp.concatenate([tokens, to_mask], axis=-1)

    def log_posterior(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time, s: Time) -> Float[Array, "B L S"]:
        """A masked token stays masked with probability ρ_s/ρ_t, else it is drawn from q (Shi et al. 2024, eq. 3)."""
        stays = self.redrawn(s) / self.redrawn(t)
        shown = per_token(jnp.log1p(-stays), log_q).astype(log_q.dtype)
        masked = (x == self.mask)[..., None]
        hidden = jnp.where(masked, per_token(log_of(stays), log_q).astype(log_q.dtype), -jnp.inf)
        return jnp.concatenate([jnp.where(masked, shown + log_q, log_q), hidden], axis=-1)

    def prior_divergence(self, x0: Tokens) -> Float[Array, " B"]:
        return jnp.zeros(x0.shape[0])

    def condition(self, keys: Key[Array, " B"], known: Tokens, t: Time) -> Tokens:
        """The tokens themselves: conditioning is exact."""
        return known


class UniformProcess(TokenProcess):
    """π = 1/V: a token is replaced by any of the values, and may be replaced again.

    With m = ρ/V, x = x^i and other = Σ_{v≠x} q_v, (5) is r_y = q_y α/m + other + q_x m/(α + m) for y ≠ x. t_max stops
    short of 1, where β is infinite; what is left of the data there is counted in the bounds.
    """

    all_ratios: ClassVar[bool] = True
    t_max: Scalar = number(0.9999, above=0, at_most=1)

    def stationary(self) -> Float[Array, " S"]:
        return jnp.full(self.num_tokens, 1 / self.num_tokens)

    def log_ratios(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time) -> Float[Array, "B L S"]:
        log_m, log_stay, log_odds = self._logs(t, log_q)
        same = one_hot(x, self.num_tokens)
        other = jax.nn.logsumexp(jnp.where(same, -jnp.inf, log_q), axis=-1, keepdims=True)
        own = jax.nn.logsumexp(jnp.where(same, log_q, -jnp.inf), axis=-1, keepdims=True)
        ratio = jnp.logaddexp(log_q + log_odds, jnp.logaddexp(other, own + log_m - log_stay))
        return jnp.where(same, 0.0, ratio)

    def log_posterior(self, log_q: Float[Array, "B L V"], x: Tokens, t: Time, s: Time) -> Float[Array, "B L S"]:
        log_m, log_stay, _ = self._logs(t, log_q)
        same = one_hot(x, self.num_tokens)
        log_a = log_q - jnp.where(same, log_stay, log_m)  # log q_v/p(x_t | v)
        total = jax.nn.logsumexp(log_a, axis=-1, keepdims=True)
        log_s, log_m_s = (per_token(log_of(c), log_q).astype(log_q.dtype) for c in (self.alpha(s), self._m(s)))
        return jnp.logaddexp(log_a + log_s, total + log_m_s) + self.log_transition(x, t, s).astype(log_q.dtype)

    def prior_divergence(self, x0: Tokens) -> Float[Array, " B"]:
        alpha, m = self.alpha(self.t_max), self._m(self.t_max)
        v = self.num_tokens
        each = (alpha + m) * jnp.log1p(v * (alpha + m) - 1) + (v - 1) * m * jnp.log(v * m)
        return jnp.full(x0.shape[0], x0.shape[1] * each)

    def condition(self, keys: Key[Array, " B"], known: Tokens, t: Time) -> Tokens:
        """A draw of (1): replacement, which is biased as for an SDE (`sde_lib.posterior.replacement`)."""
        return self.perturb(keys, known, t)

    def _m(self, t: Time) -> Coefficient:
        return self.redrawn(t) / self.num_tokens

    def _logs(self, t: Time, like: Array) -> tuple[Array, Array, Array]:
        """log m, log(α + m) and log(α/m), which broadcast against `like`."""
        alpha, m = self.alpha(t), self._m(t)
        log_m, log_stay, log_alpha = (per_token(log_of(c), like).astype(like.dtype) for c in (m, alpha + m, alpha))
        return log_m, log_stay, log_alpha - log_m
