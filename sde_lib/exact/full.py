"""Exact posteriors: mixtures of normals with full covariances, which linear observations take to mixtures again.

For x_0 ~ Σ_k w_k N(μ_k, C_k) and y = A x_0 + σ_y n, with S_k = A C_k Aᵀ + σ_y² I and K_k = C_k Aᵀ S_k⁻¹,

    x_0 | y ~ Σ_k w_k' N(μ_k + K_k (y − A μ_k), C_k − K_k A C_k),   w_k' ∝ w_k N(y; A μ_k, S_k),           (1)
    x_t ~ Σ_k w_k N(α μ_k, α² C_k + σ² I),   ∇log p_t(x) = Σ_k r_k(x) (α² C_k + σ² I)⁻¹ (α μ_k − x).        (2)

So the score of (1) under any GaussianSDE with one α and σ for all coordinates is exact, and so is p(y). This is the
ground truth of posterior sampling, in dimensions where the covariances [K, d, d] fit into memory.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import Leaf, PyTreeNode, Scalar, number
from sde_lib.noise import normal_like
from sde_lib.numbers.keys import require_keys
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE, Time


class FullMixture(PyTreeNode):
    """Σ_k w_k N(μ_k, C_k): means [K, d], covariances [K, d, d], weights [K] that sum to 1."""

    means: Leaf = number()
    covariances: Leaf = number()
    weights: Leaf = number(at_least=0)

    def sample(self, keys: Key[Array, " B"]) -> Float[Array, "B d"]:
        """Exact draws of x_0; row i is a function of keys[i]."""
        require_keys(keys)
        k_keys, z_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        k = jax.vmap(jax.random.categorical, (0, None))(k_keys, jnp.log(jnp.asarray(self.weights)))
        means, C = jnp.asarray(self.means), jnp.asarray(self.covariances)
        values, vectors = jnp.linalg.eigh(C)  # C may be singular
        roots = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None]
        return means[k] + jnp.einsum("bij,bj->bi", roots[k], normal_like(z_keys, means[k]), precision="highest")

    def log_prob(self, x: Float[Array, "B d"]) -> Float[Array, " B"]:
        """log p_0(x), in nats."""
        return jax.nn.logsumexp(self._parts(x, 1.0, 0.0)[0], axis=-1)

    def marginal_log_prob(self, sde: GaussianSDE, x: Float[Array, "B d"], t: Time) -> Float[Array, " B"]:
        """log p_t(x) by (2), in nats."""
        return jax.nn.logsumexp(self._parts(x, sde.alpha(t), sde.sigma(t))[0], axis=-1)

    def score_fn(self, sde: GaussianSDE) -> ScoreFn:
        """(x, t) → ∇log p_t(x) by (2)."""

        def score(x: Float[Array, "B d"], t: Time) -> Float[Array, "B d"]:
            log_joint, pulls = self._parts(x, sde.alpha(t), sde.sigma(t))
            return jnp.einsum("bk,bkd->bd", jax.nn.softmax(log_joint, axis=-1), pulls, precision="highest")

        return score

    def posterior(self, matrix: Leaf, y: Leaf, noise_std: Scalar) -> "FullMixture":
        """(1), of y [m] = A x_0 + noise with A = `matrix` [m, d]."""
        A, y, means = jnp.asarray(matrix), jnp.asarray(y), jnp.asarray(self.means)
        C, log_weights = jnp.asarray(self.covariances), self._log_evidence(A, y, noise_std)
        AC = jnp.einsum("md,kde->kme", A, C, precision="highest")
        K = jnp.linalg.solve(self._observed_covariance(A, noise_std), AC).transpose(0, 2, 1)
        return FullMixture(
            means=means + jnp.einsum("kdm,km->kd", K, y[None] - means @ A.T, precision="highest"),
            covariances=C - jnp.einsum("kdm,kme->kde", K, AC, precision="highest"),
            weights=jax.nn.softmax(log_weights),
        )

    def log_evidence(self, matrix: Leaf, y: Leaf, noise_std: Scalar) -> Float[Array, ""]:
        """log p(y) in nats, of y [m] = A x_0 + noise with A = `matrix` [m, d]."""
        return jax.nn.logsumexp(self._log_evidence(jnp.asarray(matrix), jnp.asarray(y), noise_std))

    def _observed_covariance(self, A, noise_std):
        S = jnp.einsum("md,kde,ne->kmn", A, jnp.asarray(self.covariances), A, precision="highest")
        return S + noise_std**2 * jnp.eye(len(A))[None]

    def _log_evidence(self, A, y, noise_std):
        difference = y[None] - jnp.asarray(self.means) @ A.T
        logp, _ = _log_normal(difference, self._observed_covariance(A, noise_std))
        return jnp.log(jnp.asarray(self.weights)) + logp

    def _parts(self, x, alpha, sigma):
        """(log w_k + log N(x; …) [B, K], (α² C_k + σ² I)⁻¹ (α μ_k − x) [B, K, d])."""
        alpha, sigma = (jnp.broadcast_to(jnp.asarray(c, x.dtype), (len(x),)) for c in (alpha, sigma))
        means, C, weights = (jnp.asarray(a, x.dtype)[None] for a in (self.means, self.covariances, self.weights))
        covariance = (
            alpha[:, None, None, None] ** 2 * C
            + sigma[:, None, None, None] ** 2 * jnp.eye(x.shape[1], dtype=x.dtype)[None, None]
        )
        logp, solved = _log_normal(alpha[:, None, None] * means - x[:, None], covariance)
        return logp + jnp.log(weights), solved


def _log_normal(difference: Array, covariance: Array) -> tuple[Array, Array]:
    """(log N(difference; 0, covariance), covariance⁻¹ difference), over the last axes."""
    root = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(root, difference[..., None], lower=True)
    solved = jax.scipy.linalg.solve_triangular(root, white, lower=True, trans=1)[..., 0]
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
    n = difference.shape[-1]
    return -0.5 * (jnp.sum(white[..., 0] ** 2, axis=-1) + log_det + n * math.log(2 * math.pi)), solved
