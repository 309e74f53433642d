"""The law of samples after N steps, computed as a product of 27 × 27 or 64 × 64 matrices, against the data's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.discrete import (
    AncestralTokens,
    AnyOrder,
    CorrectedTokens,
    EulerTokens,
    Gibbs,
    MaskedProcess,
    TokenSampler,
    UniformProcess,
    cosine_times,
)
from sde_lib.discrete.solvers import draw
from sde_lib.noise import sample_keys
from tests.sde_lib.discrete.enumerated import (
    SEQUENCES,
    START,
    L,
    P,
    V,
    all_states,
    exact_reverse,
    marginal,
    step_matrix,
    total_variation,
)

MASKED, UNIFORM = MaskedProcess(num_tokens=V), UniformProcess(num_tokens=V)
PROCESSES = {"masked": MASKED, "uniform": UNIFORM}


def log_law(solver, process, reverse, x, t, s):
    """log p(x_s^i | x_t = x), as the solver draws it."""
    if isinstance(solver, AncestralTokens):
        return reverse.log_posterior(x, t, s)
    return jnp.log(solver.probabilities(x, t, s, process, reverse))


def law_after(solver, process, num_steps, length=L, **data):
    """The law of the samples, over the sequences of tokens."""
    states = all_states(process, length)
    x, reverse = jnp.asarray(states), exact_reverse(process, **data)
    times = TokenSampler(num_steps=num_steps).times(process)
    laws = {
        one: jax.jit(lambda t, s, one=one: log_law(one, process, reverse, x, t, s))
        for one in (solver, AncestralTokens())
    }
    p = np.prod(np.asarray(process.stationary())[states], axis=1)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        with np.errstate(divide="ignore"):
            p = p @ step_matrix(laws[AncestralTokens() if k == num_steps - 1 else solver](t, s), states)
    tokens = np.all(states < V, axis=1)
    np.testing.assert_allclose(p[tokens].sum(), 1.0, atol=1e-9)
    return p[tokens]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", [AncestralTokens(), EulerTokens()])
def test_the_law_of_the_samples_tends_to_the_data_at_order_one(name, solver):
    far = [total_variation(law_after(solver, PROCESSES[name], n), P) for n in (64, 128, 256)]
    orders = np.log2(far[0] / far[1]), np.log2(far[1] / far[2])
    assert far[0] < 0.02 and abs(orders[0] - 1) < 0.06 and abs(orders[1] - 1) < 0.03, (far, orders)


@pytest.mark.parametrize("name", PROCESSES)
def test_for_one_token_the_ancestral_step_is_exact_at_any_number_and_eulers_is_not(name):
    one = dict(p=START, sequences=np.arange(V)[:, None])
    process = PROCESSES[name].replace(t_max=1.0)
    for n in (1, 2, 7):
        law = law_after(AncestralTokens(), process, n, length=1, **one)
        np.testing.assert_allclose(law, START, atol=1e-11)
    far = total_variation(law_after(EulerTokens(), UNIFORM, 7, length=1, **one), START)
    assert far > 1e-5


def gibbs_matrix(states, log_ratios):
    """The mean over positions of a draw from p_t(x^i = y | the others)."""
    ratios, kernel = np.exp(np.asarray(log_ratios)), np.zeros((len(states), len(states)))
    for i in range(L):
        law = ratios[:, i] / ratios[:, i].sum(-1, keepdims=True)
        others = np.all((states[:, None] == states[None])[..., np.arange(L) != i], axis=-1)
        kernel += others * law[:, states[:, i]] / L
    return kernel


def test_a_gibbs_step_leaves_every_marginal_as_it_is_and_corrects():
    states, reverse = all_states(UNIFORM), exact_reverse(UNIFORM)
    log_ratios = jax.jit(lambda t: reverse.log_ratios(jnp.asarray(states), t))
    for t in (0.05, 0.5, 0.95):
        p, kernel = marginal(UNIFORM, t), gibbs_matrix(states, log_ratios(t))
        np.testing.assert_allclose(p @ kernel, p, atol=1e-14)
        wrong = np.roll(p, 1)
        distances = [total_variation(wrong @ np.linalg.matrix_power(kernel, k), p) for k in (0, 1, 60)]
        assert distances[1] < distances[0] and distances[2] < 1e-2


def test_gibbs_draws_have_the_law_of_its_matrix():
    start, n, t = np.array([0, 2, 1]), 30_000, 0.5
    keys, reverse = sample_keys(jax.random.key(7), jnp.arange(n)), exact_reverse(UNIFORM)
    rows = jnp.tile(jnp.asarray(start), (n, 1))
    x = jax.jit(lambda keys: Gibbs().correct(keys, rows, t, UNIFORM, reverse))(keys)
    kernel = gibbs_matrix(SEQUENCES, reverse.log_ratios(jnp.asarray(SEQUENCES), t))
    assert_distributed(x, kernel[np.flatnonzero(np.all(start == SEQUENCES, axis=1))[0]])


def frequencies(x):
    place = {tuple(row): k for k, row in enumerate(SEQUENCES)}
    return np.bincount([place[tuple(row)] for row in np.asarray(x)], minlength=len(P)) / len(x)


def drawn(sampler, process, n=30_000, seed=0, **options):
    keys = sample_keys(jax.random.key(seed), jnp.arange(n))
    reverse = exact_reverse(process)
    return jax.jit(lambda keys: sampler.with_nfe(keys, process, reverse, (L,), **options)[0])(keys)


def assert_distributed(x, p, sigmas=4.5):
    found, error = frequencies(x), np.sqrt(p * (1 - p) / len(x))
    assert np.all(np.abs(found - p) < sigmas * error + 1e-12), np.max(np.abs(found - p) / np.maximum(error, 1e-12))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", [AncestralTokens(), pytest.param(EulerTokens(), marks=pytest.mark.slow)])
def test_samples_have_the_law_of_the_matrices(name, solver):
    x = drawn(TokenSampler(solver=solver, num_steps=4), PROCESSES[name])
    law = law_after(solver, PROCESSES[name], 4)
    assert total_variation(law, P) > 0.02
    assert_distributed(x, law)


@pytest.mark.parametrize("num_steps", [L, pytest.param(2 * L, marks=pytest.mark.slow)])
def test_any_order_is_exact_with_one_token_per_step(num_steps):
    assert_distributed(drawn(TokenSampler(solver=AnyOrder(), num_steps=num_steps), MASKED), P)


@pytest.mark.slow
def test_corrections_take_place_before_the_step():
    """With one step, at t_max, where the prior is invariant: the law is that of the step alone."""
    solver = CorrectedTokens(steps=2)
    x = drawn(TokenSampler(solver=solver, num_steps=2), UNIFORM)
    assert total_variation(frequencies(x), law_after(AncestralTokens(), UNIFORM, 2)) < 0.02


@pytest.mark.parametrize("num_steps", [3, pytest.param(32, marks=pytest.mark.slow)])
def test_infilling_tends_to_the_conditional_law(num_steps):
    """p(x_0, x_2 | x_1 = 2), with the middle token given: exactly in any order, nearly by 32 ancestral steps."""
    p = np.where(SEQUENCES[:, 1] == 2, P, 0.0) / P[SEQUENCES[:, 1] == 2].sum()
    known = jnp.tile(jnp.asarray([-1, 2, -1]), (30_000, 1))
    solver = AnyOrder() if num_steps == 3 else AncestralTokens()
    x = drawn(TokenSampler(solver=solver, num_steps=num_steps), MASKED, known=known)
    assert np.all(np.asarray(x)[:, 1] == 2)
    assert_distributed(x, p, sigmas=5.5)


@pytest.mark.slow
def test_infilling_of_the_uniform_process_keeps_what_is_known():
    x = drawn(TokenSampler(num_steps=8), UNIFORM, n=500, known=jnp.tile(jnp.asarray([-1, 2, 0]), (500, 1)))
    assert np.all(np.asarray(x)[:, 1:] == np.array([[2, 0]])) and len(np.unique(np.asarray(x)[:, 0])) == V


def test_sample_i_is_a_function_of_its_key():
    sampler, reverse = TokenSampler(num_steps=5, grid=cosine_times), exact_reverse(MASKED)
    keys = sample_keys(jax.random.key(1), jnp.arange(9))
    program = jax.jit(lambda keys: sampler.with_nfe(keys, MASKED, reverse, (L,)))
    whole, nfe = program(keys)
    np.testing.assert_array_equal(program(jnp.tile(keys[3:5], 5)[:9])[0][:2], whole[3:5])
    assert whole.shape == (9, L) and sampler.nfe == 5 and np.all(np.asarray(nfe) == 5)
    assert CorrectedTokens(steps=3).nfe == 4


def test_a_solver_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="AnyOrder requires mask, which UniformProcess lacks"):
        TokenSampler(solver=AnyOrder()).check(UNIFORM)
    with pytest.raises(TypeError, match="CorrectedTokens requires all_ratios, which MaskedProcess lacks"):
        TokenSampler(solver=CorrectedTokens(corrector=Gibbs(count=2))).check(MASKED)


def rare_events(sampler, probability, n, seed=0):
    """How many of n events of this probability each, in float32, are drawn."""
    size = 2**12
    logits = jnp.log(jnp.asarray([[1.0, probability]], jnp.float32))

    def count(_, k):
        keys = sample_keys(jax.random.key(seed), k * 16 + jnp.arange(16))
        return None, jnp.sum(sampler(keys, jnp.broadcast_to(logits[None], (16, size, 2))))

    return int(jnp.sum(jax.jit(lambda: jax.lax.scan(count, None, jnp.arange(n // (16 * size))))()[1]))


@pytest.mark.slow
def test_rare_events_are_drawn_as_often_as_they_should_be():
    """Of probability 3e-8, where float32's default draws none: 24 are expected in 8e8."""
    n = 2**29 + 2**28
    low = lambda keys, logits: jax.vmap(jax.random.categorical)(keys, logits)  # noqa: E731
    expected = 3e-8 * n
    assert abs(rare_events(draw, 3e-8, n) - expected) < 4 * np.sqrt(expected)
    assert rare_events(low, 3e-8, n) < expected - 3 * np.sqrt(expected)


def test_an_event_of_probability_3e_8_is_drawn_in_float32():
    """Seed 322 has one among 2^18 draws; the default mode has none for any seed, as its largest noise is 15.94."""
    logits = jnp.log(jnp.asarray([1.0, 3e-8], jnp.float32))
    keys = sample_keys(jax.random.key(322), jnp.arange(1))
    assert jnp.sum(draw(keys, jnp.broadcast_to(logits[None, None], (1, 2**18, 2)))) == 1
