"""The processes: kernels, ratios and posteriors against sums over all sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.discrete import MaskedProcess, PredictRatios, UniformProcess, cosine, make_reverse
from sde_lib.noise import sample_keys
from tests.sde_lib.discrete.enumerated import L, V, all_states, exact_reverse, marginal

PROCESSES = {
    "masked": MaskedProcess(num_tokens=V),
    "masked cosine": MaskedProcess(num_tokens=V, schedule=cosine),
    "uniform": UniformProcess(num_tokens=V),
    "uniform cosine": UniformProcess(num_tokens=V, schedule=cosine),
}
each_process = pytest.mark.parametrize(
    "process",
    [pytest.param(p, id=n, marks=[pytest.mark.slow] if "cosine" in n else []) for n, p in PROCESSES.items()],
)


@each_process
def test_the_rate_is_that_of_the_kernel(process):
    """Kolmogorov's equation: d/dt [α δ + ρ π] = β (π − [α δ + ρ π])."""
    t, h = 0.37, 1e-5
    kernel = lambda t: process.alpha(t) * jnp.eye(process.num_states) + process.redrawn(t) * process.stationary()[None]  # noqa: E731
    slope = (kernel(t + h) - kernel(t - h)) / (2 * h)
    np.testing.assert_allclose(slope, process.rate(t) * (process.stationary()[None] - kernel(t)), atol=1e-9)


@each_process
def test_transitions_compose_to_the_kernel(process):
    s, t = 0.2, 0.7
    y = jnp.arange(process.num_states)[None]
    ts = np.exp(process.log_transition(y, t, s))[0].T  # rows: the state at s
    kernel = lambda t: process.alpha(t) * np.eye(process.num_states) + process.redrawn(t) * process.stationary()[None]  # noqa: E731
    np.testing.assert_allclose(kernel(s) @ ts, kernel(t), atol=1e-12)


@each_process
@pytest.mark.parametrize("t", [pytest.param(1e-3, marks=pytest.mark.slow), 0.6])
def test_ratios_are_those_of_the_marginals(process, t):
    states = all_states(process)
    p = marginal(process, t)
    place, rate, pi = (
        {tuple(row): k for k, row in enumerate(states)},
        float(process.rate(t)),
        np.asarray(process.stationary()),
    )
    log_ratios = exact_reverse(process).log_ratios(jnp.asarray(states), t)
    found, rates = (np.exp(np.asarray(a)) for a in (log_ratios, process.log_rates(log_ratios, jnp.asarray(states), t)))
    for k, row in enumerate(states):
        if p[k] == 0:
            continue
        for i in range(L):
            for y in set(range(process.num_states)) - {row[i]}:
                changed = p[place[tuple(np.where(np.arange(L) == i, y, row))]]
                right = changed / p[k]
                expected_rate = rate * pi[row[i]] * right
                np.testing.assert_allclose(rates[k, i, y], expected_rate, rtol=1e-10, atol=1e-12)
                if process.num_states == V:
                    np.testing.assert_allclose(found[k, i, y], right, rtol=1e-10)
    np.testing.assert_allclose(np.take_along_axis(found, states[..., None], -1), 1.0)


@each_process
@pytest.mark.parametrize("s", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_posterior_of_one_token_is_bayes_rule(process, s):
    """p(x_s = y | x_t) = p_s(y) p(x_t | x_s = y)/p_t(x_t), for the chain's first token alone."""
    t, states = 0.6, all_states(process, 1)
    one = dict(p=np.array([0.5, 0.3, 0.2]), sequences=np.arange(V)[:, None])
    log_posterior = exact_reverse(process, **one).log_posterior(jnp.asarray(states), t, s)[:, 0]
    p_s, p_t = (marginal(process, time, **one, states=states) for time in (s, t))
    transition = np.exp(process.log_transition(jnp.asarray(states), t, s))[:, 0]
    np.testing.assert_allclose(np.exp(log_posterior), transition * p_s[None] / p_t[:, None], rtol=1e-10, atol=1e-14)


@each_process
@pytest.mark.parametrize("s", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_ratios_determine_the_posterior_as_conditionals_do(process, s):
    """(1) and (2) of `prediction`, against (6) of `processes`."""
    t, states = 0.6, jnp.asarray(all_states(process))
    exact = exact_reverse(process)
    ratios = make_reverse(lambda x, c_noise: exact.log_ratios(x, t), process, PredictRatios())
    expected, found = (np.exp(reverse.log_posterior(states, t, s)) for reverse in (exact, ratios))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_small_conditional_keeps_its_digits_in_float32():
    """p(x_0 = y | x_t) is q_y itself, here 1e-11, though m = ρ/V is 3e-4."""
    log_q = jnp.log(jnp.asarray([[[1e-11, 1 - 2e-11, 1e-11]]], jnp.float32))
    log_p = UniformProcess(num_tokens=V).log_posterior(log_q, jnp.asarray([[1]]), 1e-3, 0.0)
    np.testing.assert_allclose(jax.nn.log_softmax(log_p), log_q, rtol=1e-5)


@each_process
def test_perturbed_tokens_have_the_kernels_law(process):
    n, t = 40_000, 0.45
    keys = sample_keys(jax.random.key(1), jnp.arange(n))
    x = np.asarray(process.perturb(keys, jnp.full((n, 2), 1), t))
    counts = np.stack([np.bincount(x[:, i], minlength=process.num_states) / n for i in range(2)])
    law = float(process.alpha(t)) * np.eye(process.num_states)[1] + float(process.redrawn(t)) * np.asarray(
        process.stationary()
    )
    assert np.all(np.abs(counts - law) < 4.5 * np.sqrt(law * (1 - law) / n) + 1e-12)
    both = np.mean((x[:, 0] == 1) & (x[:, 1] == 1))
    assert abs(both - law[1] ** 2) < 4.5 * np.sqrt(law[1] ** 2 / n)


@each_process
def test_no_output_is_exact_for_independent_tokens_of_equal_probability(process):
    """(7) with F = 0: by Bayes' rule, p(x_0 = v | x_t) ∝ p(x_t | x_0 = v)."""
    x, t = jnp.arange(process.num_states)[None], 0.3
    found = np.exp(process.log_conditionals(jnp.zeros((1, process.num_states, V)), x, t))[0]
    kernel = float(process.alpha(t)) * np.eye(V, process.num_states)
    kernel = (kernel + float(process.redrawn(t)) * np.asarray(process.stationary())[None]).T
    np.testing.assert_allclose(found, kernel / kernel.sum(1, keepdims=True), rtol=1e-12)


def test_invalid_processes():
    with pytest.raises(ValueError, match="MaskedProcess: expected t_max = 1 and schedule"):
        MaskedProcess(num_tokens=3, t_max=0.9)
    with pytest.raises(ValueError, match="num_tokens"):
        UniformProcess(num_tokens=1)


def test_a_network_of_another_size_is_refused():
    process = MaskedProcess(num_tokens=V)
    reverse = make_reverse(lambda x, c: jnp.zeros((*x.shape, V)), process, PredictRatios())
    with pytest.raises(ValueError, match=r"PredictRatios of MaskedProcess: expected a network output of shape"):
        reverse.log_ratios(jnp.zeros((2, L), int), 0.5)
