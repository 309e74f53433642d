"""A trained model of token sequences as one value: process, parameterization, network and parameters.

The operations are those of `sde_lib.score_model`, for data that are whole numbers: samples, bounds and infilling.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from sde_lib.discrete.bounds import any_order_elbo, token_elbo
from sde_lib.discrete.prediction import PredictTokens, Reverse, TokenParameterization, make_reverse
from sde_lib.discrete.processes import TokenProcess, Tokens
from sde_lib.discrete.solvers import TokenSampler
from sde_lib.likelihood.bits import Elbo, nats_to_bits
from sde_lib.node import PyTreeNode, static
from sde_lib.noise import sample_keys
from sde_lib.numbers import Allowed, check_number
from sde_lib.numbers.keys import require_indices, require_key, rows_of_shape
from sde_lib.training.xla import jit

HIDDEN = -1
"""The token of positions to fill, in `infill`."""


class TokenModel(PyTreeNode):
    """A network of tokens with its parameters, for sequences of the length in `shape`.

    `network` is a Network (params, x [B, L], c_noise [B]) → [B, L, C]; `sampler` is a TokenSampler. `transform` maps
    data to tokens (forward) and back (inverse); None is the identity. The process is the field `sde`. Row i of samples
    and of bounds is a function of (key, i) and its own data only.
    """

    sde: TokenProcess
    parameterization: TokenParameterization = PredictTokens()
    params: Any = None
    sampler: TokenSampler = TokenSampler()
    network: Any = static()
    shape: tuple[int, ...] = static()
    transform: Any = static(None)
    split: Any = static(None)

    def reverse(self) -> Reverse:
        """The reverse process, for solvers and bounds."""
        return make_reverse(partial(self.network, self.params), self.sde, self.parameterization)

    def check(self) -> None:
        """TypeError if the sampler does not fit the process."""
        self.sampler.check(self.sde)

    def sample(self, key: Key[Array, ""], n: int, x_T: Any = None) -> np.ndarray:
        """n samples [n, L] in the units of the data; sample i is a function of (key, i). ValueError for n < 0."""
        require_key(key)
        check_number("sample", "n", n, Allowed(at_least=0, whole=True))
        return self.to_data(self.sample_indices(key, jnp.arange(n), x_T=x_T))

    def sample_indices(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Any = None
    ) -> Tokens:
        """The samples with these indices in the stream of `key`, as tokens [B, L]."""
        return self.with_nfe(key, indices, cond, x_T)[0]

    def with_nfe(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Any = None
    ) -> tuple[Tokens, Integer[Array, " B"]]:
        """(samples with these indices [B, L] as tokens, evaluations of the network for each [B])."""
        require_indices(indices)
        self._refuse_cond(cond)
        self.check()
        return _sample(self, sample_keys(key, indices), x_T, None)

    def infill(self, key: Key[Array, ""], tokens: Any, n: int = 1) -> np.ndarray:
        """n completions of each row of tokens [B, L], which are HIDDEN = −1 where they are to be drawn: [B, n, L].

        Known tokens are those of model space, as `to_model` returns them; completions are in the units of the data. A
        masked process is conditioned on the known tokens; a uniform one by replacement, which is biased. Answer j to
        row i is a function of (key, i, j). ValueError for another shape, or tokens outside the vocabulary.
        """
        require_key(key)
        self.check()
        known = np.asarray(rows_of_shape(tokens, self.shape))
        if known.size and not HIDDEN <= known.min() <= known.max() < self.sde.num_tokens:
            low, high = known.min(), known.max()
            raise ValueError(
                f"infill: expected tokens from −1 (hidden) to {self.sde.num_tokens - 1}, got {low} to {high}"
            )
        answers = []
        for i, row in enumerate(known):
            keys = sample_keys(jax.random.fold_in(key, i), jnp.arange(n))
            drawn, _ = _sample(self, keys, None, jnp.asarray(np.tile(row, (n, 1)), jnp.int32))
            answers.append(self.to_data(drawn))
        return np.stack(answers)

    def elbo(self, key: Key[Array, ""], x: Any, num_times: int = 32, first: int = 0) -> Elbo:
        """A lower bound on log P(x) in nats, for data x [B, L] (`sde_lib.discrete.bounds`): (3) for a masked process
        with conditionals, (1) for others. `first` is the index of x's first row in the stream of `key`."""
        require_key(key)
        tokens = self.to_model(x)
        keys = sample_keys(key, first + jnp.arange(len(tokens)))
        if len(tokens) == 0:
            return Elbo(*(jnp.zeros(0) for _ in Elbo._fields))
        return _elbo(self, num_times, keys, tokens)

    def bits_per_token(
        self, key: Key[Array, ""], x: Any, num_times: int = 32, first: int = 0
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """(bits per token [B] of data x [B, L], the standard error of each [B]): in expectation at least
        −log₂ P(x)/L. The mean over many rows has the standard error of their scatter."""
        found, length = self.elbo(key, x, num_times, first), self.shape[0]
        return nats_to_bits(found.value, length), -nats_to_bits(found.error, length)

    def to_model(self, x: Any) -> Tokens:
        """Data [B, L] as tokens. ValueError for another shape, and as the transform."""
        tokens = rows_of_shape(x, self.shape) if self.transform is None else self.transform.forward(x)
        tokens = jnp.asarray(rows_of_shape(tokens, self.shape), jnp.int32)
        return tokens if self.split is None else jax.device_put(tokens, self.split)

    def to_data(self, x: Any) -> np.ndarray:
        """Tokens [B, L] in the units of the data."""
        return np.asarray(x) if self.transform is None else self.transform.inverse(np.asarray(x))

    to_samples = to_data

    def _refuse_cond(self, cond: Any) -> None:
        if cond is not None:
            raise ValueError("a TokenModel is not conditioned: expected cond=None; fill given texts by `infill`")


@jit
def _sample(model: TokenModel, keys: Key[Array, " B"], x_T: Any, known: Any):
    return model.sampler.with_nfe(keys, model.sde, model.reverse(), model.shape, x_T, known)


@partial(jit, static_argnums=1)
def _elbo(model: TokenModel, num_times: int, keys: Key[Array, " B"], x: Tokens) -> Elbo:
    bound: Callable[..., Elbo] = any_order_elbo if hasattr(model.sde, "mask") else token_elbo
    return bound(keys, model.sde, model.reverse(), x, num_times)
