import numpy as np
import pytest

from data_lib import Identity, Scale, Standardize
from tests.helpers import close


def test_scale_maps_the_ends_to_one():
    np.testing.assert_array_equal(Scale(0, 16).forward(np.array([0, 4, 8, 16], np.uint8)), [-1, -0.5, 0, 1])
    np.testing.assert_allclose(Scale(-3.0, 1.0).forward(np.array([-3.0, 0.0, 1.0])), [-1, 0.5, 1], atol=1e-7)


@pytest.mark.parametrize("transform", [Identity(), Scale(), Scale(-2.0, 5.0), Standardize((1.0, -2.0), (3.0, 0.5))])
def test_inverse_undoes_forward_and_neither_clips(transform):
    x = np.random.default_rng(0).normal(scale=300, size=(5, 4, 2)).astype(np.float32)
    assert transform.forward(x).dtype == transform.inverse(x).dtype == np.float32
    close(transform.inverse(transform.forward(x)), x, 1e-6)
    close(transform.forward(transform.inverse(x)), x, 1e-6)


def test_standardize_gives_zero_mean_and_unit_variance():
    x = np.random.default_rng(0).normal((10.0, -4.0), (3.0, 0.2), size=(100, 2))
    out = Standardize(tuple(x.mean(0)), tuple(x.std(0))).forward(x)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-5)


def test_uint8_survives_the_way_to_model_space_and_back():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(Scale().to_uint8(Scale().forward(every)), every)


def test_to_uint8_rounds_and_clips():
    pixel = np.array([-7.0, 100.4, 100.6, 254.6, 300.0])
    out = Scale(0, 16).to_uint8(pixel / 127.5 - 1)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, [0, 100, 101, 255, 255])


def test_what_transforms_refuse():
    with pytest.raises(ValueError, match=r"low must be below high, got low=1\.0, high=1\.0"):
        Scale(1.0, 1.0)
    with pytest.raises(ValueError, match=r"std positive, got Standardize\(mean=0\.0, std=\(1\.0, 0\.0\)\)"):
        Standardize(0.0, (1.0, 0.0))
    with pytest.raises(ValueError, match="to_uint8: 1 of 2 values are not finite"):
        Scale().to_uint8(np.array([0.0, np.nan]))
