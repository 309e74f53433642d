"""Samplers of token processes: from the prior at t_max to tokens at t = 0, over a grid of times.

A step replaces every token independently, by draws from

    ancestral (analytic)   p(x_s^i | x_t): (6) of `sde_lib.discrete.processes`, in one draw over all states;        (1)
    Euler                  δ_{x^i y} + (t − s) β π_{x^i} r_iy,                                             (2)

(Shi et al. 2024, section 4; Lou et al. 2024, eq. 17 and theorem 4.2). For one token (1) is exact. For several, both
ignore that tokens change together: the law after N steps differs by O(1/N) in total variation, for both. `AnyOrder` of
the masked process shows an equal share of the masked tokens in each step, in random places. With one token per step it
is exact for exact conditionals, and so is its infilling.

A corrector leaves p_t as it is. Since p_t(x^i = y | the other tokens) ∝ r_iy, a Gibbs step is a draw from the ratios:

    x^i ← y with probability r_iy/Σ_y r_iy, for one random i.                                           (3)

It requires all ratios, which the uniform process has.

In float32 jax.random.categorical draws too few events of probability below about 1e-7. `draw` uses its mode "high",
which reaches 1e-14. Without it rare tokens are missing, and samples look better than the model is.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.discrete.bounds import random_ranks
from sde_lib.discrete.prediction import Reverse
from sde_lib.discrete.processes import TokenProcess, Tokens, per_token
from sde_lib.node import PyTreeNode, static
from sde_lib.noise import fold
from sde_lib.sde import Time


def draw(keys: Key[Array, " B"], log_p: Float[Array, "B L S"]) -> Tokens:
    """A token [B, L] from each row of log probabilities, up to a constant; row i is a function of keys[i]."""
    one = lambda key, row: jax.random.categorical(key, row, mode="high")  # noqa: E731
    return jax.vmap(one)(keys, log_p).astype(jnp.int32)


class TokenSolver(PyTreeNode, abc.ABC):
    """One reverse step of a token process, from t to s < t. `requires` names what a process must have."""

    nfe = 1
    requires = ()

    @abc.abstractmethod
    def step(
        self, keys: Key[Array, " B"], x: Tokens, t: Time, s: Time, process: TokenProcess, reverse: Reverse
    ) -> Tokens:
        """x_s, given x_t = x."""


class AncestralTokens(TokenSolver):
    """(1): every token from its law at s, in one draw. It is SEDD's analytic step, and MD4's step for masks."""

    def step(self, keys, x, t, s, process, reverse):
        return draw(keys, reverse.log_posterior(x, t, s)).astype(x.dtype)


class EulerTokens(TokenSolver):
    """(2). Where the probabilities of all jumps exceed 1 they are normalized, and the token jumps."""

    def step(self, keys, x, t, s, process, reverse):
        return draw(keys, jnp.log(self.probabilities(x, t, s, process, reverse))).astype(x.dtype)

    def probabilities(self, x, t, s, process, reverse) -> Float[Array, "B L S"]:
        """Of every state, up to a constant of each token."""
        log_rates = process.log_rates(reverse.log_ratios(x, t), x, t)
        jumps = per_token(jnp.asarray(t - s, log_rates.dtype), log_rates) * jnp.exp(log_rates)
        stay = jnp.maximum(1 - jnp.sum(jumps, axis=-1, keepdims=True), 0.0)
        return jumps + stay * jax.nn.one_hot(x, process.num_states, dtype=jumps.dtype)


class AnyOrder(TokenSolver):
    """Of n masked tokens it shows n − ⌊n ρ_s/ρ_t⌋, in random places, each drawn from q. For the masked process."""

    requires = ("mask",)

    def step(self, keys, x, t, s, process: Any, reverse):
        masked = x == process.mask
        n = jnp.sum(masked, axis=1, keepdims=True)
        left = jnp.floor(n.astype(float) * (process.redrawn(s) / process.redrawn(t)) + 1e-3).astype(n.dtype)
        ranks = random_ranks(fold(keys, 0), x.shape[1])
        places = jnp.argsort(jnp.argsort(jnp.where(masked, ranks, ranks + x.shape[1]), axis=1), axis=1)
        shown = masked & (places < n - left)
        return jnp.where(shown, draw(fold(keys, 1), reverse.log_conditionals(x, t)).astype(x.dtype), x)


class Gibbs(PyTreeNode):
    """(3) at `count` random positions at the same time: p_t is invariant for one, nearly so for a few of many."""

    count: int = static(1, at_least=1)
    requires = ("all_ratios",)
    nfe = 1

    def correct(self, keys: Key[Array, " B"], x: Tokens, t: Time, process: TokenProcess, reverse: Reverse) -> Tokens:
        chosen = random_ranks(fold(keys, 0), x.shape[1]) < self.count
        return jnp.where(chosen, draw(fold(keys, 1), reverse.log_ratios(x, t)).astype(x.dtype), x)


class CorrectedTokens(TokenSolver):
    """`steps` corrections at t, then a step of the solver to s."""

    solver: TokenSolver = AncestralTokens()
    corrector: Gibbs = Gibbs()
    steps: int = static(1, at_least=1)

    @property
    def nfe(self) -> int:
        return self.solver.nfe + self.steps * self.corrector.nfe

    @property
    def requires(self) -> tuple[str, ...]:
        return (*self.solver.requires, *self.corrector.requires)

    def step(self, keys, x, t, s, process, reverse):
        for k in range(self.steps):
            x = self.corrector.correct(fold(fold(keys, 1), k), x, t, process, reverse)
        return self.solver.step(fold(keys, 0), x, t, s, process, reverse)


def uniform_times(u: Float[Array, " N"]) -> Float[Array, " N"]:
    """t = u, for u from 1 to 0: equal steps."""
    return u


def cosine_times(u: Float[Array, " N"]) -> Float[Array, " N"]:
    """t = 1 − cos(πu/2): short steps at the end, where few masks are left (Shi et al. 2024, section 4)."""
    return 1 - jnp.cos(0.5 * jnp.pi * u)


class TokenSampler(PyTreeNode):
    """A solver over a grid of num_steps + 1 times, from t_max to 0: t_k = t_max · grid(1 − k/N).

    The last step is always `AncestralTokens`: it leaves no mask, whatever the solver's rounding. Sample i is a
    function of keys[i].
    """

    solver: TokenSolver = AncestralTokens()
    num_steps: int = static(64, at_least=1)
    grid: Callable = static(uniform_times)

    @property
    def nfe(self) -> int:
        """Evaluations of the network per sample."""
        return (self.num_steps - 1) * self.solver.nfe + 1

    def check(self, process: TokenProcess) -> None:
        """TypeError if the process lacks what the solver requires."""
        for name in self.solver.requires:
            if not hasattr(process, name):
                raise TypeError(f"{type(self.solver).__name__} requires {name}, which {type(process).__name__} lacks")

    def times(self, process: TokenProcess) -> Float[Array, " N"]:
        u = jnp.linspace(1.0, 0.0, self.num_steps + 1)
        return (process.t_max * self.grid(u)).at[-1].set(0.0)

    def with_nfe(
        self,
        keys: Key[Array, " B"],
        process: TokenProcess,
        reverse: Reverse,
        shape: tuple[int, ...],
        x_T: Tokens | None = None,
        known: Tokens | None = None,
    ) -> tuple[Tokens, Integer[Array, " B"]]:
        """(tokens [B, L], evaluations of each [B]), from x_T, or from the prior if it is None.

        `known` [B, L] has the tokens on which samples are conditioned, −1 where there is none: `process.condition`
        sets them after each step.
        """
        self.check(process)
        x = process.prior_sample(fold(keys, 0), shape) if x_T is None else jnp.asarray(x_T)
        times, known = self.times(process), jnp.full_like(x, -1) if known is None else known.astype(x.dtype)

        def given(keys, x, t):
            return jnp.where(known < 0, x, process.condition(keys, known, t).astype(x.dtype))

        def body(x, interval):
            k, t, s = interval
            x = self.solver.step(fold(fold(keys, 1), k), x, t, s, process, reverse)
            return given(fold(fold(keys, 2), k), x, s), None

        x = given(fold(keys, 3), x, times[0])
        x, _ = jax.lax.scan(body, x, (jnp.arange(self.num_steps - 1), times[:-2], times[1:-1]))
        x = AncestralTokens().step(fold(keys, 4), x, times[-2], times[-1], process, reverse)
        return jnp.where(known < 0, x, known), jnp.full(keys.shape, self.nfe)
