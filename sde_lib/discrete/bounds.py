"""Bounds on log p of token sequences, and the objectives that train for them.

Let R_iy = β π_{x^i} r_iy be the reverse rates given x_0 and R̂_iy those of the network (`sde_lib.discrete.processes`).
The two reverse processes differ by a divergence of path measures, so that

    log p(x_0) ≥ −KL(p(x_T | x_0) ‖ π) − ∫ E Σ_i Σ_y [R̂ − R + R log(R/R̂)] dt + E log p(x_0 | x_{t_min})   (1)

with t from t_min to t_max, and with the decoder Π_i q_i(x_0^i) at t_min. It is the score entropy bound of Lou et al.
(2024, eq. 10 and theorem 3.6), with its ends. Given the exact q, it is an equality up to O(t_min), for each x_0.

For the masked process and a network of conditionals, Σ_y R̂ = Σ_y R, and the integrand of (1) is

    (dρ/dt)/ρ · Σ_{i masked} −log q_i(x_0^i)                                                         (2)

(Shi et al. 2024, eq. 5; Sahoo et al. 2024, eq. 10). The number k of masked tokens given t is binomial, so that the
integral over t ∈ [0, 1] is a Beta function, for every schedule. It leaves a sum over k,

    log p(x_0) ≥ −Σ_k (1/k) E_{|m| = k} Σ_{i ∈ m} −log q_i(x_0^i | the tokens outside m)              (3)

with sets m of k positions, all equally likely: the bound of any-order autoregressive models (Hoogeboom et al. 2022,
arXiv:2110.02037, eq. 5). It has no ends and no t, and less variance than (1). With exact conditionals it is an equality
for each x_0, since it is the mean over all orders of the chain rule.

Draws are stratified, two in each stratum, whose difference gives the standard error. In (1) t is drawn as u² with u
uniform: a token is replaced with probability about t, and its term is about 1/t, so the variance is finite.

Lou et al. 2024: arXiv:2310.16834. Sahoo et al. 2024: arXiv:2406.07524. Shi et al. 2024: arXiv:2406.04329.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.discrete.prediction import PredictTokens, Reverse, TokenParameterization, make_reverse
from sde_lib.discrete.processes import MaskedProcess, TokenProcess, Tokens, one_hot
from sde_lib.likelihood.bits import Elbo
from sde_lib.noise import fold
from sde_lib.numbers import Allowed, check_number
from sde_lib.sde import Time, time_derivative
from sde_lib.training.objective import AppliedNetwork, Batch, Objective, condition
from sde_lib.training.state import TrainState


def score_entropy(process: TokenProcess, reverse: Reverse, x0: Tokens, x: Tokens, t: Time) -> Float[Array, " B"]:
    """The integrand of (1) for one x_t = x: Σ_i Σ_y [R̂ − R + R log(R/R̂)] [B], in nats per unit of time."""
    log_ratios = reverse.log_ratios(x, t)
    true = process.log_ratios(log_indicator(process, x0).astype(log_ratios.dtype), x, t)
    log_true, log_model = (process.log_rates(ratios, x, t) for ratios in (true, log_ratios))
    some = jnp.isfinite(log_true)
    apart = jnp.where(some, jnp.exp(log_true) * (log_true - log_model), 0.0)
    return jnp.sum(jnp.exp(log_model) - jnp.exp(log_true) + apart, axis=(1, 2))


def masked_entropy(process: MaskedProcess, reverse: Reverse, x0: Tokens, x: Tokens, t: Time) -> Float[Array, " B"]:
    """Σ −log q_i(x_0^i) over the masked positions of x [B], in nats."""
    log_q = jnp.take_along_axis(reverse.log_conditionals(x, t), x0[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return -jnp.sum(jnp.where(x == process.mask, log_q, 0.0), axis=1)


def log_indicator(process: TokenProcess, x0: Tokens) -> Float[Array, "B L V"]:
    """log q of tokens that are known: 0 for x_0, −∞ else."""
    return jnp.where(one_hot(x0, process.num_tokens), 0.0, -jnp.inf)


def token_elbo(
    keys: Key[Array, " B"], process: TokenProcess, reverse: Reverse, x0: Tokens, num_times: int = 32
) -> Elbo:
    """The bound (1) on log P(x_0) in nats, of any process, and its terms; row i is a function of keys[i] and x0[i].

    `num_times`, an even number, is the number of draws of t, each one evaluation of the network; the decoder takes a
    quarter as many. ValueError for an odd number.
    """
    _check_pairs("token_elbo", num_times)
    span = process.t_max - process.t_min

    def integrand(j):
        draw_keys = fold(fold(keys, 0), j)
        u = _stratified(fold(draw_keys, 0), j, num_times)
        t = process.t_min + span * u**2
        x = process.perturb(fold(draw_keys, 1), x0, t)
        return 2 * u * span * score_entropy(process, reverse, x0, x, t)

    def decoded(j):
        t = jnp.full(x0.shape[:1], process.t_min)
        log_q = reverse.log_conditionals(process.perturb(fold(fold(keys, 1), j), x0, t), t)
        return jnp.sum(jnp.take_along_axis(log_q, x0[..., None].astype(jnp.int32), axis=-1), axis=(1, 2))

    diffusion, variance = _pairs(integrand, num_times)
    count = max(2, num_times // 4)
    decodes = jax.lax.map(decoded, jnp.arange(count))
    reconstruction, prior = jnp.mean(decodes, axis=0), process.prior_divergence(x0).astype(diffusion.dtype)
    error = jnp.sqrt(variance + jnp.var(decodes, axis=0, ddof=1) / count)
    return Elbo(reconstruction - prior - diffusion, error, prior, diffusion, reconstruction)


def any_order_elbo(
    keys: Key[Array, " B"], process: MaskedProcess, reverse: Reverse, x0: Tokens, num_sets: int = 32
) -> Elbo:
    """The bound (3) on log P(x_0) in nats; row i is a function of keys[i] and x0[i].

    `num_sets`, an even number, is the number of draws of a set of masked positions, each one evaluation of the network.
    ValueError for an odd number.
    """
    _check_pairs("any_order_elbo", num_sets)
    length = x0.shape[1]

    def draw(j):
        draw_keys = fold(keys, j)
        u = _stratified(fold(draw_keys, 0), j, num_sets)
        k = jnp.minimum((u * length).astype(jnp.int32), length - 1) + 1
        x = jnp.where(random_ranks(fold(draw_keys, 1), length) < k[:, None], jnp.asarray(process.mask, x0.dtype), x0)
        share = k.astype(u.dtype) / length
        return masked_entropy(process, reverse, x0, x, process.time_of(share)) / share

    diffusion, variance = _pairs(draw, num_sets)
    nothing = jnp.zeros_like(diffusion)
    return Elbo(-diffusion, jnp.sqrt(variance), nothing, diffusion, nothing)


def random_ranks(keys: Key[Array, " B"], length: int) -> Array:
    """A random permutation of 0 … length − 1 for each key, [B, length]."""
    return jax.vmap(lambda key: jax.random.permutation(key, length))(keys).astype(jnp.int32)


class ScoreEntropy(Objective):
    """The integrand of (1) per token, times t_max − t_min: its mean is the bound's integral, in nats per token.

    For any process, and for conditionals or ratios (Lou et al. 2024, eq. 10). The field is named as in other
    objectives: `sde` is the process.
    """

    sde: TokenProcess
    parameterization: TokenParameterization = PredictTokens()

    def times(self, key: Key[Array, ""], n: int) -> Float[Array, " n"]:
        """Uniform, one in each of n strata, with one draw for all."""
        u = (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0
        return self.sde.t_min + (self.sde.t_max - self.sde.t_min) * u

    def __call__(
        self, keys: Key[Array, " B"], t: Float[Array, " B"], network: AppliedNetwork, batch: Batch, state: TrainState
    ) -> Float[Array, " B"]:
        x0 = batch["x"].astype(jnp.int32)
        reverse = make_reverse(partial(network, cond=condition(batch)), self.sde, self.parameterization)
        loss = self.rate(reverse, x0, self.sde.perturb(keys, x0, t), t)
        return (self.sde.t_max - self.sde.t_min) / x0.shape[1] * loss

    def rate(self, reverse: Reverse, x0: Tokens, x: Tokens, t: Float[Array, " B"]) -> Float[Array, " B"]:
        """The integrand of the bound at t."""
        return score_entropy(self.sde, reverse, x0, x, t)


class MaskedDiffusion(ScoreEntropy):
    """The same for the masked process, by (2): the cross-entropy of masked tokens, weighted. TypeError for others."""

    def _check_numbers(self) -> None:
        super()._check_numbers()
        if not hasattr(self.sde, "mask"):
            raise TypeError(f"MaskedDiffusion requires a mask, which {type(self.sde).__name__} lacks; use ScoreEntropy")

    def rate(self, reverse: Reverse, x0: Tokens, x: Tokens, t: Float[Array, " B"]) -> Float[Array, " B"]:
        redrawn, slope = time_derivative(self.sde.redrawn, t)
        return (slope / redrawn) * masked_entropy(cast(MaskedProcess, self.sde), reverse, x0, x, t)


def _stratified(keys: Key[Array, " B"], j, count: int) -> Float[Array, " B"]:
    """Draw j of `count` on [0, 1], two in each stratum."""
    inside = jax.vmap(jax.random.uniform)(keys)
    return ((j // 2).astype(inside.dtype) + inside) / (count // 2)


def _pairs(draw, count: int) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(mean of draw(j) over j < count, its variance by the differences in strata), each [B]."""
    draws = jax.lax.map(draw, jnp.arange(count)).reshape(count // 2, 2, -1)
    return jnp.mean(draws, (0, 1)), jnp.sum((draws[:, 0] - draws[:, 1]) ** 2, axis=0) / count**2


def _check_pairs(place: str, count: int) -> None:
    check_number(place, "number of draws", count, Allowed(at_least=2, whole=True))
    if count % 2:
        raise ValueError(f"{place}: draws are made in pairs, so their number must be even; got {count}")
