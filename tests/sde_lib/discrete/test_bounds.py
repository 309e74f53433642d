"""The bounds with exact conditionals equal −log p(x) for every one of the 27 sequences."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import AppliedNetwork, frozen_state
from sde_lib.discrete import (
    MaskedDiffusion,
    MaskedProcess,
    PredictRatios,
    ScoreEntropy,
    UniformProcess,
    any_order_elbo,
    cosine,
    masked_entropy,
    score_entropy,
    token_elbo,
)
from sde_lib.noise import sample_keys
from tests.sde_lib.discrete.enumerated import SEQUENCES, L, P, V, all_states, exact_network, exact_reverse

MASKED, UNIFORM = MaskedProcess(num_tokens=V), UniformProcess(num_tokens=V)


def test_the_masked_bound_with_exact_conditionals_is_log_p_of_every_sequence():
    """(3) as a sum over all sets of masked positions, whose weights are (k − 1)! (L − k)!/L!."""
    reverse, total = exact_reverse(MASKED), np.zeros(len(P))
    for mask in itertools.product([False, True], repeat=L):
        if k := sum(mask):
            x = jnp.where(np.array(mask)[None], MASKED.mask, SEQUENCES)
            weight = math.factorial(k - 1) * math.factorial(L - k) / math.factorial(L)
            total += weight * np.asarray(masked_entropy(MASKED, reverse, jnp.asarray(SEQUENCES), x, 0.5))
    np.testing.assert_allclose(total, -np.log(P), atol=1e-12)


def integral(process, reverse, ends=(1e-8, 1 - 1e-8), nodes=100):
    """∫ E score_entropy dt for every sequence, by Gauss–Legendre in the logit of t and a sum over all x_t."""
    states = all_states(process)
    low, high = (math.log(t / (1 - t)) for t in ends)
    u, w = np.polynomial.legendre.leggauss(nodes)
    times = 1 / (1 + np.exp(-(low + (u + 1) / 2 * (high - low))))
    weights = w * (high - low) / 2 * times * (1 - times)

    @jax.jit
    def at(t):
        pairs = [jnp.repeat(jnp.asarray(SEQUENCES), len(states), 0), jnp.tile(jnp.asarray(states), (len(P), 1))]
        value = score_entropy(process, reverse, *pairs, t).reshape(len(P), -1)
        same = pairs[0] == pairs[1]
        kernel = jnp.where(same, 1 - process.redrawn(t), 0.0) + process.redrawn(t) * process.stationary()[pairs[1]]
        law = jnp.prod(kernel, axis=1).reshape(len(P), -1)
        return jnp.sum(jnp.where(law > 0, law * value, 0.0), axis=1)

    return sum(w * np.asarray(at(t)) for t, w in zip(times, weights, strict=True))


@pytest.mark.parametrize(
    "process",
    [
        MASKED,
        UNIFORM,
        *(pytest.param(p.replace(schedule=cosine), marks=pytest.mark.slow) for p in (MASKED, UNIFORM)),
    ],
)
def test_score_entropy_with_exact_conditionals_is_log_p_of_every_sequence(process):
    np.testing.assert_allclose(integral(process, exact_reverse(process)), -np.log(P), atol=1e-6)


def test_with_other_conditionals_the_bound_is_above_and_needs_its_ends():
    """For the conditionals of another chain, (1) is a bound; and its three terms are those of the definition."""
    wrong = np.roll(P, 5)
    for process in (MASKED, UNIFORM):
        reverse = exact_reverse(process, p=wrong)
        bound = integral(process, reverse)
        assert np.sum(P * bound) > -np.sum(P * np.log(P)) + 0.05
        assert np.exp(-bound).sum() < 1 + 1e-6  # a bound on log p of some distribution


def test_the_divergence_of_the_prior_is_that_of_the_kernel():
    process = UNIFORM.replace(t_max=0.8)
    kernel = 0.2 * np.eye(V)[0] + 0.8 / V
    expected = L * np.sum(kernel * np.log(kernel * V))
    np.testing.assert_allclose(process.prior_divergence(jnp.asarray(SEQUENCES)), expected, rtol=1e-12)
    assert not np.any(MASKED.prior_divergence(jnp.asarray(SEQUENCES)))


@pytest.mark.parametrize(
    "process", [UNIFORM.replace(t_min=0.2, t_max=0.6), pytest.param(MASKED.replace(t_min=0.3), marks=pytest.mark.slow)]
)
def test_the_ends_of_the_bound_account_for_all_that_is_lost(process):
    """On average over x_0, prior + integral − decoder is H(p) + KL(p_T ‖ π) + E KL(p(x_0 | x_{t_min}) ‖ Π q_i)."""
    reverse, low = exact_reverse(process), float(process.t_min)
    ends = low, float(min(process.t_max, 1 - 1e-8))
    states, kernels = kernel_of(process, low)
    joint = P[:, None] * kernels
    log_q = np.asarray(reverse.log_conditionals(jnp.asarray(states), low))
    decoder = sum(log_q[:, i][:, SEQUENCES[:, i]] for i in range(L)).T
    seen = joint > 0
    found = np.sum(
        P * (np.asarray(process.prior_divergence(jnp.asarray(SEQUENCES))) + integral(process, reverse, ends))
    )
    found -= np.sum(joint[seen] * decoder[seen])
    lost = np.sum(joint[seen] * (np.log((joint / joint.sum(0))[seen]) - decoder[seen]))
    if process is not MASKED and process.t_max < 1:
        p_T = P @ kernel_of(process, process.t_max)[1]
        lost += np.sum(p_T * np.log(p_T * V**L))
    assert lost > 1e-3
    np.testing.assert_allclose(found, lost - np.sum(P * np.log(P)), atol=1e-6)


def kernel_of(process, t):
    """All states, and p(x_t | x_0) [27, states]."""
    states = all_states(process)
    pi, rho = np.asarray(process.stationary()), float(process.redrawn(t))
    return states, np.prod((1 - rho) * (states[None] == SEQUENCES[:, None]) + rho * pi[states][None], axis=2)


def test_the_estimate_of_the_bound_is_within_its_error():
    n = 60
    x0 = jnp.asarray(np.tile(SEQUENCES, (n, 1)))
    keys = sample_keys(jax.random.key(3), jnp.arange(len(x0)))
    found = jax.jit(lambda k, x: token_elbo(k, UNIFORM, exact_reverse(UNIFORM), x, num_times=32))(keys, x0)
    value, error = (np.asarray(a).reshape(n, -1) for a in (found.value, found.error))
    np.testing.assert_allclose(np.sqrt((error**2).mean()), np.sqrt(value.var(0).mean()), rtol=0.15)
    apart = (value.mean(0) - np.log(P)) / (value.std(0) / np.sqrt(n))
    assert np.all(np.abs(apart) < 5) and abs(apart.mean()) < 4 / np.sqrt(len(P))


def test_the_any_order_estimate_is_unbiased_and_states_its_error():
    n = 200
    x0 = jnp.asarray(np.tile(SEQUENCES, (n, 1)))
    keys = sample_keys(jax.random.key(4), jnp.arange(len(x0)))
    found = jax.jit(lambda k, x: any_order_elbo(k, MASKED, exact_reverse(MASKED), x, num_sets=8))(keys, x0)
    value, error = (np.asarray(a).reshape(n, -1) for a in (found.value, found.error))
    assert np.all(np.abs(value.mean(0) - np.log(P)) < 4.5 * value.std(0) / np.sqrt(n))
    np.testing.assert_allclose(np.sqrt((error**2).mean()), np.sqrt(value.var(0).mean()), rtol=0.1)
    with pytest.raises(ValueError, match="their number must be even; got 3"):
        any_order_elbo(keys, MASKED, exact_reverse(MASKED), x0, num_sets=3)


def loss_of(objective, network, x, t, params=()):
    keys = sample_keys(jax.random.key(5), jnp.arange(len(x)))

    @jax.jit
    def loss(keys, t, params, x):
        applied = AppliedNetwork(params=params, network=network)
        return objective(keys, t, applied, {"x": x}, frozen_state(jax.random.key(0), params))

    return loss(keys, t, params, x)


@pytest.mark.parametrize("process", [MASKED, UNIFORM])
def test_the_objectives_mean_is_the_entropy_per_token_and_exact_conditionals_are_best(process):
    n = 30_000
    x = jnp.asarray(np.random.default_rng(0).choice(SEQUENCES, n, p=P))
    entropy = -np.sum(P * np.log(P)) / L
    objective = ScoreEntropy(sde=process)
    t = objective.times(jax.random.key(6), n)
    exact = exact_network(process)
    tempered = lambda factor: lambda *args, **kwargs: factor * exact(*args, **kwargs)  # noqa: E731
    losses = {f: np.asarray(loss_of(objective, tempered(f), x, t)) for f in (0.8, 1.0, 1.25)}
    assert abs(losses[1.0].mean() - entropy) < 4.5 * losses[1.0].std() / np.sqrt(n)
    for f in (0.8, 1.25):
        gap = losses[f] - losses[1.0]
        assert gap.mean() > 3 * gap.std() / np.sqrt(n)
    if process is MASKED:
        direct = loss_of(MaskedDiffusion(sde=process), exact, x, t)
        np.testing.assert_allclose(direct, losses[1.0], rtol=1e-9, atol=1e-9)


def test_score_entropy_of_a_network_of_ratios():
    """The same value for a network whose output is the log ratio, and its gradient is finite."""
    x, t = jnp.asarray(SEQUENCES), jnp.linspace(0.05, 0.95, len(SEQUENCES))
    exact = exact_reverse(UNIFORM)

    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        return exact.log_ratios(x, c_noise) + params  # of the linear schedule, ρ = t

    by_ratios = ScoreEntropy(sde=UNIFORM, parameterization=PredictRatios())
    params = jnp.zeros((1, 1, 1))
    expected = loss_of(ScoreEntropy(sde=UNIFORM), exact_network(UNIFORM), x, t)
    np.testing.assert_allclose(loss_of(by_ratios, network, x, t, params), expected, rtol=1e-9)
    for sde in (UNIFORM, MASKED):
        flat = lambda params, x, c_noise, sde=sde, **_: params * jnp.ones((*x.shape, sde.num_states))  # noqa: E731
        objective = by_ratios.replace(sde=sde)
        slope = jax.grad(lambda p, o=objective, f=flat: jnp.sum(loss_of(o, f, x, t, p)))(params)
        assert np.isfinite(slope).all()


def test_masked_diffusion_requires_a_mask():
    with pytest.raises(TypeError, match="requires a mask, which UniformProcess lacks; use ScoreEntropy"):
        MaskedDiffusion(sde=UNIFORM)


def test_row_i_is_a_function_of_row_i():
    keys, x0 = sample_keys(jax.random.key(1), jnp.arange(len(P))), jnp.asarray(SEQUENCES)
    for bound, process in ((token_elbo, UNIFORM), (any_order_elbo, MASKED)):
        program = jax.jit(lambda k, x, b=bound, p=process: b(k, p, exact_reverse(p), x, 4).value)
        others = np.r_[4:9, np.zeros(len(P) - 5, int)]
        np.testing.assert_allclose(program(keys[others], x0[others])[:5], program(keys, x0)[4:9], rtol=1e-12)
