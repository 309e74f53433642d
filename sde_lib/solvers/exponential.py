"""Single-step exponential integrators: the linear part of the reverse process is exact, the network's is in stages.

With λ = ½ log(α²/σ²), the half log-SNR, which increases toward the data, and h = λ_s − λ_t, the probability flow is

    x_s = (α_s/α_t) x_t − σ_s ∫_{λ_t}^{λ_s} exp(λ_s − λ) ε̂ dλ                                        (1)
        = (σ_s/σ_t) x_t + α_s ∫_{λ_t}^{λ_s} exp(λ − λ_s) x̂₀ dλ                                       (2)

(Lu et al. 2022a, proposition 3.1; Lu et al. 2022b, proposition 4.1). SDEs with τ² times the noise variance of the
reverse SDE have the same marginals; τ = 1 is the reverse SDE and τ = 0 the flow. With c = 1 + τ² their steps are

    x_s = (σ_s/σ_t) e^{−τ²h} x_t + α_s ∫ c exp(c (λ − λ_s)) x̂₀ dλ + σ_s √(1 − e^{−2τ²h}) z            (3)

(Xue et al. 2023, section 4). This is (2) with c λ in place of λ, except for the factor of x_t and the noise.

In the integral, DPM-Solver-2 and -3 use the polynomial through ε̂ at t and at intermediate times u, where
r = (λ_u − λ_t)/h is ½, or ⅓ and ⅔. u is one time for all coordinates. Where these differ in λ, u has this r for their
mean, and each coordinate uses its own r at u. The difference is O(h), which preserves the order.

Lu et al. 2022a: "DPM-Solver", arXiv:2206.00927.
Lu et al. 2022b: "DPM-Solver++", arXiv:2211.01095.
Xue et al. 2023: "SA-Solver", arXiv:2309.05019.
Gonzalez et al. 2023: "SEEDS: Exponential SDE Solvers", arXiv:2305.14267.
"""

import jax.numpy as jnp

from sde_lib.node import Scalar, number, static
from sde_lib.noise import fold, normal_like
from sde_lib.parameterization import eps_hat, x0_hat
from sde_lib.sde import expand, per_time
from sde_lib.solvers.base import KernelSolver, SolverState


def lambda_step(sde, x, t, s):
    """h = λ_s − λ_t ≥ 0, broadcasting against x."""
    return expand(0.5 * (sde.log_snr(s) - sde.log_snr(t)), x)


def intermediate_time(sde, x, t, s, fraction):
    """(u, λ_u − λ_t, r): the time u whose mean λ is at `fraction` of the step from t to s, and r = (λ_u − λ_t)/h at u.

    r is `fraction` itself where h is 0.
    """
    start, end = per_time(sde.log_snr(t), t), per_time(sde.log_snr(s), s)
    u = jnp.clip(sde.time_of_log_snr(start + fraction * (end - start)), s, t)
    h, part = lambda_step(sde, x, t, s), lambda_step(sde, x, t, u)
    return u, part, jnp.where(part > 0, part / jnp.where(part > 0, h, 1.0), fraction)


def safe_sqrt(variance):
    """√variance, with derivative 0 where it is 0."""
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def data_step(sde, x, t, s, tau, integral):
    """(3) without its noise, for the given integral."""
    decay = expand(sde.sigma(s) / sde.sigma(t), x) * jnp.exp(-(tau**2) * lambda_step(sde, x, t, s))
    return decay * x + expand(sde.alpha(s), x) * integral


def noise_std(sde, x, t, s, tau):
    """The standard deviation of the noise of (3): σ_s √(1 − e^{−2τ²h})."""
    return expand(sde.sigma(s), x) * safe_sqrt(-jnp.expm1(-2 * tau**2 * lambda_step(sde, x, t, s)))


def check_order(solver):
    """Raises ValueError if the solver's order is neither 2 nor 3."""
    if solver.order not in (2, 3):
        raise ValueError(f"{type(solver).__name__}'s order is 2 or 3; got {solver.order}")


class DPMSolver(KernelSolver):
    """(1) with ε̂ at 2 or 3 times of the step, one of them t: order 2 or 3.

    Lu et al. 2022a, algorithms 1 (DPM-Solver-2) and 2 (DPM-Solver-3); their order 1 is DDIM. With
    D_i = ε̂(u_i) − ε̂(t),

        x_s = (α_s/α_t) x_t − σ_s (e^h − 1) [ε̂(t) + D_1/(2 r_1)]                                 order 2
        x_s = (α_s/α_t) x_t − σ_s (e^h − 1) ε̂(t) − (σ_s/r_2) ((e^h − 1)/h − 1) D_2                order 3

    In order 3, x at u_2 is the second line too, with r_2 h, r_1/r_2 and D_1. Raises ValueError for another order.
    """

    order: int = static(2)

    def __post_init__(self):
        check_order(self)

    @property
    def nfe(self) -> int:
        return self.order

    def step(self, keys, state, t, s, sde, score_fn):
        x, h = state.x, lambda_step(sde, state.x, t, s)
        eps = eps_hat(sde, x, t, score_fn(x, t))

        def change(integral, u):
            """ε̂ at u, at the point that the integral gives, minus ε̂ at t."""
            middle = _noise_step(sde, x, t, u, integral)
            return eps_hat(sde, middle, u, score_fn(middle, u)) - eps

        u, part, r = intermediate_time(sde, x, t, s, 1 / self.order)
        difference = change(jnp.expm1(part) * eps, u)
        if self.order == 2:
            integral = jnp.expm1(h) * (eps + difference / (2 * r))
        else:
            u, part, r_2 = intermediate_time(sde, x, t, s, 2 / 3)
            difference = change(jnp.expm1(part) * eps + _slope_weight(part) * r_2 / r * difference, u)
            integral = jnp.expm1(h) * eps + _slope_weight(h) / r_2 * difference
        x = _noise_step(sde, x, t, s, integral)
        return SolverState(x, x)


def _noise_step(sde, x, t, s, integral):
    """(α_s/α_t) x − σ_s integral: (1)."""
    return x / expand(sde.alpha_ts(t, s), x) - expand(sde.sigma(s), x) * integral


def _slope_weight(h):
    """(e^h − 1)/h − 1 = ∫₀ʰ e^{h−u} (u/h) du, the weight of a slope; 0 at h = 0."""
    return jnp.where(h > 0, jnp.expm1(h) / jnp.where(h > 0, h, 1.0) - 1, 0.0)


class SEEDS2(KernelSolver):
    """(3) by the exponential midpoint rule, whose two stages share one Brownian path: weak order 2.

        x_u = (3) from t to u with x̂₀(t) and z_1,     r = ½
        x_s = (σ_s/σ_t) e^{−τ²h} x_t + α_s (1 − e^{−ch}) [x̂₀(t) + (x̂₀(u) − x̂₀(t))/(2r)]
              + σ_s [e^{−τ²(h − h_u)} √(1 − e^{−2τ²h_u}) z_1 + √(1 − e^{−2τ²(h − h_u)}) z_2]

    Gonzalez et al. 2023, SEEDS-2, with data prediction, which is stable for long steps. The order is that of the
    midpoint rule: the noise is additive, so the right covariance of x_u and x_s suffices. With tau = 0 it is
    DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1), of order 2. `mean` omits both noises of x_s.
    """

    tau: Scalar = number(1.0, at_least=0)

    @property
    def nfe(self) -> int:
        return 2

    def step(self, keys, state, t, s, sde, score_fn):
        x, c = state.x, 1 + self.tau**2
        h, (u, part, r) = lambda_step(sde, x, t, s), intermediate_time(sde, x, t, s, 0.5)
        data = x0_hat(sde, x, t, score_fn(x, t))
        early = noise_std(sde, x, t, u, self.tau) * normal_like(fold(keys, 0), x)
        middle = data_step(sde, x, t, u, self.tau, -jnp.expm1(-c * part) * data) + early
        difference = x0_hat(sde, middle, u, score_fn(middle, u)) - data
        mean = data_step(sde, x, t, s, self.tau, -jnp.expm1(-c * h) * (data + difference / (2 * r)))
        late = noise_std(sde, x, u, s, self.tau) * normal_like(fold(keys, 1), x)
        return SolverState(mean + data_step(sde, early, u, s, self.tau, 0.0) + late, mean)
