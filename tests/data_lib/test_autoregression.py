"""AR(2): its closed forms agree with each other, and the whole pipeline of sounds agrees with it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_lib import AR2, ComplexSTFT, Waveform, autoregression, gather, resonance
from io_lib.sounds import read_wav
from sde_lib import VP, Exact, Likelihood, PowerGrid, PredictNoise, Sampler, ScaledTime, ScoreModel, as_is
from sde_lib.exact import FullMixture
from sde_lib.solvers import DPMSolverPlusPlus

SDE, LENGTH = VP(), 24
PROCESSES = [AR2(0.5, -0.25), AR2(-0.9, 0.05, 2.0), resonance(hertz=700, width=200, rate=8000, deviation=0.2)]
VOICE = PROCESSES[2]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_closed_forms_agree(process):
    """The covariance solves (1); its transform is the spectrum; (4) is the normal density with that covariance."""
    gamma = process.autocovariance(4000)
    np.testing.assert_allclose(gamma[0], process.phi1 * gamma[1] + process.phi2 * gamma[2] + process.std**2, rtol=1e-9)
    omega = np.linspace(0, np.pi, 7)
    total = gamma[0] + 2 * np.cos(np.outer(omega, np.arange(1, 4000))) @ gamma[1:]
    np.testing.assert_allclose(total, process.spectrum(omega), rtol=1e-9)
    x = np.random.default_rng(0).normal(size=(3, 10))
    C = process.covariance(10)
    direct = -0.5 * np.einsum("bi,ij,bj->b", x, np.linalg.inv(C), x) - 0.5 * np.linalg.slogdet(2 * np.pi * C)[1]
    np.testing.assert_allclose(process.log_prob(x), direct, rtol=1e-9)


def test_a_resonance_is_where_and_as_wide_as_stated():
    omega = 2 * np.pi * np.linspace(1, 3999, 3999) / 8000
    power = resonance(hertz=1000, width=50, rate=8000, deviation=0.3).spectrum(omega)
    above = np.flatnonzero(power > power.max() / 2)
    assert abs(above.mean() + 1 - 1000) < 3 and abs(len(above) - 50) < 3
    assert abs(resonance(1000, 50, 8000, 0.3).autocovariance(1)[0] - 0.09) < 1e-12


def close_to_truth(x, process, lags=8):
    """The sampled autocovariances of x [N, length] are within 4 standard errors; one error is of N sequences."""
    gamma = process.autocovariance(lags)
    for k in range(lags):
        each = np.mean(x[:, : x.shape[1] - k] * x[:, k:], axis=1)
        error = each.std(ddof=1) / np.sqrt(len(x))
        assert abs(each.mean() - gamma[k]) < 4 * error, f"lag {k}: {each.mean():.4g}, expected {gamma[k]:.4g}"


def test_sequences_are_a_function_of_seed_and_index_with_the_stated_covariance():
    data, more = autoregression(VOICE, 50, count=5, test=3), autoregression(VOICE, 50, count=8, test=1)
    parts = [gather(source, np.arange(len(source)))["x"] for source in (*data, more.train)]
    np.testing.assert_array_equal(np.concatenate(parts[:2]), parts[2])
    x = gather(autoregression(VOICE, 50, count=3000).train, np.arange(3000))["x"][..., 0]
    close_to_truth(x, VOICE)
    close_to_truth(x[:, :10], VOICE)  # from the first value on
    innovations = (x[:, 2:] - VOICE.phi1 * x[:, 1:-1] - VOICE.phi2 * x[:, :-2]) / VOICE.std
    assert abs(innovations.var() - 1) < 4 * np.sqrt(2 / innovations.size)


def exact_score(covariance):
    """x [B, ...] → −(α² C + σ² I)⁻¹ x by the eigenvectors of C, which for all t are the same."""
    values, vectors = np.linalg.eigh(covariance)

    def score(x, t):
        alpha, sigma = SDE.alpha(t)[:, None], SDE.sigma(t)[:, None]
        V, variances = (jnp.asarray(a, x.dtype) for a in (vectors, values.clip(0)[None]))
        pulls = (x.reshape(len(x), -1) @ V) / (alpha**2 * variances + sigma**2)
        return -(pulls @ V.T).reshape(x.shape)

    return score


def test_the_score_is_that_of_a_mixture_with_this_covariance():
    x, t = jax.random.normal(jax.random.key(0), (5, 10)), jnp.linspace(0.01, 1.0, 5)
    C = VOICE.covariance(10)
    mixture = FullMixture(means=np.zeros((1, 10)), covariances=C[None], weights=np.ones(1))
    np.testing.assert_allclose(exact_score(C)(x, t), mixture.score_fn(SDE)(x, t), rtol=1e-6)


def model(covariance, transform, shape, likelihood=None):
    """The exact score as a trained model, for Gaussian events in model space."""
    score = exact_score(covariance)

    def network(params, x, c_noise, cond=None, key=None, train=False):
        return -SDE.sigma(c_noise).reshape(-1, *(1,) * (x.ndim - 1)) * score(x, c_noise)

    sampler = Sampler(
        solver=DPMSolverPlusPlus(order=2, tau=1.0), grid=PowerGrid(t_end=1e-4), num_steps=100, denoise=as_is
    )
    return ScoreModel(
        sde=SDE, parameterization=PredictNoise(c_noise=ScaledTime()), params=jnp.zeros(()), network=network,
        shape=shape, transform=transform, sampler=sampler,
        likelihood=likelihood or Likelihood(divergence=Exact()),
    )  # fmt: skip


def test_waveforms_that_are_sampled_written_and_read_have_the_exact_autocovariance(tmp_path):
    waveform = Waveform(std=0.2, rate=8000)
    drawn = model(VOICE.covariance(LENGTH) / 0.04, waveform, (LENGTH, 1)).sample(jax.random.key(0), 3000)
    form, read = waveform.form((LENGTH, 1)), []
    for one in drawn:
        form.write(tmp_path / "a.wav", one)
        rate, x = read_wav(tmp_path / "a.wav")
        read.append(x)
    assert rate == 8000
    close_to_truth(np.stack(read), VOICE)


def test_log_likelihoods_are_exact_to_a_thousandth_of_a_nat_per_value():
    likelihood = Likelihood(divergence=Exact(), to_data=True)
    exact = model(VOICE.covariance(LENGTH) / 0.04, Waveform(std=0.2, rate=8000), (LENGTH, 1), likelihood)
    x = gather(autoregression(VOICE, LENGTH).test, np.arange(8))["x"].astype(np.float64)
    found = exact.astype(np.float64).log_prob(jax.random.key(1), x).value
    np.testing.assert_allclose(np.asarray(found) / LENGTH, VOICE.log_prob(x[..., 0]) / LENGTH, rtol=0, atol=1e-3)


def test_spectrograms_that_are_sampled_are_waveforms_with_the_exact_autocovariance():
    """Without compression the map is linear, z = S x, and S C Sᵀ is the covariance of the spectrograms."""
    transform = ComplexSTFT(rate=8000, length=LENGTH, window_length=8, hop=4, exponent=1.0, scale=1.0)
    S = transform.forward(np.eye(LENGTH)[..., None], np.float64).reshape(LENGTH, -1).T
    of_spectra = model(S @ VOICE.covariance(LENGTH) @ S.T, transform, transform.shape)
    close_to_truth(of_spectra.sample(jax.random.key(2), 3000)[..., 0], VOICE)
    for refused in (of_spectra.log_prob, of_spectra.elbo, partial(of_spectra.bits_per_dim, step=1.0)):
        with pytest.raises(ValueError, match=r"not affine, and maps 24 values to 70: .* likelihoods and posteriors"):
            refused(jax.random.key(0), np.zeros((1, LENGTH, 1)))


@pytest.mark.parametrize("phi", [(1.0, 0.0), (0.0, 1.0), (1.5, -0.4), (0.0, -1.0)])
def test_processes_that_are_not_stationary_are_refused(phi):
    with pytest.raises(ValueError, match=r"AR2: expected \|phi2\| < 1, \|phi1\| < 1 - phi2"):
        AR2(*phi)
