"""Replacement against its limit in closed form, RePaint against a recursion of its moments, both on operators."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, LogSNRGrid, Sampler, last_mean, sample, sample_keys
from sde_lib.exact import FullMixture
from sde_lib.posterior import BoxDownsample, ColorMix, Decimate, FourierMask, Mask, Observation, Project, Replacement
from sde_lib.posterior import observed as observed_solver
from sde_lib.posterior.replacement import Observed, projection
from sde_lib.solvers import DEIS, Ancestral, Langevin, PredictorCorrector
from tests.contracts import CLOSED, SDES

FIRST = Project(matrix=np.array([[1.0, 0.0]]))


def gaussian(rho):
    return FullMixture(means=np.zeros((1, 2)), covariances=np.array([[[1, rho], [rho, 1]]]), weights=np.ones(1))


def moments_after(monkeypatch, solver, sde, score_fn, times):
    """Mean and covariance of (x, mean) at the end: exact for affine scores, since each step is then affine in x and z.

    The step is evaluated at ± √6 L e_i, for x and for two draws of noise, and restarted from the moments that it gives.
    """
    d, noises = 2, [1, 2]
    spread = np.sqrt(6.0) * np.concatenate([np.eye(6), -np.eye(6)]).reshape(12, 3, d)
    calls = []

    def points(keys, x):
        calls.append(None)
        return jnp.asarray(spread[:, noises[(len(calls) - 1) % 2]], x.dtype)

    monkeypatch.setattr("sde_lib.solvers.predictors.normal_like", points)
    monkeypatch.setattr("sde_lib.posterior.replacement.normal_like", points)
    keys = sample_keys(jax.random.key(0), jnp.arange(12))

    def step(state, ends):
        m, L = state
        x = m[None] + jnp.asarray(spread[:, 0]) @ L.T
        found = solver.step(keys, solver.init(x), *ends, sde, score_fn)
        mean, P = moments(found.x)
        return (mean, jnp.linalg.cholesky(P + 1e-14 * jnp.eye(d))), jnp.concatenate([mean[None], P, *end(found.mean)])

    moments = lambda x: (x.mean(0), (x - x.mean(0)[None]).T @ (x - x.mean(0)[None]) / len(x))  # noqa: E731
    end = lambda x: (x.mean(0)[None], moments(x)[1])  # noqa: E731
    start = (jnp.zeros(d), sde.sigma(times[0]) * jnp.eye(d))
    found = np.asarray(jax.lax.scan(step, start, (times[:-1], times[1:]))[1][-1])
    return found[0], found[1:3], found[3], found[4:6]


def limit(rho, y):
    """(2) of the module."""
    return y / rho * (1 - np.sqrt(1 - rho**2)), (1 - rho**2) / (2 * rho) * np.log((1 + rho) / (1 - rho))


@pytest.mark.parametrize("rho", [0.8, 0.95])
@pytest.mark.parametrize("name", CLOSED)
def test_the_limit_of_replacement(monkeypatch, name, rho):
    """Under every process the unknown coordinate ends at (2), not at the posterior's ρ y and 1 − ρ²."""
    sde = SDES[name]
    observation = Observation(y=jnp.ones((1, 1)), operator=FIRST)
    solver, times = observed_solver(Ancestral(), observation), LogSNRGrid()(sde, 3000)
    mean, P, clean, _ = moments_after(monkeypatch, solver, sde, gaussian(rho).score_fn(sde), times)
    alpha, expected = float(sde.alpha(times[-1])), limit(rho, 1.0)
    start = float(sde.alpha(times[0]) / sde.sigma(times[0]))  # the first known value is 0 instead of y
    np.testing.assert_allclose([mean[1] / alpha, P[1, 1] / alpha**2], expected, atol=0.01 + start)
    np.testing.assert_allclose(clean[0], 1.0, rtol=1e-9)
    assert abs(expected[0] - rho) > 0.2


def repaint_moments(rho, y, levels, repeats):
    """Moments of x_2 by RePaint under VE from 50 to 2e-3, with the posterior step written out: x → a x + b ε."""
    sigmas = np.geomspace(50.0, 2e-3, levels + 1)
    m, P = np.zeros(2), sigmas[0] ** 2 * np.eye(2)
    C = np.array([[1, rho], [rho, 1]])
    for t, s in itertools.pairwise(sigmas):
        shrink = np.eye(2) - (t**2 - s**2) * np.linalg.inv(C + t**2 * np.eye(2))
        for r in range(repeats):
            m, P = shrink @ m, shrink @ P @ shrink.T + (s * np.sqrt(t**2 - s**2) / t) ** 2 * np.eye(2)
            m, P = np.array([y, m[1]]), np.diag([s**2, P[1, 1]])
            if r < repeats - 1:
                P = P + (t**2 - s**2) * np.eye(2)
    return m[1], P[1, 1]


def test_repaint():
    """Its samples have the recursion's moments, which at 4,000 levels and 10 repeats are near the posterior's."""
    np.testing.assert_allclose(repaint_moments(0.8, 1.0, 4000, 10), [0.769, 0.371], atol=5e-3)
    np.testing.assert_allclose(repaint_moments(0.8, 1.0, 4000, 1), limit(0.8, 1.0), atol=5e-3)
    sde, n = VE(sigma_min=2e-3, sigma_max=50.0), 4000
    times = LogSNRGrid()(sde, 100)
    observation = Observation(y=jnp.ones((1, 1)), operator=FIRST)
    solver = observed_solver(Ancestral(), observation, repeats=5)
    keys = sample_keys(jax.random.key(1), jnp.arange(n))
    x_T = sde.prior_sample(sample_keys(jax.random.key(2), jnp.arange(n)), (2,))
    x = jax.jit(lambda keys, x_T: sample(keys, solver, sde, gaussian(0.8).score_fn(sde), x_T, times))(keys, x_T)
    mean, variance = repaint_moments(0.8, 1.0, 100, 5)
    assert abs(x[:, 1].mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(x[:, 1].var() - variance) < 4 * variance * np.sqrt(2 / n)
    np.testing.assert_allclose(x[:, 0], 1.0, rtol=1e-6)
    assert solver.nfe == 5


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "repeats", "moments"), [(0.8, 200, (0.799, 0.360)), (0.95, 10, (0.939, 0.102)),
                                                         (0.95, 200, (0.949, 0.098))])  # fmt: skip
def test_repaint_tends_to_the_posterior(rho, repeats, moments):
    """The recursion at 4,000 levels: near ρ and 1 − ρ² after 200 repeats."""
    np.testing.assert_allclose(repaint_moments(rho, 1.0, 4000, repeats), moments, atol=1e-3)


def test_as_published(monkeypatch):
    """(a) The known part has the noise of the step before; (b) the mean has the last step's noise elsewhere."""
    sde, times = VE(sigma_min=0.1, sigma_max=50.0), LogSNRGrid()(VE(sigma_min=0.1, sigma_max=50.0), 50)
    observation, score_fn = Observation(y=jnp.ones((1, 1)), operator=FIRST), gaussian(0.8).score_fn(sde)
    ours = moments_after(monkeypatch, observed_solver(Ancestral(), observation), sde, score_fn, times)
    theirs = moments_after(monkeypatch, observed_solver(Ancestral(), observation, published=True), sde, score_fn, times)
    t, s = (float(sde.sigma(u)) for u in times[-2:])
    np.testing.assert_allclose([ours[1][0, 0], theirs[1][0, 0]], [s**2, t**2], rtol=1e-6)
    np.testing.assert_allclose(ours[1][1, 1] - ours[3][1, 1], s**2 * (t**2 - s**2) / t**2, rtol=1e-6)
    np.testing.assert_allclose(theirs[1][1, 1], theirs[3][1, 1], rtol=1e-9)
    np.testing.assert_allclose([ours[2][0], theirs[2][0]], 1.0, rtol=1e-9)


def symmetric_mask():
    mask = np.zeros((4, 4))
    mask[0, 0] = mask[1, 2] = mask[3, 2] = mask[2, 0] = 1.0
    return mask


OPERATORS = {
    "mask": (Mask(mask=np.array([[1.0, 0, 0, 1]] * 4)[..., None]), 1.0),
    "gray": (ColorMix(), 0.299**2 + 0.587**2 + 0.114**2),
    "boxes": (BoxDownsample(size=2), 0.25),
    "frequencies": (FourierMask(mask=symmetric_mask()), 1.0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_projections(name):
    """P is a projection with A P = A, and samples agree with y exactly."""
    operator, c = OPERATORS[name]
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=(2, 4, 4, 3))) for _ in range(2))
    observation = Observation(y=operator(x), operator=operator)
    P, known = projection(observation, w, check=True)
    np.testing.assert_allclose(P(P(w)), P(w), atol=1e-12)
    np.testing.assert_allclose(operator(P(w)), operator(w), atol=1e-12)
    np.testing.assert_allclose(known, P(x), atol=1e-12)
    A = lambda x: operator(x).reshape(2, -1)  # noqa: E731
    np.testing.assert_allclose(A(A_adjoint(operator, x, w)), c * A(w), atol=1e-12)
    fresh = Replacement().finish(observation, w)
    np.testing.assert_allclose(operator(fresh), observation.y, atol=1e-12)


def A_adjoint(operator, x, w):
    return jax.linear_transpose(operator, x)(operator(w))[0]


def test_color_is_a_rotated_mask(monkeypatch):
    """Replacement of a rotated coordinate, of a rotated prior, has the rotated moments: A contains the decoupling."""
    angle = 0.7
    Q = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sde, times = VP(), LogSNRGrid()(VP(), 200)
    rotated = FullMixture(
        means=np.zeros((1, 2)), covariances=(Q.T @ np.array([[1, 0.8], [0.8, 1]]) @ Q)[None], weights=np.ones(1)
    )
    ends = []
    for data, row in ((gaussian(0.8), np.eye(2)[:1]), (rotated, 3.0 * Q[:1])):
        scale = np.linalg.norm(row)
        observation = Observation(y=jnp.full((1, 1), scale), operator=Project(matrix=row))
        solver = observed_solver(Ancestral(), observation)
        ends.append(moments_after(monkeypatch, solver, sde, data.score_fn(sde), times))
    np.testing.assert_allclose(Q @ ends[1][0], ends[0][0], atol=1e-9)
    np.testing.assert_allclose(Q @ ends[1][1] @ Q.T, ends[0][1], atol=1e-9)


def test_both_moves_of_a_predictor_corrector():
    """The known part is drawn anew after each; the end is exact, and the steps stay one per level."""
    sde, observation = VP(), Observation(y=jnp.ones((1, 1)), operator=FIRST)
    solver = observed_solver(PredictorCorrector(predictor=Ancestral(), corrector=Langevin()), observation)
    assert solver.nfe == 2 and isinstance(solver.predictor, Observed)
    sampler = Sampler(solver=solver, grid=LogSNRGrid(), num_steps=100, denoise=last_mean)
    x = sampler(sample_keys(jax.random.key(0), jnp.arange(2000)), sde, gaussian(0.8).score_fn(sde), (2,))
    np.testing.assert_allclose(x[:, 0], 1.0, rtol=1e-6)
    assert 0.35 < x[:, 1].mean() < 0.72  # between (2) and the posterior's 0.8: correctors mix


def test_what_does_not_fit():
    matrix = np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 2]])
    observation = Observation(y=jnp.zeros((1, 3)), operator=Project(matrix=matrix))
    with pytest.raises(ValueError, match="A Aᵀ = c I"):
        projection(observation, jnp.zeros((1, 3)), check=True)
    with pytest.raises(ValueError, match="noise_std = 0"):
        Replacement().check(observation.replace(noise_std=0.1))
    with pytest.raises(ValueError, match="stores earlier steps"):
        of_one = Observation(y=jnp.zeros((1, 1)), operator=FIRST)
        observed_solver(DEIS(order=2), of_one, repeats=2).init(jnp.zeros((1, 2)))
    signal = Observation(y=jnp.zeros((1, 2, 1)), operator=Decimate(step=2))
    projection(signal, jnp.zeros((1, 4, 1)), check=True)
