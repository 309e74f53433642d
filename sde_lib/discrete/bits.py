"""Discrete data under an SDE: analog bits, and one-hot tokens, with the output that fits them.

Bits b = ±1 are perturbed as any data, x = α b + σ ε (Chen et al. 2022, arXiv:2208.04202). If a bit were independent of
all others, and fair, then by Bayes' rule for two normals

    log P(b = 1 | x)/P(b = −1 | x) = 2 α x/σ²,   E[b | x] = tanh(α x/σ²).                              (1)

The network learns what the others add to this logit, its output F (Batzolis et al. 2026, arXiv:2605.07013, the matched
filter):

    x̂₀ = tanh(α x/σ² + F/2).                                                                          (2)

For one-hot vectors of V entries the same rule gives, with the softmax over the last axis,

    x̂₀ = softmax(α x/σ² + F).                                                                         (3)

F = 0 is exact for independent fair bits, and for independent tokens of equal probability, at every noise level. The
score follows by (5) of `sde_lib.parameterization`, so solvers, guidance, posteriors and likelihoods apply. Of discrete
data `sde_lib.likelihood.bits.elbo` with levels (−1, 1) bounds log P without dequantization.
"""

from functools import partial

import jax
import jax.numpy as jnp

from sde_lib.node import Scalar, number
from sde_lib.parameterization import Coefficients, LogSigma, NoiseLabel, Parameterization
from sde_lib.sde import GaussianSDE, Time


class AnalogBits(Parameterization[GaussianSDE]):
    """(2), for data ±1: c_skip = α/σ², c_out = ½, c_in = 1/√(α² + σ²), and the link tanh."""

    c_noise: NoiseLabel[GaussianSDE] = LogSigma(scale=0.25)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        c_in = 1 / jnp.sqrt(alpha**2 + sigma**2)
        return Coefficients(alpha / sigma**2, 0.5, c_in, self.c_noise(sde, t), link=jnp.tanh)


class OneHotTokens(Parameterization[GaussianSDE]):
    """(3), for one-hot vectors in the last axis: c_skip = α/σ², c_out = 1, and the link softmax.

    c_in = 1/√(α² σ_d² + σ²), with σ_d the deviation of the data: 1/√V about 0.
    """

    sigma_data: Scalar = number(1.0, above=0)
    c_noise: NoiseLabel[GaussianSDE] = LogSigma(scale=0.25)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        c_in = 1 / jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        link = partial(jax.nn.softmax, axis=-1)
        return Coefficients(alpha / sigma**2, 1.0, c_in, self.c_noise(sde, t), link=link)
