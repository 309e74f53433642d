"""Twisted SMC against p(y) of the discretized sampler, in closed form or from unguided chains, and exact posteriors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from sde_lib import VE, VP, GaussianMixture, UniformGrid, gaussian, sample
from sde_lib.parameterization import x0_hat
from sde_lib.particles import TwistedSMC, transition
from sde_lib.sampling import as_is, prior_draw
from sde_lib.solvers import DDIM, Ancestral, EulerMaruyama
from tests.helpers import keys

STD, Y, NOISE = 0.7, 0.9, 0.5
DATA = gaussian(jnp.zeros(1), jnp.full(1, STD))
GRID = UniformGrid(t_end=0.1)  # where the noise of the last step is not far below the shift by the gradient
SOLVERS = {"em": EulerMaruyama(), "ancestral": Ancestral(large_variance=True), "ddim": DDIM(eta=0.9)}


def likelihood(y, noise):
    return lambda x: norm.logpdf(x[:, 0], y, noise)


def twisted_by(score_fn, sde, y, noise, spread):
    """log N(y; x̂, σ_y² + (spread σ/α)²/(1 + (σ/α)²)), with the gradient through x̂."""

    def twist(x, t):
        ratio = sde.sigma(t) / sde.alpha(t)
        std = jnp.sqrt(noise**2 + spread**2 * ratio**2 / (1 + ratio**2))
        return norm.logpdf(x0_hat(sde, x, t, score_fn(x, t))[:, 0], y, std)

    return twist


def linear_chain_evidence(solver, sde, num_steps):
    """log N(y; 0, v + σ_y²): v is propagated through the steps x_s = a x_t + ς z, whose score is linear."""
    score_fn, times = DATA.score_fn(sde), GRID(sde, num_steps)
    v, one = np.asarray(sde.prior_std()) ** 2, jnp.ones((1, 1))
    for t, s in itertools.pairwise(times):
        step = transition(solver, one, t, s, sde, score_fn(one, t))
        v = np.asarray(step.mean[0, 0]) ** 2 * v + np.asarray(step.std[0, 0]) ** 2
    return float(norm.logpdf(Y, 0.0, np.sqrt(v + NOISE**2)))


def run(sampler, sde, data, groups, seed=0):
    return jax.jit(lambda keys: sampler.run(keys, sde, data.score_fn(sde), (1,)))(keys(groups, seed))


@pytest.mark.parametrize("name, threshold", [("em", 0.0), ("em", 0.75), ("ancestral", 0.75), ("ddim", 1.0)])
def test_unbiased_for_the_linear_chain(name, threshold):
    """With 4 particles, 12 steps and a bad twist, the mean of the estimates is p(y) within 4 standard errors.

    Without resampling, at ESS below ¾, and at every step.
    """
    sde = VP()
    sampler = TwistedSMC(
        twist=twisted_by(DATA.score_fn(sde), sde, Y + 0.3, NOISE, 1.2),
        log_likelihood=likelihood(Y, NOISE),
        solver=SOLVERS[name],
        grid=GRID,
        num_steps=12,
        particles=4,
        threshold=threshold,
    )
    found = run(sampler, sde, DATA, 10_000)
    ratio = np.exp(np.asarray(found.log_z) - linear_chain_evidence(SOLVERS[name], sde, 12))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.02
    np.testing.assert_allclose(ratio.mean(), 1, atol=4 * error)
    assert np.all(found.ess >= 1 - 1e-9) and np.all(found.ess <= 4 + 1e-9)
    share = np.asarray(found.resampled[:-1]).mean()
    assert share == 0 if threshold == 0 else share > 0


def test_any_proposal_is_unbiased():
    """A proposal with half the gradient, and a twist that ignores y's sign, change the variance only."""
    sde = VP()
    sampler = TwistedSMC(
        twist=twisted_by(DATA.score_fn(sde), sde, 0.3, NOISE, 1.5),
        log_likelihood=likelihood(Y, NOISE),
        grid=GRID,
        num_steps=12,
        particles=8,
        proposal=lambda score, gradient, t: score + 0.5 * gradient,
    )
    found = run(sampler, sde, DATA, 10_000)
    ratio = np.exp(np.asarray(found.log_z) - linear_chain_evidence(sampler.solver, sde, 12))
    np.testing.assert_allclose(ratio.mean(), 1, atol=4 * ratio.std() / 100)


MODES = GaussianMixture(
    means=jnp.asarray([[-1.0], [1.0]]), stds=jnp.asarray([[0.2], [0.2]]), weights=jnp.asarray([0.7, 0.3])
)


def modes_sampler(sde, K):
    return TwistedSMC(
        twist=twisted_by(MODES.score_fn(sde), sde, 0.3, 0.6, 0.8),
        log_likelihood=likelihood(0.3, 0.6),
        num_steps=60,
        particles=K,
    )


def test_two_modes():
    """p(y) of the discretized sampler from unguided chains, error as K^(−1/2), and the modes' posterior weights."""
    sde, n = VE(sigma_max=20.0), 25_000
    start = prior_draw(keys(n, 3), sde, (1,))
    chains = jax.jit(
        lambda keys, x: sample(
            keys, Ancestral(large_variance=True), sde, MODES.score_fn(sde), x, UniformGrid()(sde, 60), as_is
        )
    )(keys(n, 4), start)
    terms = np.exp(np.asarray(likelihood(0.3, 0.6)(chains)))
    expected, error = terms.mean(), terms.std() / np.sqrt(n)
    right = np.asarray(chains[:, 0] > 0)
    weight = (terms * right).sum() / terms.sum()
    weight_error = np.std(terms * (right - weight)) / expected / np.sqrt(n)
    spread = {}
    for K, groups in ((8, 800), (128, 100)):
        found = run(modes_sampler(sde, K), sde, MODES, groups, seed=K)
        z = np.exp(np.asarray(found.log_z))
        spread[K] = z.std()
        np.testing.assert_allclose(z.mean(), expected, atol=4 * np.hypot(error, z.std() / np.sqrt(groups)))
        shares = np.asarray(jnp.mean(found.samples[..., 0] > 0, axis=1))
    standard_error = np.hypot(weight_error, shares.std() / np.sqrt(len(shares)))
    assert standard_error < 0.02
    np.testing.assert_allclose(shares.mean(), weight, atol=4 * standard_error + 3 / 128)
    assert 2.8 < spread[8] / spread[128] < 5.6  # √16 = 4


def test_groups_own_their_keys():
    """Group i is a function of key i; rows of `with_nfe` are the groups' particles, and their number is checked."""
    sde = VE(sigma_max=20.0)
    sampler = modes_sampler(sde, 4).replace(num_steps=3)
    assert sampler.coupled and sampler.nfe == 3
    all_keys, score = keys(12, 7), MODES.score_fn(sde)
    found = jax.jit(lambda keys: sampler.run(keys, sde, score, (1,)))(all_keys[::4])
    rows, nfe = jax.jit(lambda keys: sampler.with_nfe(keys, sde, score, (1,)))(all_keys[4:8])
    np.testing.assert_allclose(rows, found.samples[1], rtol=1e-9)
    np.testing.assert_array_equal(nfe, 3)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-9)
    with pytest.raises(ValueError, match="expected a multiple of 4"):
        sampler(all_keys[:6], sde, score, (1,))
