"""DAPS on Gaussian data, whose posterior is known; the published inner score is shown to miss it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from sde_lib import EDM, VP, PowerGrid, gaussian
from sde_lib.particles import DAPS
from tests.helpers import keys

MEAN, STD, Y, NOISE = 0.4, 0.8, -0.5, 0.6
DATA = gaussian(jnp.full(1, MEAN), jnp.full(1, STD))
PRECISION = 1 / STD**2 + 1 / NOISE**2
EXPECTED = (MEAN / STD**2 + Y / NOISE**2) / PRECISION, 1 / PRECISION
SDES = {"vp": VP(), "edm": EDM(t_max=20.0)}
N = 10_000


def moments(sde, **options):
    sampler = DAPS(
        log_likelihood=lambda x: norm.logpdf(x[:, 0], Y, NOISE), precision=PRECISION, grid=PowerGrid(), **options
    )
    x = jax.jit(lambda keys: sampler(keys, sde, DATA.score_fn(sde), (1,)))(keys(N))
    return np.asarray(x).mean(), np.asarray(x).var()


@pytest.mark.parametrize("sde", SDES)
def test_the_exact_inner_score_gives_the_posterior(sde):
    """Mean and variance within 4 standard errors, with Langevin's factor 1/(1 − hλ/2) = 1/0.98."""
    mean, variance = moments(SDES[sde], num_steps=8, inner_steps=80, step_size=0.04)
    np.testing.assert_allclose(mean, EXPECTED[0], atol=4 * np.sqrt(EXPECTED[1] / N))
    np.testing.assert_allclose(variance, EXPECTED[1] / 0.98, rtol=4 * np.sqrt(2 / N) + 0.02)


@pytest.mark.parametrize("sde", SDES)
def test_the_published_inner_score_misses(sde):
    """By more than 10 standard errors in mean or variance."""
    mean, variance = moments(SDES[sde], num_steps=8, inner_steps=80, step_size=0.04, inner="gaussian")
    off = abs(mean - EXPECTED[0]) / np.sqrt(EXPECTED[1] / N), abs(variance / EXPECTED[1] - 1) / np.sqrt(2 / N)
    assert max(off) > 10


def test_what_it_says_of_itself():
    sampler = DAPS(log_likelihood=lambda x: -jnp.sum(x**2, axis=1), precision=1.0, num_steps=3, inner_steps=4)
    assert not sampler.coupled and sampler.nfe == 15 and sampler.replace(inner="gaussian").nfe == 3
    sde = VP()
    x, nfe = sampler.with_nfe(keys(5), sde, DATA.score_fn(sde), (1,))
    np.testing.assert_allclose(sampler(keys(2), sde, DATA.score_fn(sde), (1,)), x[:2], rtol=1e-9)
    np.testing.assert_array_equal(nfe, 15)
    with pytest.raises(ValueError, match="expected inner 'exact' or 'gaussian'"):
        sampler.replace(inner="both")
