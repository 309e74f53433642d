"""Every public number at a value inside its range, where a factor, a sign or a shift would show.

A step from a point mass at m has its mean and noise in closed form: the score is −(x − α m)/σ².
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm

from data_lib import Scale
from sde_lib import (
    EDM,
    VE,
    VP,
    Adaptive,
    AdaptiveSDE,
    AppliedNetwork,
    Augmentation,
    CosineVP,
    Dequantizer,
    DiagonalVP,
    EDMGrid,
    EDMPreconditioning,
    EDMWeight,
    Exact,
    Fixed,
    GridTime,
    Hutchinson,
    HutchPlusPlus,
    LearnedLogSNR,
    Likelihood,
    LinearSDE,
    LogNormalTime,
    LogPathNoise,
    LogSigma,
    NonlinearSDE,
    OrnsteinUhlenbeck,
    PowerGrid,
    PowerTime,
    PredictNoise,
    Sampler,
    ScaledTime,
    ScoreModel,
    StratifiedTime,
    TabulatedLogSNR,
    UniformGrid,
    UniformTime,
    bits_per_dim,
    classifier_free,
    classifier_guided,
    dequantize,
    discrete_ve,
    discrete_vp,
    dsm_loss,
    expand,
    frozen_state,
    gaussian,
    make_eval_step,
    simulate,
    simulate_path,
    slerp,
    sliced_loss,
    transition_loss,
)
from sde_lib.noise import fold, normal_like
from sde_lib.processes.interpolation import monotone_cubic
from sde_lib.processes.paths import heun_step
from sde_lib.sampling import sample_path
from sde_lib.solvers import (
    DDIM,
    SEEDS2,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EDMHeun,
    Langevin,
    NoPredictor,
    PredictorCorrector,
    SolverState,
)
from sde_lib.solvers.step_size import StepSize
from sde_lib.training.state import ema_rate
from sde_lib.training.step import weighted
from tests.helpers import keys, objective

M, T, S = 0.7, 0.6, 0.35
SDE = VP(beta_max=8.0)
X = jnp.asarray([[1.3, -0.4], [0.2, 2.0], [-1.1, 0.5]])
KEYS = keys(3)


def number(sde, name, t):
    return float(getattr(sde, name)(jnp.asarray(t)))


A_T, A_S, S_T, S_S = (number(SDE, name, t) for name in ("alpha", "sigma") for t in (T, S))
H = 0.5 * (number(SDE, "log_snr", S) - number(SDE, "log_snr", T))
S_TS = np.sqrt(S_T**2 - (A_T / A_S) ** 2 * S_S**2)
EPS = (np.asarray(X) - A_T * M) / S_T


def point_mass(x, t):
    return -(x - expand(SDE.alpha(t), x) * M) / expand(SDE.sigma(t), x) ** 2


def step(solver, x=X, sde=SDE, score=point_mass, keys=KEYS):
    return solver.step(keys, solver.init(x), jnp.asarray(T), jnp.asarray(S), sde, score)


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_ddim_in_between(eta):
    """x_s = α_s m + √(σ_s² − η² ς²) ε + η ς z, ς = σ_s σ_ts/σ_t."""
    state, std = step(DDIM(eta=eta)), eta * S_S * S_TS / S_T
    np.testing.assert_allclose(state.mean, A_S * M + np.sqrt(S_S**2 - std**2) * EPS, rtol=1e-9)
    np.testing.assert_allclose(state.x - state.mean, std * normal_like(KEYS, X), rtol=1e-9)


@pytest.mark.parametrize("solver", [DPMSolverPlusPlus(tau=0.5), DPMSolverPlusPlus(tau=0.5, order=3), SEEDS2(tau=0.5)])
def test_half_of_the_noise(solver):
    """x_s = α_s m + σ_s e^{−τ²h} ε + σ_s √(1 − e^{−2τ²h}) z with τ = ½: the variance at s is σ_s²."""
    x = jnp.full((1, 40_000), X[0, 0])
    state = step(solver, x, keys=KEYS[:1])
    np.testing.assert_allclose(state.mean, A_S * M + S_S * np.exp(-0.25 * H) * EPS[0, 0], rtol=1e-6)
    noise, expected = np.asarray(state.x - state.mean), S_S * np.sqrt(-np.expm1(-0.5 * H))
    assert abs(np.std(noise) / expected - 1) < 0.02 and abs(np.mean(noise)) < 0.02 * expected


def test_the_corrector_is_at_the_end_that_its_order_says():
    """With score(x, t) = t one Langevin step moves x by 2 a² (r σ)² t: after the predictor both are of time s."""
    for first, time in ((False, S), (True, T)):
        solver = PredictorCorrector(predictor=NoPredictor(), corrector=Langevin(snr=0.3), corrector_first=first)
        state = step(solver, score=lambda x, t: jnp.full_like(x, t))
        h = 2 * (A_T / A_S) ** 2 * (0.3 * number(SDE, "sigma", time)) ** 2
        moved = h * time + np.sqrt(2 * h) * normal_like(fold(fold(KEYS, 1), 0), X)
        np.testing.assert_allclose(state.x - X, moved, rtol=1e-9)


@pytest.mark.parametrize("corrector", [Langevin(snr=0.3, steps=3), AnnealedLangevin(snr=0.3, steps=3)])
def test_three_corrections_with_noise_of_their_own(corrector):
    state = corrector.correct(KEYS, SolverState(X, X), T, T, S, SDE, lambda x, t: jnp.zeros_like(x))
    h = 2 * (A_T / A_S * 0.3 * S_T) ** 2
    np.testing.assert_allclose(state.x - X, np.sqrt(2 * h) * sum(normal_like(fold(KEYS, i), X) for i in range(3)))


def test_langevin_by_the_norms_of_the_batch():
    score = lambda x, t: 2.0 * x  # noqa: E731
    corrector = Langevin(snr=0.3, norm="batch")
    state = corrector.correct(KEYS, SolverState(X, X), T, T, S, SDE, score)
    norms = [np.mean(np.linalg.norm(np.asarray(v), axis=1)) for v in (normal_like(fold(KEYS, 0), X), 2 * X)]
    h = 2 * (A_T / A_S * 0.3 * norms[0] / norms[1]) ** 2
    np.testing.assert_allclose(state.mean, X + h * 2 * X, rtol=1e-9)


def test_ancestral_noise():
    for large, std in ((False, S_S * S_TS / S_T), (True, S_TS)):
        state = step(Ancestral(large_variance=large))
        np.testing.assert_allclose(state.x - state.mean, std * normal_like(KEYS, X), rtol=1e-9)


def test_churn():
    """On VE with the score of a point mass at 0 both slopes are x̃/ρ: x_s = (ρ_s/ρ̂)(x + S_noise √(ρ̂² − ρ²) z)."""
    sde = EDM(t_max=3.0)
    for solver, churned in (
        (EDMHeun(gamma=0.25, S_noise=1.1), True),
        (EDMHeun(gamma=0.25, S_noise=1.1, S_tmin=0.5, S_tmax=0.7), True),
        (EDMHeun(gamma=0.25, S_tmin=0.61), False),
        (EDMHeun(gamma=0.25, S_tmax=0.59), False),
    ):
        state = step(solver, sde=sde, score=lambda x, t: -x / expand(t, x) ** 2)
        t_hat = T * 1.25 if churned else T
        noise = 1.1 * np.sqrt(t_hat**2 - T**2) * normal_like(KEYS, X)
        np.testing.assert_allclose(state.x, S / t_hat * (X + noise), rtol=1e-6)


class Growing(NonlinearSDE):
    """dx = √(1 + 3 t) dw."""

    def drift(self, x, t):
        return jnp.zeros_like(x)

    def diffusion(self, t):
        return jnp.sqrt(1 + 3 * t)


class Brownian(NonlinearSDE):
    def drift(self, x, t):
        return jnp.zeros_like(x)

    def diffusion(self, t):
        return jnp.ones_like(t)


def test_a_step_of_a_path_has_the_noise_of_its_interval():
    """Without drift and with linear g², (x/z)² = ∫ g² over the step: g is that of the middle."""
    x = heun_step(KEYS, Growing(), jnp.zeros_like(X), jnp.asarray(0.2), jnp.asarray(0.4))
    np.testing.assert_allclose((x / normal_like(KEYS, X)) ** 2, 0.4 + 1.5 * (0.6**2 - 0.2**2), rtol=1e-9)


def test_paths_end_where_they_should():
    """dx = dw from deviation ½: the variance is ¼ + t. One step of 8 too many would give 1.375 in place of 1.25."""
    n, seen = 20_000, []
    x0 = gaussian(jnp.zeros(1), jnp.full(1, 0.5)).sample(keys(n, 1))

    def score(x, t):
        seen.append(x)
        return -x

    transition_loss(keys(n), score, Brownian(), x0, jnp.ones(n), num_steps=8)
    for x in (seen[0], simulate(keys(n), Brownian(), x0, jnp.ones(n), 8)):
        assert abs(np.var(x) - 1.25) < 5 * 1.25 * np.sqrt(2 / n)
    path = simulate_path(keys(n), Brownian(), x0, jnp.asarray([0.0, 0.3, 1.0]), substeps=3)
    np.testing.assert_allclose(np.var(path, axis=(1, 2)), [0.25, 0.55, 1.25], rtol=0.05)


def test_a_path_meets_each_time_once():
    """dx = t dt from 0 has x = t²/2, exact for the trapezoidal rule."""

    class Clock(Brownian):
        def drift(self, x, t):
            return jnp.broadcast_to(expand(t, x), x.shape)

        def diffusion(self, t):
            return 0 * t

    zero, t = jnp.zeros((3, 1)), jnp.asarray([0.2, 0.5, 0.9])
    np.testing.assert_allclose(simulate(KEYS, Clock(), zero, t, 5)[:, 0], t**2 / 2, rtol=1e-9)
    times = jnp.asarray([0.1, 0.4, 0.9])
    path = simulate_path(KEYS, Clock(), zero, times, substeps=3)
    np.testing.assert_allclose(path[:, 0, 0], (times**2 - 0.1**2) / 2, rtol=1e-9)


def test_transition_loss_by_formula():
    """½ (g √h s + z)² with s = −x + t, x = y + g √h z, and y the path to t − h."""
    t, x0 = jnp.asarray([0.3, 0.6, 0.9]), X[:, :1]
    found = transition_loss(KEYS, lambda x, t: expand(t, x) - x, Growing(), x0, t, num_steps=4)
    h = t / 4
    z, y = normal_like(fold(KEYS, 1), x0), simulate(fold(KEYS, 0), Growing(), x0, t - h, 4)
    std = jnp.sqrt(h * (1 + 3 * (t - h / 2)))[:, None]
    np.testing.assert_allclose(found, 0.5 * (std * (t[:, None] - y - std * z) + z)[:, 0] ** 2, rtol=1e-9)


@pytest.mark.parametrize("exact_trace", [False, True])
def test_sliced_loss_by_formula(exact_trace):
    """w (∇·s + ½ ‖s‖²) with s = −2 x + 1 in 2 dimensions, and w = ∫₀ᵗ g² = t + 1.5 t²."""
    t = jnp.asarray([0.3, 0.6, 0.9])
    found = sliced_loss(KEYS, lambda x, t: 1 - 2 * x, Growing(), X, t, num_steps=4, exact_trace=exact_trace)
    x = simulate(fold(KEYS, 0), Growing(), X, t, 4)
    expected = (t + 1.5 * t**2) * (-4 + 0.5 * jnp.sum((1 - 2 * x) ** 2, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_augmentation_draws_whether_and_which_independently():
    """In float32, where the two draws would be of the same bits with the same key: 0.30 ½ of the images are flipped."""
    with jax.enable_x64(False):
        n, augment = 4000, Augmentation(probability=0.2, flip=0.3)
        a = np.asarray(jax.jit(jax.vmap(lambda key: augment.draw(key, jnp.float32)))(keys(n)))
    assert a.dtype == np.float32
    share = np.mean(a != 0, axis=0)
    np.testing.assert_allclose(share, [0.15, 0.1, *6 * [0.2]], atol=5 * np.sqrt(0.3 * 0.7 / n))
    shown = a[:, [2, 5, 6, 7]]
    for column in shown.T:
        assert abs(np.std(column[column != 0]) - 1) < 0.1
    for angle in (a[:, 3], a[a[:, 5] != 0, 4]):
        assert abs(np.std(angle[angle != 0]) - np.pi / np.sqrt(3)) < 0.15
    for flip in a[:, :2].T:  # an amount drawn from the bits of "whether" would have a sign of its own here
        for k in range(2, 8):
            amount = a[(flip != 0) & (a[:, k] != 0), k]
            assert abs(np.mean(amount)) < 5 * np.std(a[a[:, k] != 0, k]) / np.sqrt(len(amount)), k
    together = np.mean((a[:, 2] != 0) & (a[:, 3] != 0))
    assert abs(together - 0.04) < 5 * np.sqrt(0.04 / n)
    both = (a[:, 2] != 0) & (a[:, 6] != 0)
    assert abs(np.corrcoef(a[both][:, [2, 6]].T)[0, 1]) < 0.3


def linear(params, x, c_noise, *, cond=None, key=None, train=False):
    return params * x


def test_the_mean_over_a_masked_batch_is_that_of_its_rows():
    loss, state = objective(SDE, PredictNoise(), dsm_loss), frozen_state(jax.random.key(0), jnp.asarray(0.4))
    applied = AppliedNetwork(params=state.params, network=linear)
    x, mask, t = jnp.tile(X, (2, 1)), jnp.asarray([1.0, 1.0, 0.0, 1.0, 0.0, 0.0]), jnp.linspace(0.1, 0.9, 6)
    x = x.at[2].set(jnp.nan)
    rows = np.asarray(loss(keys(6), t, applied, {"x": x}, state))
    terms = weighted(loss, applied, state, keys(6), t, {"x": x, "mask": mask}, jnp.sum(mask))
    np.testing.assert_allclose(jnp.sum(terms), np.mean(rows[[0, 1, 3]]), rtol=1e-9)
    total, count = make_eval_step(linear, loss)(state, jax.random.key(3), {"x": x, "mask": mask})
    assert count == 3 and np.isfinite(total)
    whole, _ = make_eval_step(linear, loss)(state, jax.random.key(3), {"x": x, "mask": mask.at[1].set(0.0)})
    other, _ = make_eval_step(linear, loss)(state, jax.random.key(3), {"x": x, "mask": jnp.eye(6)[1]})
    np.testing.assert_allclose(total, (2 * whole + other) / 3, rtol=1e-9)


def exact_network(params, x, c_noise, *, cond=None, key=None, train=False):
    """ε̂ of N(0, 0.5²) under VP."""
    alpha, sigma = expand(VP().alpha(c_noise), x), expand(VP().sigma(c_noise), x)
    return sigma * x / ((0.5 * alpha) ** 2 + sigma**2)


MODEL = ScoreModel(
    sde=VP(),
    parameterization=PredictNoise(),
    params={},
    network=exact_network,
    shape=(2,),
    likelihood=Likelihood(divergence=Exact(), solver=Fixed(num_steps=8)),
)


def test_a_part_of_the_data_has_the_noise_of_its_rows():
    x = np.asarray([[-1, 0], [1, 1], [0, 2], [0, -1], [2, 0]], np.int32)
    for function in (lambda x, first: MODEL.bits_per_dim(KEYS[0], x, first=first), partial(elbo_of, MODEL)):
        whole, part = function(x, 0), function(x[2:], 2)
        np.testing.assert_allclose(part, whole[2:], rtol=1e-5)
        assert np.all(np.abs(function(x[2:], 1) - whole[2:]) > 1e-4)


def elbo_of(model, x, first):
    return model.elbo(KEYS[0], x, num_times=2, first=first).value


class Mirrored:
    """F(x) = 3 − 2 x."""

    slope = -2.0

    def forward(self, x):
        return np.float32(3 - 2 * np.asarray(x))

    def inverse(self, y):
        return (3 - np.asarray(y)) / 2


def test_a_transform_may_mirror_the_data():
    """The volume is log |slope|, and a bin's width |slope|."""
    model = MODEL.replace(transform=Mirrored(), likelihood=Likelihood(divergence=Exact(), solver=Fixed(num_steps=64)))
    x = np.asarray([[1.5, 1.7], [1.2, 1.4]])
    expected = np.sum(norm.logpdf(x, 1.5, 0.25), axis=1)
    np.testing.assert_allclose(model.log_prob(KEYS[0], x).value, expected, atol=0.02)
    np.testing.assert_allclose(model.bin_width(x, 0.5), [1.0, 1.0])
    bound = model.elbo(KEYS[0], x, num_times=64)
    assert np.all(np.abs(np.asarray(bound.value) - expected) < 5 * np.asarray(bound.error) + 0.05)
    scaled = MODEL.replace(transform=Scale(low=0.0, high=16.0))
    np.testing.assert_allclose(scaled.bin_width(np.zeros((1, 2), int)), [0.125, 0.125])


def test_uneven_knots_against_scipy():
    """At inner knots the slopes are PCHIP's; the first and last interval have end slopes of our own."""
    knots = np.asarray([0.0, 0.1, 0.45, 0.5, 0.9, 1.3, 2.0])
    y = np.asarray([3.0, 2.9, 1.0, 0.8, -2.0, -2.1, -5.0])
    t = np.linspace(0.1, 1.3, 41)
    found = monotone_cubic(jnp.asarray(t), jnp.asarray(knots), jnp.asarray(y[0]), jnp.diff(jnp.asarray(y)))
    np.testing.assert_allclose(found, PchipInterpolator(knots, y)(t), rtol=1e-9)
    table = TabulatedLogSNR(knots=knots, values=y, t_max=2.0)
    np.testing.assert_allclose(table.log_snr(jnp.asarray(t)), found, rtol=1e-9)


def test_the_end_slope_of_a_parabola():
    """Through (0, 0), (1, 1), (3, 2): the slope at 0 is 1 + (1 − ½)/3, so the curve leaves 0 as 7/6 t."""
    slope = jax.grad(lambda t: monotone_cubic(t, jnp.asarray([0.0, 1.0, 3.0]), jnp.asarray(0.0), jnp.ones(2)))
    np.testing.assert_allclose(slope(0.0), 1 + 0.5 / 3, rtol=1e-9)
    np.testing.assert_allclose(slope(3.0), 0.5 - 0.5 * 2 / 3, rtol=1e-9)


def test_a_coarser_solution_estimates_the_error():
    """Of order 4, half of the steps has 16 times the error: it is 1/15 of the difference, and less for 5 to 2."""
    assert [Fixed(num_steps=n).coarser()[1] for n in (8, 5)] == pytest.approx([1 / 15, 1 / (2.5**4 - 1)])
    assert [Fixed(num_steps=n).coarser()[0].num_steps for n in (8, 5)] == [4, 2]
    coarse, share = Adaptive(rtol=1e-4, atol=3e-4).coarser()
    assert (coarse.rtol, coarse.atol, share) == pytest.approx((1e-3, 3e-3, 1 / 9))
    found = Likelihood(divergence=Exact(), solver=Fixed(grid=UniformGrid(t_end=0.2), num_steps=6))
    values = [
        found.replace(solver=found.solver.replace(num_steps=n)).log_prob(KEYS, SDE, lambda x, t: -x / 2, X)
        for n in (6, 3)
    ]
    np.testing.assert_allclose(values[0].solver, np.abs(values[0].value - values[1].value) / 15, rtol=1e-6)


def test_probes_give_their_standard_error():
    """s/√m over m probes with ddof 1; a single one bounds nothing."""
    estimates = jnp.asarray([[1.0, 2.0, 4.0]])
    for divergence in (Hutchinson(probes=3), HutchPlusPlus(probes=3)):
        np.testing.assert_allclose(divergence.standard_error(estimates), np.std([1, 2, 4], ddof=1) / np.sqrt(3))
        assert divergence.standard_error(estimates[:, :1]) == np.inf


def test_grids_by_formula():
    """Third of five times: 2/5 of the way in the variable of the grid."""
    sde, k = EDM(t_min=0.1, t_max=5.0), 2 / 5
    for grid, to, back in (
        (UniformGrid(t_end=0.5), lambda t: t, lambda u: u),
        (PowerGrid(power=3.0, t_end=0.5), lambda t: t ** (1 / 3), lambda u: u**3),
        (EDMGrid(rho=4.0, t_end=0.5), lambda t: t ** (1 / 4), lambda u: u**4),
    ):
        times = grid(sde, 5)
        np.testing.assert_allclose(times[2], back(to(5.0) + k * (to(0.5) - to(5.0))), rtol=1e-6)
        np.testing.assert_allclose([times[0], times[-1]], [5.0, 0.5])
        assert grid.replace(t_end=0.0)(sde, 5)[-1] == 0.1


def test_times_by_formula():
    """n = 4 strata with one u; the quantiles of each distribution."""
    key, n, sde = jax.random.key(5), 4, EDM(t_min=0.1, t_max=5.0)
    u = (float(jax.random.uniform(key)) + np.arange(n) / n) % 1
    np.testing.assert_allclose(StratifiedTime()(key, sde, n), 0.1 + 4.9 * u, rtol=1e-9)
    ends = 0.1 ** (1 / 2.5), 5 ** (1 / 2.5)
    np.testing.assert_allclose(PowerTime(power=2.5)(key, sde, n), (ends[0] + u * (ends[1] - ends[0])) ** 2.5, rtol=1e-9)
    level = np.exp(-0.3 + 0.4 * norm.ppf((u + 0.5 / n) % 1))
    np.testing.assert_allclose(LogNormalTime(mean=-0.3, std=0.4)(key, sde, n), np.clip(level, 0.1, 5), rtol=1e-6)
    many = np.asarray(UniformTime()(key, sde, 4000))
    assert abs(np.mean(many) - 2.55) < 0.12 and many.min() > 0.1 and many.max() < 5 and many.max() > 4.9
    times, counts = np.unique(GridTime(num_steps=5)(key, sde, 4000), return_counts=True)
    np.testing.assert_allclose(times, np.linspace(0.1, 5.0, 5), rtol=1e-9)
    assert np.all(np.abs(counts / 4000 - 0.2) < 0.04)


def test_labels_and_coefficients_by_formula():
    t = jnp.asarray(T)
    log_level = np.log(S_T / A_T)
    np.testing.assert_allclose(ScaledTime(scale=7.0, offset=-0.5)(SDE, t), 7 * T - 0.5)
    np.testing.assert_allclose(LogSigma(scale=0.25, unit=2.0)(SDE, t), 0.25 * (log_level - np.log(2)), rtol=1e-9)
    np.testing.assert_allclose(LogPathNoise(scale=3.0)(Growing(), t), 1.5 * np.log(T + 1.5 * T**2), rtol=1e-6)
    c = EDMPreconditioning(sigma_data=0.3)(SDE, t)
    total = (0.3 * A_T) ** 2 + S_T**2
    expected = -1 / total, A_T * 0.3 / (S_T * np.sqrt(total)), 1 / np.sqrt(total), 0.25 * log_level
    np.testing.assert_allclose([float(v) for v in c[:4]], expected, rtol=1e-9)
    np.testing.assert_allclose(EDMWeight(sigma_data=0.3)(SDE, t), S_T**2 * total / (0.3 * A_T) ** 2, rtol=1e-9)


def test_processes_by_formula():
    """α and σ at an inner time with parameters other than the defaults."""
    t = jnp.asarray(T)
    integral = lambda low, high, t: low * t + 0.5 * (high - low) * t**2  # noqa: E731
    beta = integral(0.4, 3.0, T)
    cosine = np.cos(np.pi / 2 * (T + 0.05) / 1.05) / np.cos(np.pi / 2 * 0.05 / 1.05)
    for sde, alpha, sigma in (
        (VE(sigma_min=0.02, sigma_max=3.0), 1.0, 0.02 * 150**T),
        (OrnsteinUhlenbeck(rate=0.7, noise=0.9), np.exp(-0.7 * T), 0.9 * np.sqrt((1 - np.exp(-1.4 * T)) / 1.4)),
        (CosineVP(offset=0.05), cosine, np.sqrt(1 - cosine**2)),
        (VP(beta_min=0.4, beta_max=3.0), np.exp(-beta / 2), np.sqrt(1 - np.exp(-beta))),
        (DiagonalVP(scales=(1.5,), speeds=(0.6,), beta_min=0.4, beta_max=3.0), np.exp(-0.3 * beta), None),
        (discrete_ve(sigmas=(0.1, 0.4, 1.0)), 1.0, None),
    ):
        np.testing.assert_allclose(np.squeeze(sde.alpha(t)), alpha, rtol=1e-9)
        if sigma is not None:
            np.testing.assert_allclose(sde.sigma(t), sigma, rtol=1e-9)
    diagonal = DiagonalVP(scales=(1.5,), speeds=(0.6,), beta_min=0.4, beta_max=3.0).sigma(t)
    np.testing.assert_allclose(np.squeeze(diagonal), 1.5 * np.sqrt(1 - np.exp(-0.6 * beta)), rtol=1e-9)
    np.testing.assert_allclose(discrete_ve(sigmas=(0.1, 0.4, 1.0)).sigma(jnp.asarray(0.5)), 0.4, rtol=1e-9)
    np.testing.assert_allclose(discrete_vp(betas=(0.1, 0.3, 0.5)).alpha(jnp.asarray(2 / 3)) ** 2, 0.63, rtol=1e-9)
    learned = LearnedLogSNR(logits=jnp.log(jnp.asarray([0.2, 0.3, 0.5])), log_snr_max=7.0, log_snr_min=-3.0)
    np.testing.assert_allclose(learned.log_snr(jnp.asarray([1 / 3, 2 / 3])), [5.0, 2.0], rtol=1e-9)

    class Noisy(LinearSDE):
        def drift_rate(self, t):
            return -0.5 + 0 * t

        def diffusion(self, t):
            return 1.2 + 0 * t

    variance = 0.3**2 * np.exp(-T) + 1.44 * (1 - np.exp(-T))
    np.testing.assert_allclose(Noisy(sigma_start=0.3).sigma(t), np.sqrt(variance), rtol=1e-9)


def test_guidance_at_half():
    free, given = lambda x, t: x, lambda x, t: 3 * x
    np.testing.assert_allclose(classifier_free(given, free, 0.5)(X, T), 2 * X)
    guided = classifier_guided(free, lambda x, t: jnp.sum(x**2, axis=1), 0.25)
    np.testing.assert_allclose(guided(X, T), 1.5 * X)


def test_slerp_at_a_third():
    """From (2, 0) to (0, 4) the angle is a right one, and the norm linear: at ⅓ it is 8/3 at 30°."""
    sde = VE(sigma_max=5.0)
    path = slerp(sde, jnp.asarray([[2.0, 0.0]]), jnp.asarray([[0.0, 4.0]]), jnp.asarray([1 / 3]))
    np.testing.assert_allclose(path[0, 0], 8 / 3 * np.asarray([np.cos(np.pi / 6), 0.5]), rtol=1e-9)


def test_ema_rate():
    """min(r, (1 + k)/(10 + k)): 4/13 after three steps, and r = 0.2 below it."""
    np.testing.assert_allclose(ema_rate(jnp.asarray(3), 0.9), 4 / 13, rtol=1e-6)
    np.testing.assert_allclose(ema_rate(jnp.asarray(3), 0.2), 0.2, rtol=1e-6)


def test_the_next_step_size():
    """h clip(θ E^{−r}, low, high), to the nearest power of 2^¼; at most θ h after a rejection."""
    control = StepSize(safety=0.8, exponent=0.5, low=0.3, high=3.0)
    error, accepted = jnp.asarray([0.25, 0.01, 9.0, 100.0, 0.25]), jnp.asarray([True, True, False, False, False])
    found = control.next(jnp.ones(5), error, accepted)
    expected = np.clip(0.8 * np.asarray([2.0, 10.0, 1 / 3, 0.1, 2.0]), 0.3, [3, 3, 0.8, 0.8, 0.8])
    np.testing.assert_allclose(found, 2 ** (np.round(4 * np.log2(expected)) / 4), rtol=1e-9)


def test_dequantization_by_formula():
    """The draws fill their bins; k draws are averaged as densities; a tilt has the density of its map."""
    x = jnp.zeros((1, 20_000))
    u = np.asarray(dequantize(KEYS[:1], x, 0.4))
    assert abs(np.mean(u)) < 0.005 and abs(np.std(u) - 0.4 / np.sqrt(12)) < 0.003 and np.max(np.abs(u)) <= 0.2
    constant = bits_per_dim(KEYS, lambda k, x: jnp.full(3, -1.5), X, bin_width=0.25, samples=3)
    np.testing.assert_allclose(constant, (1.5 - 2 * np.log(0.25)) / (2 * np.log(2)), rtol=1e-9)
    q = Dequantizer(shift=0.3, slope=0.5, log_scale=-0.4)
    u, log_q = q(KEYS, X[:, :1])
    y = np.log((u + 0.5) / (0.5 - u))
    logistic = (y - 0.3 - 0.5 * np.asarray(X[:, :1])) / np.exp(-0.4)
    density = lambda v: np.exp(-v) / (1 + np.exp(-v)) ** 2  # noqa: E731
    expected = np.log(density(logistic) / (density(y) * np.exp(-0.4)))
    np.testing.assert_allclose(log_q, expected[:, 0], rtol=1e-6)


def test_the_first_step_of_the_adaptive_sampler():
    """h_init of t_max − t_end: with a tolerance that accepts everything, steps grow by (4) from there."""
    times = []

    def score(x, t):
        jax.debug.callback(lambda t: times.append(float(t[0])), t)
        return -x

    sampler = AdaptiveSDE(rel_tol=1e3, abs_tol=1e3, h_init=0.25, t_end=0.2, max_steps=1)
    jax.block_until_ready(sampler(KEYS, VP(), score, (2,)))
    assert min(times) == pytest.approx(1 - 0.25 * 0.8)


def test_a_path_has_the_samples_of_its_times():
    """x_k itself, at the indices asked for: Euler's x + (s − t)."""
    times = jnp.asarray([1.0, 0.7, 0.4, 0.1])
    sde = VE(sigma_max=2.0)
    move = DDIM()
    path = sample_path(KEYS, move, sde, lambda x, t: jnp.zeros_like(x), X, times, keep=[1, 3])
    np.testing.assert_allclose(path, np.stack([X, X]), rtol=1e-9)
    score = lambda x, t: jnp.ones_like(x)  # noqa: E731
    full = Sampler(solver=move, grid=UniformGrid(t_end=0.1), num_steps=3).path(KEYS, sde, score, (2,), x_T=X)
    kept = Sampler(solver=move, grid=UniformGrid(t_end=0.1), num_steps=3).path(KEYS, sde, score, (2,), [0, 2], x_T=X)
    np.testing.assert_allclose(kept[0], full[0][jnp.asarray([0, 2])])
    np.testing.assert_allclose(kept[1], full[1][jnp.asarray([0, 2])])
    np.testing.assert_allclose(full[1][0], X)
    sigma = sde.sigma(full[0])
    np.testing.assert_allclose(full[1][1] - X, np.full_like(X, sigma[0] * (sigma[0] - sigma[1])), rtol=1e-6)
