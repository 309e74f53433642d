"""Features do not depend on batches, nor on how many devices share the work."""

import jax
import numpy as np
import pytest

from eval_lib import NetworkFeatures, fid, kid, statistics_of
from eval_lib.network import in_batches
from tests.eval_lib.test_inception import params as params
from tests.eval_lib.test_inception import weights as weights

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 12)).astype(np.float32) / 20


def convolution(params, images):
    x = images.astype(params.dtype) / 255 - 0.5
    y = jax.lax.conv_general_dilated(x, params, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    features = jax.nn.relu(y).mean((1, 2))
    return features, features[:, :4]


def features(batch_size, devices, params=KERNEL, function=convolution):
    protocol = {"features": "a convolution"}
    return NetworkFeatures(function, params, protocol, batch_size, jax.devices()[:devices])


def images(n, seed=0):
    draw = np.random.default_rng(seed)
    return (draw.integers(0, 200, (n, 1, 1, 3)) + draw.integers(0, 56, (n, 9, 7, 3))).astype(np.uint8)


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_give_the_same_features_bit_for_bit(devices):
    one, other = features(5, 1)(images(73)), features(5, devices)(images(73))
    for a, b in zip(one, other, strict=True):
        assert a.dtype == np.float32 and np.std(a, axis=0).min() > 1e-3
        np.testing.assert_array_equal(a, b)


def test_figures_do_not_depend_on_batches_or_devices():
    """FID and KID, of float64 features that go through in any batches on 1, 2 or 8 devices: to 10⁻⁹ of themselves."""
    x, y, found = images(300), images(200, seed=1), []
    for batch_size, devices, cut in [(300, 1, 300), (1, 2, 20), (7, 8, 50), (64, 2, 11)]:
        network = features(batch_size, devices, KERNEL.astype(np.float64))
        of = lambda z: statistics_of(np.split(z, range(cut, len(z), cut)), network, {}, {})  # noqa: E731, B023
        a, b = of(x), of(y)
        found.append([fid(a, b)["FID"], kid(a, b, 5, 100)["KID"]])
    assert found[0][0] > 1e-5
    np.testing.assert_allclose(found, found[:1] * 4, rtol=1e-9)


@pytest.mark.slow
def test_inception_on_eight_devices(params):
    """Bit for bit the features of one device, through the real graph with the golden file's weights."""
    from eval_lib.features import _last_pool

    one, eight = (features(1, n, params, _last_pool)(images(9)) for n in (1, 8))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_batch_is_padded():
    sizes = []

    def function(x):
        sizes.append(len(x))
        return x * 2, x[:, 0]

    x = np.arange(14).reshape(7, 2)
    twice, first = in_batches(function, x, 3)
    np.testing.assert_array_equal(twice, 2 * x)
    np.testing.assert_array_equal(first, x[:, 0])
    assert sizes == [3, 3, 3]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"a convolution: expected uint8 images \[N, H, W, 1 or 3\], got float32 \(1,"):
        features(2, 1)(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"got uint8 \(1, 8, 8, 2\)"):
        features(2, 1)(np.zeros((1, 8, 8, 2), np.uint8))
    with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
        features(0, 1)(images(1))
