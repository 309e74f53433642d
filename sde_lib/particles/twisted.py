"""Twisted SMC: samples of p(x_0 | y) and an estimate of p(y), exact as the number of particles grows.

A twist log p̃(y | x, t) guides the proposal, and the weights undo what it does wrong. With the solver's transition
p(x_s | x_t), whose score is s, and the proposal m(x_s | x_t), the same step with s + ∇log p̃,

    w = p̃(y | x_T, T)                                                at the start,                  (1)
    w ← w · p(x_s | x_t) p̃(y | x_s, s) / [p̃(y | x_t, t) m(x_s | x_t)]   at each step,                 (2)
    p(y | x_0) replaces p̃(y | x_s, s)                                  at the last step.              (3)

The mean weight is unbiased for p(y) = E p(y | x_0), where x_0 is a sample of the *discretized* sampler, unguided. It is
not the p(y) of the data: that differs by the error of the steps. The twist may be any function; a better one only
lowers the variance. x_0 is x at the grid's end, with the noise of the last step: without it a step has no density.

Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", arXiv:2306.17775,
algorithm 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import static
from sde_lib.noise import fold
from sde_lib.parameterization import ScoreFn
from sde_lib.particles.smc import Particles, ParticleSampler, particle_keys, run_smc
from sde_lib.particles.transition import check_transition, log_ratio, transition
from sde_lib.sampling import Start, check_pair, prior_draw
from sde_lib.sde import SDE, Time
from sde_lib.solvers.base import Solver
from sde_lib.solvers.predictors import Ancestral

Twist = Callable[[Float[Array, "B ..."], Time], Float[Array, " B"]]
"""(x [G·K, ...], t []) → log p̃(y | x, t) [G·K]; row g·K + j belongs to observation g."""
LogLikelihood = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]
"""x_0 [G·K, ...] → log p(y | x_0) [G·K]; row g·K + j belongs to observation g."""


def guided(score: Float[Array, "B ..."], gradient: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
    """s + ∇log p̃, the score of the default proposal."""
    return score + gradient


class TwistedSMC(ParticleSampler):
    """(1) to (3), with K `particles` per observation, resampled where their ESS is below `threshold` · K.

    `twist` and `log_likelihood` are for all groups at once, in rows g·K + j. `proposal(score, ∇log p̃, t)` gives the
    proposal's score; any choice leaves the estimate of p(y) unbiased. A step costs one evaluation of the score and one
    of the twist with its gradient, for each particle. Where a step's noise is much smaller than the shift by the
    gradient, as at the end of `Ancestral` with the posterior's std, few weights dominate; the default's std is larger.
    """

    twist: Twist = static()
    log_likelihood: LogLikelihood = static()
    solver: Solver = Ancestral(large_variance=True)
    proposal: Callable = static(guided)

    def check(self, sde: SDE, shape: tuple[int, ...]) -> None:
        """Raises TypeError if the SDE lacks a method, or the solver's step has no Gaussian transition density."""
        check_pair(self.solver, sde)
        check_pair(self.grid, sde, "grid")
        times = self.grid(sde, self.num_steps)
        check_transition(self.solver, sde, shape, times[0], times[1])

    def run(
        self, keys: Key[Array, " G"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Particles:
        """One group of particles for each key, and so for each observation; group g is a function of keys[g].

        x_T, if given, has the particles in rows, [G·K, *shape], and is drawn from the prior.
        """
        self.check(sde, shape)
        K = self.particles
        x = prior_draw(particle_keys(fold(keys, 0), K), sde, shape, x_T)
        times = self.grid(sde, self.num_steps)

        def with_gradient(x, t):
            value, pull = jax.vjp(lambda x: self.twist(x, t), x)
            return value, pull(jnp.ones_like(value))[0]

        def step(keys, particles, t, s):
            x, _, gradient = particles
            score = score_fn(x, t)
            guided = self.proposal(score, gradient, t)
            x_s = self.solver.step(keys, self.solver.init(x), t, s, sde, lambda x, t: guided).x
            densities = (transition(self.solver, x, t, s, sde, each) for each in (score, guided))
            return x_s, log_ratio(x_s, *densities)

        def move(keys, particles, t, s):
            x, ratio = step(keys, particles, t, s)
            value, gradient = with_gradient(x, s)
            return (x, value, gradient), ratio + value - particles[1]

        def last_move(keys, particles, t, s):
            x, ratio = step(keys, particles, t, s)
            value = self.log_likelihood(x)
            return (x, value, jnp.zeros_like(x)), ratio + value - particles[1]

        value, gradient = with_gradient(x, times[0])
        start = (x, value, gradient)
        return run_smc(
            fold(keys, 1), start, value.reshape(-1, K), times, move, last_move, self.threshold, lambda p: p[0]
        )
