import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, SubVP, expand
from tests.contracts import CORE, DIAGONAL, SDES
from tests.helpers import keys

GOLDEN = Path(__file__).parents[1] / "golden" / "sde"
PUBLISHED = {
    name: {"vp": VP, "subvp": SubVP, "ve": VE}[entry["kind"]](
        **{k: float(v) for k, v in entry.items() if k.startswith(("beta", "sigma"))}
    )
    for name, entry in json.loads((GOLDEN / "config.json").read_text()).items()
}
each_sde = pytest.mark.parametrize("sde", [*SDES.values(), *DIAGONAL.values()], ids=[*SDES, *DIAGONAL])
each_scalar_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


@partial(jax.jit, static_argnums=1)
def at(sde, name, *arguments):
    """A method's value as one program, which is faster here than operation by operation."""
    return getattr(sde, name)(*arguments)


@jax.jit
def every_coefficient(sde, t):
    return {name: getattr(sde, name)(t) for name in ("alpha", "sigma", "drift_rate", "diffusion", "log_snr")}


def coefficients(sde, t, padded=512):
    """α, σ, f, g and λ at times [N ≤ 512], which are padded: one program for each process and dtype."""
    t = np.asarray(t)
    values = every_coefficient(sde, np.pad(t, (0, padded - len(t)), mode="edge"))
    return {name: np.asarray(value)[: len(t)] for name, value in values.items()}


def times(sde, n=41):
    return jnp.linspace(sde.t_min, sde.t_max, n)


def early_times(sde, n=50):
    return jnp.geomspace(max(sde.t_min, 1e-5), sde.t_max, n)


@each_sde
def test_moment_equations(sde):
    """d log α/dt = f and dσ²/dt = 2 f σ² + g², with numerical derivatives."""
    t, h = np.linspace(sde.t_min + 1.1e-3, sde.t_max - 1e-3, 41), 1e-6
    found = coefficients(sde, np.concatenate([t - h, t, t + h]))
    (before, alpha, after), (low, sigma, high), (_, f, _), (_, g, _) = (
        np.split(found[name], 3) for name in ("alpha", "sigma", "drift_rate", "diffusion")
    )
    # A difference quotient has an error of its own: ε/h of the number that is differentiated, ten times that here.
    rounding = 10 * np.finfo(float).eps / h
    rate = (np.log(after) - np.log(before)) / (2 * h)
    assert np.all(np.abs(rate - f) <= 1e-6 * np.abs(f) + rounding * (1 + np.abs(np.log(alpha))))
    dvariance = (high**2 - low**2) / (2 * h)
    lost = 2 * f * sigma**2
    assert np.all(np.abs(dvariance - lost - g**2) <= 1e-6 * g**2 + rounding * sigma**2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formulas(name):
    """Drift, diffusion, kernel and prior of Song et al. (2021), as computed in float64 by another implementation."""
    sde, golden = PUBLISHED[name], np.load(GOLDEN / f"{name}.npz")
    t = jnp.asarray(golden["t"], jnp.float64)
    x = jnp.asarray(golden["x"], jnp.float64)
    score = jnp.asarray(golden["score"], jnp.float64)
    z = jnp.asarray(golden["z_prior"], jnp.float64)
    close = lambda a, key: np.testing.assert_allclose(a, golden[f"f64.{key}"], rtol=1e-9)  # noqa: E731
    close(sde.drift(x, t), "drift")
    close(sde.diffusion(t), "diffusion")
    close(sde.alpha(t), "mean_coeff")
    close(sde.sigma(t), "std")
    close(sde.marginal(x, t)[0], "mean")
    close(sde.prior_logp(z), "prior_logp")
    close(sde.reverse_drift(x, t, score), "rev_drift")
    close(sde.flow_drift(x, t, score), "rev_drift_pf")


@pytest.mark.parametrize("beta", [(0.1, 20.0), (0.25, 12.5)])
def test_linear_beta_closed_forms(beta):
    """VP: f = −β/2, g² = β. Sub-VP: the same f, g² = β (1 − exp(−2∫β)) (Song et al. 2021, eq. 25 to 29)."""
    low, high = beta
    t = jnp.linspace(1e-5, 1.0, 101)
    rate, integral = low + (high - low) * t, low * t + 0.5 * (high - low) * t**2
    vp, subvp = VP(beta_min=low, beta_max=high), SubVP(beta_min=low, beta_max=high)
    np.testing.assert_allclose(vp.drift_rate(t), -0.5 * rate, rtol=1e-10)
    np.testing.assert_allclose(subvp.drift_rate(t), -0.5 * rate, rtol=1e-10)
    np.testing.assert_allclose(vp.diffusion(t) ** 2, rate, rtol=1e-10)
    np.testing.assert_allclose(subvp.diffusion(t) ** 2, rate * -jnp.expm1(-2 * integral), rtol=1e-8)


def test_geometric_sigma_closed_form():
    """VE: g = σ √(2 log(σ_max/σ_min)) (Song et al. 2021, eq. 30)."""
    sde, t = VE(sigma_min=0.02, sigma_max=90.0), jnp.linspace(1e-5, 1.0, 101)
    np.testing.assert_allclose(sde.diffusion(t), 0.02 * 4500.0**t * np.sqrt(2 * np.log(4500.0)), rtol=1e-10)


@each_sde
def test_start_and_signal_to_noise(sde):
    """α(0) = 1, the data come through almost unharmed at t_min, and λ falls."""
    found = coefficients(sde, np.concatenate([[0.0], times(sde)]))
    np.testing.assert_allclose(found["alpha"][0], np.ones_like(found["alpha"][0]), rtol=2e-6)
    assert np.all(found["sigma"][1] < 0.02)
    assert np.all(np.diff(found["log_snr"][1:], axis=0) < 0)


@each_scalar_sde
def test_prior_is_the_marginal(sde):
    """KL(p(x at t_max) ‖ prior) for data N(0, 1), in nats a dimension."""
    found = coefficients(sde, [sde.t_max])
    std = float(np.hypot(found["alpha"], found["sigma"])[0])
    ratio = (std / float(sde.prior_std())) ** 2
    assert 0.5 * (ratio - 1 - np.log(ratio)) < 1e-5


@each_sde
def test_prior_density_and_draws(sde):
    x = sde.prior_sample(keys(4096), (64,))
    std = np.broadcast_to(np.asarray(sde.prior_std()), (1, 64))
    z = np.asarray(x) / std
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    expected = -0.5 * (z**2 + np.log(2 * np.pi * std**2)).reshape(len(z), -1).sum(axis=1)
    np.testing.assert_allclose(sde.prior_logp(x), expected, rtol=1e-10)


@each_sde
def test_float32_agrees_with_float64(sde):
    """To 1e-5 relative, for every t down to t_min: no cancellation (a naive 1 − exp loses 2 % there)."""
    t32 = jnp.concatenate([early_times(sde, 200), times(sde)]).astype(jnp.float32)
    t32 = jnp.clip(t32, jnp.float32(sde.t_min), jnp.float32(sde.t_max))
    exact, low = coefficients(sde, t32.astype(jnp.float64)), coefficients(sde, t32)
    for name in ("alpha", "sigma", "drift_rate", "diffusion"):
        assert low[name].dtype == np.float32
        np.testing.assert_allclose(low[name], exact[name], rtol=1e-5, err_msg=name)


@each_sde
def test_transitions_compose(sde):
    """Going s → u → t is going s → t, and from the data it is the kernel; nothing happens in no time."""
    s, u, t = (sde.t_min + f * (sde.t_max - sde.t_min) for f in (0.1, 0.4, 0.7))
    alpha, sigma = at(sde, "transition", jnp.asarray([u, t, t, t]), jnp.asarray([s, u, s, t]))
    (a_us, a_tu, a_ts, _), (s_us, s_tu, s_ts, s_tt) = alpha, sigma
    sigma_s, sigma_t = coefficients(sde, [s, t])["sigma"]
    np.testing.assert_allclose(a_ts, a_tu * a_us, rtol=1e-10)
    np.testing.assert_allclose(s_ts**2, (a_tu * s_us) ** 2 + s_tu**2, rtol=1e-10)
    np.testing.assert_allclose(sigma_t**2, (a_ts * sigma_s) ** 2 + s_ts**2, rtol=1e-10)
    np.testing.assert_allclose(s_tt, 0.0)


@each_scalar_sde
def test_time_of_log_snr_inverts(sde):
    t = early_times(sde)
    log_snr = np.append(coefficients(sde, t)["log_snr"], [1e9, -1e9])
    found = at(sde, "time_of_log_snr", jnp.asarray(log_snr))
    np.testing.assert_allclose(found[:-2], t, rtol=1e-8)
    np.testing.assert_allclose(found[-2:], [sde.t_min, sde.t_max], atol=1e-8 * sde.t_max)


@each_sde
def test_perturb_draws_from_the_kernel(sde):
    n = 4000
    x, eps = sde.perturb(keys(n, 1), jnp.full((n, 64), 1.5), jnp.asarray(0.4))
    found = coefficients(sde, [0.4])
    alpha, sigma = (np.broadcast_to(found[name].reshape(1, -1), (1, 64)) for name in ("alpha", "sigma"))
    expected = alpha * 1.5 + sigma * np.asarray(eps)
    assert np.all(np.abs(x - expected) <= 1e-12 * (alpha + sigma))
    z = (np.asarray(x) - alpha * 1.5) / sigma
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)


@each_scalar_sde
def test_forward_simulation_reaches_the_kernel(sde):
    """Euler–Maruyama paths of dx = f dt + g dw have the kernel's mean and variance: the signs and factors are right."""
    n, steps, t_end = 8000, 400, sde.t_min + 0.3 * (sde.t_max - sde.t_min)
    grid = np.linspace(sde.t_min, t_end, steps + 1)
    rng, dt = np.random.default_rng(0), grid[1] - grid[0]
    found = coefficients(sde, [*(grid[:-1] + dt / 2), sde.t_min, t_end])  # midpoints: second-order moments
    (*_, alpha0, alpha), (*_, sigma0, sigma) = found["alpha"], found["sigma"]
    x = 2.0 * alpha0 + sigma0 * rng.normal(size=(n, 1))
    for rate, noise in zip(found["drift_rate"][:steps], found["diffusion"][:steps], strict=True):
        x = x + dt * rate * x + noise * np.sqrt(dt) * rng.normal(size=x.shape)
    assert abs(x.mean() - 2 * alpha) < 4 * sigma / np.sqrt(n) + 2e-3
    assert abs(x.std() / sigma - 1) < 4 / np.sqrt(2 * n) + 4e-3


def test_one_trace_for_all_parameters():
    traces = []

    @jax.jit
    def sigma(sde, t):
        traces.append(0)
        return sde.sigma(t)

    a, b = sigma(VP(beta_max=20.0), 0.5), sigma(VP(beta_max=5.0), 0.5)
    assert len(traces) == 1 and a > b
    slope = jax.grad(lambda sde: sde.sigma(0.5))(VP(beta_max=5.0)).beta_max
    np.testing.assert_allclose(
        slope, (VP(beta_max=5 + 1e-6).sigma(0.5) - VP(beta_max=5 - 1e-6).sigma(0.5)) / 2e-6, rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(2,), (64, 3), (128, 1), (8, 8, 1), (4, 6, 5, 2)])
def test_any_event_shape(shape):
    x = jnp.ones((3, *shape))
    for sde in (SDES[name] for name in CORE):
        a, b = (
            sde.drift(x, jnp.asarray([0.1, 0.5, 0.9])),
            jnp.stack([sde.drift(x, t)[i] for i, t in enumerate([0.1, 0.5, 0.9])]),
        )
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_expand_names_both_shapes():
    x = jnp.zeros((4, 8, 8, 1))
    assert expand(1.0, x).shape == () and expand(jnp.ones(4), x).shape == (4, 1, 1, 1)
    assert expand(jnp.ones((1, 8, 1, 1)), x).shape == (1, 8, 1, 1)
    for wrong in ((3,), (8, 8), (4, 1), (4, 7, 1, 1)):
        with pytest.raises(ValueError, match=r"a coefficient of shape .* does not fit x of shape \(4, 8, 8, 1\)"):
            expand(jnp.ones(wrong), x)
