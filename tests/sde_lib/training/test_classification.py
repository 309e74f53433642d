"""Classification of noisy data against a mixture, whose posterior p_t(c | x) is known: entropy, scores, samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    VE,
    VP,
    ByClassifier,
    GaussianMixture,
    NoisyClassification,
    NoisyClassifier,
    PlainScore,
    ProbabilityFlowODE,
    ScaledTime,
    UniformTime,
    frozen_state,
    gaussian,
)
from sde_lib.training import AppliedNetwork
from sde_lib.training.classification import log_prob
from tests.helpers import keys

pytestmark = pytest.mark.usefixtures("usual_promotion")

LINE = GaussianMixture(means=jnp.asarray([[-1.0], [0.4], [1.2]]), stds=jnp.full((3, 1), 0.3), weights=(0.5, 0.2, 0.3))
PLANE = GaussianMixture(
    means=jnp.asarray([[-0.8, 0.5], [0.3, -0.4], [0.9, 0.9]]),
    stds=jnp.asarray([[0.3, 0.2], [0.25, 0.4], [0.2, 0.3]]),
    weights=jnp.asarray([0.5, 0.2, 0.3]),
)
AT_TIME = PlainScore(c_noise=ScaledTime())  # c_in = 1 and c_noise = t


def components(data):
    return [gaussian(mean, std) for mean, std in zip(data.means, data.stds, strict=True)]


def exact_logits(data, sde):
    """log w_c + log p_t(x | c): the logits of p_t(c | x), as a network with no parameters; c_noise is t."""

    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        each = [one.marginal_log_prob(sde, x, c_noise) for one in components(data)]
        return jnp.stack(each, axis=1) + jnp.log(data.weights)[None]

    return network


def exact_classifier(data, sde):
    return NoisyClassifier(sde=sde, parameterization=AT_TIME, params={}, network=exact_logits(data, sde))


def entropy(data, sde, t):
    """H(c | x_t) of a mixture on the line, by quadrature."""
    x = jnp.linspace(-12, 12, 20001)[:, None]
    joint = exact_logits(data, sde)({}, x, jnp.full(len(x), t))
    posterior = jax.nn.log_softmax(joint)
    return float(-jnp.sum(jnp.exp(joint) * posterior) * (x[1, 0] - x[0, 0]))


def objective(sde):
    return NoisyClassification(sde=sde, parameterization=AT_TIME, time_distribution=UniformTime())


def labelled(n, data=LINE):
    label = jax.random.categorical(jax.random.key(5), jnp.log(data.weights), shape=(n,))
    x0 = data.means[label] + data.stds[label] * jax.random.normal(jax.random.key(6), (n, data.means.shape[1]))
    return {"x": x0, "label": label}


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6])
def test_the_loss_of_the_exact_classifier_is_the_conditional_entropy(t):
    """Within four standard errors; its accuracy is E max_c p(c | x); a wrong classifier has a larger loss."""
    sde, n = VP(), 20_000
    batch, state = labelled(n), frozen_state(jax.random.key(0), {})
    network = AppliedNetwork(params={}, network=exact_logits(LINE, sde))
    arguments = (keys(n, 2), jnp.full(n, t))
    losses = np.asarray(jax.jit(lambda: objective(sde)(*arguments, network, batch, state))())
    expected = entropy(LINE, sde, t)
    assert abs(losses.mean() - expected) < 4 * losses.std() / np.sqrt(n)
    worse = AppliedNetwork(params={}, network=lambda *a, **k: 2.0 * exact_logits(LINE, sde)(*a, **k))
    assert np.mean(objective(sde)(*arguments, worse, batch, state)) > expected + 0.01
    accuracy = objective(sde).figures()["accuracy"]
    hits = np.asarray(accuracy(*arguments, network, batch, state))
    assert set(np.unique(hits)) == {0.0, 1.0}
    x = jnp.linspace(-12, 12, 20001)[:, None]
    joint = jnp.exp(exact_logits(LINE, sde)({}, x, jnp.full(len(x), t)))
    best = float(jnp.sum(jnp.max(joint, axis=1)) * (x[1, 0] - x[0, 0]))
    assert abs(hits.mean() - best) < 4 * np.sqrt(best * (1 - best) / n)


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=20.0)], ids=["vp", "ve"])
def test_the_guided_score_is_that_of_the_component(sde):
    """s + ∇log p_t(c | x) = ∇log p_t(x | c) for each row's own c, by the whole path: logits, softmax, gradient."""
    x = sde.prior_std() * jax.random.normal(jax.random.key(1), (6, 2))
    labels, scores = jnp.arange(6) % 3, PLANE.score_fn(sde)
    guidance = ByClassifier(classifier=exact_classifier(PLANE, sde))
    guided = jax.jit(lambda x, t: guidance(lambda cond: scores, labels)(x, t))
    for share in (0.05, 0.4, 1.0):
        t = jnp.full(6, sde.t_min + share * (sde.t_max - sde.t_min))
        each = jnp.stack([one.score_fn(sde)(x, t) for one in components(PLANE)])
        expected = each[labels, jnp.arange(6)]
        np.testing.assert_allclose(guided(x, t), expected, atol=1e-5 * float(jnp.max(jnp.abs(expected))))


def test_samples_guided_at_scale_1_are_the_component_s():
    """Three components in one batch: means and deviations within four standard errors, as of the components' own."""
    sde, n = VP(), 3000
    labels, scores = jnp.arange(n) % 3, PLANE.score_fn(sde)
    guidance = ByClassifier(classifier=exact_classifier(PLANE, sde))
    draw = jax.jit(lambda keys: ProbabilityFlowODE()(keys, sde, guidance(lambda cond: scores, labels), (2,)))
    found, left = np.asarray(draw(keys(n, 1))), float(sde.alpha(sde.t_max))
    for c in range(3):
        x, mean, std = found[c::3], np.asarray(PLANE.means[c]), np.asarray(PLANE.stds[c])
        np.testing.assert_allclose(x.mean(axis=0), mean, atol=np.max(4 * std / np.sqrt(n / 3) + left * std))
        np.testing.assert_allclose(x.std(axis=0), std, rtol=4 / np.sqrt(2 * n / 3) + 2 * left**2)


def test_the_label_of_no_class_is_not_guided():
    sde, x = VP(), jax.random.normal(jax.random.key(1), (2, 2))
    found = log_prob(lambda x, c: exact_logits(PLANE, sde)({}, x, c), sde, AT_TIME, jnp.asarray([3, 1]))
    gradient = jax.grad(lambda x: jnp.sum(found(x, jnp.full(2, 0.3))))(x)
    assert np.all(gradient[0] == 0) and np.all(gradient[1] != 0)


def test_probabilities_sum_to_1():
    x = jax.random.normal(jax.random.key(1), (4, 2))
    p = exact_classifier(PLANE, VP()).probabilities(x, jnp.asarray(0.3))
    assert p.shape == (4, 3)
    np.testing.assert_allclose(jnp.sum(p, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("batch", [{}, {"label": np.zeros(4)}, {"cond": {"T": np.zeros(4)}}])
def test_a_batch_without_labels_is_refused(batch):
    network, state = AppliedNetwork(params={}, network=exact_logits(LINE, VP())), frozen_state(jax.random.key(0), {})
    arguments = (keys(4), jnp.full(4, 0.3), network, {"x": jnp.zeros((4, 1)), **batch}, state)
    with pytest.raises(ValueError, match="a classifier requires integer labels"):
        objective(VP())(*arguments)


def test_labels_next_to_other_conditions():
    """In a dict, or in a pair with a vector: the same losses."""
    sde, batch = VP(), labelled(8)
    network, state = AppliedNetwork(params={}, network=exact_logits(LINE, sde)), frozen_state(jax.random.key(0), {})
    one, t = objective(sde), jnp.full(8, 0.3)
    expected = one(keys(8), t, network, batch, state)
    for cond in ({"label": batch["label"], "T": jnp.zeros(8)}, (batch["label"], jnp.zeros((8, 2)))):
        np.testing.assert_array_equal(one(keys(8), t, network, {"x": batch["x"], "cond": cond}, state), expected)
