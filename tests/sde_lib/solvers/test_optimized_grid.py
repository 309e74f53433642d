"""The optimized grid: against the closed form for normal data, and by what it saves on a mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config_lib.spec import build, from_json, spec, to_json
from sde_lib import (
    EDM,
    VE,
    VP,
    Adaptive,
    EDMGrid,
    GaussianMixture,
    LogSNRGrid,
    ProbabilityFlowODE,
    Sampler,
    SubVP,
    TabulatedGrid,
    UniformGrid,
    as_is,
    gaussian,
    optimized_grid,
)
from sde_lib.solvers import DDIM, DPMSolver
from tests.contracts import QUICK
from tests.helpers import keys as keys_of

FOUR = GaussianMixture(
    means=jnp.asarray([[-1.0, -0.6], [-0.8, 0.9], [1.0, -1.0], [0.7, 1.1]]),
    stds=jnp.full((4, 2), 0.15),
    weights=jnp.asarray([0.1, 0.2, 0.3, 0.4]),
)
ORDERS = {"ddim": (DDIM(), 1), "dpm2": (DPMSolver(order=2), 2)}


@functools.partial(jax.jit, static_argnames=("order", "num_knots", "shape"), compiler_options=QUICK)
def made_for(solver, order, sde, data, start, num_knots=64, shape=(2,)):
    return optimized_grid(
        keys_of(64), sde, data.score_fn(sde), shape, solver=solver, order=order, start=start, num_knots=num_knots
    )


@pytest.mark.parametrize("start", [LogSNRGrid(), EDMGrid()], ids=["log_snr", "karras"])
def test_normal_data_want_even_steps_in_arctan(start):
    """t_k = s tan θ_k with θ_k even, whatever the reference grid; at any number of steps, with exact ends."""
    std, sde = 0.5, EDM(t_max=10.0, t_min=0.01)
    grid = made_for(DDIM(), 1, sde, gaussian(jnp.zeros(1), jnp.full(1, std)), start, 256, (1,))
    for steps in (1, 2, 7, 40):
        times = np.asarray(grid(sde, steps))
        angle = np.linspace(np.arctan(10.0 / std), np.arctan(0.01 / std), steps + 1)
        np.testing.assert_allclose(times, std * np.tan(angle), rtol=0.02)
        assert times[0] == 10.0 and times[-1] == 0.01
    cut = np.asarray(grid.replace(t_end=1.0)(sde, 9))
    np.testing.assert_allclose(np.arctan(cut / std), np.linspace(angle[0], np.arctan(1.0 / std), 10), rtol=0.01)


@functools.lru_cache
def reference(name, sde):
    sampler = ProbabilityFlowODE(ode=Adaptive(rtol=1e-8, atol=1e-8), t_end=sde.t_min)
    return np.asarray(jax.jit(lambda keys: sampler(keys, sde, FOUR.score_fn(sde), (2,)))(keys_of(256, 1)))


@pytest.mark.parametrize("name", [pytest.param("ddim", marks=pytest.mark.slow), "dpm2"])
@pytest.mark.parametrize(
    "sde",
    [
        pytest.param(VP(t_min=1e-3), id="vp"),
        pytest.param(VE(t_min=1e-2), id="ve", marks=pytest.mark.slow),
        pytest.param(SubVP(t_min=1e-2), id="subvp", marks=pytest.mark.slow),
    ],
)
def test_it_saves_steps_on_a_mixture(sde, name):
    """The distance to the flow's own end point at 12 steps: at most three quarters of the best other grid's."""
    solver, order = ORDERS[name]
    grids = {"optimized": made_for(solver, order, sde, FOUR, LogSNRGrid())}
    grids |= {"uniform": UniformGrid(), "log_snr": LogSNRGrid(), "karras": EDMGrid()}
    exact, errors = reference(name, sde), {}
    for grid in grids:
        sampler = Sampler(solver=solver, grid=grids[grid], num_steps=12, denoise=as_is)
        x = jax.jit(lambda keys, s=sampler: s(keys, sde, FOUR.score_fn(sde), (2,)), compiler_options=QUICK)
        errors[grid] = np.mean(np.linalg.norm(np.asarray(x(keys_of(256, 1))) - exact, axis=1))
    others = min(error for grid, error in errors.items() if grid != "optimized")
    assert errors["optimized"] < 0.75 * others, errors


def test_a_config_holds_it():
    grid = TabulatedGrid(times=jnp.asarray([0.0, 0.25, 1.0]), shares=jnp.asarray([0.0, 0.5, 1.0]))
    found = build(from_json(to_json(spec(Sampler, grid=grid, num_steps=4)))).grid(VP(t_min=0.0), 4)
    np.testing.assert_allclose(found, [1.0, 0.625, 0.25, 0.125, 0.0], atol=1e-6)
