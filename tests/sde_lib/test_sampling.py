import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    VE,
    VP,
    AdaptiveSDE,
    EDMGrid,
    LogSNRGrid,
    PowerGrid,
    PredictNoise,
    ProbabilityFlowODE,
    Sampler,
    ScoreModel,
    UniformGrid,
    as_is,
    fold,
    gaussian,
    sample,
    sample_keys,
    tweedie,
)
from sde_lib.solvers import DDIM, Heun, Langevin, PredictorCorrector, ReverseDiffusion
from tests.contracts import CORE, GRIDS, SDES, quick
from tests.helpers import close

DATA = gaussian(jnp.asarray([0.5, -0.2], jnp.float32), jnp.asarray([0.4, 0.9], jnp.float32))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name, sde", quick(CORE, SDES))
def test_grids_fall_from_end_to_end(name, sde, grid):
    for n in (1, 2, 5, 100):
        times = np.asarray(grid(sde, n))
        assert times.shape == (n + 1,) and np.all(np.diff(times) < 0)
        np.testing.assert_allclose(times[[0, -1]], [sde.t_max, sde.t_min], rtol=1e-12)
    np.testing.assert_allclose(grid.replace(t_end=0.01)(sde, 7)[-1], 0.01)


def test_grids_by_formula():
    vp, ve = VP(), VE()
    np.testing.assert_allclose(np.diff(UniformGrid()(vp, 10)), -(1 - 1e-5) / 10)
    root = np.sqrt(PowerGrid(power=2.0)(vp, 10))
    np.testing.assert_allclose(np.diff(root), np.diff(root)[0] * np.ones(10), rtol=1e-9)
    for sde in (vp, ve):
        steps = np.diff(sde.log_snr(LogSNRGrid()(sde, 20)))
        np.testing.assert_allclose(steps, steps[0] * np.ones(20), rtol=1e-5)
    level = np.asarray(ve.sigma(EDMGrid(rho=7.0)(ve, 18)))
    a, b = 50.0, float(ve.sigma(ve.t_min))
    expected = (a ** (1 / 7) + np.arange(19) / 18 * (b ** (1 / 7) - a ** (1 / 7))) ** 7
    np.testing.assert_allclose(level, expected, rtol=1e-6)


def test_denoising_at_the_end():
    """Of normal data the posterior mean is known: E[x_0 | x] = m + α s² (x − α m)/(α² s² + σ²)."""
    sde, keys, x_T = VP(), sample_keys(jax.random.key(0), jnp.arange(5)), jnp.ones((5, 2), jnp.float32)
    times = UniformGrid(t_end=0.1)(sde, 10).astype(jnp.float32)
    noisy, clean = (sample(keys, DDIM(), sde, DATA.score_fn(sde), x_T, times, end) for end in (as_is, tweedie))
    alpha, sigma = float(sde.alpha(0.1)), float(sde.sigma(0.1))
    mean, std = np.asarray([0.5, -0.2]), np.asarray([0.4, 0.9])
    expected = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (np.asarray(noisy) - alpha * mean)
    np.testing.assert_allclose(clean, expected, rtol=1e-5)
    solver = ReverseDiffusion()
    last = sample(keys, solver, sde, DATA.score_fn(sde), x_T, times)
    state = solver.init(sample(keys, solver, sde, DATA.score_fn(sde), x_T, times[:-1], as_is))
    final = solver.step(keys, state, times[-2], times[-1], sde, DATA.score_fn(sde))
    np.testing.assert_allclose(last, final.mean, rtol=1e-6)


def linear(params, x, c_noise, *, cond=None, key=None, train=False):
    return params["w"] * x


MODEL = ScoreModel(
    sde=VP(),
    parameterization=PredictNoise(),
    params={"w": jnp.asarray(0.9)},
    network=linear,
    shape=(4, 3),
    sampler=Sampler(solver=PredictorCorrector(), num_steps=6, grid=UniformGrid(t_end=1e-2)),
)


def test_a_sample_is_a_function_of_seed_and_number():
    """For any batch, any part of the range, and one to eight devices."""
    key = jax.random.key(7)
    sixteen = MODEL.sample(key, 16)
    close(MODEL.sample(key, 1), sixteen[:1], 1e-5)
    close(MODEL.sample(key, 7), sixteen[:7], 1e-5)
    close(MODEL.sample_indices(key, jnp.arange(5, 12)), sixteen[5:12], 1e-5)
    assert not np.allclose(MODEL.sample(jax.random.key(8), 16), sixteen)
    for count in (2, 4, 8):
        devices, auto = jax.devices()[:count], jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((count,), ("data",), axis_types=(auto,), devices=devices)
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        indices = jax.device_put(jnp.arange(16), split)
        model = jax.device_put(MODEL, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        close(model.sample_indices(key, indices), sixteen, 1e-5)


def test_score_of_the_model():
    x, t = jnp.ones((2, 4, 3)), jnp.asarray(0.4)
    np.testing.assert_allclose(MODEL.score(x, t), -0.9 * x / MODEL.sde.sigma(t), rtol=1e-6)


def test_evaluations_and_refusals():
    assert Sampler(solver=Heun(), num_steps=18).nfe == 36
    assert Sampler(solver=Heun(), num_steps=18, denoise=tweedie).nfe == 37
    assert Sampler(solver=PredictorCorrector(corrector=Langevin(steps=3)), num_steps=10).nfe == 40
    with pytest.raises(ValueError, match=r"num_steps >= 1; got num_steps=0"):
        Sampler(num_steps=0)


def test_the_path_of_a_sampler():
    times, path = MODEL.sampler.path(sample_keys(jax.random.key(7), jnp.arange(3)), MODEL.sde, MODEL.score, (4, 3))
    assert times.shape == (7,) and path.shape == (7, 3, 4, 3)
    end = MODEL.replace(sampler=MODEL.sampler.replace(denoise=as_is)).sample(jax.random.key(7), 3)
    close(path[-1], end, 1e-5)


def test_a_path_keeps_the_times_that_are_asked_for():
    keys, model = sample_keys(jax.random.key(7), jnp.arange(3)), MODEL
    path = jax.jit(lambda keep: model.sampler.path(keys, model.sde, model.score, (4, 3), keep), static_argnums=0)
    times, states = path(None)
    for keep in ((6,), (0, 2, 3)):
        some_times, some = path(keep)
        np.testing.assert_array_equal(some_times, times[np.asarray(keep)])
        close(some, states[np.asarray(keep)], 1e-6)
    for wrong in ((), (2, 1), (1, 1), (-1, 2), (0, 7)):
        with pytest.raises(ValueError, match="keep: expected increasing indices of the grid's times, from 0 to 6"):
            path(wrong)


@pytest.mark.parametrize("sampler", [MODEL.sampler, ProbabilityFlowODE(), AdaptiveSDE(rel_tol=0.1, t_end=1e-2)])
def test_where_a_sample_starts_can_be_given(sampler):
    """The prior's own draw gives the sample that it gives unasked; another start, another one; each its own."""
    model, key = MODEL.replace(sampler=sampler), jax.random.key(3)
    drawn, evaluations = model.with_nfe(key, jnp.arange(4))
    x_T = MODEL.sde.prior_sample(fold(sample_keys(key, jnp.arange(4)), 0), (4, 3))
    close(model.sample(key, 4, x_T=x_T), drawn, 1e-5)
    moved = model.sample(key, 4, x_T=x_T.at[2].add(0.5))
    assert np.abs(moved[2] - drawn[2]).max() > 0.01
    close(moved[[0, 1, 3]], np.asarray(drawn)[[0, 1, 3]], 1e-5)
    assert sampler.nfe is None or np.all(np.asarray(evaluations) == sampler.nfe)
    with pytest.raises(ValueError, match=r"x_T: expected \(4, 4, 3\), one start per key; got \(3, 4, 3\)"):
        model.sample(key, 4, x_T=x_T[:3])


def test_a_sampler_says_whether_neighbors_matter():
    for sampler, coupled in (
        (Sampler(solver=PredictorCorrector(corrector=Langevin(norm="batch"))), True),
        (Sampler(solver=PredictorCorrector(corrector=Langevin())), False),
        (Sampler(solver=Heun()), False),
    ):
        assert sampler.coupled is coupled
