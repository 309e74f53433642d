"""A trained model in one value: process, parameterization, network and parameters, and what one does with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Node, static
from sde_lib.noise import sample_keys
from sde_lib.parameterization import Parameterization, make_score_fn
from sde_lib.sampling import Sampler
from sde_lib.sde import SDE, Time


class ScoreModel(Node):
    """A score network with its parameters, for events of one shape.

    `network` is a Network (params, x, c_noise); `transform` maps data to model space (forward) and back (inverse),
    and is the identity where it is None. Scores are in model space, samples in the units of the data.
    """

    sde: SDE
    parameterization: Parameterization
    params: Any
    sampler: Sampler = Sampler()
    network: Any = static(None)
    shape: tuple[int, ...] = static(())
    transform: Any = static(None)

    def score(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Float[Array, "B ..."]:
        """∇log p_t(x), for x [B, *shape] in model space and t [] or [B]."""
        network = lambda x, c_noise: self.network(self.params, x, c_noise, cond=cond)  # noqa: E731
        return make_score_fn(network, self.sde, self.parameterization)(x, t)

    def sample(self, key: Key[Array, ""], n: int, cond: Any = None) -> np.ndarray:
        """n samples [n, *shape] in the units of the data; sample i is a function of (key, i) alone."""
        x = np.asarray(self.sample_indices(key, jnp.arange(n), cond))
        return x if self.transform is None else self.transform.inverse(x)

    def sample_indices(self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None):
        """The samples of these numbers in the stream of `key`, [B, *shape] in model space."""
        return _sample(self, sample_keys(key, indices), cond)


@jax.jit
def _sample(model: ScoreModel, keys: Key[Array, " B"], cond: Any):
    return model.sampler(keys, model.sde, lambda x, t: model.score(x, t, cond), model.shape)
