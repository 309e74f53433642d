"""Exact scores: data whose marginals under a GaussianSDE are known in closed form.

If x_0 is a mixture of normals with independent coordinates, Σ_k w_k N(μ_k, diag s_k²), then so is x_t:

    p_t = Σ_k w_k N(α μ_k, diag(α² s_k² + σ²)),                                                    (1)
    ∇log p_t(x) = Σ_k r_k(x) (α μ_k − x)/(α² s_k² + σ²),   r_k the posterior weight of component k.     (2)

This is the ground truth of the tests, the tutorials and the benchmarks. One component is an anisotropic Gaussian.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import Leaf, PyTreeNode, number
from sde_lib.noise import normal_like
from sde_lib.numbers.keys import require_keys
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE, Time, expand


class GaussianMixture(PyTreeNode):
    """Σ_k w_k N(μ_k, diag s_k²): means and stds [K, *event], weights [K] that sum to 1; arrays, or nested tuples."""

    means: Leaf = number()
    stds: Leaf = number(at_least=0)
    weights: Leaf = number(at_least=0)

    def __post_init__(self):
        for name in ("means", "stds", "weights"):
            if isinstance(getattr(self, name), tuple | list):  # from a config
                object.__setattr__(self, name, jnp.asarray(getattr(self, name), float))

    def sample(self, keys: Key[Array, " B"]) -> Float[Array, "B ..."]:
        """Exact draws of x_0; row i is a function of keys[i]."""
        require_keys(keys)
        k_keys, z_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        k = jax.vmap(jax.random.categorical, (0, None))(k_keys, jnp.log(self.weights))
        return self.means[k] + self.stds[k] * normal_like(z_keys, self.means[k])

    def log_prob(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        """log p_0(x), in nats."""
        difference = self.means[None] - x[:, None]
        return jax.nn.logsumexp(
            self._log_joint(difference, jnp.broadcast_to(self.stds[None] ** 2, difference.shape)), axis=-1
        )

    def marginal_log_prob(self, sde: GaussianSDE, x: Float[Array, "B ..."], t: Time) -> Float[Array, " B"]:
        """log p_t(x) (1), in nats."""
        return jax.nn.logsumexp(self._joint(sde, x, t), axis=-1)

    def score_fn(self, sde: GaussianSDE) -> ScoreFn:
        """(x, t) → ∇log p_t(x) (2)."""

        def score(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
            difference, variance = self._components(sde, x, t)
            weights = jax.nn.softmax(self._joint(sde, x, t), axis=-1)
            weights = weights.reshape(weights.shape + (1,) * (x.ndim - 1))
            return jnp.sum(weights * difference / variance, axis=1)

        return score

    def _components(self, sde, x, t):
        """(α μ_k − x, α² s_k² + σ²), each [B, K, *event]."""
        alpha, sigma = (expand(c, x)[:, None] if jnp.ndim(c) else expand(c, x) for c in (sde.alpha(t), sde.sigma(t)))
        shape = (x.shape[0], *self.means.shape)
        variance = (alpha * self.stds[None]) ** 2 + sigma**2
        return alpha * self.means[None] - x[:, None], jnp.broadcast_to(variance, shape)

    def _joint(self, sde, x, t) -> Float[Array, "B K"]:
        """log w_k + log N(x; α μ_k, α² s_k² + σ²)."""
        return self._log_joint(*self._components(sde, x, t))

    def _log_joint(self, difference, variance) -> Float[Array, "B K"]:
        logp = -0.5 * (difference**2 / variance + jnp.log(variance) + math.log(2 * math.pi))
        return jnp.sum(logp, axis=tuple(range(2, logp.ndim))) + jnp.log(self.weights)[None]


def gaussian(mean: Float[Array, "..."], std: Float[Array, "..."]) -> GaussianMixture:
    """N(mean, diag std²), with the event shape of `mean`."""
    return GaussianMixture(means=mean[None], stds=std[None], weights=jnp.ones(1, mean.dtype))
