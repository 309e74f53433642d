"""A score of one process under another: exact for exact scores, for every ordered pair."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, GaussianMixture, LogSNRGrid, Sampler, as_is, sample_keys, transfer_score, within
from sde_lib.solvers import Heun
from tests.contracts import DIAGONAL, SDES

MIXTURE = GaussianMixture(
    means=jnp.asarray([[-1.0, 0.5], [1.5, 0.0]]),
    stds=jnp.asarray([[0.3, 0.8], [0.5, 0.2]]),
    weights=jnp.asarray([0.3, 0.7]),
)
FEW = ("vp", "ve", "coefficients")
PAIRS = [
    pytest.param(a, b, id=f"{a}-{b}", marks=[] if a in FEW and b in FEW else pytest.mark.slow)
    for a, b in itertools.permutations(SDES, 2)
]


@jax.jit
def both_scores(trained, used, x0, eps):
    low, high = (used.log_snr(jnp.asarray(t)) for t in (used.t_max, used.t_min))
    t = used.time_of_log_snr(jnp.linspace(low + 1e-6, high - 1e-6, x0.shape[0]))
    sigma = used.sigma(t)[:, None]
    x = used.alpha(t)[:, None] * x0 + sigma * eps
    moved = transfer_score(MIXTURE.score_fn(trained), trained, used)
    return sigma * moved(x, t), sigma * MIXTURE.score_fn(used)(x, t)


@pytest.mark.parametrize("trained, name", PAIRS)
def test_exact_for_every_pair(trained, name):
    """To 1e-5 of the score's scale 1/σ, for all t whose λ both have."""
    x0, eps = (
        MIXTURE.sample(sample_keys(jax.random.key(0), jnp.arange(64))),
        jax.random.normal(jax.random.key(1), (64, 2)),
    )
    moved, exact = both_scores(SDES[trained], within(SDES[trained], SDES[name]), x0, eps)
    np.testing.assert_allclose(moved, exact, rtol=1e-5, atol=1e-5)


def test_a_score_learnt_with_ve_samples_with_vp():
    """The samples of the second process, driven by the moved score, are those driven by its own."""
    trained = VE(sigma_max=200.0, sigma_min=1e-3)
    used = within(trained, VP())
    sampler = Sampler(solver=Heun(), grid=LogSNRGrid(), num_steps=40, denoise=as_is)
    draw = jax.jit(lambda score_fn: sampler(keys, used, score_fn, (2,)), static_argnums=0)
    keys = sample_keys(jax.random.key(0), jnp.arange(200))
    ours = draw(transfer_score(MIXTURE.score_fn(trained), trained, used))
    np.testing.assert_allclose(ours, draw(MIXTURE.score_fn(used)), atol=1e-5)


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(TypeError, match="DiagonalVP has a signal-to-noise ratio for each coordinate"):
        transfer_score(MIXTURE.score_fn(VP()), VP(), DIAGONAL["diagonal_vp"])
    with pytest.raises(ValueError, match=r"expected log-SNR that overlaps the .* to .* of training; got .* to .*"):
        within(VE(sigma_min=1.0, sigma_max=2.0), VE(sigma_min=0.01, sigma_max=0.1))
    cut = within(VE(sigma_min=0.1, sigma_max=1.0), VP())
    np.testing.assert_allclose(cut.log_snr(cut.t_max), 0.0, atol=1e-6)
