"""Single steps of the published samplers, as another implementation computed them (tests/golden/sde): the solvers on
the discrete processes, which hold the published tables."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, SubVP, discrete_ve, discrete_vp, tweedie
from sde_lib.solvers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    ReverseDiffusion,
    SolverState,
    predictors,
)
from sde_lib.solvers import predictor_corrector as correctors

GOLDEN = Path(__file__).parents[2] / "golden" / "sde"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
NAMES = list(CONFIG)


class Published:
    """One file of golden numbers, with the continuous process and the discrete one of its N steps."""

    def __init__(self, name):
        entry = CONFIG[name]
        self.kind, self.n = entry["kind"], int(entry["N"])
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.golden = dict(file)
        parameters = {k: float(v) for k, v in entry.items() if k.startswith(("beta", "sigma"))}
        self.continuous = {"vp": VP, "subvp": SubVP, "ve": VE}[self.kind](**parameters)
        if self.kind == "ve":
            self.discrete = discrete_ve(self.n, **parameters)
        else:
            ends = parameters["beta_min"] / self.n, parameters["beta_max"] / self.n
            self.discrete = discrete_vp(betas=tuple(np.linspace(*ends, self.n)))
        self.x, self.score, self.z = (jnp.asarray(self.golden[k], jnp.float64) for k in ("x", "score", "z"))
        self.index = np.asarray(self.golden["f64.timestep"])

    def interval(self):
        """The table's times t and s of each example's step. NCSN's first level has none before it: s is t there."""
        if self.kind == "ve":
            return jnp.asarray(self.index / (self.n - 1)), jnp.asarray(np.maximum(self.index - 1, 0) / (self.n - 1))
        return jnp.asarray((self.index + 1) / self.n), jnp.asarray(self.index / self.n)

    def close(self, state, key, rows=slice(None)):
        for got, suffix in ((state.x, "x"), (state.mean, "x_mean")):
            np.testing.assert_allclose(got[rows], self.golden[f"f64.{key}_{suffix}"][rows], rtol=1e-5, atol=1e-7)


@pytest.fixture(params=NAMES)
def published(request, monkeypatch):
    found = Published(request.param)
    for module in (predictors, correctors):
        monkeypatch.setattr(module, "normal_like", lambda keys, x: found.z)
    return found


def step(solver, published, sde, t, s):
    keys = jax.random.split(jax.random.key(0), len(published.x))
    score_fn = lambda x, t: published.score  # noqa: E731
    return solver.step(keys, SolverState(published.x, published.x), t, s, sde, score_fn)


def test_euler_maruyama(published):
    t = jnp.asarray(published.golden["t"], jnp.float64)
    state = step(EulerMaruyama(), published, published.continuous, t, t - 1 / published.n)
    published.close(state, "pred_euler_maruyama")


def test_reverse_diffusion(published):
    if published.kind == "subvp":
        # Without a table of its own the published sub-VP step is Euler's of the forward process: Euler–Maruyama.
        t = jnp.asarray(published.golden["t"], jnp.float64)
        state = step(EulerMaruyama(), published, published.continuous, t, t - 1 / published.n)
        return published.close(state, "pred_reverse_diffusion")
    t, s = published.interval()
    state = step(ReverseDiffusion(), published, published.discrete, t, s)
    published.close(state, "pred_reverse_diffusion", rows_with_a_step(published))


def rows_with_a_step(published):
    return published.index > 0 if published.kind == "ve" else slice(None)


def test_ancestral(published):
    if published.kind == "subvp":
        pytest.skip("not published")
    t, s = published.interval()
    state = step(Ancestral(large_variance=published.kind == "vp"), published, published.discrete, t, s)
    published.close(state, "pred_ancestral_sampling", rows_with_a_step(published))


def test_the_last_level_of_ncsn_is_tweedies_formula(published):
    """Its step goes from the smallest noise level to none; the mean is what is returned."""
    if published.kind != "ve":
        pytest.skip("for NCSN's table")
    t, _ = published.interval()
    rows = published.index == 0
    assert rows.any()
    state = SolverState(published.x, published.x)
    clean = tweedie(state, t, published.discrete, lambda x, t: published.score)
    expected = published.golden["f64.pred_reverse_diffusion_x_mean"]
    np.testing.assert_allclose(clean[rows], expected[rows], rtol=1e-5, atol=1e-7)


class WithTable:
    """The published correctors mix the continuous process's σ with the table's α_ts² = 1 − β."""

    def __init__(self, published):
        self.published, self.sigma = published, published.continuous.sigma

    def alpha_ts(self, t, s):
        if self.published.kind == "ve":
            return jnp.ones(len(self.published.x))
        return self.published.discrete.alpha_ts(*self.published.interval())


@pytest.mark.parametrize(
    "corrector, key",
    [(Langevin(snr=0.16, norm="batch"), "corr_langevin"), (AnnealedLangevin(snr=0.16), "corr_ald")],
    ids=["langevin", "annealed"],
)
def test_correctors(published, corrector, key):
    """Sub-VP has no published corrector; the numbers there put VP's table in its place."""
    t = jnp.asarray(published.golden["t"], jnp.float64)
    keys = jax.random.split(jax.random.key(0), len(published.x))
    state = SolverState(published.x, published.x)
    state = corrector.correct(keys, state, t, t, t, WithTable(published), lambda x, t: published.score)
    published.close(state, f"{key}_vpalpha" if published.kind == "subvp" else key)
