"""Every solver on exact scores: a Gaussian whose reverse process is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import LogSNRGrid, UniformGrid, as_is, gaussian, sample, sample_path
from sde_lib.sde import expand
from sde_lib.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Heun,
    Langevin,
    NoCorrector,
    NoPredictor,
    PredictorCorrector,
    ReverseDiffusion,
)
from tests.contracts import CORE, DETERMINISTIC, SDES, SOLVERS, STEPPERS, DoubleWell, quick, quickly, together
from tests.helpers import close
from tests.helpers import keys as keys_of

DIM, COUNT = 16, 1000
each_solver = pytest.mark.parametrize("name", SOLVERS)
CORE_AS_ONE = together({name: SDES[name] for name in CORE})  # one program for all of them
each_stepper = pytest.mark.parametrize("name", STEPPERS)


def anisotropic(dtype=jnp.float64):
    """Sixteen coordinates of unlike means and scales."""
    return gaussian(jnp.linspace(-1, 1, DIM, dtype=dtype), jnp.linspace(0.3, 1.5, DIM, dtype=dtype))


def marginal_moments(data, sde, t):
    """Mean and standard deviation of p_t for a single Gaussian."""
    alpha, sigma = jnp.asarray(sde.alpha(t)), jnp.asarray(sde.sigma(t))
    alpha, sigma = alpha.reshape(-1), sigma.reshape(-1)
    return alpha * data.means[0], jnp.sqrt((alpha * data.stds[0]) ** 2 + sigma**2)


def run(solver, sde, data, count, steps, t_end=0.0, seed=0):
    """(samples of p at the grid's end, that time), started from the exact marginal at t_max."""
    steep = float(jnp.max(jnp.abs(sde.drift_rate(jnp.asarray(sde.t_max))))) > 200 or sde.t_max > 10
    grid = LogSNRGrid if steep else UniformGrid  # equal steps do not serve a pole at t_max, nor times up to 80
    times = grid(t_end=t_end)(sde, steps).astype(data.means.dtype)
    mean, std = marginal_moments(data, sde, times[0])
    keys = keys_of(count, seed)
    z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 99), (data.means.shape[-1],), mean.dtype))(keys)
    x_T = mean[None] + std[None] * z
    program = jax.jit(lambda keys, x_T, times: sample(keys, solver, sde, data.score_fn(sde), x_T, times, as_is))
    return np.asarray(program(keys, x_T, times)), float(times[-1])


def end_moments(solver, sde, data, grids):
    """Mean and variance at the last time of each grid, without sampling error.

    On a Gaussian a step is affine, x_s = a x_t + b + c z: a and b show in the mean of steps from 0 and 1, c in the
    noise over z. So moments go through the chain as m ← a m + b, v ← a² v + c².
    """
    keys, x = keys_of(2), jnp.asarray([[0.0], [1.0]])
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (1,), x.dtype))(keys))

    def step(pair):
        state = solver.step(keys, solver.init(x), pair[0], pair[1], sde, data.score_fn(sde))
        return state.mean, state.x

    pairs = np.concatenate([np.stack([times[:-1], times[1:]], axis=1) for times in grids])
    means, ends = (np.asarray(a)[..., 0] for a in jax.jit(lambda pairs: jax.lax.map(step, pairs))(pairs))
    (b, a_plus_b), c = means.T, ((ends - means) / z[:, 0])[:, 0]
    last = np.cumsum([len(times) - 1 for times in grids])
    maps, moments = np.split(np.stack([a_plus_b - b, b, c], axis=1), last[:-1]), []
    for times, steps in zip(grids, maps, strict=True):
        mean, std = (float(m[0]) for m in marginal_moments(data, sde, times[0]))
        variance = std**2
        for a, b, c in steps:
            mean, variance = a * mean + b, a**2 * variance + c**2
        moments.append((mean, variance))
    return moments


@each_stepper
@pytest.mark.parametrize("name_of_sde, sde", quick(("vp_slow",), SDES))
def test_order_of_convergence(name_of_sde, sde, name):
    """The error of the end's mean and variance falls as N^-order, from 32 steps to 256 that are even in log-SNR.

    Halving by halving more loosely: a schedule of pieces bends where they meet, here within a step and there between
    two."""
    solver, order = STEPPERS[name]
    data = gaussian(jnp.asarray([0.7]), jnp.asarray([0.5]))
    finest = np.asarray(sde.time_of_log_snr(jnp.linspace(-2.0, 2.0, 257)))
    exact_mean, exact_std = (float(m[0]) for m in marginal_moments(data, sde, finest[-1]))
    ends = end_moments(solver, sde, data, [finest[::apart] for apart in (8, 4, 2, 1)])
    errors = [np.hypot(mean - exact_mean, variance - exact_std**2) for mean, variance in ends]
    rates = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert abs(np.mean(rates) - order) < 0.25 and np.all(np.abs(rates - order) < 0.5), (errors, rates)


@jax.jit
def steps_of_no_length(sde, x, t):
    """Every stepper's step from t to t, of the anisotropic Gaussian."""
    keys, score_fn = keys_of(len(x)), anisotropic().score_fn(sde)
    return {name: solver.step(keys, solver.init(x), t, t, sde, score_fn).x for name, (solver, _) in STEPPERS.items()}


@pytest.mark.parametrize("name_of_sde, sde", quick(CORE, SDES | CORE_AS_ONE))
def test_no_time_no_change(name_of_sde, sde):
    """t == s is the identity, for every stepper."""
    x = jax.random.normal(jax.random.key(0), (5, DIM), jnp.float64)
    for t in (sde.t_min, 0.5 * sde.t_max, sde.t_max):
        for name, found in steps_of_no_length(sde, x, jnp.asarray(t)).items():
            np.testing.assert_allclose(found, x, rtol=1e-12, err_msg=name)


@each_solver
def test_evaluations_as_declared(name):
    solver, sde, calls = SOLVERS[name], SDES["vp"], []
    score_fn = anisotropic().score_fn(sde)

    def counting(x, t):
        calls.append(t)
        return score_fn(x, t)

    def step(x):
        return solver.step(keys_of(3), solver.init(x), jnp.asarray(0.5), jnp.asarray(0.4), sde, counting)

    jax.eval_shape(step, jnp.ones((3, DIM)))
    assert len(calls) == solver.nfe


@quickly("heun", "ancestral", "reverse_diffusion", "pc_published", "pc_paper", among=SOLVERS)
def test_samples_do_not_know_their_neighbors(name):
    """Sample i is a function of keys[i] and x_T[i]; the published batch norm is the one exception, by name."""
    solver, sde, data = SOLVERS[name], SDES["vp"], anisotropic()
    x_T, times = jax.random.normal(jax.random.key(0), (7, DIM), jnp.float64), UniformGrid()(sde, 10)
    program = jax.jit(lambda keys, x_T: sample(keys, solver, sde, data.score_fn(sde), x_T, times, as_is))
    seven = program(keys_of(7), x_T)
    others = program(keys_of(7, 1).at[:3].set(keys_of(3)), x_T.at[3:].multiply(-2.0))
    if name == "pc_published":
        assert not np.allclose(seven[:3], others[:3], rtol=1e-5)
    else:
        close(seven[:3], others[:3], 1e-9)
    assert np.min(np.max(np.abs(seven - others)[3:], axis=1)) > 1e-3


@quickly("ddim", "ancestral", "pc_paper", among=SOLVERS)
def test_one_trace(name):
    """Parameters of solver and SDE and the number of samples' keys are data: a change of value does not retrace."""
    solver, data, traces = SOLVERS[name], anisotropic(), []

    @jax.jit
    def program(keys, solver, sde, times):
        traces.append(0)
        return sample(keys, solver, sde, data.score_fn(sde), jnp.ones((4, DIM)), times)

    sde = SDES["vp"]
    for seed, other in ((0, sde), (1, sde.replace(beta_max=15.0))):
        program(keys_of(4, seed), solver, other, UniformGrid()(other, 8))
    assert len(traces) == 1


def test_relations_between_solvers():
    """DDIM(1) is the ancestral step; a corrector of no steps adds nothing; annealed Langevin is the expected norm."""
    sde, data = SDES["subvp"], anisotropic()
    step = lambda solver, keys: solver.step(  # noqa: E731
        keys, solver.init(jnp.ones((6, DIM))), jnp.asarray(0.6), jnp.asarray(0.4), sde, data.score_fn(sde)
    )
    a, b = step(DDIM(eta=1.0), keys_of(6)), step(Ancestral(), keys_of(6))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-9)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9)
    a = step(PredictorCorrector(predictor=NoPredictor(), corrector=Langevin(snr=0.2)), keys_of(6))
    b = step(PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=0.2)), keys_of(6))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-12)
    for first in (True, False):
        alone = PredictorCorrector(predictor=Ancestral(), corrector=NoCorrector(), corrector_first=first)
        assert alone.nfe == 1
        state = step(alone, keys_of(6))
        assert not np.allclose(state.x, state.mean)
    first, last = (PredictorCorrector(corrector_first=order) for order in (True, False))
    assert not np.allclose(step(first, keys_of(6)).x, step(last, keys_of(6)).x)


def test_steps_by_formula():
    """Each predictor's mean and noise against its equation, written out for one step of VP and VE."""
    t, s = jnp.asarray(0.6), jnp.asarray(0.5)
    x, keys = jnp.full((5, DIM), 0.8), keys_of(5)
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (DIM,), jnp.float64))(keys))
    for sde in (SDES["vp"], SDES["ve"]):
        score = np.asarray(anisotropic().score_fn(sde)(x, t))
        step = lambda solver: solver.step(keys, solver.init(x), t, s, sde, anisotropic().score_fn(sde))  # noqa: B023, E731
        a_t, a_s, v_t, v_s = (float(c) for c in (sde.alpha(t), sde.alpha(s), sde.sigma(t) ** 2, sde.sigma(s) ** 2))
        a, v = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
        f, g = float(sde.drift_rate(t)), float(sde.diffusion(t))
        expected = {
            EulerMaruyama(): (x - 0.1 * (f * x - g**2 * score), g * np.sqrt(0.1)),
            ReverseDiffusion(): ((2 - a) * x + v * score, np.sqrt(v)),
            Ancestral(): ((x + v * score) / a, np.sqrt(v_s * v / v_t)),
            Ancestral(large_variance=True): ((x + v * score) / a, np.sqrt(v)),
        }
        for solver, (mean, std) in expected.items():
            state = step(solver)
            np.testing.assert_allclose(state.mean, mean, rtol=1e-9, err_msg=str(solver))
            close(state.x, mean + std * z, 1e-7, err_msg=str(solver))
        x0, eps = (np.asarray(x) + v_t * score) / a_t, -np.sqrt(v_t) * score
        np.testing.assert_allclose(step(DDIM()).x, a_s * x0 + np.sqrt(v_s) * eps, rtol=1e-9)


@pytest.mark.parametrize("norm", ["expected", "batch"])
@pytest.mark.parametrize("name", ["vp", "ve"])
def test_langevin_step_by_formula(name, norm):
    """h = 2 a² (r ‖z‖/‖score‖)² with the batch's means of the norms, or with σ for their ratio."""
    sde, t, s, x = SDES[name], jnp.asarray(0.6), jnp.asarray(0.5), jnp.full((5, DIM), 0.8)
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=Langevin(snr=0.16, norm=norm))
    score = np.asarray(anisotropic().score_fn(sde)(x, t))
    state = solver.step(keys_of(5), solver.init(x), t, s, sde, anisotropic().score_fn(sde))
    noise = np.asarray(state.x)
    a = float(sde.alpha(t) / sde.alpha(s))
    corrector = solver.corrector
    keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 1), 0))(keys_of(5))
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (DIM,), jnp.float64))(keys))
    ratio = float(sde.sigma(t))
    if norm == "batch":
        ratio = np.linalg.norm(z, axis=1).mean() / np.linalg.norm(score, axis=1).mean()
    h = 2 * a**2 * (corrector.snr * ratio) ** 2
    np.testing.assert_allclose(noise, x + h * score + np.sqrt(2 * h) * z, rtol=1e-9)


@jax.jit
def corrected(sde, x, t):
    """x after 200 steps of Langevin's corrector at the time t."""
    solver, times = PredictorCorrector(predictor=NoPredictor(), corrector=Langevin(snr=0.1)), jnp.full(201, t)
    return sample(keys_of(len(x)), solver, sde, anisotropic(jnp.float32).score_fn(sde), x, times, as_is)


@pytest.mark.parametrize("name_of_sde, sde", quick(CORE, SDES | CORE_AS_ONE))
def test_langevin_leaves_the_marginal_alone(name_of_sde, sde):
    """200 corrector steps at a fixed time keep a Gaussian's scale, up to the O(h) bias of unadjusted Langevin."""
    data, t = anisotropic(jnp.float32), jnp.float32(sde.t_min + 0.3 * (sde.t_max - sde.t_min))
    mean, std = marginal_moments(data, sde, t)
    x = mean[None] + std[None] * jax.random.normal(jax.random.key(5), (COUNT, DIM), jnp.float32)
    out = corrected(sde, x, t)
    z = (np.asarray(out) - np.asarray(mean)) / np.asarray(std)
    assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(COUNT))
    assert np.all(np.abs(z.std(axis=0) - 1) < 4.5 / np.sqrt(2 * COUNT) + 0.01)
    moved = np.corrcoef(np.asarray(x)[:, 0], np.asarray(out)[:, 0])[0, 1]
    assert moved < 0.8


def test_a_pair_that_cannot_work_is_refused():
    sde, x = DoubleWell(), jnp.ones((2, 1))
    for solver in (DDIM(), ReverseDiffusion(), PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin())):
        with pytest.raises(
            TypeError, match=r"needs .*sigma.* of the SDE, which DoubleWell lacks; for any SDE there are"
        ):
            sample(keys_of(2), solver, sde, lambda x, t: -x, x, UniformGrid()(sde, 4))
    for solver in (
        EulerMaruyama(),
        Heun(),
        PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin(norm="batch")),
    ):
        assert np.all(np.isfinite(sample(keys_of(2), solver, sde, lambda x, t: -x, x, UniformGrid()(sde, 4))))
    with pytest.raises(ValueError, match=r"Langevin's norm is one of expected, batch; got 'Batch'"):
        Langevin(norm="Batch")


def test_reverse_of_a_nonlinear_process():
    """Stationary start: the reverse SDE and the flow leave exp(−2V) of the double well as it is."""
    sde = DoubleWell()
    score_fn = lambda x, t: 2 * sde.drift(x, t)  # noqa: E731  p ∝ exp(−2V), g = 1
    grid = np.linspace(-3, 3, 4001)
    density = np.exp(-2 * (grid**4 / 4 - grid**2 / 2))
    x = np.random.default_rng(0).choice(grid, size=(20_000, 1), p=density / density.sum())
    second, fourth = np.mean(x**2), np.mean(x**4)
    for solver in (EulerMaruyama(), Heun()):
        out = np.asarray(
            jax.jit(
                lambda x, solver=solver: sample(keys_of(20_000), solver, sde, score_fn, x, UniformGrid()(sde, 200))
            )(x)
        )
        assert abs(np.mean(out**2) - second) < 0.03
        assert abs(np.mean(out**4) - fourth) < 0.1


def test_path_ends_where_the_sample_ends():
    sde, data = SDES["vp"], anisotropic()
    times = UniformGrid()(sde, 6)
    arguments = (keys_of(3), SOLVERS["pc_expected"], sde, data.score_fn(sde), jnp.ones((3, DIM)), times)
    path = sample_path(*arguments)
    assert path.shape == (7, 3, DIM)
    np.testing.assert_allclose(path[0], 1.0)
    np.testing.assert_allclose(path[-1], sample(*arguments, denoise=as_is), rtol=1e-12)


def test_expand_is_all_that_broadcasts():
    """A solver given one time a sample steps each sample by its own dt."""
    sde, data, x = SDES["vp"], anisotropic(), jnp.ones((2, DIM))
    t, s = jnp.asarray([0.8, 0.5]), jnp.asarray([0.6, 0.2])

    @jax.jit
    def steps(keys, x, t, s):
        chosen = {name: SOLVERS[name] for name in DETERMINISTIC}
        return {n: solver.step(keys, solver.init(x), t, s, sde, data.score_fn(sde)).x for n, solver in chosen.items()}

    both = steps(keys_of(2), x, t, s)
    for i in range(2):
        one = steps(keys_of(2)[i : i + 1], x[:1], t[i], s[i])
        for name in DETERMINISTIC:
            np.testing.assert_allclose(both[name][i], one[name][0], rtol=1e-10, err_msg=name)
    assert expand(s - t, x).shape == (2, 1)
