"""Adaptive samplers on exact scores: closed-form flows, moments, mode counts, and their own bookkeeping."""

import itertools
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sde_lib import (
    EDM,
    VE,
    VP,
    GaussianMixture,
    LogSNRGrid,
    NonlinearSDE,
    RectifiedFlow,
    Sampler,
    SubVP,
    as_is,
    gaussian,
    last_mean,
    tweedie,
    x0_hat,
)
from sde_lib.noise import fold
from sde_lib.solvers import Heun, integrate
from sde_lib.solvers.adaptive import AdaptiveSDE, ProbabilityFlowODE, brownian_path, redrawn
from sde_lib.solvers.integrate import Adaptive
from tests.contracts import DoubleWell, together
from tests.helpers import close, keys
from tests.sde_lib.processes.test_paths import VP_TWIN, Linear

PAIR = gaussian(jnp.asarray([0.5, -0.2]), jnp.asarray([0.4, 0.9]))
CORNERS = jnp.asarray([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
WEIGHTS = np.asarray([0.1, 0.2, 0.3, 0.4])
FOUR = GaussianMixture(means=CORNERS, stds=jnp.full((4, 2), 0.15), weights=jnp.asarray(WEIGHTS))
WIDE = FOUR.replace(stds=jnp.full((4, 2), 0.4))
SDE_SAMPLER = AdaptiveSDE(rel_tol=0.1, t_end=1e-3)
ODE_SAMPLER = ProbabilityFlowODE(ode=Adaptive(rtol=1e-4, atol=1e-4), t_end=1e-3)
each_sampler = pytest.mark.parametrize("sampler", [SDE_SAMPLER, ODE_SAMPLER], ids=["sde", "ode"])


def limited(sampler, max_steps):
    if sampler.__class__ is AdaptiveSDE:
        return sampler.replace(max_steps=max_steps)
    return sampler.replace(ode=sampler.ode.replace(max_steps=max_steps))


@partial(jax.jit, static_argnames="shape")
def run(sampler, keys, sde, data, shape=(2,)):
    """(samples, evaluations), compiled once for each program."""
    return sampler.with_nfe(keys, sde, data.score_fn(sde), shape)


def moments(sde, data, t):
    """Mean and standard deviation of p_t for a single Gaussian."""
    alpha, sigma = float(sde.alpha(jnp.asarray(t))), float(sde.sigma(jnp.asarray(t)))
    return alpha * np.asarray(data.means), np.hypot(alpha * np.asarray(data.stds), sigma)


def standardized(x, sde, data, t):
    mean, std = moments(sde, data, t)
    return (np.asarray(x) - mean) / std


ALIKE = together({"vp": VP(), "ve": VE(), "subvp": SubVP(), "edm": EDM(t_max=80.0)})


@pytest.mark.parametrize("sde", ALIKE.values(), ids=ALIKE)
def test_flow_of_a_gaussian(sde):
    """x_s = m_s + (std_s/std_t)(x_t − m_t), and the root mean square of the error falls with the tolerance."""
    x_T, errors, costs = sde.prior_sample(fold(keys(64), 0), (2,)), [], []
    for tol in (1e-3, 1e-5, 1e-7):
        x, evaluations = run(ODE_SAMPLER.replace(ode=Adaptive(rtol=tol, atol=tol)), keys(64), sde, PAIR)
        error = standardized(x, sde, PAIR, 1e-3 if sde.t_min < 1e-3 else sde.t_min)
        errors.append(np.sqrt(np.mean((error - standardized(x_T, sde, PAIR, sde.t_max)) ** 2)))
        costs.append(np.mean(evaluations))
    assert np.all(np.asarray(errors) < 100 * np.asarray([1e-3, 1e-5, 1e-7])), errors
    assert errors[0] > 5 * errors[1] > 25 * errors[2], errors
    assert costs[0] < costs[1] < costs[2] < 800, costs


def test_flow_of_a_mixture_and_its_end():
    """Against 1,000 steps of Heun's rule, second order, from the same draws; Tweedie's formula where that is asked."""
    sde, score_fn = VP(), FOUR.score_fn(VP())
    fine = Sampler(solver=Heun(), grid=LogSNRGrid(t_end=1e-3), num_steps=1000, denoise=as_is)
    exact = jax.jit(lambda keys: fine(keys, sde, score_fn, (2,)))(keys(32))
    sampler = ODE_SAMPLER.replace(ode=Adaptive(rtol=1e-7, atol=1e-7))
    np.testing.assert_allclose(run(sampler, keys(32), sde, FOUR)[0], exact, atol=2e-4)
    clean, _ = run(sampler.replace(denoise=tweedie), keys(32), sde, FOUR)
    np.testing.assert_allclose(clean, x0_hat(sde, exact, 1e-3, score_fn(exact, 1e-3)), atol=2e-4)


@pytest.mark.parametrize(
    "method, tol", [(diffrax.Tsit5(), 1e-7), (diffrax.Dopri5(), 1e-7), (diffrax.Heun(), 1e-5)], ids=["5", "dopri", "2"]
)
def test_flows_of_any_pytree_forth_and_back(method, tol):
    """dy/dt = 2 t y and dz/dt = 1 from 0 to 1 and back: y grows by e."""
    field = lambda y, t: (2 * t[:, None] * y[0], jnp.ones_like(y[1]))  # noqa: E731
    ode = Adaptive(rtol=tol, atol=tol, method=method)
    flow = jax.jit(lambda y, t0, t1: ode.between(field, y, t0, t1))
    y = (jnp.asarray([[1.0, -2.0], [0.3, 5.0]]), jnp.zeros(2))
    there, _ = flow(y, 0.0, 1.0)
    np.testing.assert_allclose(there[0], np.e * y[0], rtol=50 * tol)
    np.testing.assert_allclose(there[1], 1.0, rtol=50 * tol)
    back, _ = flow(there, 1.0, 0.0)
    np.testing.assert_allclose(back[0], y[0], rtol=50 * tol)
    assert there[0].shape == (2, 2) and there[1].shape == (2,)


def test_steps_of_a_growth():
    """dy/dt = c y by Heun's rule with Euler's in it: y' = y (1 + z + ½ z²), e = ½ z² y with z = c h, so that all steps
    are known; of each row its own, and of nine equal coordinates as of one, since E is a mean."""
    rates, tol = np.asarray([0.5, 6.0, -30.0]), 1e-3
    ode = Adaptive(rtol=tol, atol=2 * tol, power=1.0, method=diffrax.Heun())
    ends, tries = [], []
    for c in rates:
        done, h, y, k = 0.0, 2.0**-4, 1.0, 0
        while done < 1:
            h, last = (1 - done, True) if h >= 1 - done else (h, False)
            z, k = c * h, k + 1
            after = y * (1 + z + z * z / 2)
            size = abs(y * z * z / 2) / (2 * tol + tol * max(abs(y), abs(after)))
            factor = np.clip(0.8 / np.sqrt(size), 0.2, 10.0 if size < 1 else 0.8)
            if size < 1:
                y, done = after, 1.0 if last else done + h
            h = 2.0 ** (np.round(4 * np.log2(h * factor)) / 4)
        ends.append(y)
        tries.append(k)
    field = lambda y, t: jnp.asarray(rates)[:, None] * y  # noqa: E731
    for dim in (1, 9):
        y, evaluations = jax.jit(lambda y: ode.between(field, y, 0.0, 1.0))(jnp.ones((3, dim)))
        np.testing.assert_allclose(y, np.outer(ends, np.ones(dim)), rtol=1e-10)
        np.testing.assert_array_equal(evaluations, 2 * np.asarray(tries))
    assert len(set(tries)) == 3


def test_a_rejected_step_leaves_the_slope_as_it_was():
    """dy/dt = −30 y by Bogacki and Shampine's rules, whose last stage is the next step's first: all steps known."""
    c, tol = -30.0, 1e-3
    done, h, y, slope, tries, rejected = 0.0, 2.0**-4, 1.0, c, 0, 0
    while done < 1:
        h, last = (1 - done, True) if h >= 1 - done else (h, False)
        k2 = c * (y + h / 2 * slope)
        k3 = c * (y + 3 / 4 * h * k2)
        after = y + h * (2 / 9 * slope + 1 / 3 * k2 + 4 / 9 * k3)
        e = h * ((2 / 9 - 7 / 24) * slope + (1 / 3 - 1 / 4) * k2 + (4 / 9 - 1 / 3) * k3 - 1 / 8 * c * after)
        size, tries = abs(e) / (2 * tol + tol * max(abs(y), abs(after))), tries + 1
        factor = np.clip(0.8 * size ** (-1 / 3), 0.2, 10.0 if size < 1 else 0.8)
        if size < 1:
            y, slope, done = after, c * after, 1.0 if last else done + h
        rejected += size >= 1
        h = 2.0 ** (np.round(4 * np.log2(h * factor)) / 4)
    ode = Adaptive(rtol=tol, atol=2 * tol, power=1.0, method=diffrax.Bosh3())
    end, evaluations = jax.jit(lambda y: ode.between(lambda y, t: c * y, y, 0.0, 1.0))(jnp.ones((1, 1)))
    np.testing.assert_allclose(end, [[y]], rtol=1e-9)
    assert int(evaluations[0]) == 1 + 3 * tries and rejected > 0


def test_a_first_step_rejected_is_counted():
    """dy/dt = −3000 y at a tight tolerance: the first stage is evaluated once, whatever is rejected."""
    calls = []

    def field(y, t):
        jax.debug.callback(lambda _: calls.append(0), t)
        return -3000 * y

    y, evaluations = jax.jit(lambda y: Adaptive(rtol=1e-9, atol=1e-9).between(field, y, 0.0, 0.1))(jnp.ones(1))
    jax.effects_barrier()
    np.testing.assert_allclose(y, np.exp(-300.0), atol=1e-8)
    assert len(calls) == int(evaluations[0])


def test_the_brownian_path():
    """Increments are normal of variance h, at steps from 10⁻⁵ up; those of disjoint intervals are independent."""
    n, x, span = 20_000, jnp.zeros((20_000, 1)), (jnp.asarray(0.5), jnp.asarray(4.5))
    times = 0.5 + np.asarray([0.0, 1e-5, 0.3, 0.30002, 1.7, 4.0])
    dw = jax.jit(lambda t, s: brownian_path(keys(n), 0, jnp.full(n, t), jnp.full(n, s), x, span))
    w = np.stack([np.asarray(dw(t, s))[:, 0] for s, t in itertools.pairwise(times)])
    z = w / np.sqrt(np.diff(times))[:, None]
    assert all(stats.kstest(row, "norm").pvalue > 1e-4 for row in z)
    assert np.abs(np.corrcoef(z) - np.eye(5)).max() < 4.5 / np.sqrt(n)
    close(w.sum(axis=0), np.asarray(dw(times[-1], times[0]))[:, 0], 1e-12)


SLOW_TOO = [pytest.param(sde, marks=pytest.mark.slow) for sde in (VE(sigma_max=20.0), RectifiedFlow())]


@pytest.mark.parametrize("sde", [VP(), *SLOW_TOO], ids=["vp", "ve", "straight_line"])
def test_moments_of_a_gaussian(sde):
    """Means and standard deviations within 4.5 standard errors, and 0.02 for the bias at rel_tol = 0.05."""
    n, dim = 600, 4
    data = gaussian(jnp.linspace(-1, 1, dim), jnp.linspace(0.3, 1.5, dim))
    x, evaluations = run(AdaptiveSDE(rel_tol=0.05, t_end=1e-3), keys(n), sde, data, (dim,))
    z = standardized(x, sde, data, float(jnp.maximum(1e-3, sde.t_min)))
    assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(n) + 0.02), z.mean(axis=0)
    assert np.all(np.abs(z.std(axis=0) - 1) < 4.5 / np.sqrt(2 * n) + 0.02), z.std(axis=0)
    assert np.abs(np.corrcoef(z.T) - np.eye(dim)).max() < 5 / np.sqrt(n)
    assert np.max(evaluations) < 2000


def test_noise_drawn_anew_is_biased_in_few_dimensions_alone():
    """The published algorithm: as exact as the path's in 256 dimensions, a tenth of a deviation off in four."""
    sde, n, off = VP(), 400, {}
    for dim in (4, 256):
        data = gaussian(jnp.linspace(-1, 1, dim), jnp.linspace(0.3, 1.5, dim))
        x, _ = run(AdaptiveSDE(noise=redrawn, rel_tol=0.1, t_end=1e-3), keys(n), sde, data, (dim,))
        z = standardized(x, sde, data, 1e-3)
        off[dim] = np.sqrt(np.mean(z.mean(axis=0) ** 2)), np.abs(np.mean(z.std(axis=0)) - 1)
    assert off[4][0] > 0.1
    assert off[256][0] < 1.2 / np.sqrt(n) and off[256][1] < 0.01  # the first is 1/√n without any bias


@pytest.mark.slow
def test_modes_of_a_mixture():
    """Counts of four unlike modes by chi-square, for both samplers; the spread within a mode."""
    n, sde = 800, VP()
    for sampler in (SDE_SAMPLER.replace(rel_tol=0.05), ODE_SAMPLER):
        x = np.asarray(run(sampler, keys(n, 1), sde, FOUR)[0])
        mode = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
        assert stats.chisquare(np.bincount(mode, minlength=4), n * WEIGHTS).pvalue > 1e-3
        alpha, sigma = float(sde.alpha(1e-3)), float(sde.sigma(1e-3))
        spread = np.sqrt(np.mean((x - alpha * np.asarray(CORNERS)[mode]) ** 2)) / np.hypot(alpha * 0.15, sigma)
        assert abs(spread - 1) < 4.5 / np.sqrt(4 * n) + 0.03, spread


def test_evaluations_fall_as_the_tolerance_is_loosened():
    costs = [np.mean(run(AdaptiveSDE(rel_tol=tol, t_end=1e-3), keys(32), VP(), PAIR)[1]) for tol in (0.01, 0.05, 0.2)]
    assert 2000 > costs[0] > 1.5 * costs[1] > 2 * costs[2], costs
    first = run(AdaptiveSDE(rel_tol=0.05, abs_tol=1.0, t_end=1e-3), keys(32), VP(), PAIR)[1]
    assert np.mean(first) < 0.5 * costs[1]  # abs_tol is the floor of δ


def test_steps_of_a_decay():
    """dx = c x dt without noise, backwards: x' = x (1 − hc), x'' = x' + ½ (hc)² x, so E and all steps are known from x
    alone; in nine equal coordinates as in one, since E is a mean."""

    class Decay(NonlinearSDE):
        def drift(self, x, t):
            return 3.0 * x

        def diffusion(self, t):
            return 0.0

    sde, tol, zero = Decay(t_min=0.5, t_max=2.5), 0.01, lambda x, t: jnp.zeros_like(x)
    solve = lambda sampler, sde, dim: sampler.with_nfe(keys(1), sde, zero, (dim,))  # noqa: E731
    program = jax.jit(solve, static_argnums=2)
    for h_init in (0.01, 0.4):  # the first step accepted, and rejected
        t, h, x, previous, steps = 2.5, 2.0 * h_init, 1.0, 1.0, 0
        while t > 0.5:
            h = min(h, t - 0.5)
            euler, half = x * (1 - 3 * h), x * (3 * h) ** 2 / 2
            error = half / max(1e-3, tol * max(abs(euler), abs(previous)))
            if error <= 1:
                t, x, previous = (0.5 if h == t - 0.5 else t - h), euler + half, euler
            h, steps = 2.0 ** (np.round(4 * np.log2(0.9 * h * error**-0.9)) / 4), steps + 1
        for dim in (1, 9):
            told = sde.replace(prior=gaussian(jnp.ones(dim), jnp.zeros(dim)))
            sampler = AdaptiveSDE(rel_tol=tol, abs_tol=1e-3, h_init=h_init)
            end, evaluations = program(sampler, told, dim)
            np.testing.assert_allclose(end, np.full((1, dim), x), rtol=1e-10)
            assert int(evaluations[0]) == 2 * steps


def test_paths_converge():
    """With the noise of one path, to its solution: from any first step, and more closely with the tolerance."""
    ends = [
        np.asarray(run(AdaptiveSDE(rel_tol=tol, abs_tol=tol / 4, h_init=h_init, t_end=1e-2), keys(32), VP(), PAIR)[0])
        for tol, h_init in ((0.003, 1e-4), (0.012, 10.0), (0.05, 10.0), (0.2, 10.0))
    ]
    errors = [np.sqrt(np.mean((x - ends[0]) ** 2)) for x in ends[1:]]
    assert errors[0] < 0.02 and errors[0] < errors[1] / 1.5 < errors[2] / 2.25, errors


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(SDE_SAMPLER, marks=pytest.mark.slow),
        SDE_SAMPLER.replace(noise=redrawn, denoise=tweedie),
        pytest.param(ODE_SAMPLER, marks=pytest.mark.slow),
        ODE_SAMPLER.replace(ode=Adaptive(rtol=1e-4, atol=1e-4, method=diffrax.Dopri5()), denoise=tweedie),
        ODE_SAMPLER.replace(ode=Adaptive(rtol=1e-2, atol=1e-2, method=diffrax.Heun())),
    ],
    ids=["sde", "sde_tweedie", "ode", "ode_tweedie", "ode_no_fsal"],
)
def test_evaluations_are_counted(sampler):
    """Against calls counted on the host, for one sample at a time."""
    sde, calls = VP(), []

    def counting(x, t):
        jax.debug.callback(lambda _: calls.append(0), t)
        return PAIR.score_fn(sde)(x, t)

    one = jax.jit(lambda keys: sampler.with_nfe(keys, sde, counting, (2,)))
    all_of_them = run(sampler, keys(4), sde, PAIR)[1]
    for i in range(4):
        calls.clear()
        _, evaluations = jax.block_until_ready(one(keys(4)[i : i + 1]))
        jax.effects_barrier()
        assert len(calls) == int(evaluations[0]) == int(all_of_them[i])


class Float32(VP):
    def prior_sample(self, keys, shape):
        return super().prior_sample(keys, shape).astype(jnp.float32)


@pytest.mark.parametrize("sampler", [SDE_SAMPLER, ProbabilityFlowODE(t_end=1e-3)], ids=["sde", "ode"])
def test_batches_and_devices(sampler):
    """Sample i is a function of keys[i], in float32: in batches of 7 and 64, and with the batch split over eight
    devices. A step of the ODE may follow rounding, but at its default tolerance that moves little. The modes are wide:
    between narrow ones the flow makes a hundred times more of the last digit of x_T."""
    sde, sampler = Float32(), sampler.replace(denoise=last_mean)
    four = FOUR if sampler.__class__ is AdaptiveSDE else WIDE
    four = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), four)
    x, evaluations = run(sampler, keys(64), sde, four)
    assert x.dtype == jnp.float32
    rows = slice(3, 10)
    part, cost = run(sampler, keys(64)[rows], sde, four)
    close(part, x[rows], 1e-5)
    np.testing.assert_allclose(cost, evaluations[rows], atol=0 if sampler.__class__ is AdaptiveSDE else 24)
    shared, cost = run(sampler, over_devices(8, keys(64)), sde, four)
    assert len(shared.sharding.device_set) == 8
    close(shared, x, 1e-5)
    np.testing.assert_allclose(cost, evaluations, atol=0 if sampler.__class__ is AdaptiveSDE else 24)


def over_devices(n, keys):
    """The keys split over this many devices."""
    mesh = jax.make_mesh((n,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:n])
    return jax.device_put(keys, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "ve", "subvp", "edm", "straight_line"])
def test_any_steps_lead_nearly_to_the_same_sample(name, monkeypatch):
    """At the default tolerance, in float32: on 2 and 4 devices to 10⁻⁵, and by wholly other steps to 3·10⁻⁵."""
    sde = {"vp": VP(), "ve": VE(), "subvp": SubVP(), "edm": EDM(), "straight_line": RectifiedFlow()}[name]
    x_T = sde.prior_sample(fold(keys(64), 0), (2,)).astype(jnp.float32)
    four = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), WIDE)
    sampler, ends, costs = ProbabilityFlowODE(t_end=1e-3), [], []
    for first_step, devices in ((2.0**-4, 1), (0.013, 1), (0.02, 1), (2.0**-4, 2), (2.0**-4, 4)):
        monkeypatch.setattr(integrate, "FIRST_STEP", first_step)
        solve = lambda keys, x_T: sampler.with_nfe(keys, sde, four.score_fn(sde), (2,), x_T)  # noqa: E731
        x, evaluations = jax.jit(solve)(over_devices(devices, keys(64)), over_devices(devices, x_T))
        ends.append(np.asarray(x))
        costs.append(np.asarray(evaluations))
    assert np.any(costs[0] != costs[1]) and np.any(costs[0] != costs[2])
    apart = [np.max(np.abs(x - ends[0])) for x in ends]
    assert max(apart[3:]) < 1e-5 and max(apart[1:3]) < 3e-5, apart


@each_sampler
def test_what_has_not_arrived_is_nan(sampler):
    """The samples that need more steps than they may take, and no others; one whose score is NaN, and no other."""
    sde = VP()
    x, evaluations = run(sampler, keys(16), sde, FOUR)
    fsal = 0 if sampler is SDE_SAMPLER else 1
    steps = (np.asarray(evaluations) - fsal) // (6 if fsal else 2)
    limit = int(np.sort(np.unique(steps))[len(np.unique(steps)) // 2])
    late = steps > limit
    assert 0 < late.sum() < 15
    x_T, stuck = sde.prior_sample(fold(keys(16), 0), (2,)), int(np.argmin(late))

    def broken(x, t):
        """NaN where the path of a sample that is not late begins: so it can never leave."""
        same = jnp.all(jnp.abs(x - x_T[stuck][None]) < 1e-6, axis=-1, keepdims=True)
        return jnp.where(same, jnp.nan, FOUR.score_fn(sde)(x, t))

    sampler = limited(sampler, limit)
    found = np.asarray(jax.jit(lambda keys: sampler(keys, sde, broken, (2,)))(keys(16)))
    missing = late | (np.arange(16) == stuck)
    assert np.all(np.isnan(found[missing]))
    close(found[~missing], np.asarray(x)[~missing], 1e-9)


def test_last_mean_lacks_the_last_noise():
    """A single step over the whole of a process of no drift: its mean is x − ½ h (b + b̃), which is x at score zero."""
    sde, zero = EDM(t_max=1.0), lambda x, t: jnp.zeros_like(x)
    sampler = AdaptiveSDE(abs_tol=1e3, h_init=2.0)
    x_T = sde.prior_sample(fold(keys(2000), 0), (1,))
    mean, noisy = (
        np.asarray(jax.jit(lambda keys, end=end: sampler.replace(denoise=end)(keys, sde, zero, (1,)))(keys(2000)))
        for end in (last_mean, as_is)
    )
    np.testing.assert_allclose(mean, x_T, rtol=1e-12)
    # ½ (g(1) + g(t_min)) √(1 − t_min), with g(t) = √(2 t)
    expected = 0.5 * (np.sqrt(2.0) + np.sqrt(2 * sde.t_min)) * np.sqrt(1 - sde.t_min)
    assert abs(np.std(noisy - mean) / expected - 1) < 4.5 / np.sqrt(2 * 2000)


@pytest.mark.slow
def test_processes_without_a_kernel():
    """VP told by its drift alone gives VP's samples. The double well at its stationary density p ∝ exp(x² − ½ x⁴),
    whose score is 2 (x − x³): the flow stands still, and the reverse SDE leads any start to p."""
    told, score_fn = Linear(prior=gaussian(jnp.zeros(2), jnp.ones(2)), t_min=1e-3), PAIR.score_fn(VP_TWIN)
    x_T = told.prior_sample(fold(keys(16), 0), (2,))

    class Twin(type(VP_TWIN)):
        def prior_sample(self, keys, shape):
            return told.prior_sample(keys, shape)

    for sampler in (SDE_SAMPLER, ODE_SAMPLER):
        x, twin = (
            jax.jit(lambda keys, sde=sde, s=sampler: s(keys, sde, score_fn, (2,)))(keys(16))
            for sde in (told, Twin(beta_min=0.1, beta_max=10.0))
        )
        np.testing.assert_allclose(x, twin, atol=1e-7)
        assert np.max(np.abs(x - x_T)) > 0.5

    n, well = 600, DoubleWell(prior=gaussian(jnp.asarray([-1.0]), jnp.asarray([0.5])), t_max=8.0)
    stationary = lambda x, t: 2 * (x - x**3)  # noqa: E731
    still = jax.jit(lambda keys: ODE_SAMPLER(keys, well, stationary, (1,)))(keys(16))
    close(still, well.prior_sample(fold(keys(16), 0), (1,)), 1e-12)
    x = np.asarray(jax.jit(lambda keys: AdaptiveSDE(rel_tol=0.05)(keys, well, stationary, (1,)))(keys(n)))[:, 0]
    grid = np.linspace(-4, 4, 4001)
    cdf = np.cumsum(np.exp(grid**2 - 0.5 * grid**4))
    distance = np.max(np.abs(np.interp(np.sort(x), grid, cdf / cdf[-1]) - (np.arange(n) + 0.5) / n))
    assert distance < 1.95 / np.sqrt(n) + 0.005, distance
