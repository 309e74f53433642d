"""Simulation-based calibration: ranks of prior draws among posterior draws are uniform, if the posterior is right.

For x* ~ p(x), y ~ p(y | x*) and x_1 … x_L ~ p(x | y), the rank of f(x*) among f(x_1) … f(x_L) is uniform on 0 … L for
every function f, since x* and the x_l have the same law given y. This checks the sampler for every y at once.

Talts, Betancourt, Simpson, Vehtari & Gelman 2018, arXiv:1804.06788, theorem 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from sde_lib import VP, LogSNRGrid, Sampler, as_is, sample_keys
from sde_lib.exact import FullMixture
from sde_lib.posterior import MMPS, Decimate, DPSGaussian, Observation, posterior_score
from sde_lib.solvers import Ancestral

POINTS, LENGTH, JITTER = 16, 3.0, 1e-2
N, L, NOISE_STD = 400, 19, 0.4
SDE, OPERATOR = VP(), Decimate(step=4)
SAMPLER = Sampler(solver=Ancestral(), grid=LogSNRGrid(t_end=1e-4), num_steps=256, denoise=as_is)
LIMIT = chi2.ppf(0.999, L)  # 43.8

AT = np.arange(POINTS)
COVARIANCE = np.exp(-0.5 * ((AT[:, None] - AT[None]) / LENGTH) ** 2) + JITTER * np.eye(POINTS)
PRIOR = FullMixture(means=np.zeros((1, POINTS)), covariances=COVARIANCE[None], weights=np.ones(1))
VALUES, VECTORS = np.linalg.eigh(COVARIANCE)


def score(x, t):
    """That of PRIOR.score_fn, in the basis of eigenvectors: one factorization for all times. x [B, POINTS, 1]."""
    variance = (SDE.alpha(t) ** 2 * VALUES + SDE.sigma(t) ** 2)[None]
    return -((x[..., 0] @ VECTORS / variance) @ VECTORS.T)[..., None]


def log_prob(x):
    """That of PRIOR.log_prob, up to a constant. x [B, POINTS]."""
    return -0.5 * jnp.sum((x @ VECTORS) ** 2 / VALUES[None], axis=1)


@partial(jax.jit, static_argnums=0)
def ranks(method):
    """Ranks [3, N] in 0 … L: of a coordinate that is not observed, of the mean, and of log p."""
    keys = jax.random.split(jax.random.key(7), 3)
    truth = (jnp.sqrt(VALUES)[None] * jax.random.normal(keys[0], (N, POINTS))) @ VECTORS.T
    clean = OPERATOR(truth[..., None])
    y = clean + NOISE_STD * jax.random.normal(keys[1], clean.shape)
    observation = Observation(y=jnp.repeat(y, L, axis=0), operator=OPERATOR, noise_std=NOISE_STD)
    guided = posterior_score(score, SDE, observation, method)
    draws = SAMPLER(sample_keys(keys[2], jnp.arange(N * L)), SDE, guided, (POINTS, 1))[..., 0]

    def rank(f):
        return jnp.sum(f(draws).reshape(N, L) < f(truth)[:, None], axis=1)

    return jnp.stack([rank(lambda x: x[:, 2]), rank(lambda x: x.mean(axis=1)), rank(log_prob)])


def chi_squares(method):
    """Σ (observed − expected)²/expected over the L + 1 ranks, for each quantity; L degrees of freedom."""
    counts = np.stack([np.bincount(row, minlength=L + 1) for row in np.asarray(ranks(method))])
    return np.sum((counts - N / (L + 1)) ** 2, axis=1) / (N / (L + 1))


def test_score_and_density_are_the_priors():
    x = jax.random.normal(jax.random.key(0), (3, POINTS, 1))
    difference = log_prob(x[..., 0]) - PRIOR.log_prob(x[..., 0])
    np.testing.assert_allclose(difference, difference[0], rtol=1e-9)
    for t in (0.01, 0.5):
        np.testing.assert_allclose(score(x, t)[..., 0], PRIOR.score_fn(SDE)(x[..., 0], t), rtol=1e-6, atol=1e-9)


def test_mmps_is_calibrated():
    """With as many iterations as y has numbers, for a Gaussian process, all three ranks are uniform."""
    found = chi_squares(MMPS(iterations=POINTS // 4, solver="cg"))
    assert np.all(found < LIMIT), f"expected chi-squares below {LIMIT:.1f}, got {found}"


def test_dps_is_not():
    """The same test rejects DPSGaussian, which ignores what x_t leaves open."""
    found = chi_squares(DPSGaussian())
    assert np.max(found) > 2 * LIMIT, f"expected a chi-square above {2 * LIMIT:.1f}, got {found}"
