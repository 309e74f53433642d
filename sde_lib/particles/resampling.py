"""Weights of particles in groups, and systematic resampling.

With log weights log w [G, K], one row per group of K particles, and W_j = w_j / Σ_i w_i,

    effective sample size     ESS = 1 / Σ_j W_j²,   from 1 to K                                     (1)
    systematic resampling     particle j is copied #{i : c_{j−1} ≤ (u + i)/K < c_j} times           (2)

where c_j = W_1 + … + W_j, i = 0 … K − 1, and u is one uniform number per group. (2) is unbiased: the expected number of
copies is K W_j, and the number is ⌊K W_j⌋ or ⌈K W_j⌉. Particles never leave their group.

(1) Kong, Liu & Wong 1994. (2) Kitagawa 1996; Douc, Cappé & Moulines 2005, arXiv:cs/0507025.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PyTree


def normalized(log_weights: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """W [G, K] of log w, summing to 1 in each group; uniform in a group where all weights are 0."""
    dead = jnp.all(jnp.isneginf(log_weights), axis=1, keepdims=True)
    return jax.nn.softmax(jnp.where(dead, 0.0, log_weights), axis=1)


def log_mean_weight(log_weights: Float[Array, "G K"]) -> Float[Array, " G"]:
    """log (1/K) Σ_j w_j of each group, −inf where all weights are 0."""
    return jax.nn.logsumexp(log_weights, axis=1) - jnp.log(jnp.asarray(log_weights.shape[1], log_weights.dtype))


def effective_sample_size(log_weights: Float[Array, "G K"]) -> Float[Array, " G"]:
    """(1) of each group."""
    return 1 / jnp.sum(normalized(log_weights) ** 2, axis=1)


def systematic(u: Float[Array, " G"], weights: Float[Array, "G K"]) -> Integer[Array, "G K"]:
    """(2): for each group the index of the particle that each new one copies, in increasing order.

    u is uniform in [0, 1), one number per group; `weights` are not negative, not all 0, and need not sum to 1.
    A particle of weight 0 is never copied.
    """
    K = weights.shape[1]
    cumulative = jnp.cumsum(weights, axis=1)
    cumulative = cumulative / cumulative[:, -1:]
    places = (u[:, None] + jnp.arange(K, dtype=weights.dtype)[None]) / K
    # By rounding, the last place may be 1, which no particle's interval contains.
    places = jnp.minimum(places, 1 - jnp.finfo(weights.dtype).epsneg)
    return jax.vmap(lambda c, p: jnp.searchsorted(c, p, side="right"))(cumulative, places).astype(jnp.int32)


def copied(particles: PyTree, ancestors: Integer[Array, "G K"]) -> PyTree:
    """The tree with arrays [G, K, ...] whose entry [g, j] is that at [g, ancestors[g, j]]."""
    return jax.tree.map(lambda a: jax.vmap(lambda group, j: group[j])(a, ancestors), particles)
