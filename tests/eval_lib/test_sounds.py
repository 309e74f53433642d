"""Metrics of sounds: closed forms for white noise and gains, invariances, and pitches that are known."""

import numpy as np
import pytest

from data_lib import gather, strings
from data_lib.strings import Strings
from data_lib.strings import pitch as pitch_of
from eval_lib import (
    LogMelFeatures,
    Statistics,
    feature_frechet,
    frechet_distance,
    log_magnitude_distance,
    moments,
    pitch,
    pitch_report,
    si_sdr,
    spectral_convergence,
)
from eval_lib.sounds import autocorrelation
from io_lib.spectra import stft, window_of

RATE = 8000
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(200, 2048, 1))


def statistics(features):
    mean, cov = moments(features)
    return Statistics(len(features), mean, cov, {}, {}, features)


def test_frechet_distance_of_white_noise_of_two_variances():
    """A gain g shifts each of the B means by log g² and nothing else: the distance is B (log g²)²."""
    features, g = LogMelFeatures(RATE, bands=16, floor_db=-200.0), 1.3
    quiet, loud = features(0.1 * NOISE), features(0.1 * g * NOISE)
    expected = 16 * (2 * np.log(g)) ** 2
    assert abs(frechet_distance(*moments(quiet), *moments(loud)) / expected - 1) < 1e-6
    other = features(0.1 * g * RNG.normal(size=NOISE.shape))
    floor = frechet_distance(*moments(features(0.1 * RNG.normal(size=NOISE.shape))), *moments(quiet))
    found = feature_frechet(statistics(other), statistics(quiet))["Fréchet distance"]
    assert 0 < floor < 0.05 * expected and abs(found - floor - expected) < 0.1 * expected


def test_the_logarithm_of_a_periodogram_of_white_noise():
    """|X|² is exponential with mean s² Σ w²: E log |X|² = log(s² Σ w²) − γ, with γ Euler's constant."""
    window = window_of("hann", 128)
    power = np.abs(stft(0.5 * NOISE[..., 0], window, 128)[:, 2:-2, 2:-2]) ** 2
    expected = np.log(0.25 * (window**2).sum()) - np.euler_gamma
    assert abs(np.log(power).mean() - expected) < 4 * np.pi / np.sqrt(6 * power.size)


def test_features_refuse_what_is_no_sound_and_accept_silence():
    features = LogMelFeatures(RATE)
    found = features(np.zeros((2, 100, 1)))
    np.testing.assert_allclose(found[:, :64], -6 * np.log(10), rtol=1e-12)
    np.testing.assert_allclose(found[:, 64:], 0, atol=1e-12)
    assert features.protocol != LogMelFeatures(16_000).protocol
    for shape in ((2, 100), (2, 100, 2)):
        with pytest.raises(ValueError, match=r"expected sounds \[N, length, 1\], got shape \(2, 100"):
            features(np.zeros(shape))


@pytest.mark.parametrize("g", [0.5, 1.1, 3.0])
def test_a_gain_gives_its_distance(g):
    x = NOISE[0, :, 0]
    np.testing.assert_allclose(spectral_convergence(g * x, x), abs(1 - g), rtol=1e-9)
    np.testing.assert_allclose(log_magnitude_distance(1e6 * g * x, 1e6 * x), abs(np.log(g)), rtol=1e-6)
    assert spectral_convergence(x, x) == log_magnitude_distance(x, x) == 0 and si_sdr(2 * x, x) > 290


def test_si_sdr_of_orthogonal_noise_whatever_the_scales():
    s, n = NOISE[0, :, 0], NOISE[1, :, 0]
    n = n - np.sum(n * s) / np.sum(s * s) * s
    expected = 10 * np.log10(np.sum(s**2) / np.sum((0.1 * n) ** 2))
    for scale in (1.0, -1.0, 7.0):
        np.testing.assert_allclose(si_sdr(scale * (s + 0.1 * n), s), expected, rtol=1e-9)
        np.testing.assert_allclose(si_sdr(s + 0.1 * n, scale * s), expected, rtol=1e-9)


def test_silent_truths_have_no_relative_error():
    for metric in (si_sdr, spectral_convergence):
        with pytest.raises(ValueError, match="the truth is silent"):
            metric(np.ones(600), np.zeros(600))
    with pytest.raises(ValueError, match=r"sounds of one shape, got \(5,\) and \(6,\)"):
        si_sdr(np.ones(5), np.ones(6))
    assert si_sdr(np.zeros(9), np.ones(9)) == -np.inf


@pytest.mark.parametrize("f", [101.0, 220.0, 313.7, 445.0])
@pytest.mark.parametrize("harmonics", [1, 8])
def test_pitches_of_harmonic_sounds_are_found_to_two_cents(f, harmonics):
    t = np.arange(4096) / RATE
    x = sum(RNG.uniform(0.2, 1) * np.sin(2 * np.pi * k * f * t + RNG.uniform(0, 6)) for k in range(1, harmonics + 1))
    found = pitch((np.exp(-5 * t) * x)[None], RATE, 98.0, 470.0)[0]
    assert abs(1200 * np.log2(found / f)) < 2


def test_autocorrelation_is_the_direct_sum():
    x = NOISE[0, :50, 0]
    direct = [x[: 50 - k] @ x[k:] / np.sqrt((x[: 50 - k] @ x[: 50 - k]) * (x[k:] @ x[k:])) for k in range(10)]
    np.testing.assert_allclose(autocorrelation(x, 8 * np.arange(10)), direct, rtol=1e-9)


def test_silence_has_no_pitch_and_bad_ranges_are_refused():
    assert np.isnan(pitch(np.zeros((1, 4096)), RATE, 100.0, 400.0)).all()
    for low, high, n in ((0.0, 400.0, 4096), (400.0, 100.0, 4096), (100.0, 2001.0, 4096), (100.0, 400.0, 100)):
        with pytest.raises(ValueError, match="0 < lowest < highest <= 2000"):
            pitch(np.zeros((1, n)), RATE, low, high)


def test_all_strings_have_the_pitch_of_their_label_and_other_labels_are_wrong():
    batch = gather(strings(count=200).train, np.arange(200))
    x, label = batch["x"], batch["label"]
    order = np.argsort(label, kind="stable")
    right = pitch_report(x, x[:2], x, label[:2], label)
    assert right["right"]["test"] == 1.0 and right["cents"]["test"] < 5
    by_class = np.stack([x[label == k][0] for k in range(24)])  # sample i has class i mod 24
    report = pitch_report(np.concatenate([by_class, by_class]), x[:2], x, label[:2], label)
    assert report["right"]["samples"] == report["right"]["ratio"] == 1.0
    assert "| pitch within half a semitone of the class | 100.0% | 100.0% | 1.00" in report["text"]
    assert pitch_report(np.roll(by_class, 1, axis=0), x[:2], x, label[:2], label)["right"]["samples"] == 0
    assert len(order) == 200 and isinstance(strings().train, Strings) and pitch_of(12) == 220
