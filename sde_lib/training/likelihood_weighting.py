"""Training for likelihood: the weight that bounds −log p, with times drawn where it is large.

Denoising score matching with the weight g² bounds the likelihood (Song et al. 2021b, eq. 8). With t uniform its
variance is large: at t_min, g²/σ² is thousands of times its mean. They draw t with a density ∝ g²/σ² (section 4.3), and
give its distribution function in closed form for each process. For every Gaussian process it is the log signal-to-noise
ratio λ = log α²/σ²: by g² = dσ²/dt − 2 (d log α/dt) σ²,

    dλ/dt = 2 d log α/dt − (dσ²/dt)/σ² = −g²/σ²                                                            (1)
    density(t) = (g²/σ²)/Λ,   ∫_{t_min}^t density = (λ(t_min) − λ(t))/Λ,   Λ = λ(t_min) − λ(t_max)         (2)

so t is drawn by drawing λ uniformly and inverting. The rest of the weight is

    g²/((t_max − t_min) density) = σ² Λ/(t_max − t_min).                                                   (3)

The loss has the same expectation. Up to a constant it is that of the noise prediction at uniform λ (Kingma et al. 2021,
arXiv:2107.00630, section 5). Where coordinates differ, g²/σ² and λ in (2) are means over them.

Song et al. 2021b: "Maximum Likelihood Training of Score-Based Diffusion Models", arXiv:2101.09258.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode
from sde_lib.sde import Coefficient, GaussianSDE, Time, per_time


class LogSNRTime(PyTreeNode):
    """t with λ(t) uniform over its range (2), stratified over the batch as in StratifiedTime."""

    def __call__(self, key: Key[Array, ""], sde: GaussianSDE, n: int) -> Float[Array, " n"]:
        return log_snr_quantile(sde, (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0)


class ImportanceLikelihoodWeight(PyTreeNode):
    """(3), for dsm_loss with LogSNRTime: the expectation of LikelihoodWeight at uniform t."""

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient:
        g2 = jnp.asarray(sde.diffusion(t)) ** 2
        rate = g2 / jnp.asarray(sde.sigma(t)) ** 2
        mean_rate = per_time(rate, t)
        scale = log_snr_range(sde) / (sde.t_max - sde.t_min)
        return scale * g2 / mean_rate.reshape(mean_rate.shape + (1,) * (g2.ndim - mean_rate.ndim))


def log_snr_range(sde: GaussianSDE) -> Float[Array, ""]:
    """Λ = λ(t_min) − λ(t_max), in nats."""
    first, last = (per_time(sde.log_snr(t), t) for t in (sde.t_min, sde.t_max))
    return first - last


def log_snr_quantile(sde: GaussianSDE, u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The t with (λ(t_min) − λ(t))/Λ = u: t_min at u = 0 and t_max at 1."""
    first = per_time(sde.log_snr(sde.t_min), sde.t_min)
    return jnp.clip(sde.time_of_log_snr(first - u * log_snr_range(sde)), sde.t_min, sde.t_max)
