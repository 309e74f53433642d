"""The stochastic sampler of Karras et al. (2022, arXiv:2206.00364, algorithm 2), for every kernel.

In x̃ = x/α at noise level ρ = σ/α, which are their x and σ, the probability flow is dx̃/dρ = ε̂ = (x̃ − x̂₀)/ρ. A step from
t to s first adds noise, which takes it back to a noisier time t̂, and then goes to s by Heun's rule in ρ:

    ρ(t̂) = (1 + γ) ρ(t)                                                                          (1)
    x̃_t̂ = x̃_t + S_noise √(ρ(t̂)² − ρ(t)²) z                                                       (2)
    x̃_s = x̃_t̂ + ½ (ρ_s − ρ_t̂) [ε̂(x̃_t̂, t̂) + ε̂(x̃_t̂ + (ρ_s − ρ_t̂) ε̂(x̃_t̂, t̂), s)]                     (3)
"""

import math

import jax.numpy as jnp

from sde_lib.node import Scalar, number
from sde_lib.noise import normal_like
from sde_lib.parameterization import eps_hat
from sde_lib.sde import expand, per_time
from sde_lib.solvers.base import KernelSolver, SolverState
from sde_lib.solvers.exponential import safe_sqrt


class EDMHeun(KernelSolver):
    """Heun's rule in the noise level with added noise, (1) to (3): order 2, in the variance too if gamma falls as 1/N.

    gamma is γ of each step: min(S_churn/N, √2 − 1) for N steps (Karras et al. 2022, algorithm 2). Larger values are
    clipped to √2 − 1. Noise is added where S_tmin ≤ ρ(t) ≤ S_tmax; t̂ is at most t_max, and (2) has the noise that leads
    to that t̂. gamma = 0 is their algorithm 1. `mean` equals x, since the noise comes before the step.
    """

    gamma: Scalar = number(0.0, at_least=0)
    S_tmin: Scalar = number(0.0, at_least=0, at_most="S_tmax")
    S_tmax: Scalar = number(math.inf, at_least=0, finite=False)
    S_noise: Scalar = number(1.0, at_least=0)

    @property
    def nfe(self) -> int:
        return 2

    def step(self, keys, state, t, s, sde, score_fn):
        x, t_hat = state.x, self._t_hat(t, s, sde)
        rho_t, rho_hat, rho_s = (expand(jnp.exp(-0.5 * sde.log_snr(time)), x) for time in (t, t_hat, s))
        alpha_t, alpha_hat, alpha_s = (expand(sde.alpha(time), x) for time in (t, t_hat, s))
        # Where t̂ = t, rounding may leave a difference of the two levels, whose root is not small.
        variance = expand(jnp.where(t_hat > t, 1.0, 0.0), x) * (rho_hat**2 - rho_t**2)
        start = x / alpha_t + self.S_noise * safe_sqrt(variance) * normal_like(keys, x)
        slope = _slope(alpha_hat * start, t_hat, sde, score_fn)
        step = rho_s - rho_hat
        end_slope = _slope(alpha_s * (start + step * slope), s, sde, score_fn)
        x = alpha_s * (start + 0.5 * step * (slope + end_slope))
        return SolverState(x, x)

    def _t_hat(self, t, s, sde):
        """t̂ (1), equal to t where no noise is added."""
        log_snr = per_time(sde.log_snr(t), t)
        level = jnp.exp(-0.5 * log_snr)
        churned = (s < t) & (self.S_tmin <= level) & (level <= self.S_tmax) & (self.gamma > 0)
        gamma = jnp.minimum(self.gamma, math.sqrt(2) - 1)
        return jnp.where(churned, jnp.maximum(sde.time_of_log_snr(log_snr - 2 * jnp.log1p(gamma)), t), t)


def _slope(x, t, sde, score_fn):
    """dx̃/dρ = ε̂."""
    return eps_hat(sde, x, t, score_fn(x, t))
