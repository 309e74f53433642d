"""Sequential Monte Carlo over a grid of times: move the particles, weight them, resample them.

For each group of K particles with log weights log w, and a move from t_k to t_{k+1} with a log increment,

    log w ← log w + increment;   if ESS < threshold · K: resample, and set log w to log mean w.      (1)

So the weights are carried where nothing is resampled, and at the end log mean w estimates the logarithm of the
normalizing constant: exp of it is unbiased, for any threshold (Del Moral 2004, chapter 7; Whiteley, Lee & Heine
2016, arXiv:1309.2918, for resampling by ESS). At the end the particles are resampled again, for equal weights.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Key, PyTree

from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.noise import fold
from sde_lib.particles.resampling import copied, effective_sample_size, log_mean_weight, normalized, systematic
from sde_lib.sampling import Grid, Start, UniformGrid

Move = Callable[[Key[Array, " B"], PyTree, Array, Array], tuple[PyTree, Float[Array, " B"]]]
"""(keys, particles, t, s) → (particles at s, log increments), all with rows g·K + j for particle j of group g."""


class Particles(NamedTuple):
    """What a particle sampler returns, for G groups of K particles and N steps.

    samples: equally weighted, after the last resampling. log_z: the log of the estimated normalizing constant, p(y) for
    an observation. x, log_weights: the same particles before the last resampling, a weighted sample. ess: (1) of
    `resampling` after each step, before any resampling. resampled: whether the group was resampled in that step.
    """

    samples: Float[Array, "G K ..."]
    log_z: Float[Array, " G"]
    x: Float[Array, "G K ..."]
    log_weights: Float[Array, "G K"]
    ess: Float[Array, "N G"]
    resampled: Bool[Array, "N G"]

    @property
    def weights(self) -> Float[Array, "G K"]:
        """The normalized weights of x."""
        return normalized(self.log_weights)


def particle_keys(keys: Key[Array, " G"], K: int) -> Key[Array, " B"]:
    """Keys [G·K]: that of particle j of group g, in row g·K + j, is fold_in(keys[g], j)."""
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(K)))(keys).reshape(-1)


def grouped(tree: PyTree, K: int) -> PyTree:
    """Arrays [G·K, ...] as [G, K, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, K, *a.shape[1:]), tree)


def in_rows(tree: PyTree) -> PyTree:
    """Arrays [G, K, ...] as [G·K, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


def run_smc(
    keys: Key[Array, " G"],
    particles: PyTree,
    log_weights: Float[Array, "G K"],
    times: Float[Array, " N"],
    move: Move,
    last_move: Move,
    threshold,
    event: Callable[[PyTree], Array],
) -> Particles:
    """(1) over the grid, from `particles` (arrays [G·K, ...]) at times[0]; `last_move` makes the last step.

    `event` returns x [G·K, ...] of the particles. Group g is a function of keys[g] and its own particles.
    """
    K, N = log_weights.shape[1], times.shape[0] - 1

    def weighted(k, carry, move):
        particles, log_weights = carry
        own = fold(fold(keys, k), 0)
        particles, increments = move(particle_keys(own, K), particles, times[k], times[k + 1])
        return particles, log_weights + increments.reshape(-1, K)

    def body(carry, k):
        particles, log_weights = weighted(k, carry, move)
        ess = effective_sample_size(log_weights)
        resample = ess < threshold * K
        ancestors = jnp.where(resample[:, None], _ancestors(keys, k, log_weights), jnp.arange(K, dtype=jnp.int32)[None])
        particles = in_rows(copied(grouped(particles, K), ancestors))
        log_weights = jnp.where(resample[:, None], log_mean_weight(log_weights)[:, None], log_weights)
        return (particles, log_weights), (ess, resample)

    carry, (ess, resampled) = jax.lax.scan(body, (particles, log_weights), jnp.arange(N - 1))
    particles, log_weights = weighted(N - 1, carry, last_move)
    x = grouped(event(particles), K)
    return Particles(
        samples=copied(x, _ancestors(keys, N - 1, log_weights)),
        log_z=log_mean_weight(log_weights),
        x=x,
        log_weights=log_weights,
        ess=jnp.concatenate([ess, effective_sample_size(log_weights)[None]]),
        resampled=jnp.concatenate([resampled, jnp.ones((1, len(x)), bool)]),
    )


def _ancestors(keys, k, log_weights):
    u = jax.vmap(lambda key: jax.random.uniform(key, (), log_weights.dtype))(fold(fold(keys, k), 1))
    return systematic(u, normalized(log_weights))


class ParticleSampler(PyTreeNode, abc.ABC):
    """A sampler of K `particles` per group, resampled where their ESS is below `threshold` · K."""

    grid: Grid = UniformGrid()
    num_steps: int = static(100, at_least=1)
    particles: int = static(64, at_least=1)
    threshold: Scalar = number(0.5, at_least=0, at_most=1)

    @property
    def coupled(self) -> bool:
        """True: a particle depends on the others of its group."""
        return True

    @property
    def nfe(self) -> int:
        """Evaluations of each score per particle, without those within a twist or a divergence."""
        return self.num_steps

    @abc.abstractmethod
    def run(
        self, keys: Key[Array, " G"], sde: Any, score_fn: Any, shape: tuple[int, ...], x_T: Start = None
    ) -> Particles:
        """One group of particles for each key; group g is a function of keys[g]."""

    def __call__(
        self, keys: Key[Array, " B"], sde: Any, score_fn: Any, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape]: rows g·K to g·K + K − 1 are group g, a function of keys[g·K].

        Raises ValueError unless B is a multiple of `particles`, and as `run`.
        """
        return self.run(group_keys(keys, self.particles), sde, score_fn, shape, x_T).samples.reshape(-1, *shape)

    def with_nfe(
        self, keys: Key[Array, " B"], sde: Any, score_fn: Any, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B])."""
        return self(keys, sde, score_fn, shape, x_T), jnp.full(keys.shape, self.nfe)


def group_keys(keys: Key[Array, " B"], K: int) -> Key[Array, " G"]:
    """The first key of each K. Raises ValueError unless their number is a multiple of K."""
    if keys.shape[0] % K:
        raise ValueError(f"keys: expected a multiple of {K}, one for each particle of a group; got {keys.shape[0]}")
    return keys[::K]
