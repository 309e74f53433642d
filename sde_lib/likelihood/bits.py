"""Bits per dimension of discrete data, and the evidence lower bound (ELBO) as a second estimate of the likelihood.

Dequantization. Let each value of the data, in model space, represent a bin of width Δ with the value in its middle. A
density p gives the value x in d dimensions the probability P(x) = ∫ p over its bin. With u uniform on [−½, ½]^d

    log P(x) = log E p(x + Δ u) + d log Δ ≥ E log (1/k) Σ_j p(x + Δ u_j) + d log Δ,                       (1)
    bits per dimension = −log P(x)/(d log 2),                                                              (2)

a bound on the probability that tightens as k grows (Theis et al. 2016, arXiv:1511.01844, section 3.1; Burda et al.
2016, arXiv:1509.00519, theorem 1). It applies to the ODE, whose density `sde_lib.likelihood.flow` computes.

ELBO. The reverse SDE with the score s is a latent variable model. With x_t = α x_0 + σ ε and λ = log α²/σ²,

    log p(x_0) ≥ −KL(p(x_T | x_0) ‖ π) − ½ ∫ E ‖ε + σ s(x_t, t)‖² (−dλ/dt) dt + E log p(x_0 | x_{t_min})   (3)

(Kingma et al. 2021, section 5; with −dλ/dt = g²/σ² the weight is that of Song et al. 2021b, eq. 8). With the T steps of
a grid t > s in place of the integral it is the bound of the discrete-time model (Kingma et al. 2021, section 4; Ho et
al. 2020, eq. 5),

    −½ Σ_steps (exp(λ(s) − λ(t)) − 1) E ‖ε + σ s(x_t, t)‖²,                                               (4)

which approaches (3) from below as T grows. For continuous data, the decoder p(x_0 | x_{t_min}) is normal with mean x̂₀
and standard deviation σ/α, so that

    log p(x_0 | x_{t_min}) = −½ ‖ε + σ s‖² − ½ d log 2π + ½ Σ λ(t_min).                                   (5)

For discrete data, each coordinate takes one of K levels with probability ∝ exp(−(x_{t_min} − α level)²/(2σ²)) (Kingma
et al. 2021, section 3.2). Of two levels, a mean determines the probabilities, which are then those of x̂₀,

    P(high) = (x̂₀ − low)/(high − low),   between 10⁻⁷ and 1 − 10⁻⁷.                                       (6)

With it t_min need not be small. Then (3) bounds log P(x_0) without dequantization.

With the exact score and π = p at t_max, (3) is an equality for each x_0, except for O(σ⁴) in (5). It then equals log p
by the ODE. With a learned score the SDE and the ODE are two models, each with its own likelihood.

In (3) λ is drawn uniformly in strata of two draws, whose difference gives the standard error. A control variate of
expectation 0, c² (‖ε‖² − d) with c = α²/(α² + σ²), is subtracted from each ‖ε + σ s‖². For data of unit variance it is
all of the noise.

Kingma et al. 2021: "Variational Diffusion Models", arXiv:2107.00630.
Song et al. 2021b: "Maximum Likelihood Training of Score-Based Diffusion Models", arXiv:2101.09258.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.likelihood.dequantization import Dequantizer
from sde_lib.losses import dequantize
from sde_lib.noise import fold
from sde_lib.numbers import AT_LEAST_ONE, POSITIVE, Allowed, check_number, check_numbers
from sde_lib.parameterization import ScoreFn, x0_hat
from sde_lib.sde import SDE, expand, has_kernel, per_time
from sde_lib.training.likelihood_weighting import log_snr_quantile, log_snr_range


def bits_per_dim(
    keys: Key[Array, " B"],
    log_prob: Callable[[Key[Array, " B"], Float[Array, "B ..."]], Float[Array, " B"]],
    x: Float[Array, "B ..."],
    *,
    bin_width=None,
    samples: int = 1,
    dequantizer: Dequantizer | None = None,
) -> Float[Array, " B"]:
    """Bits per dimension (2) of discrete data x, by (1) with k = `samples`; an upper bound in expectation.

    `log_prob` maps (keys, x) to log densities in nats [B]. u is uniform, or drawn by `dequantizer` and weighted
    accordingly (`sde_lib.likelihood.dequantization`). `bin_width` is Δ in model space, a number or one per coordinate:
    2/255 for 8-bit images mapped linearly from 0 … 255 to [−1, 1].

    For k > 1 `log_prob` must be exact. Noise in it, as from a trace estimated by probes, is averaged as exp(noise),
    which may break the bound. Raises ValueError without a bin_width, and for samples < 1.
    """
    if bin_width is None:
        raise ValueError(
            "bits per dimension require bin_width, the distance between neighboring values of the data in model space; "
            "data without bins have only a log density in nats"
        )
    check_numbers("bits_per_dim", locals(), samples=AT_LEAST_ONE, bin_width=POSITIVE)

    def draw(j):
        noise_keys, model_keys = fold(fold(keys, j), 0), fold(fold(keys, j), 1)
        if dequantizer is None:
            return log_prob(model_keys, dequantize(noise_keys, x, bin_width))
        u, log_q = dequantizer(noise_keys, x)
        return log_prob(model_keys, x + width * u) - log_q

    width = jnp.broadcast_to(_width(bin_width, x), x.shape)
    log_density = jax.nn.logsumexp(jax.lax.map(draw, jnp.arange(samples)), axis=0) - math.log(samples)
    return nats_to_bits(log_density + jnp.sum(jnp.log(width), axis=tuple(range(1, x.ndim))), x[0].size)


def nats_to_bits(log_probability: Float[Array, " B"], dimension: int) -> Float[Array, " B"]:
    """(2): bits per dimension of a log probability of discrete data, in nats."""
    return -log_probability / (dimension * math.log(2))


def _width(bin_width, x):
    """Δ, broadcasting against x."""
    width = jnp.asarray(bin_width, x.dtype)
    return width if width.ndim == 0 else jnp.broadcast_to(width, x.shape[1:])[None]


class Elbo(NamedTuple):
    """The bound (3) or (4) in nats for each sample, the standard error of its estimate, and its three terms.

    value = reconstruction − prior − diffusion. All are [B], in nats.
    """

    value: Float[Array, " B"]
    error: Float[Array, " B"]
    prior: Float[Array, " B"]
    diffusion: Float[Array, " B"]
    reconstruction: Float[Array, " B"]


def elbo(
    keys: Key[Array, " B"],
    sde: SDE,
    score_fn: ScoreFn,
    x0: Float[Array, "B ..."],
    *,
    num_times: int = 32,
    times: Float[Array, " N"] | None = None,
    levels: Float[Array, " K"] | None = None,
) -> Elbo:
    """A lower bound on log p(x_0) in nats: (3), or (4) if the `times` of a grid from t_max down to t_min are given.

    With `levels`, the values that a coordinate can take in model space, it bounds log P(x_0) of discrete data, which
    `nats_to_bits` converts to bits per dimension. num_times, an even number, is the number of draws for the integral or
    sum, each one evaluation of the score. The reconstruction takes a quarter as many. Row i is a function of keys[i]
    and x0[i]. Raises TypeError if the SDE has no kernel, and ValueError for an odd num_times.
    """
    missing = [name for name in ("alpha", "sigma", "prior_std") if not hasattr(sde, name)]
    if missing or not has_kernel(sde):
        raise TypeError(f"the ELBO needs {', '.join(missing)} of the SDE, which {type(sde).__name__} lacks")
    check_number("elbo", "num_times", num_times, Allowed(at_least=2, whole=True))
    if num_times % 2:
        raise ValueError(f"times are drawn in pairs: num_times must be even; got {num_times}")

    def integrand(j):
        draw_keys = fold(fold(keys, 0), j)
        inside = jax.vmap(jax.random.uniform)(fold(draw_keys, 0))
        u = ((j // 2).astype(inside.dtype) + inside) / (num_times // 2)
        t, weight = _continuous(sde, u, x0) if times is None else _discrete(sde, u, times.astype(u.dtype), x0)
        return 0.5 * _sum(weight * _squared_error(fold(draw_keys, 1), sde, score_fn, x0, t)[0])

    def decoded(j):
        draw_keys, t = fold(fold(keys, 1), j), jnp.full(x0.shape[:1], sde.t_min)
        if levels is not None:
            x, _ = sde.perturb(draw_keys, x0, t)
            if len(levels) == 2:
                return _log_decoder_of_two(x0_hat(sde, x, t, score_fn(x, t)), x0, levels)
            return _log_decoder(sde, x, x0, t, levels)
        squares, log_snr = _squared_error(draw_keys, sde, score_fn, x0, t)
        return 0.5 * _sum(log_snr - squares - math.log(2 * math.pi))

    draws = jax.lax.map(integrand, jnp.arange(num_times)).reshape(num_times // 2, 2, -1)
    count = max(2, num_times // 4)
    decodes = jax.lax.map(decoded, jnp.arange(count))
    prior, diffusion, reconstruction = _prior_divergence(sde, x0), jnp.mean(draws, (0, 1)), jnp.mean(decodes, 0)
    variance = jnp.sum((draws[:, 0] - draws[:, 1]) ** 2, axis=0) / num_times**2 + jnp.var(decodes, 0, ddof=1) / count
    return Elbo(reconstruction - prior - diffusion, jnp.sqrt(variance), prior, diffusion, reconstruction)


def _continuous(sde, u, x0):
    """t [B] with λ uniform, and the weight of (3): −dλ/dt over the density of t."""
    t = log_snr_quantile(sde, u)
    rate = (jnp.asarray(sde.diffusion(t)) / jnp.asarray(sde.sigma(t))) ** 2
    return t, log_snr_range(sde).astype(x0.dtype) * expand(rate, x0) / expand(per_time(rate, t), x0)


def _discrete(sde, u, times, x0):
    """The start t [B] of a step drawn uniformly, and the weight of (4) over the step's probability."""
    num_steps = len(times) - 1
    k = jnp.minimum((u * num_steps).astype(int), num_steps - 1)
    t, s = times[k], times[k + 1]
    return t, num_steps * expand(jnp.expm1(sde.log_snr(s) - sde.log_snr(t)), x0)


def _squared_error(keys, sde, score_fn, x0, t):
    """((ε + σ s)² − c² (ε² − 1), λ), each of x0's shape or broadcasting to it."""
    x, eps = sde.perturb(keys, x0, t)
    log_snr = jnp.broadcast_to(expand(sde.log_snr(t), x), x.shape)
    error = expand(sde.sigma(t), x) * score_fn(x, t) + eps
    return error**2 - jax.nn.sigmoid(log_snr) ** 2 * (eps**2 - 1), log_snr


def _log_decoder(sde, x, x0, t, levels):
    """log p(x_0 | x) with K levels per coordinate."""
    alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
    logit = lambda value: -0.5 * ((x - alpha * value) / sigma) ** 2  # noqa: E731
    total = jax.nn.logsumexp(jax.lax.map(logit, levels.astype(x.dtype)), axis=0)
    return _sum(logit(x0) - total)


def _log_decoder_of_two(mean, x0, levels, least=1e-7):
    """log P(x_0) by (6), for a mean x̂₀."""
    low, high = jnp.sort(levels.astype(mean.dtype))
    p_high = jnp.clip((mean - low) / (high - low), least, 1 - least)
    return _sum(jnp.where(x0 > 0.5 * (low + high), jnp.log(p_high), jnp.log1p(-p_high)))


def _prior_divergence(sde, x0):
    """KL(N(α x_0, σ² I) ‖ π) at t_max, π = N(0, prior_std² I)."""
    mean, std = sde.marginal(x0, sde.t_max)
    prior = expand(sde.prior_std(), x0)
    ratio = jnp.broadcast_to((std / prior) ** 2, x0.shape)
    return 0.5 * _sum(ratio - 1 - jnp.log(ratio) + (mean / prior) ** 2)


def _sum(values):
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))
