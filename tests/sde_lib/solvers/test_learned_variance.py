"""The ancestral step with a learned variance, between the two of Ho et al. 2020."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import PredictNoise, Sampler, ScoreModel, discrete_vp
from sde_lib.solvers import Ancestral, LearnedVarianceAncestral, SolverState
from sde_lib.solvers.learned_variance import with_variance
from tests.helpers import keys

SDE = discrete_vp(num_steps=20)
X = jnp.linspace(-2, 2, 12).reshape(4, 3)


def score(x, t):
    return -x * 0.7


@pytest.mark.parametrize(("v", "large"), [(-1.0, False), (1.0, True)])
def test_its_ends_are_the_two_fixed_variances(v, large):
    t, s, state = jnp.float64(0.6), jnp.float64(0.55), SolverState(X, X)
    learned = with_variance(score, lambda x, t: jnp.full_like(x, v))
    found = LearnedVarianceAncestral().step(keys(4), state, t, s, SDE, learned)
    expected = Ancestral(large_variance=large).step(keys(4), state, t, s, SDE, score)
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)


def test_the_logarithm_of_the_variance_is_interpolated():
    """Eq. (1) at v = ½, so ν = ¾, from the spread of the step itself."""
    t, s, state = jnp.float64(0.6), jnp.float64(0.55), SolverState(X, X)
    noise = [
        LearnedVarianceAncestral().step(keys(4), state, t, s, SDE, with_variance(score, lambda x, t, v=v: x * 0 + v))
        for v in (-1.0, 0.5, 1.0)
    ]
    small, middle, large = (np.log((each.x - each.mean) ** 2) for each in noise)
    np.testing.assert_allclose(middle, 0.25 * small + 0.75 * large, rtol=1e-9)


def test_the_channels_after_those_of_f_are_the_variance():
    """A model passes them to its solver, and takes F alone for the score; a network without them is refused."""

    def network(params, x, c_noise, cond=None):
        return jnp.concatenate([0.1 * x, jnp.ones_like(x)], axis=-1)

    sampler = Sampler(solver=LearnedVarianceAncestral(), num_steps=19)
    model = ScoreModel(
        sde=SDE, parameterization=PredictNoise(), params={}, network=network, sampler=sampler, shape=(3,)
    )
    one = model.replace(network=lambda params, x, c_noise, cond=None: 0.1 * x)
    large = one.replace(sampler=Sampler(solver=Ancestral(large_variance=True), num_steps=19))
    key = jax.random.key(0)
    np.testing.assert_allclose(model.sample(key, 5), large.sample(key, 5), rtol=1e-6)
    with pytest.raises(ValueError, match="requires a network with learned_variance=True"):
        one.sample(key, 5)
