"""A trained model given an observation: samples in the units of the data have the exact posterior's moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_lib import Scale, Standardize
from sde_lib import VP, Exact, Likelihood, PowerGrid, PredictNoise, Sampler, ScaledTime, ScoreModel, as_is
from sde_lib.posterior import FullMixture, Mask, Observation, PiGDM, Project, Replacement
from sde_lib.solvers import Ancestral

COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
DATA = FullMixture(means=np.zeros((1, 2)), covariances=COVARIANCE[None], weights=np.ones(1))  # in model space
SDE = VP()


def network(params, x, c_noise, cond=None, key=None, train=False):
    """ε̂ of the exact score, at c_noise = t."""
    return -SDE.sigma(c_noise)[:, None] * DATA.score_fn(SDE)(x, c_noise)


MODEL = ScoreModel(
    sde=SDE, parameterization=PredictNoise(c_noise=ScaledTime()), params=jnp.zeros(()), network=network, shape=(2,),
    transform=Scale(low=0.0, high=20.0), likelihood=Likelihood(divergence=Exact()),
    sampler=Sampler(solver=Ancestral(), grid=PowerGrid(), num_steps=200, denoise=as_is),
)  # fmt: skip


def test_samples_in_the_units_of_the_data():
    """x_data = 10 x + 10 has deviations 10; the first coordinate is measured as 20 ± 5."""
    observation = Observation(y=np.array([[20.0]]), operator=Project(matrix=np.array([[1.0, 0.0]])), noise_std=5.0)
    samples = MODEL.given(observation).sample(jax.random.key(0), 4000, rounded=False)
    gain = 100 / (100 + 25)
    mean = 10 + gain * 10 * np.array([1.0, 0.8])
    variance = 100 * (1 - gain * np.array([1.0, 0.64]))
    np.testing.assert_allclose(samples.mean(0), mean, atol=4 * np.sqrt(variance.max() / 4000) + 0.1)
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.12)
    biased = MODEL.given(observation, PiGDM()).sample(jax.random.key(0), 4000, rounded=False)
    assert biased[:, 1].mean() < mean[1] - 0.2  # FIELD's table: 0.609 for 0.640
    assert MODEL.observed is None


def test_each_row_has_its_own_observation():
    y = np.array([[20.0, 0.0], [0.0, 0.0], [15.0, 0.0]])
    observation = Observation(y=y, operator=Mask(mask=np.array([1.0, 0.0])), noise_std=0.01)
    samples = MODEL.given(observation).sample(jax.random.key(0), 3, rounded=False)
    np.testing.assert_allclose(samples[:, 0], y[:, 0], atol=0.3)


def test_likelihood_of_the_posterior_in_the_units_of_the_data():
    observation = Observation(y=np.array([[20.0]]), operator=Project(matrix=np.array([[1.0, 0.0]])), noise_std=5.0)
    x = np.array([[18.0, 15.0], [10.0, 30.0]])
    found = MODEL.given(observation).log_prob(jax.random.key(0), x)
    posterior = DATA.posterior(np.array([[1.0, 0.0]]), np.array([1.0]), 0.5)
    expected = posterior.log_prob(jnp.asarray((x - 10) / 10)) - 2 * np.log(10)
    np.testing.assert_allclose(found.value, expected, atol=2e-2)  # the prior is p_T(x | y) to exp(−5)


def test_a_slope_per_column_is_refused():
    model = MODEL.replace(transform=Standardize(mean=(0.0, 1.0), std=(1.0, 2.0)))
    with pytest.raises(ValueError, match="one slope"):
        model.given(Observation(y=np.zeros((1, 2)), operator=lambda x: x, noise_std=1.0))


def test_answers_to_several_observations():
    """Answer j to y_i is a function of (key, i, j): those to one observation do not depend on the others."""
    y = np.array([[20.0, 0.0], [0.0, 15.0]])
    masks = np.array([[1.0, 0.0], [0.0, 1.0]])
    observation = Observation(y=y, operator=Mask(mask=masks), noise_std=0.01)
    key = jax.random.key(0)
    answers = MODEL.posterior(key, observation, 3, rounded=False)
    assert answers.shape == (2, 3, 2)
    np.testing.assert_allclose(answers[0, :, 0], 20.0, atol=0.3)
    np.testing.assert_allclose(answers[1, :, 1], 15.0, atol=0.3)
    first = MODEL.posterior(key, observation.take(np.array([0])), 3, rounded=False)
    np.testing.assert_allclose(answers[0], first[0], rtol=1e-6)
    fewer = MODEL.posterior(key, observation, 2, rounded=False)
    np.testing.assert_allclose(answers[:, :2], fewer, rtol=1e-6)


def test_replacement_returns_known_values_and_has_no_likelihood():
    """In the units of the data, in closed form biased: (y/ρ)(1 − √(1 − ρ²)) = 0.5 for y = 1."""
    observation = Observation(y=np.array([[20.0, 0.0]]), operator=Mask(mask=np.array([1.0, 0.0])))
    model = MODEL.given(observation, Replacement())
    samples = model.sample(jax.random.key(0), 4000, rounded=False)
    np.testing.assert_allclose(samples[:, 0], 20.0, rtol=1e-6)
    assert abs(samples[:, 1].mean() - 15.0) < 4 * 7.1 / np.sqrt(4000) + 0.3  # exact 18; 200 steps
    for use in (
        model.log_prob,
        model.elbo,
        lambda key, x: model.encode(x),
        lambda key, x: model.decode(jnp.asarray(x)),
    ):
        with pytest.raises(ValueError, match="no likelihood"):
            use(jax.random.key(0), np.zeros((1, 2)))
    again = MODEL.given(observation, Replacement(repeats=10)).sample(jax.random.key(0), 1000, rounded=False)
    assert again[:, 1].mean() > 17.0


def test_any_function_is_an_operator():
    """A plain function gives the samples of the shipped operator."""
    y = np.array([[20.0]])
    first = MODEL.given(Observation(y=y, operator=lambda x: x[:, :1], noise_std=5.0)).sample(jax.random.key(0), 5)
    matrix = Project(matrix=np.array([[1.0, 0.0]]))
    again = MODEL.given(Observation(y=y, operator=matrix, noise_std=5.0)).sample(jax.random.key(0), 5)
    np.testing.assert_allclose(first, again, rtol=1e-6)
