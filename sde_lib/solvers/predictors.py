"""Predictors: stochastic steps along the reverse SDE. With α_ts and σ_ts of p(x_t | x_s) and z standard normal,

    Euler–Maruyama      x_s = x_t + (s − t) [f(x_t, t) − g² score] + g √(t − s) z                          (1)
    reverse diffusion   x_s = (2 − α_ts) x_t + σ_ts² score + σ_ts z                                        (2)
    ancestral           x_s = (x_t + σ_ts² score)/α_ts + ς z                                               (3)
    DDIM(η)             x_s = α_s x̂₀ + √(σ_s² − η² ς²) ε̂ + η ς z,        ς = σ_s σ_ts/σ_t                   (4)

(1) Song et al. 2021, eq. 6. (2) their eq. 46 with the forward step x_t = α_ts x_s + σ_ts z in place of its
discretization. (3) the posterior p(x_s | x_t, x̂₀), Ho et al. 2020, eq. 6 and 7, Song et al. 2021, eq. 47; ς is the
posterior's standard deviation, or σ_ts. The optimum is between the two (Ho et al. 2020, section 3.2).
(4) Song et al. 2021c, arXiv:2010.02502, eq. 12 and 16; η = 0 is a deterministic step, η = 1 is (3).
"""

import jax.numpy as jnp

from sde_lib.node import Scalar, number
from sde_lib.noise import normal_like
from sde_lib.sde import expand
from sde_lib.solvers.base import KernelSolver, Solver, SolverState


class EulerMaruyama(Solver):
    """(1): strong order ½, for any SDE."""

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x = state.x
        mean = x + expand(s - t, x) * sde.reverse_drift(x, t, score_fn(x, t))
        noise = expand(sde.diffusion(t) * jnp.sqrt(t - s), x) * normal_like(keys, x)
        return SolverState(mean + noise, mean)


class ReverseDiffusion(KernelSolver):
    """(2): the discretization of the forward step, reversed. The published predictor of the VE experiments."""

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x = state.x
        alpha_ts, sigma_ts = (expand(c, x) for c in sde.transition(t, s))
        mean = (2 - alpha_ts) * x + sigma_ts**2 * score_fn(x, t)
        return SolverState(mean + sigma_ts * normal_like(keys, x), mean)


def posterior_std(sde, t, s):
    """ς = σ_s σ_ts/σ_t, the standard deviation of p(x_s | x_t, x_0)."""
    return sde.sigma(s) * sde.transition(t, s).sigma / sde.sigma(t)


def transition_std(sde, t, s):
    """ς = σ_ts, the standard deviation of p(x_t | x_s)."""
    return sde.transition(t, s).sigma


class Ancestral(KernelSolver):
    """(3): the posterior step of DDPM, for every kernel.

    ς is the posterior's standard deviation, as published for VE; with `large_variance` it is σ_ts, as published for VP.
    """

    large_variance: Scalar = False

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x = state.x
        alpha_ts, sigma_ts = (expand(c, x) for c in sde.transition(t, s))
        mean = (x + sigma_ts**2 * score_fn(x, t)) / alpha_ts
        std = jnp.where(self.large_variance, transition_std(sde, t, s), posterior_std(sde, t, s))
        return SolverState(mean + expand(std, x) * normal_like(keys, x), mean)


class DDIM(KernelSolver):
    """(4), with x̂₀ and ε̂ expressed by the score, so that nothing is divided by α_t alone:

        x_s = x_t/α_ts + (σ_t²/α_ts − σ_t √(σ_s² − η²ς²)) score + η ς z

    eta = 0: first order, deterministic, exact for a point mass. eta = 1: the ancestral step.
    """

    eta: Scalar = number(0.0, at_least=0, at_most=1)

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x = state.x
        alpha_ts, sigma_t, sigma_s = (expand(c, x) for c in (sde.alpha_ts(t, s), sde.sigma(t), sde.sigma(s)))
        std = expand(self.eta * posterior_std(sde, t, s), x)
        # By rounding, σ_s² − std² may be negative where the two are equal.
        rest = jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0.0))
        mean = x / alpha_ts + (sigma_t**2 / alpha_ts - sigma_t * rest) * score_fn(x, t)
        return SolverState(mean + std * normal_like(keys, x), mean)


class NoPredictor(Solver):
    """x_s = x_t: only a corrector moves x (annealed Langevin dynamics; Song & Ermon 2019, algorithm 1)."""

    @property
    def nfe(self) -> int:
        return 0

    def step(self, keys, state, t, s, sde, score_fn):
        return SolverState(state.x, state.x)
