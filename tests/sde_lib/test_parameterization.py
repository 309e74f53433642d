import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    EDM,
    VE,
    VP,
    EDMPreconditioning,
    LogSigma,
    PredictNoise,
    PredictScore,
    PredictV,
    PredictVelocity,
    PredictX0,
    ScaledTime,
    eps_hat,
    expand,
    make_score_fn,
    v_hat,
    x0_hat,
)
from sde_lib.discrete import AnalogBits
from sde_lib.parameterization import denoised
from sde_lib.sde import time_derivative
from tests.contracts import DIAGONAL, PARAMETERIZATIONS, SDES

each_sde = pytest.mark.parametrize("sde", [*SDES.values(), *DIAGONAL.values()], ids=[*SDES, *DIAGONAL])
each_parameterization = pytest.mark.parametrize("name", PARAMETERIZATIONS)


def draw(sde):
    """(x0, eps, t, x_t, α, σ), one sample a time from t_min to t_max."""
    t = jnp.linspace(sde.t_min, sde.t_max, 11)
    keys = jax.random.split(jax.random.key(0), 2)
    x0, eps = (jax.random.normal(key, (11, 64), jnp.float64) for key in keys)
    alpha, sigma = (jnp.reshape(c, (11, -1)) * jnp.ones((1, 64)) for c in (sde.alpha(t), sde.sigma(t)))
    return x0, eps, t, alpha * x0 + sigma * eps, alpha, sigma


def targets(x0, eps, x, alpha, sigma, sigma_data):
    """What each parameterization's network should answer, from the papers' definitions."""
    total = alpha**2 * sigma_data**2 + sigma**2
    return {
        "noise": eps,
        "score": -eps,
        "plain score": -eps / sigma,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        # Karras et al. 2022, eq. 8, for y = x/α at noise level σ/α: F = (x0 − c_skip y)/c_out
        "karras": (x0 - alpha * sigma_data**2 / total * x) * jnp.sqrt(total) / (sigma * sigma_data),
    }


@each_sde
@each_parameterization
def test_perfect_network_gives_the_score(sde, name):
    x0, eps, t, x, alpha, sigma = draw(sde)
    parameterization = PARAMETERIZATIONS[name]
    target = targets(x0, eps, x, alpha, sigma, 1.3)[name]
    score = make_score_fn(lambda x, c_noise: target, sde, parameterization)(x, t)
    np.testing.assert_allclose(score, -eps / sigma, rtol=1e-6, atol=1e-7)


@each_sde
@each_parameterization
def test_a_perfect_network_denoises(sde, name):
    """a x + b F = x_0, by the method that is accurate where σ is large."""
    x0, eps, t, x, alpha, sigma = draw(sde)
    target = targets(x0, eps, x, alpha, sigma, 1.3)[name]
    a, b = PARAMETERIZATIONS[name].denoiser(sde, t)
    np.testing.assert_allclose(expand(a, x) * x + expand(b, x) * target, x0, rtol=1e-5, atol=1e-8)


@each_sde
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_perfect_velocity_gives_the_score(sde, sign):
    """F = ± (α' x_0 + σ' ε), the derivative of the path in t."""
    x0, eps, t, x, _, sigma = draw(sde)
    rates = (expand(time_derivative(function, t)[1], x) for function in (sde.alpha, sde.sigma))
    velocity = sum(rate * part for rate, part in zip(rates, (x0, eps), strict=True))
    parameterization = PredictVelocity(sign=sign)
    score = make_score_fn(lambda x, c_noise: sign * velocity, sde, parameterization)(x, t)
    np.testing.assert_allclose(score, -eps / sigma, rtol=1e-6, atol=1e-7)
    a, b = parameterization.denoiser(sde, t)
    np.testing.assert_allclose(expand(a, x) * x + expand(b, x) * sign * velocity, x0, rtol=1e-5, atol=1e-8)


@each_sde
def test_conversions(sde):
    """score → x̂₀, ε̂, v̂ gives back what x was made of; the ways back are the parameterizations, tested above."""
    x0, eps, t, x, alpha, sigma = draw(sde)
    score = -eps / sigma
    np.testing.assert_allclose(x0_hat(sde, x, t, score), x0, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(eps_hat(sde, x, t, score), eps, rtol=1e-10)
    np.testing.assert_allclose(v_hat(sde, x, t, score), alpha * eps - sigma * x0, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", SDES)
def test_karras_has_unit_variance_in_and_out(name):
    """For independent x0 of standard deviation σ_d and ε, by the exact linear maps of the two."""
    sde, sigma_data = SDES[name], 1.3
    t = jnp.linspace(sde.t_min, sde.t_max, 21)
    c = EDMPreconditioning(sigma_data=sigma_data)(sde, t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    np.testing.assert_allclose(c.c_in**2 * (alpha**2 * sigma_data**2 + sigma**2), 1.0, rtol=1e-10)
    from_x0 = -c.c_skip * alpha / c.c_out
    from_eps = (-1 / sigma - c.c_skip * sigma) / c.c_out
    np.testing.assert_allclose((from_x0 * sigma_data) ** 2 + from_eps**2, 1.0, rtol=1e-9)


def test_coefficients_as_published():
    t = jnp.asarray(0.3)
    vp, ve = VP(), VE()
    assert PredictNoise(c_noise=ScaledTime(scale=999.0))(vp, t).c_noise == pytest.approx(299.7)
    assert PredictScore()(ve, t).c_noise == pytest.approx(float(np.log(ve.sigma(t))))
    assert PredictNoise()(vp, t).c_out == pytest.approx(-1 / float(vp.sigma(t)))
    assert PredictScore()(ve, t).c_out == pytest.approx(1 / float(ve.sigma(t)))
    assert EDMPreconditioning()(ve, t).c_noise == pytest.approx(float(np.log(ve.sigma(t)) / 4))
    assert PredictX0()(vp, t).c_in == PredictV()(vp, t).c_in == 1.0
    assert LogSigma()(vp, t) == pytest.approx(float(jnp.log(vp.sigma(t) / vp.alpha(t))))


def test_network_sees_scaled_x_and_a_batch_of_c_noise():
    seen = {}

    def network(x, c_noise):
        seen.update(x=x, c_noise=c_noise)
        return x

    x, sde, parameterization = jnp.full((3, 2), 4.0), VP(), EDMPreconditioning(sigma_data=0.5)
    make_score_fn(network, sde, parameterization)(x, 0.5)
    c = parameterization(sde, 0.5)
    np.testing.assert_allclose(seen["x"], c.c_in * x)
    np.testing.assert_allclose(seen["c_noise"], np.full(3, c.c_noise))


@each_parameterization
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_finite_in_float32_at_both_ends(sde, name):
    for t in (sde.t_min, sde.t_max):
        coefficients = PARAMETERIZATIONS[name](sde, jnp.float32(t))
        assert all(np.isfinite(np.float32(c)) for c in coefficients[:4])


@pytest.mark.parametrize("name", [*PARAMETERIZATIONS, "bits"])
@pytest.mark.parametrize("sde", [VP(), VE(), EDM()], ids=["vp", "ve", "edm"])
def test_the_denoiser_is_tweedies_formula_of_the_score(sde, name):
    """x̂₀ from the output directly is that by the score, in float64 at all noise levels."""
    parameterization = AnalogBits() if name == "bits" else PARAMETERIZATIONS[name]
    _, _, t, x, _, sigma = draw(sde)
    network = lambda x, c: jnp.sin(3 * x)  # noqa: E731
    found = denoised(network, sde, parameterization, x, t)
    expected = x0_hat(sde, x, t, make_score_fn(network, sde, parameterization)(x, t))
    scale = np.max(np.abs(found)) + np.max(np.abs(sigma))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * scale / np.min(np.abs(sde.alpha(t))))
