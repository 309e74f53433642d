"""Phantoms are a function of (seed, i); their Radon transform agrees with that of ellipses in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_lib import gather, phantoms
from data_lib.phantoms import ellipses
from sde_lib.posterior import Radon


def test_a_phantom_is_a_function_of_seed_and_index():
    data, again = phantoms(count=10, test=4, size=32), phantoms(count=10, test=4, size=32)
    x = gather(data.train, np.arange(10))["x"]
    assert x.shape == (10, 32, 32, 1) and x.dtype == np.float32 and x.min() == 0 and x.max() == 1
    np.testing.assert_array_equal(gather(again.train, [7])["x"], x[7:8])
    np.testing.assert_array_equal(data.test[0]["x"], phantoms(count=14, size=32).train[10]["x"])
    assert np.any(phantoms(count=10, size=32, seed=1).train[7]["x"] != x[7])
    with pytest.raises(IndexError, match="from 0 to 9, got 10"):
        data.train[10]


def test_line_integrals_of_an_ellipse():
    """At distance p from its center: 2 a b √(w² − p²)/w², with w² = a² cos²(θ − φ) + b² sin²(θ − φ); in pixels."""
    size, center, axes, tilt = 64, np.array([0.1, -0.2]), np.array([0.6, 0.3]), 0.5
    x = ellipses(center[None], axes[None], [tilt], size)[0]
    angles = (0.0, 30.0, 75.0, 140.0)
    found = np.asarray(Radon(angles=angles)(jnp.asarray(x)[None, ..., None]))[0, ..., 0]
    r = (np.arange(size) - (size - 1) / 2) * 2 / size
    for k, theta in enumerate(np.deg2rad(angles)):
        p = r - center @ np.array([np.cos(theta), np.sin(theta)])
        w2 = (axes[0] * np.cos(theta - tilt)) ** 2 + (axes[1] * np.sin(theta - tilt)) ** 2
        expected = 2 * axes.prod() * np.sqrt(np.maximum(w2 - p**2, 0)) / w2 * size / 2
        assert np.abs(found[:, k] - expected).mean() < 0.02 * expected.max()
        np.testing.assert_allclose(found[:, k].sum(), np.pi * axes.prod() * (size / 2) ** 2, rtol=3e-3)
