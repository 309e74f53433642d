"""Feynman–Kac correctors: guided, multiplied and tempered scores whose weighted samples have the density they name.

For densities q_i with scores s_i and weights a_i, the target and its score at each t are

    π_t ∝ Π_i q_{i,t}^{a_i},   U_t = Σ_i a_i log q_{i,t},   ∇U = Σ_i a_i s_i,   A = Σ_i a_i.        (1)

Guidance has a = (w, 1 − w), a product a = (1, 1), tempering one a. Simulating the reverse SDE with ∇U does not sample
π_0. With τ = t_max − t, noise η ≥ 0 and a constant c, the particles

    dx = [−f + ½ g² (c + η) ∇U] dτ + √η g dw                                                        (2)

have the density π_t if they are weighted by

    d log w = {−½ g² [(1 − c) ΔU + Σ_i a_i |s_i|² − c |∇U|²] + (A − 1) ∇·f} dτ.                      (3)

c = 1 requires no divergence. c = 1/A has quieter weights at high noise, but requires ΔU. For A = 1, as in guidance, the
two coincide. The weights are independent of η, whose part is Langevin dynamics for U.

The start is N(0, prior_std²/A), which is π at t_max if every q_i is the prior N(0, prior_std²) there, and

    Z_T = ∫ Π_i N(x; 0, prior_std²)^{a_i} dx.                                                       (4)

So the mean weight estimates Z = ∫ Π_i q_{i,0}^{a_i}, with a bias of the order of the step, since (2) and (3) are taken
by Euler's steps, and one of the data left in the prior.

Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts",
arXiv:2503.02819. (3) is derived here from the Fokker–Planck equations of the q_i and of (2).
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from sde_lib.likelihood.divergence import Divergence, Exact
from sde_lib.node import Leaf, PyTreeNode, Scalar, number, static
from sde_lib.noise import fold, normal_like
from sde_lib.numbers import Allowed, check_number
from sde_lib.parameterization import ScoreFn
from sde_lib.particles.smc import Particles, ParticleSampler, particle_keys, run_smc
from sde_lib.sampling import Start, check_pair, prior_draw
from sde_lib.sde import GaussianSDE, Time, expand


class Composed(PyTreeNode):
    """∇U of (1), a ScoreFn: (x [B, ...], t) → Σ_i a_i s_i(x, t) [B, ...].

    `weights` [n] are the a_i, one for each score function. ValueError for another number of weights.
    """

    score_fns: tuple[ScoreFn, ...] = static()
    weights: Leaf = number()

    def __post_init__(self):
        if isinstance(self.weights, Sequence):
            object.__setattr__(self, "weights", jnp.asarray(self.weights, float))
        got = getattr(self.weights, "shape", None)
        if got is not None and got != (len(self.score_fns),):
            raise ValueError(f"Composed: expected {len(self.score_fns)} weights, one for each score; got shape {got}")

    @property
    def total(self) -> Float[Array, ""]:
        """A."""
        return jnp.sum(self.weights)

    def scores(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "n B ..."]:
        """The s_i(x, t), one evaluation of each."""
        return jnp.stack([score_fn(x, t) for score_fn in self.score_fns])

    def combine(self, scores: Float[Array, "n B ..."]) -> Float[Array, "B ..."]:
        """Σ_i a_i s_i."""
        return jnp.tensordot(jnp.asarray(self.weights, scores.dtype), scores, 1)

    def __call__(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        return self.combine(self.scores(x, t))

    def increment(
        self,
        x: Float[Array, "B ..."],
        t: Time,
        sde: GaussianSDE,
        scores: Float[Array, "n B ..."],
        c: Scalar = 1.0,
        laplacian: Float[Array, " B"] | None = None,
    ) -> Float[Array, " B"]:
        """d log w/dτ (3) at (x, t), given the scores there.

        `laplacian` is Σ_j g_j² ∂_j² U [B], which is g² ΔU where coordinates do not differ. It is left out for c = 1.
        """
        axes, g2 = tuple(range(1, x.ndim)), expand(sde.diffusion(t), x) ** 2
        norms = self.combine(scores**2) - c * self.combine(scores) ** 2
        drift = jnp.sum(jnp.broadcast_to(expand(sde.drift_rate(t), x), x.shape), axis=axes)
        rate = -0.5 * jnp.sum(g2 * norms, axis=axes) + (self.total - 1) * drift
        return rate if laplacian is None else rate - 0.5 * (1 - c) * laplacian


class FeynmanKac(ParticleSampler):
    """(2) and (3) by Euler's steps, with K `particles` per group, resampled where their ESS is below `threshold` · K.

    noise: η; 0 is a flow, 1 the reverse SDE. tempered_noise: c = 1/A, with ΔU by `divergence` (an unbiased estimator
    adds its variance to log w, and then the weights are biased to second order in the step); else c = 1. Increments are
    not clamped. A step costs one evaluation of each score, and with c = 1/A the estimator's products.
    """

    noise: Scalar = number(1.0, at_least=0)
    tempered_noise: bool = static(False)
    divergence: Divergence = Exact()
    num_steps: int = static(500, at_least=1)
    particles: int = static(256, at_least=1)

    def run(
        self,
        keys: Key[Array, " G"],
        sde: GaussianSDE,
        score_fn: ScoreFn,
        shape: tuple[int, ...],
        x_T: Start = None,
        log_z_T: Scalar | None = None,
    ) -> Particles:
        """One group of particles for each key; group g is a function of keys[g], and `log_z` estimates log Z.

        x_T [G·K, *shape], if given, has draws of π at t_max, with log_z_T = log ∫ Π_i q_i^{a_i} there, 0 if None; else
        both are those of (4). Raises ValueError unless A > 0, which (4) requires, if x_T is None; TypeError unless
        score_fn is `Composed`.
        """
        if not isinstance(score_fn, Composed):
            raise TypeError(f"FeynmanKac: expected a Composed score, got {type(score_fn).__name__}")
        composed = score_fn
        check_pair(self.grid, sde, "grid")
        K, A, times = self.particles, composed.total, self.grid(sde, self.num_steps)
        c = 1 / A if self.tempered_noise else jnp.ones_like(A)
        x, log_z_T = self._start(fold(keys, 0), sde, composed, shape, x_T, log_z_T)

        def move(keys, x, t, s):
            scores = composed.scores(x, t)
            laplacian = self._laplacian(fold(keys, 1), composed, sde, x, t) if self.tempered_noise else None
            log_w = (t - s).astype(x.dtype) * composed.increment(x, t, sde, scores, c.astype(x.dtype), laplacian)
            g = expand(sde.diffusion(t), x)
            strength = (c + self.noise).astype(x.dtype)
            rate = -sde.drift(x, t) + 0.5 * strength * g**2 * composed.combine(scores)
            noise = g * expand(jnp.sqrt(self.noise * (t - s)), x) * normal_like(fold(keys, 0), x)
            return x + expand(t - s, x) * rate + noise, log_w

        log_weights = jnp.broadcast_to(jnp.asarray(log_z_T, x.dtype), (len(x) // K, K))
        return run_smc(fold(keys, 1), x, log_weights, times, move, move, self.threshold, lambda x: x)

    def _start(self, keys, sde, composed, shape, x_T, log_z_T) -> tuple[Array, PyTree]:
        """x_T in rows, and log Z_T (4)."""
        keys = particle_keys(keys, self.particles)
        x = prior_draw(keys, sde, shape, x_T)
        if x_T is not None:
            return x, 0.0 if log_z_T is None else log_z_T
        A = composed.total.astype(x.dtype)
        check_number("FeynmanKac", "A, the sum of the weights", A, Allowed(above=0))
        std = jnp.broadcast_to(expand(sde.prior_std(), x), x.shape)[0]
        log_std = jnp.sum(jnp.log(std)) + 0.5 * std.size * math.log(2 * math.pi)
        return x / jnp.sqrt(A), (1 - A) * log_std - 0.5 * std.size * jnp.log(A)

    def _laplacian(self, keys, composed, sde, x, t) -> Float[Array, " B"]:
        """Σ_j g_j² ∂_j² U."""
        g2 = expand(sde.diffusion(t), x) ** 2
        probes = self.divergence.draw(keys, x)
        return jnp.mean(self.divergence(probes, lambda x: g2 * composed(x, t), x)[1], axis=1)
