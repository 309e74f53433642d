from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import FunctionNetwork
from sde_lib import (
    AppliedNetwork,
    PlainScore,
    SigmaSquared,
    UniformTime,
    dsm_loss,
    frozen_state,
    gaussian,
    half_sum,
    mean,
)
from tests.contracts import SDES, TIME_LAWS, WEIGHTS, each_sde, quick
from tests.helpers import keys, objective, with_draws

DIM, STD, COUNT = 4, 0.7, 20_000
DATA = gaussian(jnp.full(DIM, 0.3), jnp.full(DIM, STD))


X0 = 0.3 + STD * np.random.default_rng(0).normal(size=(COUNT, DIM))


def losses(sde, weight, times, factors=(1.0,)):
    """The loss of each factor times the exact score: [factor, sample]."""

    def one(key, factor):
        score_fn = lambda x, t: factor * DATA.score_fn(sde)(x, t)  # noqa: E731
        return with_draws(partial(dsm_loss, weight=weight), times)(key, score_fn, sde, jnp.asarray(X0))

    return np.asarray(jax.jit(jax.vmap(one, (None, 0)))(jax.random.key(0), jnp.asarray(factors)))


def analytic_minimum(sde, weight, n=20_001):
    """½ d E_t[w α² s²/(σ² (α² s² + σ²))] for t uniform: eq. (3) of the module, by the midpoint rule."""
    edges = jnp.linspace(sde.t_min, sde.t_max, n)
    t = 0.5 * (edges[1:] + edges[:-1])
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    integrand = weight(sde, t) * (alpha * STD) ** 2 / (sigma**2 * ((alpha * STD) ** 2 + sigma**2))
    return 0.5 * DIM * float(jnp.mean(integrand))


@each_sde
def test_exact_score_attains_the_analytic_minimum(sde):
    (values,) = losses(sde, SigmaSquared(), TIME_LAWS["stratified"])
    expected = analytic_minimum(sde, SigmaSquared())
    assert abs(values.mean() - expected) < max(4 * values.std() / np.sqrt(COUNT), 1e-3 * expected)
    assert abs(values.mean() / expected - 1) < 0.03


@pytest.mark.parametrize("name, sde", quick(("vp", "edm"), SDES))
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_every_weight_has_the_exact_score_for_its_minimizer(name, sde, weight):
    """The loss is a parabola in a factor on the score, L(f) = a − b f + c f²; its lowest point b/2c must be at 1."""
    low, middle, high = losses(sde, weight, UniformTime(), (0.0, 1.0, 2.0))
    curvature = 0.5 * (low - 2 * middle + high)
    slope_at_one = 0.5 * (high - low)
    error = 4 * slope_at_one.std() / np.sqrt(COUNT)
    assert abs(slope_at_one.mean()) < error
    # The check can fail: a factor 2 or a sign in the target is far outside the error.
    assert 2 * curvature.mean() > 5 * error


def test_weights_by_formula():
    for sde in SDES.values():
        t = jnp.linspace(sde.t_min, sde.t_max, 9)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        np.testing.assert_allclose(WEIGHTS["sigma2"](sde, t), sigma**2, rtol=1e-12)
        np.testing.assert_allclose(WEIGHTS["likelihood"](sde, t), sde.diffusion(t) ** 2, rtol=1e-12)
        # Karras et al. 2022: λ(σ̃) |D − x0|² with σ̃ = σ/α, and D − x0 = (σ²/α)(score − true score)
        level, data = sigma / alpha, 0.7
        karras = (level**2 + data**2) / (level * data) ** 2 * (sigma**2 / alpha) ** 2
        np.testing.assert_allclose(WEIGHTS["karras"](sde, t), karras, rtol=1e-9)


@each_sde
def test_time_laws(sde):
    n = 4096
    key = jax.random.key(3)
    uniform, stratified = (np.asarray(TIME_LAWS[name](key, sde, n)) for name in ("uniform", "stratified"))
    for t in (uniform, stratified):
        u = (t - sde.t_min) / (sde.t_max - sde.t_min)
        assert u.min() >= 0 and u.max() <= 1
        assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * n) and abs(u.var() - 1 / 12) < 0.01
    strata = np.floor((np.sort(stratified) - sde.t_min) / (sde.t_max - sde.t_min) * n - 1e-6)
    assert len(np.unique(strata)) >= n - 2  # one in each, up to rounding at the seams
    t = TIME_LAWS["lognormal"](key, sde, n)
    level = np.asarray(-0.5 * sde.log_snr(t))
    inside = (level > -0.5 * float(sde.log_snr(sde.t_min)) + 1e-3) & (
        level < -0.5 * float(sde.log_snr(sde.t_max)) - 1e-3
    )
    assert abs(np.median(level[inside]) + 0.5) < 0.1
    below = np.mean(np.asarray(level) < -1.5)  # one standard deviation below the mean
    assert abs(below - 0.1587) < 0.01


def test_reductions_and_randomness():
    squares = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(half_sum(squares), [7.5, 25.5])
    np.testing.assert_allclose(mean(squares), [2.5, 8.5])
    sde = SDES["vp"]
    score_fn, x0 = DATA.score_fn(sde), jnp.ones((8, DIM))
    run = lambda key, n: np.asarray(with_draws(dsm_loss, UniformTime())(key, score_fn, sde, x0[:n]))  # noqa: E731
    np.testing.assert_allclose(run(jax.random.key(0), 8)[:3], run(jax.random.key(0), 3), rtol=1e-9)
    assert not np.allclose(run(jax.random.key(0), 8), run(jax.random.key(1), 8))


def test_dequantized_data():
    """With s = x/σ the error is α x' + (σ + 1) ε, where x' fills the bin of x_0 = 0 evenly: its square tells Δ²/12."""
    sde, n = SDES["vp"], 20_000
    alpha, sigma = (float(c) for c in (sde.alpha(0.2), sde.sigma(0.2)))
    loss = partial(dsm_loss, reduce=mean, weight=lambda sde, t: sde.sigma(t) ** 2)
    state = frozen_state(jax.random.key(0), {})
    network = AppliedNetwork(params={}, network=FunctionNetwork(lambda params, x, c_noise, cond: x / sigma))
    for width in (0.0, 3.0):
        of_width = objective(sde, PlainScore(), loss, bin_width=width)
        run = jax.jit(lambda k, f=of_width: f(k, jnp.full(n, 0.2), network, {"x": jnp.zeros((n, 1))}, state))
        squares = np.asarray(run(keys(n)))
        expected = alpha**2 * width**2 / 12 + (sigma + 1) ** 2
        assert abs(np.mean(squares) - expected) < 4.5 * np.std(squares) / np.sqrt(n)


@each_sde
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("end", ["t_min", "t_max"])
def test_finite_in_float32_at_both_ends(sde, weight, end):
    data = gaussian(jnp.zeros(DIM, jnp.float32), jnp.ones(DIM, jnp.float32))

    def value_of(factor):
        score_fn = lambda x, t: factor * data.score_fn(sde)(x, t)  # noqa: E731
        x0 = jnp.ones((8, DIM), jnp.float32)
        t = jnp.full(len(x0), getattr(sde, end), jnp.float32)
        return jnp.mean(dsm_loss(keys(len(x0)), score_fn, sde, x0, t, weight=weight))

    value, gradient = jax.value_and_grad(value_of)(jnp.float32(0.5))
    assert np.isfinite(value) and np.isfinite(gradient)
