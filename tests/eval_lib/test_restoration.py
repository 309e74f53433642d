"""PSNR and SSIM by their formulas, and next to another implementation."""

import numpy as np
import pytest

from eval_lib.restoration import psnr, ssim

RNG = np.random.default_rng(0)


def test_psnr():
    x = RNG.uniform(size=(8, 8, 1))
    np.testing.assert_allclose(psnr(x + 0.1, x, 1.0), 20.0, rtol=1e-9)
    np.testing.assert_allclose(psnr(255 * (x + 0.1), 255 * x, 255.0), 20.0, rtol=1e-9)
    assert psnr(x, x, 1.0) == np.inf
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, x[:4], 1.0)


def test_ssim():
    """1 of equal images; of a constant shift c the luminance factor alone, where the image is constant."""
    x = RNG.uniform(size=(16, 20, 3))
    np.testing.assert_allclose(ssim(x, x, 1.0), 1.0, rtol=1e-12)
    flat = np.full((16, 16, 1), 0.4)
    expected = (2 * 0.4 * 0.5 + 1e-4) / (0.4**2 + 0.5**2 + 1e-4)
    np.testing.assert_allclose(ssim(flat + 0.1, flat, 1.0), expected, rtol=1e-9)
    assert 0 < ssim(x[:8, :8], RNG.uniform(size=(8, 8, 3)), 1.0) < 0.5


@pytest.mark.parametrize("shape", [(16, 24, 1), (32, 32, 3)])
def test_ssim_as_scikit_image(shape):
    metrics = pytest.importorskip("skimage.metrics")
    x = RNG.uniform(size=shape)
    y = np.clip(x + 0.2 * RNG.normal(size=shape), 0, 1)
    expected = metrics.structural_similarity(
        y, x, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    np.testing.assert_allclose(ssim(y, x, 1.0), expected, rtol=1e-7)
    np.testing.assert_allclose(psnr(y, x, 1.0), metrics.peak_signal_noise_ratio(x, y, data_range=1.0), rtol=1e-9)
