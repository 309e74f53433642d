import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, SubVP, expand, sample_keys
from tests.contracts import CORE, DIAGONAL, SDES

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


def times(sde, n=41):
    return jnp.linspace(sde.t_min, sde.t_max, n)


def early_times(sde, n=50):
    return jnp.geomspace(max(sde.t_min, 1e-5), sde.t_max, n)


def numerical_derivative(function, t, h=1e-6):
    return (function(t + h) - function(t - h)) / (2 * h)


@each_sde
def test_moment_equations(sde):
    """d log α/dt = f and dσ²/dt = 2 f σ² + g², with numerical derivatives."""
    t = jnp.linspace(sde.t_min + 1.1e-3, sde.t_max - 1e-3, 41)
    f, g = at(sde, "drift_rate", t), at(sde, "diffusion", t)
    rate = numerical_derivative(lambda t: jnp.log(at(sde, "alpha", t)), t)
    np.testing.assert_allclose(rate, f, rtol=1e-6, atol=1e-8)
    dvariance = numerical_derivative(lambda t: at(sde, "sigma", t) ** 2, t)
    lost = 2 * f * at(sde, "sigma", t) ** 2
    assert np.all(np.abs(dvariance - lost - g**2) <= 1e-6 * g**2 + 1e-9)


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
    np.testing.assert_allclose(sde.alpha(jnp.zeros(())), jnp.ones_like(sde.alpha(jnp.zeros(()))), rtol=2e-6)
    assert np.all(np.asarray(sde.sigma(sde.t_min)) < 0.02)
    snr = np.asarray(at(sde, "log_snr", times(sde)))
    assert np.all(np.diff(snr, axis=0) < 0)


@each_scalar_sde
def test_prior_is_the_marginal(sde):
    """KL(p(x at t_max) ‖ prior) for data N(0, 1), in nats a dimension."""
    std = float(jnp.sqrt(sde.alpha(sde.t_max) ** 2 + sde.sigma(sde.t_max) ** 2))
    ratio = (std / float(sde.prior_std())) ** 2
    assert 0.5 * (ratio - 1 - np.log(ratio)) < 1e-5


@each_sde
def test_prior_density_and_draws(sde):
    x = sde.prior_sample(sample_keys(jax.random.key(0), jnp.arange(4096)), (64,))
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
    for name in ("alpha", "sigma", "drift_rate", "diffusion"):
        exact, low = np.asarray(at(sde, name, t32.astype(jnp.float64))), np.asarray(at(sde, name, t32))
        assert low.dtype == np.float32
        np.testing.assert_allclose(low, exact, rtol=1e-5, err_msg=name)


@each_sde
def test_transitions_compose(sde):
    """Going s → u → t is going s → t, and from the data it is the kernel; nothing happens in no time."""
    s, u, t = (jnp.asarray(sde.t_min + f * (sde.t_max - sde.t_min)) for f in (0.1, 0.4, 0.7))
    (a_us, s_us), (a_tu, s_tu), (a_ts, s_ts) = (at(sde, "transition", *ends) for ends in ((u, s), (t, u), (t, s)))
    np.testing.assert_allclose(a_ts, a_tu * a_us, rtol=1e-10)
    np.testing.assert_allclose(s_ts**2, (a_tu * s_us) ** 2 + s_tu**2, rtol=1e-10)
    np.testing.assert_allclose(at(sde, "sigma", t) ** 2, (a_ts * at(sde, "sigma", s)) ** 2 + s_ts**2, rtol=1e-10)
    np.testing.assert_allclose(sde.transition(t, t).sigma, 0.0)


@each_scalar_sde
def test_time_of_log_snr_inverts(sde):
    t = early_times(sde)
    np.testing.assert_allclose(sde.time_of_log_snr(at(sde, "log_snr", t)), t, rtol=1e-8)
    np.testing.assert_allclose(sde.time_of_log_snr(jnp.asarray([1e9, -1e9])), [sde.t_min, sde.t_max], atol=1e-8)


@each_sde
def test_perturb_draws_from_the_kernel(sde):
    x0 = jnp.full((20_000, 64), 1.5)
    t = jnp.asarray(0.4)
    x, eps = sde.perturb(sample_keys(jax.random.key(1), jnp.arange(20_000)), x0, t)
    alpha, sigma = np.broadcast_to(sde.alpha(t), (1, 64)), np.broadcast_to(sde.sigma(t), (1, 64))
    np.testing.assert_allclose(x, alpha * 1.5 + sigma * np.asarray(eps), rtol=1e-12)
    z = (np.asarray(x) - alpha * 1.5) / sigma
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)


@each_scalar_sde
def test_forward_simulation_reaches_the_kernel(sde):
    """Euler–Maruyama paths of dx = f dt + g dw have the kernel's mean and variance: the signs and factors are right."""
    n, steps, t_end = 20_000, 400, sde.t_min + 0.3 * (sde.t_max - sde.t_min)
    grid = np.linspace(sde.t_min, t_end, steps + 1)
    rng, dt = np.random.default_rng(0), grid[1] - grid[0]
    alpha0, sigma0 = float(sde.alpha(sde.t_min)), float(sde.sigma(sde.t_min))
    x = 2.0 * alpha0 + sigma0 * rng.normal(size=(n, 1))
    middle = grid[:-1] + dt / 2  # midpoint coefficients: second-order moments
    rates, noises = (np.asarray(jax.jit(jax.vmap(f))(middle)) for f in (sde.drift_rate, sde.diffusion))
    for rate, noise in zip(rates, noises, strict=True):
        x = x + dt * rate * x + noise * np.sqrt(dt) * rng.normal(size=x.shape)
    alpha, sigma = float(sde.alpha(t_end)), float(sde.sigma(t_end))
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
