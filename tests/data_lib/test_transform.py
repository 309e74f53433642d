import numpy as np
import pytest

from data_lib import Identity, Scale, Standardize, UnitScale, describe, from_arrays, infer_transform
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
    with pytest.raises(ValueError, match=r"expected finite low < high, got low=1\.0, high=1\.0"):
        Scale(1.0, 1.0)
    with pytest.raises(ValueError, match=r"std positive, got Standardize\(mean=0\.0, std=\(1\.0, 0\.0\)\)"):
        Standardize(0.0, (1.0, 0.0))
    with pytest.raises(ValueError, match="to_uint8: 1 of 2 values are not finite"):
        Scale().to_uint8(np.array([0.0, np.nan]))


# Digits: data far from 0 compared with their spread


def far(mean, std, dtype=np.float64, count=4000):
    mean, std = np.atleast_1d(mean), np.atleast_1d(std)
    return np.random.default_rng(0).normal(mean, std, (count, len(mean))).astype(dtype)


@pytest.mark.parametrize(
    "x",
    [
        far(1.7e9, 60),
        far(101_325, 0.02),
        far(-1e10, 3.0),
        far(1.7e9, 60, np.int64),
        far((0.5, 1.7e9, -300), (2.0, 60, 1e-3)),
        far((1e9, 0.0), (1.0, 1.0), count=300_000),  # a sum of these loses digits of their mean
        far(10.0, 1.0),
    ],
)
def test_data_far_from_0_keep_their_digits(x):
    """Mean 0 and deviation 1 in model space, and back within 1e-6 deviations of the float64 data."""
    transform = infer_transform(x)
    z = transform.forward(x)
    assert z.dtype == np.float32
    exact = (x - x[0]).astype(np.float64)
    exact = (exact - exact.mean(0)) / exact.std(0)
    np.testing.assert_allclose(z, exact, atol=1e-6)
    np.testing.assert_allclose(z.mean(0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(0, dtype=np.float64), 1, atol=1e-6)
    back = transform.inverse(z)
    assert back.dtype == np.float64
    assert np.max(np.abs(back - x) / x.std(0, dtype=np.float64)) < 1e-6


def test_float64_is_rounded_once():
    x, transform = far(6.0, 1.0), Standardize(6.0, 0.9)
    np.testing.assert_array_equal(transform.forward(x), ((x - 6.0) * (1 / 0.9)).astype(np.float32))


def test_a_range_far_from_0_keeps_its_digits():
    scale, x = Scale(1.7e9, 1.7e9 + 100), 1.7e9 + np.linspace(0, 100, 1001)[:, None]
    z = scale.forward(x)
    np.testing.assert_allclose(z[:, 0], np.linspace(-1, 1, 1001), atol=1e-7)
    assert np.max(np.abs(scale.inverse(z) - x)) < 50e-6
    assert scale.inverse(z).dtype == np.float64 and Scale(0, 255).inverse(z).dtype == np.float32


def test_a_constant_column_is_shifted_to_0_whatever_its_rounding():
    x = np.stack([np.full(400, 0.1), np.arange(400.0)], axis=1)
    transform = infer_transform(x)
    assert transform.std[0] == 1.0
    np.testing.assert_allclose(transform.forward(x)[:, 0], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "transform", "line"),
    [
        (far(1.7e9, 60, np.float32), Standardize(1.7e9, 60.0), "float32 has steps of 128 near 1.7e+09"),
        (
            far((0.0, 101_325), (1.0, 0.02), np.float32),
            Standardize(0.0, 1.0),
            "float32 has steps of 0.00781 near 101325",
        ),
        (far(100.0, 0.5, np.float16), Standardize(100.0, 0.5), "float16 has steps of 0.0625 near "),
        (far(1.7e9, 60), Identity(), "float32 in model space has steps of 128 near 1.7e+09"),
        (far(1.7e9, 60), Standardize(1.7e9, 60.0), None),
        (far(3.0, 0.2, np.float32), Standardize(3.0, 0.2), None),
        (far(0.0, 1.0, np.float16), Identity(), None),
    ],
)
def test_digits_that_a_dtype_has_lost_are_said(x, transform, line):
    text = str(describe(from_arrays(x), transform))
    assert text.count("digits are lost") == (line is not None)
    assert line is None or line in text


def test_a_printed_range_has_digits_enough():
    x = 1.7e9 + np.float64([[0], [0], [1], [1], [1]])
    assert "range 1700000000 to 1700000001, " in str(describe(from_arrays(x, test=1), Identity()))
    assert "range 0 to 16, " in str(
        describe(from_arrays(np.arange(17.0)[:, None] // 16 * 16, test=1, seed=1), Identity())
    )


def test_the_unit_interval():
    """[low, high] ↔ [0, 1], and pictures of that space."""
    transform, x = UnitScale(low=-3.0, high=5.0), np.array([-3.0, 1.0, 5.0])
    np.testing.assert_allclose(transform.forward(x), [0, 0.5, 1])
    np.testing.assert_allclose(transform.inverse(transform.forward(x)), x, rtol=1e-6)
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(UnitScale().to_uint8(UnitScale().forward(pixels)), pixels)
    np.testing.assert_array_equal(UnitScale().to_uint8(UnitScale().from_uint8(pixels)), pixels)
    with pytest.raises(ValueError, match="expected finite low < high"):
        UnitScale(low=1.0, high=1.0)
