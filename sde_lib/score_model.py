"""A trained model in one value: process, parameterization, network and parameters, and what one does with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Node, static
from sde_lib.noise import sample_keys
from sde_lib.parameterization import Parameterization, make_score_fn
from sde_lib.sampling import Sampler, Start
from sde_lib.sde import SDE, Time


class ScoreModel(Node):
    """A score network with its parameters, for events of one shape.

    `network` is a Network (params, x, c_noise); `sampler` a Sampler, AdaptiveSDE or ProbabilityFlowODE; `transform`
    maps data to model space (forward) and back (inverse), and is the identity where it is None. Scores are in model
    space, samples in the units of the data.
    """

    sde: SDE
    parameterization: Parameterization
    params: Any
    sampler: Node = Sampler()
    network: Any = static(None)
    shape: tuple[int, ...] = static(())
    transform: Any = static(None)

    def score(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Float[Array, "B ..."]:
        """∇log p_t(x), for x [B, *shape] in model space and t [] or [B]."""
        network = lambda x, c_noise: self.network(self.params, x, c_noise, cond=cond)  # noqa: E731
        return make_score_fn(network, self.sde, self.parameterization)(x, t)

    def sample(self, key: Key[Array, ""], n: int, cond: Any = None, x_T: Start = None) -> np.ndarray:
        """n samples [n, *shape] in the units of the data; sample i is a function of (key, i) alone.

        They start from x_T [n, *shape] in model space where it is given (encoded data, or one point n times), else
        from the prior.
        """
        x = np.asarray(self.sample_indices(key, jnp.arange(n), cond, x_T))
        return x if self.transform is None else self.transform.inverse(x)

    def sample_indices(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """The samples of these numbers in the stream of `key`, [B, *shape] in model space."""
        return self.with_evaluations(key, indices, cond, x_T)[0]

    def with_evaluations(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples of these numbers [B, *shape] in model space, score evaluations of each [B])."""
        return _sample(self, sample_keys(key, indices), cond, x_T)


@jax.jit
def _sample(model: ScoreModel, keys: Key[Array, " B"], cond: Any, x_T: Start):
    score_fn = lambda x, t: model.score(x, t, cond)  # noqa: E731
    return model.sampler.with_evaluations(keys, model.sde, score_fn, model.shape, x_T)
