"""Analog bits and one-hot tokens: exact outputs, scores and bounds for data of which everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import EDM, VP, RectifiedFlow, make_score_fn
from sde_lib.discrete import AnalogBits, OneHotTokens
from sde_lib.exact import GaussianMixture
from sde_lib.likelihood.bits import elbo
from sde_lib.noise import sample_keys
from sde_lib.parameterization import x0_hat

SDES = [VP(), EDM(t_max=30.0), RectifiedFlow()]


def chain(length=4):
    """A Markov chain of bits: all sequences ±1 [2^L, L], and their probabilities."""
    x = np.array(np.meshgrid(*[[-1.0, 1.0]] * length, indexing="ij")).reshape(length, -1).T
    stay, p = 0.85, np.full(len(x), 0.5)
    for i in range(1, length):
        p = p * np.where(x[:, i] == x[:, i - 1], stay, 1 - stay)
    return x, p


def points(x, p):
    return GaussianMixture(weights=jnp.asarray(p), means=jnp.asarray(x), stds=jnp.zeros(x.shape))


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("level", [0.05, 0.5, 3.0])
def test_no_output_is_the_score_of_independent_fair_bits(sde, level):
    t = sde.time_of_log_snr(-2 * np.log(level))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 3))) * sde.sigma(t) + sde.alpha(t)
    exact = points(np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])).score_fn(sde)
    found = make_score_fn(lambda x, c: jnp.zeros_like(x), sde, AnalogBits())(x, t)
    expected = jnp.concatenate([exact(x[:, i : i + 1], t) for i in range(3)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 / level)


@pytest.mark.parametrize("sde", SDES)
def test_the_output_is_what_other_bits_add_to_the_logit(sde):
    """F = logit P(b_i | x) − 2αx_i/σ², from the exact mean, gives the exact score of a chain."""
    x0, p = chain()
    t = sde.time_of_log_snr(0.5)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 4)))
    score = points(x0, p).score_fn(sde)(x, t)
    logit = 2 * jnp.arctanh(x0_hat(sde, x, t, score))
    F = logit - 2 * sde.alpha(t) * x / sde.sigma(t) ** 2
    np.testing.assert_allclose(make_score_fn(lambda x, c: F, sde, AnalogBits())(x, t), score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sde", SDES)
def test_no_output_is_the_score_of_independent_one_hot_tokens(sde):
    V, t = 5, sde.time_of_log_snr(1.0)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(40, V)))
    exact = points(np.eye(V), np.full(V, 1 / V)).score_fn(sde)(x, t)
    found = make_score_fn(lambda x, c: jnp.zeros_like(x), sde, OneHotTokens())(x[:, None], t)[:, 0]
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t_min", [1e-2, 0.6])
def test_the_bound_with_the_exact_score_is_log_p_of_every_sequence(t_min):
    """Of a chain of four bits, without dequantization. At t_min = 0.6 the decoder has a part in it."""
    x0, p = chain()
    sde, n = EDM(t_min=t_min, t_max=200.0), 150
    score_fn = points(x0, p).score_fn(sde)
    rows = jnp.asarray(np.tile(x0, (n, 1)))
    keys = sample_keys(jax.random.key(0), jnp.arange(len(rows)))
    found = jax.jit(lambda k, x: elbo(k, sde, score_fn, x, num_times=64, levels=jnp.asarray([-1.0, 1.0])))(keys, rows)
    value = np.asarray(found.value).reshape(n, -1)
    error = value.std(0) / np.sqrt(n)
    decoder = np.asarray(found.reconstruction).reshape(n, -1).mean(0)
    gap = factorization_gap(x0, p, t_min)
    assert (np.max(-decoder) < 1e-5) == (t_min < 0.1)
    total = np.sum(p * value.mean(0)), np.sum(p * np.log(p)) - gap
    assert abs(total[0] - total[1]) < 4.5 * np.sqrt(np.sum((p * error) ** 2)) + 1e-4
    if t_min < 0.1:
        assert np.all(np.abs(value.mean(0) - np.log(p)) < 5 * error + 1e-4)


def factorization_gap(x0, p, sigma, n=200_000):
    """E KL(p(x_0 | x) ‖ Π p(x_0^i | x)) at noise sigma: what a decoder of independent bits loses."""
    draw = np.random.default_rng(3)
    which = draw.choice(len(p), n, p=p)
    x = x0[which] + sigma * draw.normal(size=(n, x0.shape[1]))
    log_w = np.log(p) - ((x[:, None] - x0[None]) ** 2).sum(-1) / (2 * sigma**2)
    w = np.exp(log_w - log_w.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    high = w @ (x0 > 0)
    marginal = np.where(x0[which] > 0, high, 1 - high).clip(1e-12)
    return np.mean(np.log(w[np.arange(n), which].clip(1e-12)) - np.log(marginal).sum(1))


def test_independent_bits_cost_one_bit_each():
    sde = EDM(t_min=0.02, t_max=500.0)
    score_fn = make_score_fn(lambda x, c: jnp.zeros_like(x), sde, AnalogBits())
    x0 = jnp.asarray(np.random.default_rng(4).choice([-1.0, 1.0], (400, 8)))
    found = elbo(sample_keys(jax.random.key(1), jnp.arange(400)), sde, score_fn, x0, levels=jnp.asarray([-1.0, 1.0]))
    bits = -np.asarray(found.value) / 8 / np.log(2)
    assert abs(bits.mean() - 1) < 4.5 * bits.std() / 20 + 1e-4
