"""The processes of the literature, each specified by its kernel: x_t = α(t) x_0 + σ(t) ε.

    VP                 β linear                       the continuous limit of DDPM
    SubVP              β linear                       less variance than VP
    VE                 σ geometric                    the continuous limit of NCSN: noise only
    CosineVP           α = cos                        VP with a cosine schedule
    EDM                σ = t                          VE with time itself as the noise level
    RectifiedFlow      α = 1 − t, σ = t               linear interpolation between data and noise
    OrnsteinUhlenbeck  constant coefficients          the textbook's process
    DiagonalVP         β linear, per coordinate       for data whose coordinates have different scales

`sde_lib.processes.schedules` has tabulated and learned schedules. All parameters are leaves of the pytree: changing one
does not recompile, and gradients flow into it. A number that its process does not allow raises ValueError.

Song et al. 2021: "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

import math

import jax.numpy as jnp
import numpy as np

from sde_lib.node import Leaf, Scalar, number
from sde_lib.sde import Coefficient, GaussianSDE, Time


class VP(GaussianSDE):
    """Variance preserving: dx = −½ β(t) x dt + √β(t) dw, β linear from beta_min to beta_max over t in [0, 1].

        α(t) = exp(−½ ∫β),   σ²(t) = 1 − exp(−∫β),   ∫β = β_min t + ½ (β_max − β_min) t²

    The continuous limit of DDPM. Song et al. 2021, eq. 11, 32 and 33; the prior is N(0, I).
    """

    beta_min: Scalar = number(0.1, at_least=0, at_most="beta_max")
    beta_max: Scalar = number(20.0, above=0)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(-0.5 * _linear_beta_integral(self, t))

    def sigma(self, t: Time) -> Coefficient:
        return jnp.sqrt(-jnp.expm1(-_linear_beta_integral(self, t)))

    def prior_std(self) -> Coefficient:
        return 1.0


class SubVP(GaussianSDE):
    """Sub-VP: dx = −½ β(t) x dt + √(β(t) (1 − exp(−2∫β))) dw, with less variance than VP at every t.

        α(t) = exp(−½ ∫β),   σ(t) = 1 − exp(−∫β)

    Song et al. 2021, eq. 27 to 29; the prior is N(0, I).
    """

    beta_min: Scalar = number(0.1, at_least=0, at_most="beta_max")
    beta_max: Scalar = number(20.0, above=0)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(-0.5 * _linear_beta_integral(self, t))

    def sigma(self, t: Time) -> Coefficient:
        return -jnp.expm1(-_linear_beta_integral(self, t))

    def prior_std(self) -> Coefficient:
        return 1.0


class VE(GaussianSDE):
    """Variance exploding: dx = √(dσ²/dt) dw with σ growing geometrically over t in [0, 1].

        α(t) = 1,   σ(t) = σ_min (σ_max/σ_min)^t

    The continuous limit of NCSN. Song et al. 2021, eq. 30 and 31. As published, σ(0) is σ_min and not 0: the data are
    assumed to have that much noise from the start. The prior is N(0, σ_max² I).
    """

    sigma_min: Scalar = number(0.01, above=0, below="sigma_max")
    sigma_max: Scalar = number(50.0, above=0)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.ones_like(t)

    def sigma(self, t: Time) -> Coefficient:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** jnp.asarray(t)


class CosineVP(GaussianSDE):
    """VP with a cosine schedule: with θ(t) = (π/2) (t + s)/(1 + s),

        α(t) = cos θ(t)/cos θ(0),   σ²(t) = 1 − α² = sin(θ(t) − θ(0)) sin(θ(t) + θ(0))/cos² θ(0)

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, with their offset s = 0.008. At t = 1 α would be 0 and the rate
    infinite, so t_max is smaller; their clipping of β at 0.999 has the same effect.
    """

    t_max: Scalar = number(0.999, above=0, below=1)
    offset: Scalar = number(0.008, at_least=0)

    def alpha(self, t: Time) -> Coefficient:
        rate = self._rate()
        return jnp.sin(rate * (1 - t)) / jnp.cos(rate * self.offset)  # cos θ(t), accurate where it is nearly 0

    def sigma(self, t: Time) -> Coefficient:
        rate = self._rate()
        return jnp.sqrt(jnp.sin(rate * t) * jnp.sin(rate * (t + 2 * self.offset))) / jnp.cos(rate * self.offset)

    def prior_std(self) -> Coefficient:
        return 1.0

    def _rate(self) -> Coefficient:
        """dθ/dt."""
        return 0.5 * math.pi / (1 + self.offset)


class EDM(GaussianSDE):
    """dx = √(2t) dw, so that time is the noise level: α(t) = 1, σ(t) = t, for t in [0.002, 80].

    Karras et al. 2022, arXiv:2206.00364, table 1 and section 3; their σ_min and σ_max are t_min and t_max.
    """

    t_min: Scalar = 0.002
    t_max: Scalar = 80.0

    def alpha(self, t: Time) -> Coefficient:
        return jnp.ones_like(t)

    def sigma(self, t: Time) -> Coefficient:
        return jnp.asarray(t)


class RectifiedFlow(GaussianSDE):
    """Linear interpolation between data and noise, x_t = (1 − t) x_0 + t ε: α(t) = 1 − t, σ(t) = t.

    The path of rectified flow and flow matching (Liu et al. 2023, arXiv:2209.03003, eq. 1; Lipman et al. 2023,
    arXiv:2210.02747, section 4.1). Its velocity E[ε − x_0 | x_t] is the drift of this process's probability flow. In
    the SDE the rate −1/(1 − t) and g² = 2t/(1 − t) are infinite at t = 1, where the data vanish. So t_max is 0.999,
    where a thousandth of them is left.
    """

    t_min: Scalar = 1e-3
    t_max: Scalar = number(0.999, above=0, below=1)

    def alpha(self, t: Time) -> Coefficient:
        return 1 - jnp.asarray(t)

    def sigma(self, t: Time) -> Coefficient:
        return jnp.asarray(t)


class OrnsteinUhlenbeck(GaussianSDE):
    """dx = −r x dt + g dw with constant rate r and diffusion g.

        α(t) = exp(−r t),   σ²(t) = g²/(2r) (1 − exp(−2 r t))

    Uhlenbeck & Ornstein 1930; Särkkä & Solin 2019, example 6.2. The prior is the stationary N(0, g²/(2r) I).
    """

    t_min: Scalar = 1e-4
    t_max: Scalar = 8.0
    rate: Scalar = number(1.0, above=0)
    noise: Scalar = number(math.sqrt(2.0), above=0)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(-self.rate * jnp.asarray(t))

    def sigma(self, t: Time) -> Coefficient:
        return self.prior_std() * jnp.sqrt(-jnp.expm1(-2 * self.rate * jnp.asarray(t)))

    def prior_std(self) -> Coefficient:
        return self.noise / jnp.sqrt(2 * self.rate)


class DiagonalVP(GaussianSDE):
    """VP with a scale s_i and a speed r_i for each coordinate: dx_i = −½ r_i β(t) x_i dt + s_i √(r_i β(t)) dw_i.

        α_i(t) = exp(−½ r_i ∫β),   σ_i²(t) = s_i² (1 − exp(−r_i ∫β))

    For data whose coordinates have different scales: with s_i their standard deviations, each coordinate loses the same
    fraction of its variance to noise at each t. `scales` and `speeds` have the event's shape, or broadcast to it; β is
    VP's. The prior is N(0, diag s²).
    """

    scales: Leaf = number(above=0)
    speeds: Leaf = number(1.0, above=0)
    beta_min: Scalar = number(0.1, at_least=0, at_most="beta_max")
    beta_max: Scalar = number(20.0, above=0)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Coefficient:
        return self._scales(t) * jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def prior_std(self) -> Coefficient:
        return self._scales(jnp.zeros(()))

    def _integral(self, t: Time) -> Coefficient:
        """r_i ∫β [t or 1, *event]."""
        t, speeds = jnp.asarray(t), jnp.asarray(self.speeds)
        event = np.broadcast_shapes(speeds.shape, np.shape(self.scales))
        t = t.reshape((-1,) + (1,) * len(event))
        return _linear_beta_integral(self, t) * jnp.broadcast_to(speeds.astype(t.dtype), event)[None]

    def _scales(self, t: Time) -> Coefficient:
        event = np.broadcast_shapes(np.shape(self.speeds), np.shape(self.scales))
        return jnp.broadcast_to(jnp.asarray(self.scales).astype(jnp.asarray(t).dtype), event)[None]


def _linear_beta_integral(sde: VP | SubVP | DiagonalVP, t: Time) -> Coefficient:
    """∫₀ᵗ β(s) ds = β_min t + ½ (β_max − β_min) t²."""
    return sde.beta_min * t + 0.5 * (sde.beta_max - sde.beta_min) * t**2
