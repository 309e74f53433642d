"""What the network's output means: four coefficients between the network F and the score.

    score(x, t) = c_skip x + c_out F(c_in x, c_noise)                                              (1)

This is the form of Karras et al. (2022, eq. 7), with the score in place of the denoiser: nothing cancels at small σ,
and all terms stay finite where α → 0. With x = α x_0 + σ ε the other quantities follow from the score:

    x̂₀ = (x + σ² score) / α      (Tweedie's formula; Efron 2011)                                   (2)
    ε̂  = −σ score                                                                                 (3)
    v̂  = α ε̂ − σ x̂₀              (Salimans & Ho 2022, section 4)                                  (4)

The inverse maps are the parameterizations themselves, with the identity for a network.

Where x_0 is known to be discrete, x̂₀ is a nonlinear function of the output, the link (`sde_lib.discrete.bits`):

    x̂₀ = link(c_skip x + c_out F(c_in x, c_noise)),   score = (α x̂₀ − x)/σ².                      (5)

Karras et al. 2022: "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364.
"""

import abc
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, cast, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib.node import PyTreeNode, Scalar, number
from sde_lib.sde import SDE, Coefficient, GaussianSDE, Process, Time, expand, per_time

ScoreFn = Callable[[Float[Array, "B ..."], Time], Float[Array, "B ..."]]
"""(x [B, ...], t [] or [B]) → ∇log p_t(x) [B, ...]."""


class Coefficients(NamedTuple):
    """The four coefficients of (1), each of t's shape.

    If c_drift is not None, c_drift f(x, t) is added to the score. If link is not None, they are those of (5).
    """

    c_skip: Coefficient
    c_out: Coefficient
    c_in: Coefficient
    c_noise: Coefficient
    c_drift: Coefficient | None = None
    link: Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]] | None = None


@runtime_checkable
class NoiseLabel(Protocol[Process]):
    """The network's input for the noise level: (sde, t) → c_noise, of t's shape."""

    def __call__(self, sde: Process, t: Time) -> Coefficient: ...


class ScaledTime(PyTreeNode):
    """c_noise = scale · t + offset.

    The published VP networks were trained with scale 999 (Song et al. 2021, their code). DDPM's label k − 1 at
    t_k = k/N is N t − 1. NCSN's label, which counts from the noise, is (N − 1) (1 − t).
    """

    scale: Scalar = number(1.0)
    offset: Scalar = number(0.0)

    def __call__(self, sde: SDE, t: Time) -> Coefficient:
        return self.scale * jnp.asarray(t) + self.offset


class LogSigma(PyTreeNode):
    """c_noise = scale · log(σ/(α unit)), the logarithm of the noise level of x/α.

    Scale is 1 for the published VE networks, ¼ for Karras et al. (2022, table 1). For data in [−1, 1], unit 2 gives the
    labels of networks that were trained on data in [0, 1]. Where coordinates differ, the label is their mean.
    """

    scale: Scalar = number(1.0)
    unit: Scalar = number(1.0, above=0)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient:
        return self.scale * (-0.5 * per_time(sde.log_snr(t), t) - jnp.log(self.unit))


class Parameterization(PyTreeNode, abc.ABC, Generic[Process]):
    """(sde, t) → the coefficients of (1). All but `PredictPathScore` require a GaussianSDE."""

    @abc.abstractmethod
    def __call__(self, sde: Process, t: Time) -> Coefficients: ...

    def denoiser(self, sde: Any, t: Time) -> tuple[Coefficient, Coefficient]:
        """(a, b) of x̂₀ = a x + b F, by (1) and (2); overridden where a would be a difference of nearly equal terms."""
        c, variance, alpha = self(sde, t), sde.sigma(t) ** 2, sde.alpha(t)
        return (1 + variance * c.c_skip) / alpha, variance * c.c_out / alpha


class PredictNoise(Parameterization[GaussianSDE]):
    """F = ε: score = −F/σ (Ho et al. 2020, eq. 11 and 12)."""

    c_noise: NoiseLabel[GaussianSDE] = ScaledTime()

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        return Coefficients(0.0, -1 / sde.sigma(t), 1.0, self.c_noise(sde, t))


class PredictScore(Parameterization[GaussianSDE]):
    """F = σ · score: score = F/σ, as in the published VE networks (Song & Ermon 2020, technique 3)."""

    c_noise: NoiseLabel[GaussianSDE] = LogSigma()

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        return Coefficients(0.0, 1 / sde.sigma(t), 1.0, self.c_noise(sde, t))


class PlainScore(Parameterization):
    """F = score (Song & Ermon 2019, section 3.2). The network itself must grow as 1/σ, unlike with `PredictScore`."""

    c_noise: NoiseLabel = LogSigma()

    def __call__(self, sde: SDE, t: Time) -> Coefficients:
        return Coefficients(0.0, 1.0, 1.0, self.c_noise(sde, t))


class PredictX0(Parameterization[GaussianSDE]):
    """F = x_0: score = (α F − x)/σ², by (2)."""

    c_noise: NoiseLabel[GaussianSDE] = ScaledTime()

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return Coefficients(-1 / sigma**2, alpha / sigma**2, 1.0, self.c_noise(sde, t))


class PredictV(Parameterization[GaussianSDE]):
    """F = v = α ε − σ x_0, so that ε = (σ x + α F)/(α² + σ²) and score = −(x + (α/σ) F)/(α² + σ²), by (3) and (4)."""

    c_noise: NoiseLabel[GaussianSDE] = ScaledTime()

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = alpha**2 + sigma**2
        return Coefficients(-1 / total, -alpha / (sigma * total), 1.0, self.c_noise(sde, t))


class EDMPreconditioning(Parameterization[GaussianSDE]):
    """Unit variance at the network's input and output, for data of standard deviation sigma_data.

        c_skip = −1/T,   c_out = α σ_d/(σ √T),   c_in = 1/√T,   T = α² σ_d² + σ²

    Karras et al. 2022, table 1 and appendix B.6, for x/α at noise level σ/α, converted to the score by (2).
    """

    sigma_data: Scalar = number(0.5, above=0)
    c_noise: NoiseLabel[GaussianSDE] = LogSigma(scale=0.25)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = (alpha * self.sigma_data) ** 2 + sigma**2
        c_in = 1 / jnp.sqrt(total)
        return Coefficients(-1 / total, alpha * self.sigma_data / sigma * c_in, c_in, self.c_noise(sde, t))

    def denoiser(self, sde: GaussianSDE, t: Time) -> tuple[Coefficient, Coefficient]:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = (alpha * self.sigma_data) ** 2 + sigma**2
        return alpha * self.sigma_data**2 / total, sigma * self.sigma_data / jnp.sqrt(total)


def make_score_fn(
    network: Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]],
    sde: SDE,
    parameterization: Parameterization,
) -> ScoreFn:
    """The score (1). `network` maps (c_in x [B, ...], c_noise [B]) to F [B, ...]; its parameters are already bound."""

    def score_fn(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        c = parameterization(sde, t)
        score = expand(c.c_skip, x) * x + expand(c.c_out, x) * network_output(network, c, x)[..., : x.shape[-1]]
        if c.link is not None:
            return score_of_x0(cast(GaussianSDE, sde), x, t, c.link(score))
        return score if c.c_drift is None else score + expand(c.c_drift, x) * sde.drift(x, t)

    return score_fn


def denoised(network: Callable, sde: Any, parameterization: Parameterization, x: Float[Array, "B ..."], t: Time):
    """x̂₀ of a network as that of `make_score_fn`, not from the score, which loses digits where σ is large."""
    c = parameterization(sde, t)
    output = network_output(network, c, x)[..., : x.shape[-1]]
    if c.link is not None:
        return c.link(expand(c.c_skip, x) * x + expand(c.c_out, x) * output)
    a, b = parameterization.denoiser(sde, t)
    return expand(a, x) * x + expand(b, x) * output


def network_output(network: Callable, c: Coefficients, x: Float[Array, "B ..."]) -> Array:
    """F(c_in x, c_noise), with the channels of a learned variance after those of F."""
    return network(expand(c.c_in, x) * x, jnp.broadcast_to(jnp.asarray(c.c_noise, x.dtype), x.shape[:1]))


def x0_hat(sde: GaussianSDE, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
    """x̂₀ = (x + σ² score)/α = E[x_0 | x_t = x] (2)."""
    return (x + expand(sde.sigma(t), x) ** 2 * score) / expand(sde.alpha(t), x)


def score_of_x0(sde: GaussianSDE, x: Float[Array, "B ..."], t: Time, x0: Float[Array, "B ..."]):
    """(α x̂₀ − x)/σ², the inverse of (2)."""
    return (expand(sde.alpha(t), x) * x0 - x) / expand(sde.sigma(t), x) ** 2


def eps_hat(sde: GaussianSDE, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
    """ε̂ = −σ score (3)."""
    return -expand(sde.sigma(t), x) * score


def v_hat(sde: GaussianSDE, x: Float[Array, "B ..."], t: Time, score: Float[Array, "B ..."]):
    """v̂ = α ε̂ − σ x̂₀ (4), expanded to −σ (x + (α² + σ²) score)/α."""
    alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
    return -sigma * (x + (alpha**2 + sigma**2) * score) / alpha
