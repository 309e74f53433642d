"""Posterior scores against exact posteriors, and the biased methods against their own limits in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, DiagonalVP, Exact, GaussianMixture, Likelihood
from sde_lib.exact import FullMixture
from sde_lib.posterior import (
    DPS,
    DTMPD,
    JFPS,
    MMPS,
    BoxDownsample,
    DPSGaussian,
    Mask,
    Observation,
    PiGDM,
    Project,
    posterior_score,
)
from sde_lib.posterior.krylov import conjugate_gradients, gmres
from tests.contracts import CLOSED, SDES

RNG = np.random.default_rng(0)


def random_covariance(d):
    root = RNG.normal(size=(d, d))
    return root @ root.T / d + 0.05 * np.eye(d)


def random_gaussian(d):
    return FullMixture(means=RNG.normal(size=(1, d)), covariances=random_covariance(d)[None], weights=np.ones(1))


def times(sde):
    return np.asarray(sde.t_min) + np.array([0.0, 0.03, 0.2, 0.5, 0.9]) * (sde.t_max - sde.t_min)


@pytest.mark.parametrize(
    ("name", "solver"),
    [pytest.param(name, "cg", marks=[] if name in (*CLOSED, "tabulated") else pytest.mark.slow) for name in SDES]
    + [pytest.param(name, "gmres", marks=[] if name == "vp" else pytest.mark.slow) for name in SDES],
)
def test_mmps_is_exact_for_gaussians(name, solver):
    """Random prior in 5 dimensions, random A [2, 5], every process: the posterior's exact score, to 1e-5."""
    sde, data, matrix = SDES[name], random_gaussian(5), RNG.normal(size=(2, 5))
    y, noise_std = RNG.normal(size=(1, 2)), 0.3
    observation = Observation(y=y, operator=Project(matrix=matrix), noise_std=noise_std)
    guided = posterior_score(data.score_fn(sde), sde, observation, MMPS(iterations=2, solver=solver))
    exact = data.posterior(matrix, y[0], noise_std).score_fn(sde)
    for t in times(sde):
        x = jnp.asarray(RNG.normal(size=(3, 5)) * np.sqrt(float(sde.sigma(t)) ** 2 + 1))
        expected = exact(x, t)
        np.testing.assert_allclose(guided(x, t), expected, rtol=0, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize("method", [MMPS(iterations=2), MMPS(iterations=2, solver="cg"), JFPS])
def test_coordinates_that_differ(method):
    """α and σ per coordinate: x_t ~ N(D m, D C D + Σ) with D = diag α, Σ = diag σ²; the same exactness."""
    sde, d = DiagonalVP(scales=(0.3, 1.0, 2.5)), 3
    C, matrix, y, noise_std = random_covariance(d), RNG.normal(size=(2, d)), RNG.normal(size=2), 0.3
    S = matrix @ C @ matrix.T + noise_std**2 * np.eye(2)
    gain = C @ matrix.T @ np.linalg.inv(S)
    m_y, C_y = gain @ y, C - gain @ matrix @ C

    def exact(mean, C):
        def score(x, t):
            D, s = (np.broadcast_to(c, (1, d))[0] for c in (sde.alpha(t), sde.sigma(t)))
            return -(x - (D * mean)[None]) @ np.linalg.inv(D[:, None] * C * D[None] + np.diag(s**2))

        return score

    observation = Observation(y=y[None], operator=Project(matrix=matrix), noise_std=noise_std)
    method = JFPS(covariance=C, iterations=2) if method is JFPS else method
    for t in (0.1, 0.4, 0.8):
        x = jnp.asarray(RNG.normal(size=(4, d)))
        expected = exact(m_y, C_y)(x, t)
        found = posterior_score(exact(np.zeros(d), C), sde, observation, method)(x, t)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


def test_the_exact_mixture():
    """Its score is the gradient of its density; its posterior is Bayes' rule; diagonal ones agree with the other."""
    sde, d = VP(), 3
    weights = np.array([0.2, 0.5, 0.3])
    means, covariances = RNG.normal(size=(3, d)), np.stack([random_covariance(d) for _ in range(3)])
    data = FullMixture(means=means, covariances=covariances, weights=weights)
    x, t = jnp.asarray(RNG.normal(size=(4, d))), jnp.asarray([0.1, 0.3, 0.5, 0.9])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(data.marginal_log_prob(sde, x, t))))(x)
    np.testing.assert_allclose(data.score_fn(sde)(x, t), gradient, rtol=1e-9)
    matrix, y, noise_std = RNG.normal(size=(2, d)), RNG.normal(size=2), 0.4
    posterior = data.posterior(matrix, y, noise_std)
    residual = y - np.asarray(x) @ matrix.T
    likelihood = -0.5 * np.sum(residual**2, 1) / noise_std**2
    difference = np.asarray(posterior.log_prob(x) - data.log_prob(x)) - likelihood
    np.testing.assert_allclose(difference, difference[0], rtol=1e-9)  # − log p(y), the same for all x
    stds = np.exp(RNG.normal(size=(3, d)))
    full = FullMixture(means=means, covariances=np.stack([np.diag(s**2) for s in stds]), weights=weights)
    diagonal = GaussianMixture(means=jnp.asarray(means), stds=jnp.asarray(stds), weights=jnp.asarray(weights))
    np.testing.assert_allclose(full.score_fn(sde)(x, t), diagonal.score_fn(sde)(x, t), rtol=1e-9)
    np.testing.assert_allclose(full.log_prob(x), diagonal.log_prob(x), rtol=1e-9)
    draws = data.sample(jax.random.split(jax.random.key(0), 20_000))
    expected = weights @ means
    spread = np.sqrt(np.diag(np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])))
    assert np.all(np.abs(draws.mean(0) - expected) < 4 * spread / np.sqrt(20_000))


def end_of_the_sde(score_fn, sde, d=2, steps=4000):
    """Mean and variances at t_min of the reverse SDE, whose score is affine: the moments' ODE by Heun's rule in log t.

    dm/dt = f m − g² (S m + b),   dP/dt = 2 f P − g² (S P + P Sᵀ + I), integrated from t_max down; here f = 0.
    """
    basis = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d)])

    def slopes(t, m, P):
        s = score_fn(basis, t)
        S, b, g2 = (s[1:] - s[:1]).T, s[0], sde.diffusion(t) ** 2
        return -g2 * (S @ m + b), -g2 * (S @ P + P @ S.T + jnp.eye(d))

    def step(state, ends):
        t, s = ends
        m, P = state
        dm, dP = slopes(t, m, P)
        dm2, dP2 = slopes(s, m + (s - t) * dm, P + (s - t) * dP)
        return (m + (s - t) / 2 * (dm + dm2), P + (s - t) / 2 * (dP + dP2)), None

    grid = jnp.linspace(sde.t_max, sde.t_min, steps + 1)
    start = (jnp.zeros(d), sde.sigma(sde.t_max) ** 2 * jnp.eye(d))
    (m, P), _ = jax.lax.scan(step, start, (grid[:-1], grid[1:]))
    return np.asarray(m), np.asarray(P)


TABLE = [
    *((0.8, 1e-3, MMPS(), 0.800, 0.360), (0.8, 0.5, MMPS(), 0.640, 0.488), (0.95, 1e-3, MMPS(), 0.950, 0.097)),
    *((0.8, 1e-3, PiGDM(), 0.763, 0.379), (0.8, 0.5, PiGDM(), 0.609, 0.508), (0.95, 1e-3, PiGDM(), 0.905, 0.119)),
    *((0.8, 1e-3, JFPS(), 0.500, 0.538), (0.8, 0.5, JFPS(), 0.388, 0.656), (0.95, 1e-3, JFPS(), 0.724, 0.227)),
    (0.8, 1e-3, JFPS(covariance=np.array([[1, 0.8], [0.8, 1]])), 0.800, 0.360),
    *((0.8, 0.5, DPSGaussian(), 0.921, 0.373),),
]


@pytest.mark.parametrize("rho, noise_std, method, mean, variance", TABLE)
def test_where_each_method_ends(rho, noise_std, method, mean, variance):
    """The unobserved coordinate of N(0, [[1, ρ], [ρ, 1]]), y = x_1 + σ_y n = 1, under VE: exact, or its known bias."""
    sde = VE(sigma_min=2e-3, sigma_max=50.0)
    data = FullMixture(means=np.zeros((1, 2)), covariances=np.array([[[1, rho], [rho, 1]]]), weights=np.ones(1))
    observation = Observation(y=jnp.ones((1, 1)), operator=Project(matrix=np.array([[1.0, 0.0]])), noise_std=noise_std)
    m, P = end_of_the_sde(posterior_score(data.score_fn(sde), sde, observation, method), sde)
    np.testing.assert_allclose([m[1], P[1, 1]], [mean, variance], atol=0.01)


def test_diagonal_priors():
    """DTMPD is exact for independent coordinates of different variances, where PiGDM is not."""
    sde, stds, t = VP(), np.array([[0.3, 1.0, 2.0]]), 0.4
    data = GaussianMixture(means=jnp.zeros((1, 3)), stds=jnp.asarray(stds), weights=jnp.ones(1))
    matrix, y = RNG.normal(size=(2, 3)), RNG.normal(size=(1, 2))
    observation = Observation(y=y, operator=Project(matrix=matrix), noise_std=0.2)
    full = FullMixture(means=np.zeros((1, 3)), covariances=np.diag(stds[0] ** 2)[None], weights=np.ones(1))
    x = jnp.asarray(RNG.normal(size=(4, 3)))
    expected = full.posterior(matrix, y[0], 0.2).score_fn(sde)(x, t)
    found = posterior_score(data.score_fn(sde), sde, observation, DTMPD())(x, t)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.max(np.abs(expected)))
    other = posterior_score(data.score_fn(sde), sde, observation, PiGDM())(x, t)
    assert np.max(np.abs(other - expected)) > 0.1 * np.max(np.abs(expected))


def test_dps_is_the_gradient_of_the_norm():
    sde, data, t = VP(), random_gaussian(3), 0.3
    score, matrix, y = data.score_fn(sde), RNG.normal(size=(2, 3)), jnp.asarray(RNG.normal(size=(1, 2)))
    observation = Observation(y=y, operator=Project(matrix=matrix))
    x = jnp.asarray(RNG.normal(size=(4, 3)))

    def norms(x):
        x0 = (x + sde.sigma(t) ** 2 * score(x, t)) / sde.alpha(t)
        return jnp.sqrt(jnp.sum((y - x0 @ matrix.T) ** 2, axis=1))

    for norm, power in (("norm", 1), ("squared", 2)):
        expected = score(x, t) - 0.7 * jax.grad(lambda x, p=power: jnp.sum(norms(x) ** p))(x)
        found = posterior_score(score, sde, observation, DPS(scale=0.7, norm=norm))(x, t)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_rows_and_shapes():
    """Each row has its own observation and its own result; images, per-row times; nonlinear A by its linearization."""
    sde, shape = VP(), (4, 4, 2)
    data = GaussianMixture(
        means=jnp.asarray(RNG.normal(size=(2, *shape))), stds=0.5 * jnp.ones((2, *shape)), weights=jnp.ones(2) / 2
    )
    x, t = jnp.asarray(RNG.normal(size=(3, *shape))), jnp.asarray([0.1, 0.5, 0.9])
    operator = BoxDownsample(size=2)
    y = jnp.asarray(RNG.normal(size=(3, 2, 2, 2)))
    methods = (MMPS(), PiGDM(), DTMPD(), JFPS(), DPSGaussian(), DPS())

    @jax.jit
    def scores(y, x, t):
        observation = Observation(y=y, operator=operator, noise_std=0.1)
        return [posterior_score(data.score_fn(sde), sde, observation, method)(x, t) for method in methods]

    alone = zip(*(scores(y[i : i + 1], x[i : i + 1], t[i : i + 1]) for i in range(3)), strict=True)
    for method, together, rows in zip(methods, scores(y, x, t), alone, strict=True):
        np.testing.assert_allclose(together, np.concatenate(rows), rtol=1e-6, atol=1e-9, err_msg=repr(method))
    mask = Mask(mask=np.ones((4, 4, 1)))
    linear = Observation(y=x, operator=mask, noise_std=0.1)
    bent = Observation(y=jnp.tanh(0.01 * x), operator=lambda x: jnp.tanh(0.01 * mask(x)), noise_std=0.001)
    a, b = (posterior_score(data.score_fn(sde), sde, one)(x, 0.5) for one in (linear, bent))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.max(np.abs(a)))
    with pytest.raises(ValueError, match="DPSGaussian: expected noise_std > 0"):
        posterior_score(data.score_fn(sde), sde, Observation(y=x, operator=mask), DPSGaussian())
    with pytest.raises(ValueError, match="MMPS: expected the solver"):
        posterior_score(data.score_fn(sde), sde, linear, MMPS(solver="lu"))


def test_krylov():
    """In as many iterations as unknowns both are exact, GMRES for any matrix; a space exhausted early does no harm."""
    plain, b = jnp.asarray(RNG.normal(size=(2, 4, 4)) + 3 * np.eye(4)), jnp.asarray(RNG.normal(size=(2, 4)))
    apply = lambda M: lambda u: jnp.einsum("bij,bj->bi", M, u)  # noqa: E731
    expected = np.linalg.solve(plain, b[..., None])[..., 0]
    np.testing.assert_allclose(gmres(apply(plain), b, 4), expected, rtol=1e-9)
    symmetric = plain @ plain.transpose(0, 2, 1)
    expected = np.linalg.solve(symmetric, b[..., None])[..., 0]
    np.testing.assert_allclose(conjugate_gradients(apply(symmetric), b, 4), expected, rtol=1e-7)
    np.testing.assert_allclose(conjugate_gradients(apply(symmetric), b, 30), expected, rtol=1e-7)
    double = 2.0 * jnp.eye(4)[None].repeat(2, 0)
    for solve in (gmres, conjugate_gradients):
        np.testing.assert_allclose(solve(apply(double), b, 6), b / 2, rtol=1e-12)
        assert np.all(np.asarray(solve(apply(double), jnp.zeros((2, 4)), 3)) == 0)


def test_the_likelihood_of_the_posterior():
    """log_prob of the flow under MMPS's score is log p(x | y)."""
    sde = VP(beta_max=60.0)  # whose prior is p_T(x | y) to exp(−15)
    data, matrix = random_gaussian(3), RNG.normal(size=(1, 3))
    y, noise_std = RNG.normal(size=(1, 1)), 0.5
    observation = Observation(y=y, operator=Project(matrix=matrix), noise_std=noise_std)
    guided = posterior_score(data.score_fn(sde), sde, observation, MMPS(iterations=1))
    posterior = data.posterior(matrix, y[0], noise_std)
    keys = jax.random.split(jax.random.key(1), 4)
    x = posterior.sample(keys)
    likelihood = Likelihood(divergence=Exact(), to_data=False)
    value = jax.jit(lambda keys, x: likelihood.log_prob(keys, sde, guided, x).value)(keys, x)
    expected = posterior.marginal_log_prob(sde, x, float(sde.t_min))
    np.testing.assert_allclose(value, expected, atol=1e-4)
