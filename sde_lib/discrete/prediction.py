"""What the network's output means for tokens: conditionals q = p(x_0^i = v | x_t), or ratios r = p_t(x^{i→y})/p_t(x).

The network maps (x_t [B, L], c_noise = ρ(t) [B]) to logits [B, L, V], which give the conditionals (`PredictTokens`: Shi
et al. 2024; Sahoo et al. 2024, arXiv:2406.07524), or to log r [B, L, S] (`PredictRatios`: Lou et al. 2024,
arXiv:2310.16834). What solvers and bounds use follows from either, as a score does from ε or v. From ratios, the law at
an earlier time follows since (3) of `sde_lib.discrete.processes` is inverted in closed form,

    r(s) = (r(t) − (1 − α_ts) π Σ_y r_y(t))/α_ts,                                                     (1)
    p(x_s^i = y | x_t) ∝ p(x_t^i | x_s^i = y) r_y(s)                                                  (2)

(Lou et al. 2024, theorem 4.2). Ratios of a network may make (1) negative, which is then 0.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib.discrete.processes import TokenProcess, Tokens, log_of, one_hot, per_token
from sde_lib.node import PyTreeNode
from sde_lib.sde import Time


class Reverse(NamedTuple):
    """A reverse process as its parts use it: functions of the tokens and of time.

    log_ratios(x, t) → log r [B, L, S]; log_posterior(x, t, s) → log p(x_s^i = y | x_t) [B, L, S], normalized.
    """

    log_ratios: Callable[[Tokens, Time], Float[Array, "B L S"]]
    log_posterior: Callable[[Tokens, Time, Time], Float[Array, "B L S"]]

    def log_conditionals(self, x: Tokens, t: Time) -> Float[Array, "B L S"]:
        """log q: the law of each token at time 0. The mask has probability 0."""
        return self.log_posterior(x, t, jnp.zeros_like(jnp.asarray(t)))


class TokenParameterization(PyTreeNode, abc.ABC):
    """The network's output → log ratios and log posteriors, at given tokens and times."""

    @abc.abstractmethod
    def size(self, process: TokenProcess) -> int:
        """The length of the last axis of the network's output."""

    @abc.abstractmethod
    def log_ratios(self, process: TokenProcess, output: Float[Array, "B L C"], x: Tokens, t: Time) -> Array: ...

    @abc.abstractmethod
    def log_posterior(
        self, process: TokenProcess, output: Float[Array, "B L C"], x: Tokens, t: Time, s: Time
    ) -> Array: ...


class PredictTokens(TokenParameterization):
    """The output is F, the logits of each x_0^i given the other tokens, by (7) of `sde_lib.discrete.processes`."""

    def size(self, process: TokenProcess) -> int:
        return process.num_tokens

    def log_ratios(self, process, output, x, t):
        return process.log_ratios(process.log_conditionals(output, x, t), x, t)

    def log_posterior(self, process, output, x, t, s):
        return process.log_posterior(process.log_conditionals(output, x, t), x, t, s)


class PredictRatios(TokenParameterization):
    """The output is log r, of which the entry of y = x^i is not used: r is 1 there."""

    def size(self, process: TokenProcess) -> int:
        return process.num_states

    def log_ratios(self, process, output, x, t):
        return jnp.where(one_hot(x, process.num_states), 0.0, output)

    def log_posterior(self, process, output, x, t, s):
        """By (1) and (2). A state of the prior alone, the mask, has probability 0 at s = 0."""
        r = jnp.exp(self.log_ratios(process, output, x, t))
        lost, alpha_ts = (
            per_token(c, r).astype(r.dtype) for c in (process._lost(t, s), process.alpha(t) / process.alpha(s))
        )
        pi = process.stationary().astype(r.dtype)[None, None]
        earlier = jnp.maximum(r - lost * pi * jnp.sum(r, axis=-1, keepdims=True), 0.0) / alpha_ts
        is_token = jnp.arange(process.num_states)[None, None] < process.num_tokens
        possible = is_token | (per_token(process.redrawn(s), r) > 0)
        return log_of(jnp.where(possible, earlier, 0.0)) + process.log_transition(x, t, s).astype(r.dtype)


def make_reverse(
    network: Callable[[Tokens, Float[Array, " B"]], Float[Array, "B L C"]],
    process: TokenProcess,
    parameterization: TokenParameterization,
) -> Reverse:
    """The reverse process of a network (x [B, L], c_noise [B]) → [B, L, C], whose parameters are already bound.

    ValueError if C is not what the parameterization requires.
    """

    def output(x: Tokens, t: Time) -> Float[Array, "B L C"]:
        found = network(x, jnp.broadcast_to(jnp.asarray(process.redrawn(t), float), x.shape[:1]))
        if found.shape != (*x.shape, parameterization.size(process)):
            expected = (*x.shape, parameterization.size(process))
            raise ValueError(
                f"{type(parameterization).__name__} of {type(process).__name__}: expected a network output of shape "
                f"{expected}, got {found.shape}"
            )
        return found

    def log_posterior(x: Tokens, t: Time, s: Time) -> Float[Array, "B L S"]:
        return jax.nn.log_softmax(parameterization.log_posterior(process, output(x, t), x, t, s), axis=-1)

    return Reverse(lambda x, t: parameterization.log_ratios(process, output(x, t), x, t), log_posterior)
