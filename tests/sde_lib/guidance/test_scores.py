"""Guided scores against exact ones: classes are the components of a mixture, whose posterior is known at each t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    EDM,
    VE,
    VP,
    Fixed,
    GaussianMixture,
    Likelihood,
    PlainScore,
    ProbabilityFlowODE,
    Sampler,
    ScaledTime,
    ScoreModel,
    SubVP,
    classifier_free,
    classifier_guided,
    gaussian,
    guided_by_each,
    in_interval,
)
from sde_lib.solvers import DDIM
from tests.contracts import together
from tests.helpers import keys

pytestmark = pytest.mark.usefixtures("usual_promotion")

SDES = together({"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM()})
DATA = GaussianMixture(
    means=jnp.asarray([[-0.8, 0.5], [0.3, -0.4], [0.9, 0.9]]),
    stds=jnp.asarray([[0.3, 0.2], [0.25, 0.4], [0.2, 0.3]]),
    weights=jnp.asarray([0.5, 0.2, 0.3]),
)
CLASS = 1
GIVEN = gaussian(DATA.means[CLASS], DATA.stds[CLASS])


def posterior(sde):
    """log p_t(CLASS | x) by Bayes' rule."""

    def log_prob(x, t):
        joint = GIVEN.marginal_log_prob(sde, x, t) + jnp.log(DATA.weights[CLASS])
        return joint - DATA.marginal_log_prob(sde, x, t)

    return log_prob


@pytest.fixture(params=SDES)
def sde(request):
    return SDES[request.param]


@pytest.fixture
def x(sde):
    return sde.prior_std() * jax.random.normal(jax.random.key(0), (5, 2))


@jax.jit
def guided_scores(sde, x, t, weight):
    """(the gradient of the weighted densities, the score by two scores, the score by a classifier)."""

    def density(x):
        free, told = DATA.marginal_log_prob(sde, x, t), GIVEN.marginal_log_prob(sde, x, t)
        return jnp.sum((1 - weight) * free + weight * told)

    score, given = DATA.score_fn(sde), GIVEN.score_fn(sde)
    by_classifier = classifier_guided(score, posterior(sde), weight)
    return jax.grad(density)(x), classifier_free(given, score, weight)(x, t), by_classifier(x, t)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_both_are_the_score_of_the_weighted_densities(sde, x, weight):
    """∇ [(1 − w) log p_t(x) + w log p_t(x | c)], differentiated; x and t of which no component is sure."""
    for share in (0.05, 0.4, 1.0):
        t = jnp.full(5, sde.t_min + share * (sde.t_max - sde.t_min))
        expected, *both = guided_scores(sde, x, t, weight)
        scale = np.max(np.abs(expected))
        for found in both:
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


@jax.jit
def drawn_from_the_class(sde, keys):
    score = classifier_guided(DATA.score_fn(sde), posterior(sde))
    return ProbabilityFlowODE()(keys, sde, score, (2,))


def test_weight_1_draws_from_the_class(sde):
    """Means and standard deviations within four standard errors, by the unconditional score and a classifier."""
    n = 2000
    found = np.asarray(drawn_from_the_class(sde, keys(n, 1)))
    mean, std = np.asarray(DATA.means[CLASS]), np.asarray(DATA.stds[CLASS])
    # What is left at t_max of the class's mean, which the prior does not know of, comes on top.
    left = np.asarray(sde.alpha(sde.t_max) / sde.prior_std())
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=np.max(4 * std / np.sqrt(n) + left * std))
    np.testing.assert_allclose(found.std(axis=0), std, rtol=4 / np.sqrt(2 * n) + 2 * left**2)


def model(guidance=None):
    """A network of the exact scores: cond [B] tells the class, and 3, or None, tells none."""
    sde = VP()

    def network(params, x, c_noise, cond=None, key=None, train=False):
        scores = [GIVEN.score_fn(sde)(x, c_noise), DATA.score_fn(sde)(x, c_noise)]
        told = jnp.full(len(x), 3) if cond is None else cond
        return jnp.where((told == CLASS)[:, None], *scores)

    return ScoreModel(
        sde=sde,
        parameterization=PlainScore(c_noise=ScaledTime(scale=1.0)),
        params={},
        network=network,
        sampler=Sampler(solver=DDIM(), num_steps=20),
        shape=(2,),
        likelihood=Likelihood(solver=Fixed(num_steps=2)),
        guidance=guidance,
    )


def test_samples_of_a_model():
    """0 is unconditional, 1 conditional, 2 neither; without a cond there is nothing to guide toward."""
    key, cond = jax.random.key(2), jnp.full(6, CLASS)
    plain, free = model().sample(key, 6, cond), model().sample(key, 6)
    assert np.max(np.abs(plain - free)) > 0.1
    np.testing.assert_allclose(model(1.0).sample(key, 6, cond), plain, atol=1e-8)
    np.testing.assert_allclose(model(0.0).sample(key, 6, cond), free, atol=1e-8)
    np.testing.assert_array_equal(model(2.0).sample(key, 6), free)
    guided = model(2.0).sample(key, 6, cond)
    assert np.max(np.abs(guided - plain)) > 0.05
    x, t = jnp.asarray(guided), jnp.full(6, 0.3)
    both = [model().score(x, t, c) for c in (cond, None)]
    np.testing.assert_allclose(model(2.0).score_given(cond)(x, t), 2 * both[0] - both[1], rtol=1e-9)


def test_likelihoods_are_not_guided():
    x, cond, key = np.asarray(DATA.means), jnp.full(3, CLASS), jax.random.key(3)
    for of in (
        lambda m: m.log_prob(key, x, cond).value,
        lambda m: m.encode(x, cond),
        lambda m: m.decode(jnp.asarray(x), cond=cond),
        lambda m: m.bits_per_dim(key, x, step=0.1, cond=cond),
        lambda m: m.elbo(key, x, 4, cond=cond).value,
    ):
        np.testing.assert_array_equal(of(model(2.0)), of(model()))


# Several conditions


def score_of(cond):
    """∇ of log N(x; a + b, 1): a and b are 0 where the condition is left out."""
    shift = sum(value for value in cond.values() if value is not None)
    return lambda x, t: shift - x


def test_each_condition_has_its_own_weight():
    """(3): s(∅) = −x, the first adds w_a a, the second w_b b, so the guided mean is w_a a + w_b b."""
    x, t = jnp.linspace(-1, 1, 6).reshape(3, 2), jnp.full(3, 0.5)
    cond = {"b": jnp.full((3, 2), 2.0), "a": jnp.full((3, 2), -1.0)}
    guided = guided_by_each(score_of, cond, {"a": 3.0, "b": 0.5})
    np.testing.assert_allclose(guided(x, t), -3 + 1 - x, rtol=1e-6)
    whole = guided_by_each(score_of, cond, {"a": 1.0, "b": 1.0})(x, t)
    np.testing.assert_allclose(whole, score_of(cond)(x, t), rtol=1e-6)
    none = guided_by_each(score_of, cond, {"a": 0.0, "b": 0.0})(x, t)
    np.testing.assert_allclose(none, -x, rtol=1e-6)
    with pytest.raises(ValueError, match="guidance: expected a scale for each of a, b, got a"):
        guided_by_each(score_of, cond, {"a": 1.0})


def test_a_later_condition_is_added_to_the_earlier_ones():
    """Where scores do not add up, the order of names decides: s(a, b) − s(a), not s(b) − s(∅)."""

    def product(cond):
        a, b = (1.0 if cond[name] is None else cond[name] for name in ("a", "b"))
        return lambda x, t: a * b * x

    x = jnp.ones((2, 1))
    guided = guided_by_each(product, {"a": 3.0, "b": 5.0}, {"a": 1.0, "b": 2.0})(x, jnp.ones(2))
    np.testing.assert_allclose(guided, 1 + (3 - 1) + 2 * (15 - 3))


def test_guidance_in_an_interval_of_noise_levels():
    """Exactly one of the two scores at each t, alone and by row; a solver, too, takes both under a loop."""
    sde, plain = VP(), GIVEN.score_fn(VP())
    guided = classifier_free(plain, DATA.score_fn(sde), 3.0)
    level = lambda t: float(sde.sigma(t) / sde.alpha(t))  # noqa: E731
    score = in_interval(guided, plain, sde, low=level(0.2), high=level(0.6))
    x, times = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2))), jnp.asarray([0.1, 0.2, 0.4, 0.6, 0.7])
    for t in times:
        expected = guided if 0.2 <= t <= 0.6 else plain
        np.testing.assert_allclose(score(x, t), expected(x, t), rtol=1e-12)
    rows = [(guided if 0.2 <= t <= 0.6 else plain)(x[i : i + 1], t)[0] for i, t in enumerate(times)]
    np.testing.assert_allclose(score(x, times), np.stack(rows), rtol=1e-12)
    sampler = Sampler(solver=DDIM(), num_steps=5)
    with_all, with_none = (
        sampler(keys(3), sde, in_interval(guided, plain, sde, *limits), (2,)) for limits in ((0.0,), (0.0, 0.0))
    )
    np.testing.assert_allclose(with_all, sampler(keys(3), sde, guided, (2,)), rtol=1e-9)
    np.testing.assert_allclose(with_none, sampler(keys(3), sde, plain, (2,)), rtol=1e-9)
    with pytest.raises(ValueError, match="in_interval"):
        in_interval(guided, plain, sde, low=2.0, high=1.0)
