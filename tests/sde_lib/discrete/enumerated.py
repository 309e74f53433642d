"""A Markov chain of three values and length three: all 27 sequences, their probabilities and exact conditionals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.discrete import PredictTokens, Reverse, make_reverse

V, L = 3, 3
SEQUENCES = np.array(list(itertools.product(range(V), repeat=L)))
START = np.array([0.5, 0.3, 0.2])
NEXT = np.array([[0.7, 0.2, 0.1], [0.15, 0.25, 0.6], [0.4, 0.5, 0.1]])
P = START[SEQUENCES[:, 0]] * NEXT[SEQUENCES[:, 0], SEQUENCES[:, 1]] * NEXT[SEQUENCES[:, 1], SEQUENCES[:, 2]]


def exact_network(process, sequences=SEQUENCES, p=P):
    """(params, x, c_noise = ρ) → log p(x_0^i = v | x_t^j for j ≠ i), by a sum over all sequences."""

    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        pi, sequence, rho = (
            process.stationary(),
            jnp.asarray(sequences, x.dtype),
            jnp.minimum(c_noise[:, None, None], 1 - 1e-12),
        )
        same = x[:, None, :] == sequence[None]  # [B, 27, L]
        kernel = jnp.where(same, 1 - rho, 0.0) + rho * pi[x][:, None]
        own = jnp.eye(sequence.shape[1], dtype=bool)[None, None]
        weight = jnp.asarray(p)[None, :, None] * jnp.prod(jnp.where(own, 1.0, kernel[:, :, None]), axis=3)
        hits = (sequence[..., None] == jnp.arange(V, dtype=x.dtype)[None, None]).astype(weight.dtype)
        return jnp.log(jnp.einsum("bnl,nlv->blv", weight, hits))

    return network


def exact_reverse(process, parameterization=PredictTokens(), **data):
    network = exact_network(process, **data)
    found = make_reverse(lambda x, c_noise: network({}, x, c_noise), process, parameterization)
    return Reverse(jax.jit(found.log_ratios), jax.jit(found.log_posterior))


def marginal(process, t, p=P, sequences=SEQUENCES, states=None):
    """p_t of every sequence of states, by the definition: Σ p(x_0) Π p(x_t^i | x_0^i)."""
    states = all_states(process, sequences.shape[1]) if states is None else states
    pi, rho = np.asarray(process.stationary()), float(process.redrawn(t))
    kernel = (1 - rho) * (states[:, None] == sequences[None]) + rho * pi[states][:, None]
    return np.prod(kernel, axis=2) @ p


def all_states(process, length=L):
    return np.array(list(itertools.product(range(process.num_states), repeat=length)))


def total_variation(p, q):
    return 0.5 * np.abs(p - q).sum()


def step_matrix(log_law, states):
    """Rows: states; entry: the probability of each state after a step that draws every token from its law [N, L, S]."""
    law = np.exp(np.asarray(log_law))
    law /= law.sum(-1, keepdims=True)
    matrix = np.ones((len(states), len(states)))
    for i in range(states.shape[1]):
        matrix *= law[:, i][:, states[:, i]]
    return matrix
