import numpy as np
import pytest

from data_lib import checkerboard, gaussians, moons, swirl


@pytest.mark.parametrize("make", [moons, swirl, checkerboard, gaussians])
def test_of_unit_scale_and_a_function_of_the_seed(make):
    train, test = make(count=5000, test=0.2)
    assert (train.x.shape, test.x.shape) == ((4000, 2), (1000, 2)) and train.x.dtype == np.float32
    np.testing.assert_allclose(train.x.mean(0), 0, atol=0.3)
    np.testing.assert_allclose(np.sqrt(np.mean(train.x**2, axis=0)), 1, atol=0.3)
    np.testing.assert_array_equal(make(count=5000, test=0.2).train.x, train.x)
    assert (make(count=5000, test=0.2, seed=1).train.x != train.x).any()


def test_a_checkerboard_has_eight_equal_fields():
    x = checkerboard(count=20_000).train.x * 1.15
    fields, counts = np.unique(np.floor(x).astype(int), axis=0, return_counts=True)
    assert len(fields) == 8 and (fields.sum(1) % 2 == 0).all() and fields.min() == -2 and fields.max() == 1
    np.testing.assert_allclose(counts, len(x) / 8, atol=4 * np.sqrt(len(x) / 8))


def test_gaussians_lie_around_a_circle():
    train = gaussians(count=20_000, modes=5, std=0.05).train
    for k in range(5):
        x = train.x[train.label == k]
        center = np.sqrt(2) * np.array([np.cos(2 * np.pi * k / 5), np.sin(2 * np.pi * k / 5)])
        np.testing.assert_allclose(x.mean(0), center, atol=4 * 0.05 / np.sqrt(len(x)))
        np.testing.assert_allclose(x.std(0), 0.05, rtol=0.1)


def test_a_swirl_is_a_spiral():
    x = swirl(count=2000, noise=0.0).train.x * 7
    r = np.hypot(*x.T)
    turns = (r - np.arctan2(x[:, 1], x[:, 0])) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-4)
