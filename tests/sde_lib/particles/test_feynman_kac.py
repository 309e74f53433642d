"""Feynman–Kac correctors against quadrature: guidance, product and tempering in one dimension, for VE and VP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, DiagonalVP, GaussianMixture, Hutchinson, UniformGrid, gaussian, sample
from sde_lib.particles import Composed, FeynmanKac
from sde_lib.sampling import as_is
from sde_lib.solvers import EulerMaruyama
from tests.helpers import keys

TWO = GaussianMixture(
    means=jnp.asarray([[-2.0], [1.5]]), stds=jnp.asarray([[0.5], [0.6]]), weights=jnp.asarray([0.6, 0.4])
)
ONE = gaussian(jnp.asarray([0.5]), jnp.asarray([1.5]))
VARIANCE_EXPLODING = VE(sigma_min=0.01, sigma_max=30.0)
X = np.linspace(-12, 12, 24_001)
GUIDANCE, PRODUCT, TEMPERED = (2.0, -1.0), (1.0, 1.0), (2.5,)


TABLE = {"num_steps": 600, "particles": 2000}
LARGE = [
    (VARIANCE_EXPLODING, (3.0, -2.0), TABLE),
    (VARIANCE_EXPLODING, GUIDANCE, TABLE | {"tempered_noise": True}),
    (VARIANCE_EXPLODING, PRODUCT, TABLE),
    (VARIANCE_EXPLODING, PRODUCT, TABLE | {"tempered_noise": True, "divergence": Hutchinson()}),
    (VP(), GUIDANCE, TABLE | {"num_steps": 1500, "noise": 2.0}),
    (VP(), PRODUCT, TABLE | {"num_steps": 1500, "tempered_noise": True, "noise": 0.5}),
    (VP(), PRODUCT, TABLE | {"num_steps": 1500, "tempered_noise": True, "noise": 0.0}),
]


def exact(weights):
    """(mean, variance, P(x < 0), Z) of Π q_i^{a_i}, by quadrature."""
    logs = [q.log_prob(jnp.asarray(X)[:, None]) for q in (TWO, ONE)]
    p = np.exp(sum(a * np.asarray(log) for a, log in zip(weights, logs, strict=False)))
    z = p.sum() * (X[1] - X[0])
    p = p / p.sum()
    mean = (X * p).sum()
    return np.asarray([mean, ((X - mean) ** 2 * p).sum(), p[X < -0.25].sum(), z])


def composed(sde, weights):
    return Composed(score_fns=tuple(q.score_fn(sde) for q in (TWO, ONE)[: len(weights)]), weights=weights)


def estimates(sampler, sde, weights, groups, seed=0):
    """(mean, variance, P(x < −¼), Z) of each group [4, G], by its weighted sample, and the ESS [N, G]."""
    scores = composed(sde, weights)
    found = jax.jit(lambda keys: sampler.run(keys, sde, scores, (1,)))(keys(groups, seed))
    x, w = np.asarray(found.x[..., 0]), np.asarray(found.weights)
    mean = (w * x).sum(axis=1)
    variance = (w * x**2).sum(axis=1) - mean**2
    return np.stack([mean, variance, (w * (x < -0.25)).sum(axis=1), np.exp(found.log_z)]), np.asarray(found.ess)


def deviations(found, expected):
    """(means over groups − exact)/standard error."""
    return (found.mean(axis=1) - expected) / (found.std(axis=1, ddof=1) / np.sqrt(found.shape[1]))


@pytest.mark.parametrize(
    "sde, weights, options",
    [
        (VARIANCE_EXPLODING, GUIDANCE, {}),
        (VP(), GUIDANCE, {"noise": 0.0}),
        pytest.param(VP(), GUIDANCE, {"noise": 1.0}, marks=pytest.mark.slow),
        (VARIANCE_EXPLODING, PRODUCT, {"tempered_noise": True}),
        pytest.param(VARIANCE_EXPLODING, TEMPERED, {"tempered_noise": True}, marks=pytest.mark.slow),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE),
    ],
)
def test_moments(sde, weights, options):
    sampler = FeynmanKac(**{"num_steps": 300, "particles": 500, **options})
    found, _ = estimates(sampler, sde, weights, 16)
    expected = exact(weights)
    off = deviations(found, expected)
    assert np.all(np.abs(off[:3]) < 3), off
    # Z has a bias of the order of the step, about 1 to 3 % here, next to its own error.
    error = found[3].std(ddof=1) / np.sqrt(found.shape[1])
    np.testing.assert_allclose(found[3].mean(), expected[3], atol=0.05 * expected[3] + 3 * error)


@pytest.mark.parametrize("weights", [GUIDANCE, PRODUCT, TEMPERED])
def test_the_composed_score_alone_misses(weights):
    """The reverse SDE with ∇U, unweighted: the mean is more than 5 standard errors from the target's."""
    sde, n = VARIANCE_EXPLODING, 4000
    start = jax.random.normal(jax.random.key(8), (n, 1)) * sde.prior_std() / np.sqrt(sum(weights))
    scores, times = composed(sde, weights), UniformGrid()(sde, 200)
    x = jax.jit(lambda keys: sample(keys, EulerMaruyama(), sde, scores, start, times, as_is))(keys(n, 9))
    x, (mean, variance, *_) = np.asarray(x), exact(weights)
    assert abs(x.mean() - mean) > 5 * np.sqrt(variance / n), (x.mean(), mean)


def test_the_increment_satisfies_the_weighted_fokker_planck_equation():
    """(3) for a Gaussian, at several x: π_t satisfies its own equation, with ∂_t U by differentiation.

    ∂_t U is the sum of the a_i ∂_t log q_i, so d log w/dτ = −∂_t U + v·∇U + ∇·v − ½ η g² (ΔU + |∇U|²), for the drift v
    of (2) and any c and η: the Fokker–Planck equation of weighted particles, whose terms in η cancel.
    """
    sde = DiagonalVP(scales=jnp.asarray([0.5, 2.0]))
    parts = [
        gaussian(jnp.asarray(mean), jnp.asarray(std))
        for mean, std in (([0.3, -1.0], [0.7, 1.5]), ([-0.4, 0.6], [1.1, 0.4]))
    ]
    both = Composed(score_fns=tuple(q.score_fn(sde) for q in parts), weights=(1.7, 0.6))
    t = jnp.asarray(0.37)
    x = jax.random.normal(jax.random.key(1), (5, 2))

    def log_target(x, t):
        return sum(a * q.marginal_log_prob(sde, x, t) for a, q in zip((1.7, 0.6), parts, strict=True))

    @jax.jit
    def both_sides(c, eta):
        time_rate = jax.jvp(lambda t: log_target(x, t), (t,), (jnp.ones_like(t),))[1]
        g2 = jnp.broadcast_to(sde.diffusion(t) ** 2, (1, 2))

        def divergence(field):
            return jax.vmap(lambda x: jnp.trace(jax.jacfwd(lambda x: field(x[None])[0])(x)))(x)

        def drift(x):
            return -sde.drift(x, t) + 0.5 * (c + eta) * g2 * both(x, t)

        laplacian = divergence(lambda x: g2 * both(x, t))
        transport = jnp.sum(drift(x) * both(x, t), axis=1) + divergence(drift)
        diffusion = 0.5 * eta * (laplacian + jnp.sum(g2 * both(x, t) ** 2, axis=1))
        found = both.increment(x, t, sde, both.scores(x, t), c, laplacian)
        return found, -time_rate + transport - diffusion, laplacian

    for c, eta in ((1.0, 0.0), (1.0, 2.0), (1 / 2.3, 1.0), (0.2, 0.5)):
        found, expected, laplacian = both_sides(c, eta)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    without = both.increment(x, t, sde, both.scores(x, t))
    np.testing.assert_allclose(without, both.increment(x, t, sde, both.scores(x, t), 1.0, laplacian), rtol=1e-12)
    sampler = FeynmanKac(tempered_noise=True)
    np.testing.assert_allclose(sampler._laplacian(keys(5), both, sde, x, t), laplacian, rtol=1e-9)
    # A diagonal Jacobian: signs are exact.
    np.testing.assert_allclose(
        sampler.replace(divergence=Hutchinson())._laplacian(keys(5), both, sde, x, t), laplacian, rtol=1e-9
    )


def test_groups_own_their_keys_and_errors():
    sde, scores = VP(), composed(VP(), GUIDANCE)
    sampler = FeynmanKac(num_steps=3, particles=4)
    assert sampler.coupled
    found = jax.jit(lambda keys: sampler.run(keys, sde, scores, (1,)))(keys(12)[::4])
    rows, nfe = jax.jit(lambda keys: sampler.with_nfe(keys, sde, scores, (1,)))(keys(12)[4:8])
    np.testing.assert_allclose(rows, found.samples[1], rtol=1e-9)
    np.testing.assert_array_equal(nfe, 3)
    with pytest.raises(TypeError, match="expected a Composed score"):
        sampler(keys(4), sde, TWO.score_fn(sde), (1,))
    with pytest.raises(ValueError, match="expected 1 weights"):
        Composed(score_fns=(TWO.score_fn(sde),), weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="A, the sum of the weights > 0"):
        sampler.run(keys(1), sde, composed(sde, (1.0, -1.0)), (1,))


@pytest.mark.parametrize("weights", [PRODUCT, TEMPERED])
def test_the_start(weights):
    """The draws have variance prior_std²/A within 4 standard errors, and log Z_T (4) is that of quadrature."""
    sde, n, total = VP(), 4000, sum(weights)
    x, log_z = FeynmanKac(particles=n)._start(keys(1), sde, composed(sde, weights), (1,), None, None)
    np.testing.assert_allclose(np.var(x) * total, 1, atol=4 * np.sqrt(2 / n))
    p = np.exp(total * np.asarray(sde.prior_logp(jnp.asarray(X)[:, None])))
    np.testing.assert_allclose(np.exp(log_z), p.sum() * (X[1] - X[0]), rtol=1e-6)
