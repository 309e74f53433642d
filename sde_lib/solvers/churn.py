"""The stochastic sampler of Karras et al. (2022, arXiv:2206.00364, algorithm 2), for every kernel.

In x̃ = x/α at noise level ρ = σ/α, which is their x and σ, the probability flow is dx̃/dρ = ε̂ = (x̃ − x̂₀)/ρ. A step from
t to s first goes back to a noisier time t̂, by noise of the forward process, and then to s by Heun's rule in ρ:

    ρ(t̂) = (1 + γ) ρ(t)                                                                          (1)
    x̃_t̂ = x̃_t + S_noise √(ρ(t̂)² − ρ(t)²) z                                                       (2)
    x̃_s = x̃_t̂ + ½ (ρ_s − ρ_t̂) [ε̂(x̃_t̂, t̂) + ε̂(x̃_t̂ + (ρ_s − ρ_t̂) ε̂(x̃_t̂, t̂), s)]                     (3)
"""

import math

import jax.numpy as jnp

from sde_lib.node import Scalar
from sde_lib.noise import normal_like
from sde_lib.parameterization import eps_hat
from sde_lib.sde import expand, per_time
from sde_lib.solvers.base import KernelSolver, SolverState
from sde_lib.solvers.exponential import root


class EDMHeun(KernelSolver):
    """(1) to (3), of order 2: of the variance too, where churn falls as 1/N.

    churn is the γ of a step: S_churn/N for N steps; above √2 − 1 it counts as that. It works where s_min ≤ ρ(t) ≤ s_max
    (S_tmin and S_tmax), and no farther back than t_max: (2) has the noise of the t̂ that is reached. With churn = 0 it
    is their algorithm 1. `mean` is x: the noise comes before the step and not after it.
    """

    churn: Scalar = 0.0
    s_min: Scalar = 0.0
    s_max: Scalar = math.inf
    s_noise: Scalar = 1.0

    @property
    def nfe(self) -> int:
        return 2

    def step(self, keys, state, t, s, sde, score_fn):
        x, back = state.x, self._back(t, s, sde)
        rho_t, rho_back, rho_s = (expand(jnp.exp(-0.5 * sde.log_snr(time)), x) for time in (t, back, s))
        alpha_t, alpha_back, alpha_s = (expand(sde.alpha(time), x) for time in (t, back, s))
        # Where t̂ is t, the two levels may still differ by rounding, and its root is not small.
        variance = expand(jnp.where(back > t, 1.0, 0.0), x) * (rho_back**2 - rho_t**2)
        start = x / alpha_t + self.s_noise * root(variance) * normal_like(keys, x)
        slope = _slope(alpha_back * start, back, sde, score_fn)
        step = rho_s - rho_back
        end_slope = _slope(alpha_s * (start + step * slope), s, sde, score_fn)
        x = alpha_s * (start + 0.5 * step * (slope + end_slope))
        return SolverState(x, x)

    def _back(self, t, s, sde):
        """t̂ (1), which is t where there is no churn."""
        log_snr = per_time(sde.log_snr(t), t)
        level = jnp.exp(-0.5 * log_snr)
        churned = (s < t) & (self.s_min <= level) & (level <= self.s_max) & (self.churn > 0)
        gamma = jnp.minimum(self.churn, math.sqrt(2) - 1)
        return jnp.where(churned, jnp.maximum(sde.time_of_log_snr(log_snr - 2 * jnp.log1p(gamma)), t), t)


def _slope(x, t, sde, score_fn):
    """dx̃/dρ = ε̂."""
    return eps_hat(sde, x, t, score_fn(x, t))
