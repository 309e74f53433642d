"""Bits per dimension, the ELBO and the likelihood-weighted loss, against closed forms of Gaussian data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from sde_lib import (
    EDM,
    VE,
    VP,
    DiagonalVP,
    LikelihoodWeight,
    LogSNRGrid,
    RectifiedFlow,
    SubVP,
    UniformTime,
    dequantize,
    dsm_loss,
    gaussian,
)
from sde_lib.likelihood.bits import bits_per_dim, elbo, nats_to_bits
from sde_lib.likelihood.dequantization import Dequantizer, fit_dequantizer
from sde_lib.likelihood.divergence import Exact
from sde_lib.likelihood.flow import Likelihood
from sde_lib.training.likelihood_weighting import (
    ImportanceLikelihoodWeight,
    LogSNRTime,
    log_snr_quantile,
    log_snr_range,
)
from tests.contracts import DIAGONAL, SDES, DoubleWell, quick, together
from tests.helpers import keys, with_draws

FAST = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "straight_line": RectifiedFlow()}
ALIKE = together(FAST)
ALL = SDES | DIAGONAL
each_sde = pytest.mark.parametrize("name", ALL)


def anisotropic(dim):
    return gaussian(jnp.zeros(dim), jnp.geomspace(0.3, 1.2, dim))


def rounded(n, width):
    """Gaussian draws rounded to multiples of the width, their data law, and the probability of each bin in nats."""
    data = gaussian(jnp.asarray([0.1, -0.2]), jnp.asarray([0.25, 0.5]))
    x = width * jnp.round(data.sample(keys(n)) / width)
    below, above = (norm.cdf((x + s * width / 2 - data.means) / data.stds) for s in (-1, 1))
    return data, x, jnp.asarray(np.sum(np.log(above - below), axis=1))


def test_dequantization_bound():
    """Bits above the exact −log₂ P, by less the more samples, to the limit; the width enters as log Δ a dimension."""
    width, n = 0.5, 4000
    data, x, log_probability = rounded(n, width)
    exact = np.mean(-log_probability / (2 * np.log(2)))
    log_prob = lambda keys, x: data.log_prob(x)  # noqa: E731
    found = {}
    for k in (1, 4, 256):
        bits = jax.jit(lambda keys, x, k=k: bits_per_dim(keys, log_prob, x, bin_width=width, samples=k))(keys(n, 1), x)
        found[k] = np.mean(bits) - exact, np.std(bits - nats_to_bits(log_probability, 2)) / np.sqrt(n)
    assert found[1][0] > found[4][0] + 4 * found[1][1] and found[4][0] > 4 * found[4][1]
    assert abs(found[256][0]) < 4 * found[256][1] + 2e-3
    assert found[1][0] > 0.02


def test_variational_dequantization():
    """Its law is one of density q; untrained it is uniform; trained, most of the uniform bound's gap is gone, from the
    right side: bits stay above the exact −log₂ P, and several samples close what is left."""
    width, n = 0.5, 4000
    data, x, log_probability = rounded(n, width)
    log_prob = lambda keys, x: data.log_prob(x)  # noqa: E731

    def gap(dequantizer, samples=1):
        options = {"bin_width": width, "samples": samples, "dequantizer": dequantizer}
        bits = jax.jit(lambda keys, x: bits_per_dim(keys, log_prob, x, **options))(keys(n, 1), x)
        off = np.asarray(bits - nats_to_bits(log_probability, 2))
        return np.mean(off), np.std(off) / np.sqrt(n)

    with jax.numpy_dtype_promotion("standard"):  # optax's
        trained = fit_dequantizer(jax.random.key(0), log_prob, x[:500], width)
    assert np.all(trained.slope < 0)  # toward 0, where the density is larger
    uniform, flat, better, closed = gap(None), gap(Dequantizer()), gap(trained), gap(trained, 64)
    assert abs(uniform[0] - flat[0]) < 4 * np.hypot(uniform[1], flat[1])
    assert -4 * better[1] < better[0] < uniform[0] / 3
    assert abs(closed[0]) < 4 * closed[1] + 1e-4 and closed[1] < better[1]
    u, log_q = jax.jit(lambda keys, x: trained(keys, x))(keys(n), x)
    assert np.all(np.abs(u) <= 0.5) and np.std(log_q) > 0.1
    volume = np.exp(-log_q)  # E 1/q is the volume where q > 0
    assert abs(np.mean(volume) - 1) < 4 * np.std(volume) / np.sqrt(n)


def test_bin_width_of_each_coordinate():
    _, x, _ = rounded(8, 0.5)
    widths = jnp.asarray([0.5, 0.25])
    log_prob = lambda keys, x: jnp.zeros(len(x))  # noqa: E731
    bits = jax.jit(lambda x: bits_per_dim(keys(8), log_prob, x, bin_width=widths, samples=3))(x)
    np.testing.assert_allclose(bits, (1 + 2) / 2, rtol=1e-12)  # a density of 1: −log₂ ½ and −log₂ ¼
    offsets = jax.jit(lambda x: dequantize(keys(4000), x, widths))(jnp.zeros((4000, 2)))
    assert np.all(np.abs(offsets) <= np.asarray(widths) / 2) and np.all(
        np.ptp(offsets, axis=0) > 0.99 * np.asarray(widths)
    )
    assert np.all(np.abs(np.mean(offsets, axis=0)) < 4 * np.asarray(widths) / np.sqrt(12 * 4000))


def test_bits_are_refused_without_bins():
    with pytest.raises(
        ValueError, match=r"bits per dimension require bin_width, the distance between neighboring values"
    ):
        bits_per_dim(keys(2), lambda keys, x: jnp.zeros(2), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"samples >= 1; got samples=0"):
        bits_per_dim(keys(2), lambda keys, x: jnp.zeros(2), jnp.zeros((2, 3)), bin_width=1.0, samples=0)


def bound(sde, score_fn, x, **options):
    return jax.jit(lambda keys, x: elbo(keys, sde, score_fn, x, **options))(keys(len(x), 3), x)


@jax.jit
def bound_of_data(sde, data, x):
    """`bound` under the exact score of the data: one program for all values of the parameters."""
    return elbo(keys(len(x), 3), sde, data.score_fn(sde), x)


def check_tight(sde, data):
    """With the exact score the bound is log p_0 of each sample, but for the prior's misfit, and on average over data
    log p_0 less KL(p_{t_max} ‖ π)."""
    n = 400
    x = data.sample(keys(n))
    found, exact = bound_of_data(sde, data, x), data.log_prob(x)
    alpha, sigma = (jnp.reshape(c(sde.t_max), (-1,)) for c in (sde.alpha, sde.sigma))
    ratio = ((alpha * data.stds[0]) ** 2 + sigma**2) / jnp.reshape(sde.prior_std(), (-1,)) ** 2
    misfit = 0.5 * float(jnp.sum(ratio - 1 - jnp.log(ratio)))
    error = np.std(found.value - exact) / np.sqrt(n)
    decoder = 0.02  # nats: O(σ⁴) of the normal decoder
    assert abs(np.mean(found.value - exact) + misfit) < 4 * error + decoder
    assert 0.7 < np.mean((found.value - exact) ** 2) / np.mean(found.error**2) < 1.4
    assert 0.001 < np.mean(found.error) < 0.5 * x.shape[1]
    np.testing.assert_allclose(found.value, found.reconstruction - found.prior - found.diffusion, rtol=1e-9)


@pytest.mark.parametrize("name", FAST)
def test_elbo_is_tight(name):
    check_tight(ALIKE[name], anisotropic(4))


@pytest.mark.slow
@each_sde
def test_elbo_is_tight_everywhere(name):
    check_tight(ALL[name], anisotropic(64 if name in DIAGONAL else 4))


def test_elbo_and_flow_agree():
    """Two independent estimates of the same number: by the reverse SDE and by the probability-flow ODE."""
    sde, data = VP(), anisotropic(4)
    x = data.sample(keys(64))
    found = bound(sde, data.score_fn(sde), x, num_times=128)
    flow = jax.jit(
        lambda x: Likelihood(divergence=Exact(), to_data=True).log_prob(keys(64), sde, data.score_fn(sde), x)
    )
    assert np.all(np.abs(found.value - flow(x).value) < 4.5 * found.error + 0.01)


def test_a_wrong_score_loosens_the_bound():
    """The gap is ½∫ g² E‖s − ∇log p‖² dt: with a score off by the factor 1 + c, ½ c² ∫ g² E‖∇log p‖² dt on average."""
    sde, data, c, n = VP(), gaussian(jnp.zeros(2), jnp.full(2, 0.7)), 0.3, 2000
    x, exact = data.sample(keys(n)), data.score_fn(sde)
    bound_of = jax.jit(lambda c: elbo(keys(n, 3), sde, lambda x, t: (1 + c) * exact(x, t), x))
    right, wrong = bound_of(0.0), bound_of(c)
    gap = right.diffusion - wrong.diffusion
    t = jnp.linspace(sde.t_min, 1.0, 200_001)
    g2, variance = sde.diffusion(t) ** 2, (0.7 * sde.alpha(t)) ** 2 + sde.sigma(t) ** 2
    expected = 0.5 * c**2 * np.trapezoid(g2 * 2 / variance, t)
    assert abs(np.mean(gap) + expected) < 4 * np.std(gap) / np.sqrt(n) + 1e-3
    assert expected > 0.3


@pytest.mark.slow
def test_discrete_time_elbo():
    """The closed form of the sum for Gaussian data; it falls short of the integral by less the more steps."""
    sde, std, n = VP(), 0.7, 4000
    data = gaussian(jnp.zeros(2), jnp.full(2, std))
    x, short = data.sample(keys(n)), []
    exact_error = lambda t: 2 * (sde.alpha(t) * std) ** 2 / ((sde.alpha(t) * std) ** 2 + sde.sigma(t) ** 2)  # noqa: E731
    integral = np.log1p(std**2 * np.exp(np.asarray(sde.log_snr(jnp.asarray([sde.t_min, sde.t_max]))))) @ [1.0, -1.0]
    for num_steps in (8, 32, 128):
        times = LogSNRGrid()(sde, num_steps)
        rise = np.diff(sde.log_snr(times))
        expected = 0.5 * np.sum(np.expm1(rise) * exact_error(times[:-1]))
        found = bound(sde, data.score_fn(sde), x, times=times, num_times=8)
        error = np.std(found.diffusion) / np.sqrt(n)
        assert abs(np.mean(found.diffusion) - expected) < 4 * error and error < 0.05 * expected
        short.append(expected - integral)
    assert short[0] > short[1] > short[2] > 0
    found = bound(sde, data.score_fn(sde), x)
    assert abs(np.mean(found.diffusion) - integral) < 4 * np.std(found.diffusion) / np.sqrt(n)


def test_discrete_data():
    """On a lattice of two values with its exact score: log P to the decoder's accuracy, and by the right levels."""
    levels, n = jnp.asarray([-1.0, 1.0]), 400
    weights = jnp.asarray([0.8, 0.2])
    sde = VP(t_min=5e-3)

    def score_fn(x, t):
        alpha, sigma = sde.alpha(t).reshape(-1, 1), sde.sigma(t).reshape(-1, 1)
        logit = 2 * alpha * x / sigma**2 + jnp.log(weights[1] / weights[0])
        return (alpha * jnp.tanh(logit / 2) - x) / sigma**2

    index = jax.random.bernoulli(jax.random.key(0), weights[1], (n, 3)).astype(int)
    found = bound(sde, score_fn, levels[index], levels=levels, num_times=64)
    exact = jnp.sum(jnp.log(weights)[index], axis=1)
    assert np.mean(nats_to_bits(exact, 3)) > 0.5
    assert abs(np.mean(found.value - exact)) < 4 * np.std(found.value - exact) / np.sqrt(n) + 1e-3
    assert np.mean((found.value - exact) ** 2) < 1.5 * np.mean(found.error**2)
    assert np.all(found.reconstruction > -1e-6)
    # Of a process cut short to a moment the reconstruction alone is uncertain.
    # Of two levels it is that of the score, of more that of the noise alone: here a third is too far to matter.
    sigma, alpha = (float(c(0.3)) for c in (sde.sigma, sde.alpha))
    draw = np.random.default_rng(0)
    sign = np.where(draw.random(400_000) < 0.2, 1.0, -1.0)
    logit = 2 * alpha * (alpha * sign + sigma * draw.normal(size=400_000)) / sigma**2
    for values, prior in ((levels, np.log(0.25)), (jnp.asarray([-1.0, 1.0, 50.0]), 0.0)):
        noisy = bound(sde.replace(t_min=0.3, t_max=0.3001), score_fn, levels[index], levels=values)
        expected = -3 * np.mean(np.logaddexp(0, -sign * (logit + prior)))
        np.testing.assert_allclose(np.mean(noisy.reconstruction), expected, rtol=0.07)
    np.testing.assert_allclose(np.mean(noisy.error**2), np.var(noisy.reconstruction), rtol=0.25)


def test_prior_term():
    """KL(N(α x_0, σ²) ‖ π) where the process stops while both matter, against quadrature."""
    x0 = jnp.asarray([[0.5, -2.0]])
    for sde, std in ((VP(t_max=0.3), 1.0), (VE(t_max=0.6), float(VE().sigma(0.6)))):
        found = bound(sde, lambda x, t: -x, x0, num_times=2).prior
        mean, sigma = np.asarray(sde.alpha(sde.t_max) * x0[0]), float(sde.sigma(sde.t_max))
        x = mean + sigma * np.linspace(-10, 10, 4001)[:, None]
        p = norm.pdf(x, mean, sigma)
        expected = np.sum(np.trapezoid(p * (norm.logpdf(x, mean, sigma) - norm.logpdf(x, 0, std)), x, axis=0))
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
        assert expected > 0.05


def test_a_sample_stands_alone():
    sde, data = VP(), anisotropic(4)
    x = data.sample(keys(6))
    run = jax.jit(lambda keys, x: elbo(keys, sde, data.score_fn(sde), x, num_times=8))
    for all_of_them, alone in zip(run(keys(6), x), run(keys(6)[2:3], x[2:3]), strict=True):
        np.testing.assert_allclose(all_of_them[2:3], alone, rtol=1e-6)


def test_elbo_refuses():
    with pytest.raises(TypeError, match=r"the ELBO needs alpha, sigma, prior_std of the SDE, which DoubleWell lacks"):
        elbo(keys(2), DoubleWell(), lambda x, t: x, jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"times are drawn in pairs: num_times must be even; got 3"):
        elbo(keys(2), VP(), lambda x, t: x, jnp.zeros((2, 1)), num_times=3)


@pytest.mark.parametrize("name, sde", quick((*FAST, *DIAGONAL), ALL))
def test_times_follow_the_likelihood_weight(name, sde):
    """The distribution function (λ(t_min) − λ(t))/Λ is the integral of g²/σ², here in 800 panels."""
    times = jax.jit(lambda: log_snr_quantile(sde, jnp.linspace(0.0, 1.0, 801)))()
    rate = np.asarray(jax.jit(lambda t: (sde.diffusion(t) / sde.sigma(t)) ** 2)(times)).reshape(801, -1).mean(axis=1)
    steps = np.diff(times)
    share = np.cumsum(np.sqrt(rate[1:] * rate[:-1]) * steps) / float(log_snr_range(sde))
    np.testing.assert_allclose(share, np.linspace(0, 1, 801)[1:], atol=2e-3)
    assert np.all(steps > 0)


@pytest.mark.parametrize("name", ["vp", "edm", "diagonal_vp"])
def test_importance_sampled_weight(name):
    """The same expectation as the likelihood weight at uniform t; for VP a tenth of the variance and less."""
    sde = {"vp": VP(t_min=1e-3), "edm": EDM(t_min=0.1, t_max=5.0)}.get(name)
    sde = sde or DiagonalVP(scales=jnp.asarray([0.5, 1.0]), speeds=jnp.asarray([0.6, 1.4]), t_min=1e-2)
    data, n = gaussian(jnp.zeros(2), jnp.asarray([0.5, 1.0])), 40_000
    x = data.sample(keys(n))
    score_fn = lambda x, t: 0.8 * data.score_fn(sde)(x, t)  # noqa: E731

    def loss(weight, law):
        drawn = with_draws(partial(dsm_loss, weight=weight), law)
        found = jax.jit(lambda key, x: drawn(key, score_fn, sde, x))
        found = np.asarray(found(jax.random.key(5), x))
        return np.mean(found), np.std(found) / np.sqrt(n)

    plain, sampled = loss(LikelihoodWeight(), UniformTime()), loss(ImportanceLikelihoodWeight(), LogSNRTime())
    assert abs(plain[0] - sampled[0]) < 4 * np.hypot(plain[1], sampled[1])
    assert plain[1] < 0.1 * plain[0]
    if name == "vp":
        assert sampled[1] ** 2 < plain[1] ** 2 / 10
