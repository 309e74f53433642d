"""Systematic resampling by enumeration over u, effective sample size, and the mean weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.particles import effective_sample_size, log_mean_weight, systematic
from sde_lib.particles.resampling import copied, normalized

WEIGHTS = np.asarray([[0.1, 0.0, 0.55, 0.35], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])


def counts(ancestors, K):
    return np.stack([np.bincount(row, minlength=K) for row in np.asarray(ancestors)])


def test_expected_copies_are_proportional_to_the_weights():
    """Over an even grid of u, which hits every interval in proportion; copies differ from K W by less than 1."""
    K, n, total = WEIGHTS.shape[1], 1000, np.zeros_like(WEIGHTS)
    for u in (np.arange(n) + 0.5) / n:
        found = counts(systematic(jnp.full(len(WEIGHTS), u), jnp.asarray(WEIGHTS)), K)
        assert np.all(np.abs(found - K * WEIGHTS) < 1)
        total += found
    np.testing.assert_allclose(total / n, K * WEIGHTS, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_weight_no_copy_at_the_ends(dtype):
    """u next to 1, with zero weights at the end and at the start, at any scale of the weights."""
    u = jnp.full(2, 1 - jnp.finfo(dtype).epsneg, dtype)
    weights = jnp.asarray([[0.3, 0.7, 0.0], [0.0, 5.0, 1.0]], dtype)
    found = counts(systematic(u, weights), 3)
    assert found[0, 2] == 0 and found[1, 0] == 0
    assert counts(systematic(jnp.zeros(2, dtype), weights), 3)[1, 0] == 0


def test_effective_sample_size_and_mean_weight():
    log_weights = jnp.log(jnp.asarray(WEIGHTS)) + jnp.asarray([800.0, -900.0, 3.0])[:, None]
    np.testing.assert_allclose(effective_sample_size(log_weights), 1 / np.sum(WEIGHTS**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_mean_weight(log_weights), np.log(1 / 4) + np.asarray([800, -900, 3]), rtol=1e-12)
    dead = jnp.full((1, 4), -jnp.inf)
    np.testing.assert_array_equal(normalized(dead), np.full((1, 4), 0.25))
    assert log_mean_weight(dead)[0] == -np.inf


def test_particles_stay_in_their_group():
    tree = {
        "x": jax.random.normal(jax.random.key(0), (3, 4, 2)),
        "group": jnp.broadcast_to(jnp.arange(3)[:, None], (3, 4)),
    }
    found = copied(tree, systematic(jnp.full(3, 0.5), jnp.asarray(WEIGHTS)))
    np.testing.assert_array_equal(found["group"], tree["group"])
    np.testing.assert_array_equal(found["x"][2], np.broadcast_to(tree["x"][2, 1], (4, 2)))
