"""Every predictor with every corrector, in both orders and with every process, from one step to a thousand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import gaussian, sample_keys
from sde_lib.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    NoCorrector,
    NoPredictor,
    PredictorCorrector,
    ReverseDiffusion,
    SolverState,
)
from tests.contracts import CLOSED, DIAGONAL, QUICK, SDES, together

PREDICTORS = {
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "ancestral": Ancestral(),
    "ddim": DDIM(),
    "ddim_half": DDIM(eta=0.5),
    "none": NoPredictor(),
}
CORRECTORS = {
    "langevin_batch": Langevin(snr=0.1, norm="batch"),
    "langevin": Langevin(snr=0.1),
    "annealed": AnnealedLangevin(snr=0.1),
    "none": NoCorrector(),
}
DIM = 64
DATA = gaussian(jnp.linspace(-1, 1, DIM, dtype=jnp.float32), jnp.linspace(0.3, 1.5, DIM, dtype=jnp.float32))


@functools.partial(jax.jit, static_argnames=("name", "corrector_first", "count"), compiler_options=QUICK)
def run(name, corrector_first, count, steps, even_in_time, sde):
    """The end of each predictor with that corrector, after `steps` steps in float32 from t_max to λ = 5, started at the
    exact marginal: in standard deviations from its mean there."""
    first, last = (jnp.asarray(t, jnp.float32) for t in (sde.t_max, sde.time_of_log_snr(jnp.float32(5.0))))
    fractions = jnp.minimum(jnp.arange(1001, dtype=jnp.float32) / steps.astype(jnp.float32), 1.0)
    ends = sde.log_snr(first), sde.log_snr(last)
    even = first + fractions * (last - first)
    times = jnp.where(
        even_in_time, even, sde.time_of_log_snr(jnp.mean(ends[0]) + fractions * jnp.mean(ends[1] - ends[0]))
    )
    times = times.at[0].set(first)

    def moments(t):
        alpha, sigma = (jnp.reshape(c, -1) for c in (sde.alpha(t), sde.sigma(t)))
        return alpha * DATA.means[0], jnp.sqrt((alpha * DATA.stds[0]) ** 2 + sigma**2)

    mean, std = moments(times[0])
    x = mean[None] + std[None] * jax.random.normal(jax.random.key(1), (count, DIM), jnp.float32)
    pairs = {
        name_of: PredictorCorrector(predictor=predictor, corrector=CORRECTORS[name], corrector_first=corrector_first)
        for name_of, predictor in PREDICTORS.items()
    }

    def body(k, states):
        keys = sample_keys(jax.random.fold_in(jax.random.key(2), k), jnp.arange(count))
        t, s = times[k], times[k + 1]
        return {n: pair.step(keys, states[n], t, s, sde, DATA.score_fn(sde)) for n, pair in pairs.items()}

    states = jax.lax.fori_loop(0, steps, body, {n: SolverState(x, x) for n in pairs})
    mean, std = moments(times[-1])
    return {n: (state.x - mean[None]) / std[None] for n, state in states.items()}


ALL = together({name: SDES[name] for name in CLOSED}) | {n: s for n, s in SDES.items() if n not in CLOSED} | DIAGONAL
each_pair = pytest.mark.parametrize(
    "name, first, sde",
    [
        pytest.param(
            corrector,
            first,
            sde,
            id=f"{corrector}-{'first' if first else 'last'}-{name}",
            marks=[] if name == "subvp" and first and corrector == "langevin" else pytest.mark.slow,
        )
        for corrector, first, (name, sde) in itertools.product(CORRECTORS, (True, False), ALL.items())
    ],
)


@each_pair
def test_finite_at_any_number_of_steps(name, first, sde):
    for steps, even_in_time in itertools.product((1, 2, 5, 10, 1000), (True, False)):
        for predictor, z in run(name, first, 3, jnp.asarray(steps), jnp.asarray(even_in_time), sde).items():
            assert z.dtype == np.float32
            assert np.all(np.isfinite(z)), (predictor, steps, even_in_time)


@pytest.mark.slow
@each_pair
def test_moments(name, first, sde):
    """Of 1,000 steps even in log-SNR: mean and standard deviation within 4.5 standard errors and 0.03 of bias, but
    where there is no predictor, and Langevin dynamics alone lags behind."""
    count = 300
    for predictor, z in run(name, first, count, jnp.asarray(1000), jnp.asarray(False), sde).items():
        if predictor != "none":
            z = np.asarray(z)
            assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(count) + 0.03), predictor
            assert np.all(np.abs(z.std(axis=0) - 1) < 4.5 / np.sqrt(2 * count) + 0.03), predictor
