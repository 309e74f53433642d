"""PSNR and SSIM against scikit-image's."""

import numpy as np
import pytest

from eval_lib.restoration import psnr, ssim


@pytest.mark.parametrize("shape, data_range", [((32, 40, 1), 1.0), ((24, 24, 3), 255.0)])
def test_scikit_image_agrees(shape, data_range):
    metrics = pytest.importorskip("skimage.metrics")
    generator = np.random.default_rng(0)
    truth = data_range * generator.random(shape)
    x = truth + 0.1 * data_range * generator.normal(size=shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = metrics.structural_similarity(truth, x, data_range=data_range, **options)
    assert abs(ssim(x, truth, data_range) - expected) < 1e-7
    expected = metrics.peak_signal_noise_ratio(truth, x, data_range=data_range)
    assert abs(psnr(x, truth, data_range) - expected) < 1e-9
