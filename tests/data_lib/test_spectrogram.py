"""Complex spectrograms: exactly invertible, of the published compression; and what they are refused for."""

import numpy as np
import pytest

from data_lib import ComplexSTFT, Sounds, form_of
from io_lib.spectra import stft, window_of

X = np.random.default_rng(0).uniform(-1, 1, (3, 1000, 1))
X[1] = 0.0  # silence, whose compression divides by 0 if it is not looked after


@pytest.mark.parametrize("dtype, bound", [(np.float32, 1e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("length, hop, window", [(512, 128, "hann"), (64, 32, "hann"), (100, 100, "boxcar")])
@pytest.mark.parametrize("exponent, scale", [(0.5, 0.15), (0.667, 0.065), (1.0, 1.0)])
def test_the_inverse_is_exact(dtype, bound, length, hop, window, exponent, scale):
    transform = ComplexSTFT(8000, 1000, length, hop, window, exponent, scale)
    z = transform.forward(X, dtype)
    assert z.shape == (3, *transform.shape) and z.dtype == dtype and np.isfinite(z).all()
    back = transform.inverse(z, dtype)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, X, rtol=0, atol=bound)


def test_the_magnitude_is_compressed_and_the_phase_is_kept():
    transform = ComplexSTFT(8000, 1000, 64, 16, exponent=0.5, scale=0.15)
    c = stft(X[..., 0], window_of("hann", 64), 16).swapaxes(1, 2)
    z = transform.forward(X, np.float64)
    z = z[..., 0] + 1j * z[..., 1]
    np.testing.assert_allclose(np.abs(z), 0.15 * np.sqrt(np.abs(c)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(z[0] * np.abs(c[0]), c[0] * np.abs(z[0]), rtol=1e-9, atol=1e-12)


def test_its_form_are_sounds_of_the_data_shape(tmp_path):
    transform = ComplexSTFT(rate=8000, length=1000, window_length=64, hop=16)
    form = form_of(transform, transform.shape)
    assert isinstance(form, Sounds) and transform.data_shape(transform.shape) == (1000, 1)
    np.testing.assert_allclose(form.to_samples(form.from_samples(X)), X, atol=1e-6)


@pytest.mark.parametrize("options, message", [
    (dict(hop=200), r"windows that add to a constant \(COLA\), got a sum that varies"),
    (dict(window_length=510), r"window of 510, hop 128: expected windows that add"),
    (dict(exponent=1.5), r"0 < exponent <= 1, got 16000, 16384, 0\.15 and 1\.5"),
    (dict(rate=0), "expected positive rate, length and scale"),
])  # fmt: skip
def test_settings_without_an_exact_inverse_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ComplexSTFT(**options)


def test_other_shapes_are_refused():
    transform = ComplexSTFT(rate=8000, length=1000, window_length=64, hop=16)
    with pytest.raises(ValueError, match=r"expected recordings \[N, 1000, 1\], got \(3, 999, 1\)"):
        transform.forward(X[:, :999])
    with pytest.raises(ValueError, match=r"expected config\.shape=\(33, 64, 2\), got \(33, 64, 1\)"):
        transform.data_shape((33, 64, 1))
