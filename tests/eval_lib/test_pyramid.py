"""Features of a pyramid: closed forms, and what they notice."""

import numpy as np
import pytest

from eval_lib import PyramidFeatures, Statistics, sliced_wasserstein

FEATURES = PyramidFeatures()


def smooth_images(n, seed):
    """White noise with a spectrum of 1/frequency: [n, 32, 32, 1]."""
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None])
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(n, 32, 32)))
    return np.real(np.fft.ifft2(noise / np.maximum(frequency, 1 / 32)))[..., None]


@pytest.mark.parametrize(
    ("shape", "octaves", "cells"), [((256, 2), 4, 16), ((64, 32, 3), 4, 16), ((24, 12, 12, 1), 3, 27)]
)
def test_white_noise(shape, octaves, cells):
    """d_k of white noise has the variance (1 − 2⁻ⁿ) σ²/2^{nk}, while all n axes are halved."""
    x = 3 * np.random.default_rng(0).normal(size=(200, *shape))
    n, parts = len(shape) - 1, FEATURES(x)[:, : (octaves + 1) * cells * shape[-1]].reshape(200, octaves + 1, -1)
    for k, rtol in ((0, 0.01), (1, 0.02)):
        np.testing.assert_allclose(np.mean(parts[:, k + 1] ** 2), (1 - 2.0**-n) * 9 / 2 ** (n * k), rtol=rtol)
    assert abs(parts[:, 0].mean()) < 5 * 3 / np.sqrt(x.size)


def test_an_edge_is_detail_where_it_is():
    """0 at positions 0 to 4 of 32, and then 8: detail of single positions in the third of 16 cells alone."""
    x = np.where(np.arange(32) < 5, 0.0, 8.0).reshape(1, 32, 1)
    mean, detail = FEATURES(x).reshape(2, 16)
    np.testing.assert_allclose(mean, [0, 0, 4, *[8] * 13])
    np.testing.assert_allclose(detail, [0, 0, 4, *[0] * 13])


@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (33, 17, 1), (5, 9, 6, 2), (1, 40, 30, 1), (5, 5, 1)])
def test_any_length(shape):
    """A constant has no detail, in float64; the means are the constant."""
    found = FEATURES(np.full((2, *shape), 7, np.uint8))
    assert set(np.unique(found)) <= {0.0, 7.0} and np.all(found == 7, axis=0).sum() >= shape[-1]
    assert found.dtype == np.float64


def test_other_ranks_are_refused():
    with pytest.raises(ValueError, match=r"expected events \[N, 1 to 3 axes, C\], got shape \(3, 4\)"):
        FEATURES(np.zeros((3, 4)))


def test_blur_and_noise_change_them_more_than_pixels():
    """The sliced Wasserstein distance to other images: 13 and 3.9 times the floor, in pixels 1.4 and 1.1."""
    real, same = smooth_images(300, 0), smooth_images(300, 1)
    spoiled = {
        "blurred": (same + np.roll(same, 1, 1) + np.roll(same, 1, 2) + np.roll(same, (1, 1), (1, 2))) / 4,
        "noisy": same + 0.3 * same.std() * np.random.default_rng(2).normal(size=same.shape),
    }

    def distance(x, features):
        sets = (features(y) for y in (x, real))
        a, b = (Statistics(len(y), y.mean(0), y.var(0), {}, {}, y) for y in sets)
        return sliced_wasserstein(a, b)["sliced Wasserstein"]

    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    for name, x in spoiled.items():
        assert distance(x, FEATURES) > 3 * distance(same, FEATURES), name
        assert distance(x, flat) < 1.5 * distance(same, flat), name
