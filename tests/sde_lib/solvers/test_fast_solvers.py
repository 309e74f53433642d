"""The fast solvers on exact scores: their orders against a fine reference, their formulas, and their moments."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from sde_lib import (
    EDM,
    VE,
    VP,
    DiagonalVP,
    GaussianMixture,
    LogSNRGrid,
    as_is,
    gaussian,
    sample,
)
from sde_lib.parameterization import eps_hat, x0_hat
from sde_lib.sde import expand, per_time
from sde_lib.solvers import DDIM, Heun, churn, exponential, multistep
from sde_lib.solvers.base import SolverState
from sde_lib.solvers.churn import EDMHeun
from sde_lib.solvers.exponential import SEEDS2, DPMSolver
from sde_lib.solvers.multistep import DEIS, DPMSolverPlusPlus, UniPC
from tests.contracts import CLOSED, FAST, FAST_FLOW, FAST_NOISY, QUICK, SDES, quickly, together
from tests.helpers import keys as keys_of

FLOW, SOLVERS = FAST_FLOW, FAST

MODES = GaussianMixture(
    means=jnp.asarray([[-1.0, 0.5], [0.8, -0.3]]),
    stds=jnp.asarray([[0.5, 0.4], [0.4, 0.6]]),
    weights=jnp.asarray([0.4, 0.6]),
)
POINTS = jnp.asarray([[0.3, -0.4], [-0.9, 1.1], [1.2, 0.2], [0.1, 0.0]])
PAIR = together({"vp": SDES["vp"], "ve": VE()})  # what `make test` runs: a smaller program than all of them
ALIKE = together({name: SDES[name] for name in CLOSED} | {"ve": VE()})
DIAGONAL = DiagonalVP(scales=np.asarray([1.0, 1.4]), speeds=np.asarray([0.8, 1.25]))
# name: (process, where its flow is followed from and to)
WAYS = {
    "vp": (PAIR["vp"], 0.7, 0.15),
    "ve": (PAIR["ve"], 0.75, 0.4),
    "subvp": (ALIKE["subvp"], 0.7, 0.2),
    "straight_line": (ALIKE["straight_line"], 0.8, 0.35),
    "vp_slow": (ALIKE["vp_slow"], 0.7, 0.15),
    "cosine": (ALIKE["cosine"], 0.75, 0.25),
    "cosine_vp": (ALIKE["cosine_vp"], 0.75, 0.25),
    "edm": (ALIKE["edm"], 3.0, 0.4),
    "ornstein_uhlenbeck": (ALIKE["ornstein_uhlenbeck"], 1.2, 0.1),
    "diagonal_vp": (DIAGONAL, 0.7, 0.15),
    "coefficients": (SDES["coefficients"], 0.75, 0.25),
    "learned": (SDES["learned"], 0.66, 0.45),
    "tabulated": (SDES["tabulated"], 0.64, 0.4),
    "discrete_vp": (SDES["discrete_vp"], 0.7, 0.15),
    "discrete_ve": (SDES["discrete_ve"], 0.75, 0.4),
}


@functools.cache
def even(name, steps):
    """Times even in the (mean) log-SNR."""
    sde, first, last = WAYS[name]
    ends = [per_time(sde.log_snr(t), t) for t in (jnp.asarray(first), jnp.asarray(last))]
    return np.asarray(sde.time_of_log_snr(jnp.linspace(*ends, steps + 1)).at[0].set(first).at[-1].set(last))


@functools.cache
def uneven(name, steps):
    """Times of a quadratic grid, uneven in every variable that a solver extrapolates in."""
    _, first, last = WAYS[name]
    return np.linspace(first**0.5, last**0.5, steps + 1) ** 2


def flow(sde, x, first, last):
    """t → x_t on the probability flow through x at `first`, by a Runge–Kutta method of order 8."""
    drift = jax.jit(lambda t, x: sde.flow_drift(x, t, MODES.score_fn(sde)(x, t)))
    solution = integrate.solve_ivp(
        lambda t, flat: np.asarray(drift(jnp.asarray(t), jnp.asarray(flat.reshape(x.shape)))).ravel(),
        (first, last),
        np.asarray(x).ravel(),
        method="DOP853",
        dense_output=True,
        rtol=1e-11,
        atol=1e-12,
    )
    return lambda t: jnp.asarray(solution.sol(float(t)).reshape(x.shape))


@functools.cache
def way(name):
    sde, first, last = WAYS[name]
    t = jnp.asarray(first)
    x = expand(sde.alpha(t), POINTS) * POINTS[::-1] + expand(sde.sigma(t), POINTS) * POINTS
    return flow(sde, x, first, last)


def primed(solver, sde, exact, times):
    """(state, times to come) once the memory is full, of exact values: a multistep solver that has begun."""
    state = solver.init(exact(times[0]))
    if state.memory is None:
        return state, times
    begun, memory = len(state.memory.values), state.memory
    for t in times[:begun]:
        t, x = jnp.asarray(t), exact(t)
        hat = eps_hat if isinstance(solver, DEIS) else x0_hat
        memory = memory.push(hat(sde, x, t, MODES.score_fn(sde)(x, t)), t)
    return SolverState(exact(times[begun]), exact(times[begun]), memory), times[begun:]


@functools.cache
def follow(name):
    """(state, times [N + 1], sde) → x at times[N]: one program for all N, the times being padded."""
    solver, keys = DDIM() if name == "ddim" else SOLVERS[name], keys_of(4)

    def program(state, times, steps, sde):
        def step(k, state):
            return solver.step(keys, state, times[k], times[k + 1], sde, MODES.score_fn(sde))

        return jax.lax.fori_loop(0, steps, step, state).x

    compiled = jax.jit(program, compiler_options=QUICK)
    return lambda state, times, sde: compiled(state, np.pad(times, (0, 129 - len(times))), len(times) - 1, sde)


@pytest.mark.parametrize(
    "name_of_sde", [pytest.param(way, marks=[] if way in ("vp", "ve") else pytest.mark.slow) for way in WAYS]
)
@pytest.mark.parametrize("name", FLOW)
def test_order_on_a_mixture(name, name_of_sde):
    """The end point's error falls as N^-order from 32 steps to 128, on steps that are even in log-SNR and on others."""
    (solver, order), (sde, _, last), exact = FLOW[name], WAYS[name_of_sde], way(name_of_sde)
    for grid in (even, uneven):
        errors = []
        for steps in (32, 128):
            x = follow(name)(*primed(solver, sde, exact, grid(name_of_sde, steps)), sde)
            errors.append(np.sqrt(np.mean((np.asarray(x) - exact(last)) ** 2)))
        rate = np.log2(errors[0] / errors[1]) / 2
        assert abs(rate - order) < 0.5, (grid.__name__, errors, rate)
        assert rate > order - 0.3, (grid.__name__, errors, rate)


@pytest.mark.parametrize("name", ["dpm++3m", "deis3", "unipc3"])
def test_the_first_step(name):
    """Without a past the first step is DDIM's, made once: its O(h²) is what is left of the third order, on a way that
    starts in the middle. UniPC corrects it, to O(h³)."""
    solver, (sde, first, last), exact = FLOW[name][0], WAYS["ve"], way("ve")
    start = solver.init(exact(first))
    errors = [np.abs(follow(name)(start, even("ve", steps), sde) - exact(last)).max() for steps in (32, 128)]
    order = 3 if name == "unipc3" else 2
    assert order - 0.2 < np.log2(errors[0] / errors[1]) / 2 < order + 1.5, errors
    ddim = run_on(DDIM(), sde, MODES.score_fn(sde), start.x, (first, last))[1].x
    np.testing.assert_allclose(follow(name)(start, np.asarray([first, last]), sde), ddim, rtol=1e-10)


@pytest.mark.parametrize(
    "name, evaluations, factor",
    [
        ("dpm++2m", 10, 3),
        pytest.param("dpm++3m", 10, 8, marks=pytest.mark.slow),
        pytest.param("unipc2", 10, 3, marks=pytest.mark.slow),
        ("unipc3", 10, 8),
        pytest.param("deis2", 10, 2, marks=pytest.mark.slow),
        pytest.param("deis3", 10, 4, marks=pytest.mark.slow),
        ("dpm3", 12, 2),
        pytest.param("dpm++2s", 24, 3, marks=pytest.mark.slow),
        pytest.param("dpm2", 24, 1.7, marks=pytest.mark.slow),
    ],
)
def test_few_steps_on_a_mixture(name, evaluations, factor):
    """From t_max to 1e-3 of VP, on steps even in log-SNR, the error is smaller than DDIM's with as many evaluations by
    this factor. Those of one evaluation a step gain most; two stages of second order pay from some twenty on."""
    solver, sde, errors = SOLVERS[name], PAIR["vp"], []
    for other, each in (("ddim", DDIM()), (name, solver)):
        times = LogSNRGrid(t_end=1e-3)(sde, evaluations // each.nfe)
        x = follow(other)(each.init(2 * POINTS), times, sde)
        errors.append(np.sqrt(np.mean((np.asarray(x) - flow_from_prior()) ** 2)))
    assert errors[0] > factor * errors[1], errors


@functools.cache
def flow_from_prior():
    return flow(PAIR["vp"], 2 * POINTS, 1.0, 1e-3)(1e-3)


LAMBDAS = np.asarray([-3.0, -2.2, -1.9, -0.8, 0.6, 0.9, 1.7])


def run_on(solver, sde, score_fn, x, times):
    """The states after each step."""
    states, keys = [solver.init(x)], keys_of(len(x))
    step = jax.jit(lambda state, t, s: solver.step(keys, state, t, s, sde, score_fn))
    for t, s in itertools.pairwise(times):
        states.append(step(states[-1], t, s))
    return states


def polynomial_data(sde, coefficients):
    """A score whose x̂₀ is a polynomial in λ, whatever x."""

    def score_fn(x, t):
        data = jnp.polyval(jnp.asarray(coefficients), 0.5 * sde.log_snr(t))
        return (sde.alpha(t) * data - x) / sde.sigma(t) ** 2

    return score_fn


@pytest.mark.parametrize("name, degree", [("dpm++3m", 2), ("unipc3", 3)])
def test_polynomials_are_integrated_exactly(name, degree):
    """Where x̂₀ is a polynomial in λ of the degree that the nodes allow, steps of any lengths are exact: two evaluations
    before the third of DPM-Solver++(3M), and UniPC's corrector one degree more."""
    sde, coefficients, x = VP(), np.asarray([0.3, -0.7, 0.4, 1.1])[-degree - 1 :], jnp.ones((2, 1))
    times = np.asarray(sde.time_of_log_snr(2 * jnp.asarray(LAMBDAS)))
    score_fn = polynomial_data(sde, coefficients)
    states = run_on(SOLVERS[name], sde, score_fn, x, times)
    stay = jax.jit(lambda state, t: SOLVERS[name].step(keys_of(2), state, t, t, sde, score_fn))

    def exact(x, t, s):
        alpha_s, sigma_s = float(sde.alpha(jnp.asarray(s))), float(sde.sigma(jnp.asarray(s)))
        low, high = (0.5 * float(sde.log_snr(jnp.asarray(u))) for u in (t, s))
        part = integrate.quad(lambda u: np.exp(u - high) * np.polyval(coefficients, u), low, high, epsabs=1e-13)[0]
        return sigma_s / float(sde.sigma(jnp.asarray(t))) * x + alpha_s * part

    for k in range(3, len(times) - 1):
        if name == "dpm++3m":
            np.testing.assert_allclose(states[k + 1].x, exact(states[k].x, times[k], times[k + 1]), rtol=1e-10)
        else:  # x at a time is corrected when the next step begins: a step that goes nowhere shows it
            here, there = (stay(states[j], times[j]).x for j in (k, k + 1))
            np.testing.assert_allclose(there, exact(here, times[k], times[k + 1]), rtol=1e-10)


def test_deis_weights_are_exact():
    """Where ε̂ is quadratic in time, the third step on of tAB-DEIS is exact, against an adaptive quadrature."""
    sde, x, times = VP(), jnp.ones((2, 1)), np.asarray([0.9, 0.8, 0.62, 0.5, 0.2, 0.05])
    states = run_on(
        DEIS(order=3), sde, lambda x, t: -(1 - 2 * t + 3 * t**2) / sde.sigma(t) * jnp.ones_like(x), x, times
    )
    level = lambda t: float(sde.sigma(jnp.asarray(t)) / sde.alpha(jnp.asarray(t)))  # noqa: E731
    for k in range(2, len(times) - 1):
        alpha_t, alpha_s = (float(sde.alpha(jnp.asarray(t))) for t in times[k : k + 2])
        ends = [level(t) * (1 - 2 * t + 3 * t**2) for t in times[k : k + 2]]
        moved = integrate.quad(lambda t: level(t) * (6 * t - 2), times[k], times[k + 1], epsabs=1e-13)[0]  # by parts
        expected = alpha_s * (states[k].x / alpha_t + ends[1] - ends[0] - moved)
        np.testing.assert_allclose(states[k + 1].x, expected, rtol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_two_steps_of_2m_by_formula(tau):
    """Lu et al. 2022b, algorithm 2, and SDE-DPM-Solver++(2M), written out; the noise is σ_s √(1 − e^{−2h}) z."""
    sde, x, times, score_fn = VP(), POINTS, np.asarray([0.7, 0.5, 0.36]), MODES.score_fn(VP())
    _, first, second = run_on(DPMSolverPlusPlus(tau=tau), sde, score_fn, x, times)
    a, v = ([float(f(jnp.asarray(t))) for t in times] for f in (sde.alpha, sde.sigma))
    before, last = np.diff(np.log(a) - np.log(v))
    data = [
        (np.asarray(y) + v[k] ** 2 * np.asarray(score_fn(y, jnp.asarray(times[k])))) / a[k]
        for k, y in ((0, x), (1, first.x))
    ]
    blend = (1 + last / (2 * before)) * data[1] - last / (2 * before) * data[0]
    share = 1 - np.exp(-(1 + tau) * last)
    mean = v[2] / v[1] * np.exp(-tau * last) * np.asarray(first.x) + a[2] * share * blend
    z = np.asarray(exponential.normal_like(keys_of(4), x))
    np.testing.assert_allclose(second.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(second.x, mean + tau * v[2] * np.sqrt(1 - np.exp(-2 * last)) * z, rtol=1e-10)


def test_dpm_solver_steps_by_formula():
    """Lu et al. 2022a, algorithms 1 and 2, with r of ½ and of ⅓ and ⅔."""
    sde, x, t, s, score_fn = VP(), POINTS, 0.6, 0.45, MODES.score_fn(VP())
    low, high = (0.5 * float(sde.log_snr(jnp.asarray(u))) for u in (t, s))
    h = high - low

    def at(fraction):
        u = sde.time_of_log_snr(jnp.asarray(2 * (low + fraction * h)))
        return u, float(sde.alpha(u)) / float(sde.alpha(jnp.asarray(t))), float(sde.sigma(u))

    def eps(x, u):
        return -float(sde.sigma(u)) * np.asarray(score_fn(jnp.asarray(x), u))

    def step(solver):
        return solver.step(keys_of(4), solver.init(x), jnp.asarray(t), jnp.asarray(s), sde, score_fn).x

    e, ((u, ratio, sigma), (_, ratio_s, sigma_s)) = eps(x, jnp.asarray(t)), (at(0.5), at(1.0))
    middle = ratio * x - sigma * np.expm1(h / 2) * e
    np.testing.assert_allclose(step(DPMSolver()), ratio_s * x - sigma_s * np.expm1(h) * eps(middle, u), rtol=1e-9)

    (u, ratio, sigma), (v, ratio_v, sigma_v) = at(1 / 3), at(2 / 3)
    first = eps(ratio * x - sigma * np.expm1(h / 3) * e, u) - e
    bend = np.expm1(2 * h / 3) / (2 * h / 3) - 1
    second = eps(ratio_v * x - sigma_v * np.expm1(2 * h / 3) * e - sigma_v * 2 * bend * first, v) - e
    expected = ratio_s * x - sigma_s * np.expm1(h) * e - 1.5 * sigma_s * (np.expm1(h) / h - 1) * second
    np.testing.assert_allclose(step(DPMSolver(order=3)), expected, rtol=1e-9)


def test_edm_without_churn_is_heun_in_the_noise_level():
    """Exactly `Heun` of the EDM process, whose time is the noise level; and the same for VP through x/α."""
    sde, x, times = EDM(), 3.0 * POINTS, jnp.asarray([3.0, 1.4, 0.6, 0.3])
    runs = [sample(keys_of(4), solver, sde, MODES.score_fn(sde), x, times, as_is) for solver in (EDMHeun(), Heun())]
    np.testing.assert_allclose(*runs, rtol=1e-10)
    vp = VP()
    vp_times = vp.time_of_log_snr(-2 * jnp.log(times))
    vp_run = sample(
        keys_of(4), EDMHeun(), vp, MODES.score_fn(vp), expand(vp.alpha(vp_times[0]), x) * x, vp_times, as_is
    )
    np.testing.assert_allclose(vp_run / vp.alpha(vp_times[-1]), runs[1], rtol=1e-9)


def test_churn_by_formula():
    """Karras et al. 2022, algorithm 2: γ up to √2 − 1, only between S_tmin and S_tmax, no farther back than t_max."""
    sde, x, s, score_fn = EDM(t_max=10.0), POINTS, 1.0, MODES.score_fn(EDM())
    z = np.asarray(churn.normal_like(keys_of(4), x))

    def step(t, s, **arguments):
        solver = EDMHeun(**arguments)
        return solver.step(keys_of(4), solver.init(x), jnp.asarray(t), jnp.asarray(s), sde, score_fn).x

    def expected(t, back, scale=1.0):
        start = jnp.asarray(x + scale * np.sqrt(back**2 - t**2) * z)
        heun = Heun()
        return heun.step(keys_of(4), heun.init(start), jnp.asarray(back), jnp.asarray(s), sde, score_fn).x

    np.testing.assert_allclose(step(2.0, s, gamma=0.1), expected(2.0, 2.2), rtol=1e-9)
    np.testing.assert_allclose(step(2.0, s, gamma=0.1, S_noise=1.01), expected(2.0, 2.2, 1.01), rtol=1e-9)
    np.testing.assert_allclose(step(2.0, s, gamma=5.0), expected(2.0, 2.0 * np.sqrt(2)), rtol=1e-9)
    np.testing.assert_allclose(step(9.0, s, gamma=0.4), expected(9.0, 10.0), rtol=1e-9)
    for limits in ({"S_tmin": 2.1}, {"S_tmax": 1.9}):
        np.testing.assert_allclose(step(2.0, s, gamma=0.1, **limits), expected(2.0, 2.0), rtol=1e-9)


def end_moments(solver_of, sde, data, grid, counts, monkeypatch):
    """Mean and variance of x at the grid's end for each number of steps, without sampling error.

    On a Gaussian in one dimension a step is affine in x, in the values of its memory and in its normal draws, which are
    handed in here: so the moments of (x, memory) go through it by its Jacobian.
    """
    draws, empty = [], solver_of(1).init(jnp.ones((1, 1))).memory
    for module in (exponential, multistep, churn):
        monkeypatch.setattr(module, "normal_like", lambda keys, x: draws.pop(0))

    def step(solver, v, z, past, t, s):
        draws[:] = [one.reshape(1, 1) for one in z]
        x, *values = (one.reshape(1, 1) for one in v)
        memory = empty and empty._replace(values=tuple(values), times=past)
        state = solver.step(keys_of(1), SolverState(x, x, memory), t, s, sde, data.score_fn(sde))
        memory = state.memory or ((), ())
        return jnp.stack([one[0, 0] for one in (state.x, *memory[0])]), memory[1]

    @jax.jit
    def program(solver, mean, covariance, past, times, steps):
        def body(k, carry):
            mean, covariance, past = carry
            inputs = (mean, jnp.zeros(2), past, times[k], times[k + 1])
            mean, past = step(solver, *inputs)
            (a, b), _ = jax.jacfwd(step, (1, 2), has_aux=True)(solver, *inputs)
            return mean, a @ covariance @ a.T + b @ b.T, past

        return jax.lax.fori_loop(0, steps, body, (mean, covariance, past))

    values, past = empty or ((), ())
    ends = []
    for steps in counts:
        times = grid(steps)
        mean, std = (m[0] for m in moments(data, sde, times[0]))
        v = jnp.zeros(1 + len(values)).at[0].set(mean)
        covariance = jnp.zeros((len(v), len(v))).at[0, 0].set(std**2)
        padded = np.pad(times, (0, max(counts) - steps))
        mean, covariance, _ = program(solver_of(steps), v, covariance, past, padded, steps)
        ends.append((float(mean[0]), float(covariance[0, 0])))
    return ends


def moments(data, sde, t):
    """Mean and standard deviation of p_t for a single Gaussian."""
    alpha, sigma = (jnp.asarray(c).reshape(-1) for c in (sde.alpha(t), sde.sigma(t)))
    return alpha * data.means[0], jnp.sqrt((alpha * data.stds[0]) ** 2 + sigma**2)


@pytest.mark.parametrize(
    "name_of_sde",
    [pytest.param(way, marks=[] if way == "vp" else pytest.mark.slow) for way in WAYS if way != "diagonal_vp"],
)
@pytest.mark.parametrize(
    "solver_of",
    [
        lambda steps: SEEDS2(),
        lambda steps: DPMSolverPlusPlus(tau=1.0),
        lambda steps: DPMSolverPlusPlus(order=3, tau=1.0),
        lambda steps: EDMHeun(gamma=10.0 / steps),
    ],
    ids=["seeds2", "sde_dpm++2m", "sde_dpm++3m", "edm_churn"],
)
def test_order_of_the_variance(solver_of, name_of_sde, monkeypatch):
    """The error of the end's mean and variance falls as N^-2 for all of them; EDM's with gamma as 1/N."""
    sde, _, last = WAYS[name_of_sde]
    data = gaussian(jnp.asarray([0.7]), jnp.asarray([0.5]))
    exact_mean, exact_std = (float(m[0]) for m in moments(data, sde, jnp.asarray(last)))
    grid = functools.partial(even, name_of_sde)
    ends = end_moments(solver_of, sde, data, grid, (64, 128, 256), monkeypatch)
    errors = [np.hypot(mean - exact_mean, variance - exact_std**2) for mean, variance in ends]
    rates = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert np.all((rates > 1.8) & (rates < 2.5)), (errors, rates)


DIM = 4
WIDE = gaussian(jnp.linspace(-1, 1, DIM), jnp.linspace(0.3, 1.5, DIM))
FEW = ("vp", "subvp", "ve", "cosine", "edm", "straight_line")
MANY = together({name: SDES[name] for name in FEW})
MANY |= {name: pytest.param(sde, marks=pytest.mark.slow) for name, sde in SDES.items() if name not in FEW}
CHOSEN = {name: SOLVERS[name] for name in ("dpm3", "unipc3", "deis3", "edm_heun")}


@functools.partial(jax.jit, compiler_options=QUICK)
def ends_in_float32(steps, z, sde):
    """Where each solver ends that starts z standard deviations from the mean, in standard deviations from the mean."""
    data = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), WIDE)
    first, last = (sde.log_snr(jnp.asarray(t, jnp.float32)) for t in (sde.t_max, jnp.maximum(sde.t_min, 1e-3)))
    fractions = jnp.arange(1001, dtype=jnp.float32) / steps.astype(jnp.float32)
    times = sde.time_of_log_snr(first + jnp.minimum(fractions, 1.0) * (last - first))
    keys, (mean, std) = keys_of(1), (m[None] for m in moments(data, sde, times[0]))

    def body(k, states):
        t, s = times[k], times[k + 1]
        return {n: solver.step(keys, states[n], t, s, sde, data.score_fn(sde)) for n, solver in CHOSEN.items()}

    states = {n: solver.init(mean + std * z) for n, solver in CHOSEN.items()}
    mean, std = (m[None] for m in moments(data, sde, times[-1]))
    return {n: (state.x - mean) / std for n, state in jax.lax.fori_loop(0, steps, body, states).items()}


@pytest.mark.parametrize("sde", MANY.values(), ids=MANY)
def test_finite_and_converging_in_float32(sde):
    """1, 2, 5, 10 and 1000 steps, even in log-SNR, in float32: finite; and the flow of a Gaussian keeps z, to within an
    error that falls to that of float32."""
    z, errors = jnp.asarray([[0.5, -1.0, 1.5, 0.1]], jnp.float32), []
    for steps in (1, 2, 5, 10, 1000):
        ends = ends_in_float32(jnp.asarray(steps), z, sde)
        assert all(x.dtype == np.float32 and np.all(np.isfinite(x)) for x in ends.values()), (steps, ends)
        errors.append([np.abs(x - z).max() for x in ends.values()])
    assert np.all(np.diff(np.asarray(errors)[[0, 3, 4]], axis=0) < 0), errors
    assert np.max(errors[-1]) < 1e-4, errors


COUNT = 4000


@pytest.mark.parametrize("name", ["seeds2", "sde_dpm++2m", "edm_churn"])
def test_moments_of_samples(name):
    """Mean, variance and independence of the coordinates of an anisotropic Gaussian at 60 steps, to 4.5 standard errors
    and 0.02 of bias."""
    sde = DiagonalVP(scales=np.linspace(0.5, 1.5, DIM), speeds=np.linspace(0.8, 1.2, DIM))
    times = LogSNRGrid(t_end=1e-2)(sde, 60)
    (mean, std), (end_mean, end_std) = (moments(WIDE, sde, t) for t in (times[0], times[-1]))
    x = mean[None] + std[None] * jax.random.normal(jax.random.key(7), (COUNT, DIM))
    run = jax.jit(lambda *a: sample(a[0], SOLVERS[name], sde, WIDE.score_fn(sde), a[1], times, as_is))
    z = np.asarray((run(keys_of(COUNT), x) - end_mean[None]) / end_std[None])
    assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(COUNT) + 0.02)
    assert np.all(np.abs(z.std(axis=0) - 1) < 4.5 / np.sqrt(2 * COUNT) + 0.02)
    assert np.abs(np.corrcoef(z.T) - np.eye(DIM)).max() < 5 / np.sqrt(COUNT)
    assert np.abs(np.corrcoef(z[:, 0], x[:, 0])[0, 1]) < 0.9  # the noise is new


@quickly("dpm2", "dpm++3m", "unipc3", "deis2", "seeds2", "edm_churn", "sde_dpm++2m", among=SOLVERS)
def test_contract(name):
    """Evaluations as declared, one trace, a memory of fixed form, t = s the identity, samples that do not know their
    neighbors."""
    solver, calls = SOLVERS[name], []

    def counting(sde):
        def score_fn(x, t):
            calls.append(0)
            return MODES.score_fn(sde)(x, t)

        return score_fn

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(keys, x, times, solver, sde):
        return sample(keys, solver, sde, counting(sde), x, times, as_is)

    sde, times, keys = VP(), jnp.asarray([0.8, 0.6, 0.5, 0.2]), keys_of(4)
    x = run(keys, POINTS, times, solver, sde)
    assert len(calls) == solver.nfe
    np.testing.assert_allclose(run(keys, POINTS, jnp.asarray([0.5] * 4), solver, sde), POINTS, rtol=1e-12)
    others = run(keys_of(4, 1).at[0].set(keys[0]), POINTS[::-1].at[0].set(POINTS[0]), times, solver, sde)
    np.testing.assert_allclose(others[0], x[0], rtol=1e-12)
    assert np.all(np.isfinite(run(keys, POINTS, jnp.asarray([0.8, 0.6, 0.6, 0.3]), solver, sde)))
    assert not np.allclose(run(keys, POINTS, times, solver, sde.replace(beta_max=15.0)), x)
    assert (name in FAST_NOISY) != np.allclose(run(keys_of(4, 1), POINTS, times, solver, sde), x)
    assert len(calls) == solver.nfe


@pytest.mark.parametrize("name", ["dpm3", "unipc2", "deis2", "edm_churn", "seeds2"])
def test_a_time_for_each_sample(name):
    """Two steps with times [B]: a sample's result depends on its own times alone."""
    times, sde = jnp.asarray([[0.8, 0.5, 0.7, 0.6], [0.6, 0.3, 0.4, 0.5], [0.3, 0.2, 0.3, 0.4]]), VP()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(times):
        state = SOLVERS[name].init(POINTS)
        for t, s in itertools.pairwise(times):
            state = SOLVERS[name].step(keys_of(4), state, t, s, sde, MODES.score_fn(sde))
        return state.x

    mixed, scalar = run(times), [run(jnp.tile(times[:, i : i + 1], 4)) for i in range(4)]  # of one shape: one program
    np.testing.assert_allclose(mixed, [scalar[i][i] for i in range(4)], rtol=1e-12)
    assert not np.allclose(scalar[0][1], scalar[1][1])


@pytest.mark.parametrize("name", ["dpm3", "dpm++2m", "edm_heun"])
def test_gradients(name):
    """In a process's parameter too, through an empty past, noise of no variance and a step of no length. For DPM-Solver
    they are finite and no more: the times between are found by bisection, which has no derivative."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.value_and_grad
    def end(beta_max):
        solver, times, sde = SOLVERS[name], jnp.asarray([0.8, 0.5, 0.5, 0.3]), VP(beta_max=beta_max)
        return jnp.sum(sample(keys_of(4), solver, sde, MODES.score_fn(sde), POINTS, times, as_is) ** 2)

    nearby, gradient = [end(beta_max)[0] for beta_max in (19.999, 20.001)], end(20.0)[1]
    assert np.isfinite(gradient)
    if name != "dpm3":
        np.testing.assert_allclose(gradient, (nearby[1] - nearby[0]) / 0.002, rtol=1e-4)


@pytest.mark.parametrize("solver", [DPMSolver, DPMSolverPlusPlus, UniPC, DEIS])
def test_other_orders_are_refused(solver):
    with pytest.raises(ValueError, match=rf"{solver.__name__}'s order is 2 or 3; got 4"):
        solver(order=4)
