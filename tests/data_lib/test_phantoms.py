"""Phantoms: a function of (seed, i) in [0, 1]; the Radon transform of an ellipse is its chords."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_lib import gather, phantoms
from data_lib.phantoms import ellipses
from sde_lib.posterior import parallel_beam


def test_a_function_of_seed_and_index():
    """The test examples continue the stream; the values fill [0, 1]; the corners are empty."""
    data, more = phantoms(count=5, test=3, size=16), phantoms(count=8, test=1, size=16)
    train, test, stream = (gather(source, np.arange(len(source)))["x"] for source in (*data, more.train))
    np.testing.assert_array_equal(np.concatenate([train, test]), stream)
    assert stream.shape == (8, 16, 16, 1) and stream.dtype == np.float32
    assert stream.min() == 0 and 0.9 < stream.max() <= 1
    assert np.all(stream[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0)
    other = gather(phantoms(count=5, test=3, size=16, seed=1).train, np.arange(5))["x"]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(train, other, strict=True))
    with pytest.raises(IndexError, match="expected an index from 0 to 2, got 3"):
        data.test[3]


def test_radon_of_an_ellipse():
    """Chord lengths 2 a b √(ρ² − τ²)/ρ², with ρ² = a² cos² + b² sin² of θ − φ and τ = r − c · e_θ, within a pixel."""
    size, center, axes, tilt = 64, np.array([0.2, -0.1]), np.array([0.5, 0.3]), 0.4
    x = ellipses(center[None], axes[None], np.array([tilt]), size)[..., None].astype(np.float32)
    operator = parallel_beam(12)
    found = np.asarray(operator(jnp.asarray(x)))[0, ..., 0] * 2 / size
    theta, r = np.deg2rad(operator.angles)[None], ((2 * np.arange(size) + 1) / size - 1)[:, None]
    rho2 = (axes[0] * np.cos(theta - tilt)) ** 2 + (axes[1] * np.sin(theta - tilt)) ** 2
    tau = r - center[0] * np.cos(theta) - center[1] * np.sin(theta)
    expected = 2 * axes[0] * axes[1] * np.sqrt(np.maximum(rho2 - tau**2, 0)) / rho2
    assert np.mean(np.abs(found - expected)) < 0.2 * 2 / size
    inside = tau**2 < 0.8 * rho2  # away from the tangents, where the chord's slope is infinite
    assert np.max(np.abs(found - expected)[inside]) < 2 / size
