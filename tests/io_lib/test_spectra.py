import numpy as np
import pytest
from scipy.signal import check_COLA

from io_lib.spectra import (
    FLOOR_DB,
    hertz,
    istft,
    log_mel,
    mel,
    mel_analysis,
    mel_filters,
    num_frames,
    require_cola,
    stft,
    window_of,
)

X = np.random.default_rng(0).normal(size=(2, 3, 1000))


COLA = [
    ("hann", 64, (8, 16, 32)),
    ("hamming", 60, (10, 30)),
    ("boxcar", 50, (10, 25, 50)),
    ("cosine", 64, ()),
    ("blackman", 63, (21,)),
    ("bartlett", 64, (16, 32)),
    ("hann", 63, (9, 21)),
]


@pytest.mark.parametrize("name, n, hops", COLA)
def test_the_inverse_is_exact_for_every_window_and_hop_that_add_to_a_constant(name, n, hops):
    window, accepted = window_of(name, n), []
    for hop in range(1, n + 1):
        try:
            require_cola(window, hop)
        except ValueError as error:
            assert "expected windows that add to a constant (COLA)" in str(error)
            continue
        accepted.append(hop)
        back = istft(stft(X, window, hop), window, hop, X.shape[-1])
        np.testing.assert_allclose(back, X, rtol=0, atol=1e-12 * np.abs(X).max())
    assert set(hops) <= set(accepted) and accepted == [
        hop for hop in range(1, n + 1) if check_COLA(window, n, n - hop, tol=1e-7)
    ]


def test_float32_is_inverted_to_its_precision():
    window, x = window_of("hann", 512), X.astype(np.float32)
    z = stft(x, window, 128)
    assert z.dtype == np.complex64 and z.shape == (2, 3, num_frames(1000, 128), 257)
    np.testing.assert_allclose(istft(z, window, 128, 1000), x, rtol=0, atol=1e-6 * np.abs(x).max())


def test_of_a_spectrum_of_no_signal_the_inverse_is_the_nearest_signal():
    """The projection: the residual X − stft(istft(X)) is orthogonal to all spectra, with weights of real signals."""
    rng, window = np.random.default_rng(1), window_of("hann", 16)
    z = rng.normal(size=(num_frames(40, 4), 9)) + 1j * rng.normal(size=(num_frames(40, 4), 9))
    z[:, [0, -1]] = z[:, [0, -1]].real
    weight = np.r_[1.0, np.full(7, 2.0), 1.0]  # of a frequency with its mirror image
    residual = z - stft(istft(z, window, 4, 40), window, 4)
    inner = np.sum(weight * (residual.conj() * stft(np.eye(40), window, 4)).real, axis=(1, 2))
    np.testing.assert_allclose(inner, 0, atol=1e-12)


def test_parseval():
    """With Σ w² = c, the energy of the spectrum is c n times that of the signal, away from the edges."""
    window, x = window_of("hann", 64), np.pad(X[0, 0], 64)
    power = np.abs(stft(x, window, 16)) ** 2
    total = np.sum(power * np.r_[1.0, np.full(31, 2.0), 1.0])
    np.testing.assert_allclose(total, 64 * (window**2).sum() / 16 * np.sum(x**2), rtol=1e-12)


def test_the_level_of_a_sine_and_of_white_noise():
    rate, window = 8000, mel_analysis(8000)[0]
    x = np.sin(2 * np.pi * 1000 * np.arange(8000) / rate)
    z = np.abs(stft(x, window, 64, 4 * len(window))[20]) / (window.sum() / 2)
    assert np.argmax(z) == 128 and abs(z.max() - 1) < 1e-3  # 1000 Hz is frequency 128 of 1024
    filters, noise = mel_filters(rate, 1024, 64), 0.3 * np.random.default_rng(0).normal(size=(300, 4096))
    expected = 0.3**2 * filters.sum(1) * (window**2).sum() / (window.sum() / 2) ** 2
    level = np.exp(log_mel(noise, rate))[:, 4:-4].mean((0, 1)) - 10 ** (FLOOR_DB / 10)
    np.testing.assert_allclose(level, expected, rtol=0.03)
    np.testing.assert_allclose(log_mel(np.zeros((1, 500)), rate), FLOOR_DB / 10 * np.log(10), rtol=1e-12)


@pytest.mark.parametrize("rate", [100, 8000, 16_000, 44_100, 48_000])
def test_bands_add_to_one_between_the_first_and_the_last_center(rate):
    _, _, filters = mel_analysis(rate)
    frequencies = np.arange(filters.shape[1]) * rate / (2 * (filters.shape[1] - 1))
    centers = hertz(np.linspace(0, mel(rate / 2), 66))[1:-1]
    inside = (frequencies >= centers[0]) & (frequencies <= centers[-1])
    np.testing.assert_allclose(filters.sum(0)[inside], 1, rtol=1e-9)
    np.testing.assert_allclose(mel(hertz(np.array([0.0, 500.0, 2000.0]))), [0, 500, 2000], rtol=1e-12)
    assert rate == 100 or (filters.max(1) > 0).all()


def test_what_cannot_be_is_refused():
    window = window_of("hann", 64)
    for hop in (0, 65):
        with pytest.raises(ValueError, match=f"hop: expected 1 to 64, the window's length, got {hop}"):
            require_cola(window, hop)
    with pytest.raises(ValueError, match=r"got a sum that varies by 100\.0%"):
        require_cola(window, 64)
    with pytest.raises(ValueError, match=r"name of a window of scipy\.signal, got 'none'"):
        window_of("none", 64)
    with pytest.raises(ValueError, match=r"spectrum: expected \[..., 17, 33\], got \(5, 33\)"):
        istft(np.zeros((5, 33), complex), window, 64, 1024)
    with pytest.raises(ValueError, match="expected a rate and a number of bands of at least 1, got 0 and 64"):
        log_mel(np.zeros(100), 0)
