"""What many tests use: keys of samples, losses with their draws, the step of a loss."""

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib import PlainScore, ScoreMatching, StratifiedTime, make_train_step, sample_keys
from sde_lib.training.objective import draws


def keys(n, seed=0):
    """One key per sample, of the first n samples."""
    return sample_keys(jax.random.key(seed), jnp.arange(n))


def close(found, expected, tolerance, **options):
    """The largest difference is at most `tolerance` of the largest number expected: rounding at its scale."""
    scale = np.max(np.abs(np.asarray(expected, np.float64)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, **options)


def objective(sde, parameterization, loss, times=StratifiedTime(), **options):
    """Score matching with this loss and distribution of t."""
    return ScoreMatching(sde=sde, parameterization=parameterization, loss=loss, time_distribution=times, **options)


def with_draws(loss, times=StratifiedTime()):
    """(key, score_fn, sde, x0) → the loss at the times and with the keys that a training step draws from the key."""

    def drawn(key, score_fn, sde, x0):
        keys, t, _ = draws(objective(sde, PlainScore(), loss, times), key, len(x0))
        return loss(keys, score_fn, sde, x0, t)

    return drawn


def train_step(network, sde, parameterization, loss, tx, times=StratifiedTime(), **options):
    """The training step of score matching."""
    return make_train_step(network, objective(sde, parameterization, loss, times), tx, **options)
