"""The shipped family: closed forms, tables, quadrature, and learning a schedule."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_lib import (
    EDM,
    VE,
    VP,
    CosineVP,
    DiagonalVP,
    GaussianMixture,
    GaussianSDE,
    GridTime,
    LearnedLogSNR,
    LikelihoodWeight,
    LinearSDE,
    LogSigma,
    OrnsteinUhlenbeck,
    PowerGrid,
    RectifiedFlow,
    Sampler,
    ScaledTime,
    SubVP,
    TabulatedLogSNR,
    UniformTime,
    as_is,
    discrete_ve,
    discrete_vp,
    dsm_loss,
    gaussian,
    sample_keys,
)
from sde_lib.node import static
from sde_lib.processes.interpolation import monotone_cubic
from sde_lib.solvers import Heun
from tests.contracts import SDES, quick
from tests.helpers import close, with_draws
from tests.sde_lib.processes.test_paths import Linear


@partial(jax.jit, static_argnums=1)
def at(sde, name, *times):
    """The method's value, as one program: faster here than operation by operation."""
    return getattr(sde, name)(*times)


def known_by_coefficients(closed: GaussianSDE) -> LinearSDE:
    """The same process, told by its drift and diffusion alone."""

    class Told(LinearSDE):
        process: GaussianSDE = closed

        def drift_rate(self, t):
            return self.process.drift_rate(t)

        def diffusion(self, t):
            return self.process.diffusion(t)

    start = closed.sigma(jnp.zeros(()))
    return Told(t_min=closed.t_min, t_max=closed.t_max, sigma_start=start if start.ndim == 0 else 0.0)


QUADRATURES = {
    name: sde for name, sde in SDES.items() if name not in ("coefficients", "tabulated", "learned", "discrete_vp")
} | {"diagonal": DiagonalVP(scales=np.asarray([0.5, 2.0]), speeds=np.asarray([0.8, 1.2]))}


@pytest.mark.parametrize("name, sde", quick(("vp", "ve", "diagonal"), QUADRATURES))
def test_quadrature_equals_the_closed_form(name, sde):
    """α and σ from f and g, to 1e-6 relative over all t in float64. In float32 to 3e-5, where a rate with a pole just
    beyond t_max is rounded (its argument, t, is), and else as a closed form."""
    told = known_by_coefficients(sde)
    early = jnp.geomspace(max(sde.t_min, 1e-5), sde.t_max, 300)
    t = jnp.concatenate([early, jnp.linspace(sde.t_min, sde.t_max, 300)])
    # At t = 0 itself g is a limit that some formulas cannot take; the kernels of these processes are exact there.
    t32 = t.astype(jnp.float32)
    for name in ("alpha", "sigma"):
        np.testing.assert_allclose(at(told, name, t), at(sde, name, t), rtol=1e-6)
        low = at(told, name, t32)
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, at(sde, name, t32.astype(jnp.float64)), rtol=3e-5)
    np.testing.assert_allclose(np.ravel(at(told, "sigma", t[5])), np.ravel(at(sde, "sigma", t)[5]), rtol=1e-6)
    ends = t[400], t[350]
    np.testing.assert_allclose(at(told, "alpha_ts", *ends), at(sde, "alpha_ts", *ends), rtol=1e-6)


def test_quadrature_is_differentiable():
    """In t, where the derivatives are f and g by the moment equations, and in the process's parameters."""

    class Linear(LinearSDE):
        beta_max: float = 20.0

        def drift_rate(self, t):
            return -0.5 * (0.1 + (self.beta_max - 0.1) * t)

        def diffusion(self, t):
            return jnp.sqrt(0.1 + (self.beta_max - 0.1) * t)

    sde, closed, t = Linear(beta_max=15.0), VP(beta_max=15.0), jnp.asarray(0.37)
    for name in ("alpha", "sigma", "log_snr"):
        slopes = jax.jit(jax.grad(lambda sde, t, name=name: getattr(sde, name)(t), argnums=(0, 1)))
        ours, exact = slopes(sde, t), slopes(closed, t)
        np.testing.assert_allclose(ours[0].beta_max, exact[0].beta_max, rtol=1e-6)
        np.testing.assert_allclose(ours[1], exact[1], rtol=1e-6)


def test_quadrature_with_a_start_and_with_coordinates():
    class Wide(LinearSDE):
        size: int = static(3)

        def drift_rate(self, t):
            return -jnp.arange(1, self.size + 1, dtype=t.dtype)[None] * jnp.reshape(jnp.ones_like(t), (-1, 1))

        def diffusion(self, t):
            return 2.0

    sde, t = Wide(sigma_start=0.3), jnp.linspace(0.01, 1.0, 7)
    moved = np.arange(1.0, 4.0)[None] * np.asarray(t)[:, None]
    np.testing.assert_allclose(at(sde, "alpha", t), np.exp(-moved), rtol=1e-10)
    variance = 0.09 * np.exp(-2 * moved) + 2 / np.arange(1.0, 4.0)[None] * -np.expm1(-2 * moved)
    np.testing.assert_allclose(at(sde, "sigma", t) ** 2, variance, rtol=1e-10)
    assert at(sde, "alpha", 0.5).shape == (1, 3)


def test_cosine_vp_is_nichol_and_dhariwals():
    t = jnp.linspace(0.001, 0.999, 50)
    level = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(CosineVP().alpha(t) ** 2, level(t) / level(0.0), rtol=1e-10)
    np.testing.assert_allclose(CosineVP().sigma(t) ** 2, 1 - level(t) / level(0.0), rtol=1e-9)


def test_edm_and_straight_line_coefficients():
    """EDM: g² = 2t. Straight line: f = −1/(1 − t), g² = 2t/(1 − t), and the flow's velocity is E[ε − x_0 | x_t]."""
    t = jnp.linspace(0.01, 0.99, 20)
    np.testing.assert_allclose(EDM().diffusion(t) ** 2, 2 * t, rtol=1e-10)
    np.testing.assert_allclose(EDM().drift_rate(t), 0.0, atol=1e-12)
    line = RectifiedFlow()
    np.testing.assert_allclose(line.drift_rate(t), -1 / (1 - t), rtol=1e-10)
    np.testing.assert_allclose(line.diffusion(t) ** 2, 2 * t / (1 - t), rtol=1e-10)
    data = gaussian(jnp.asarray([0.5]), jnp.asarray([0.7]))
    x, s = jnp.linspace(-2, 2, 9)[:, None], 0.6
    variance = (0.4 * 0.7) ** 2 + 0.36
    gain = (0.6 - 0.4 * 0.49) / variance  # cov(ε − x_0, x_t)/var(x_t)
    np.testing.assert_allclose(line.flow_drift(x, s, data.score_fn(line)(x, s)), -0.5 + gain * (x - 0.2), rtol=1e-9)


def test_ornstein_uhlenbeck_has_constant_coefficients():
    sde, t = OrnsteinUhlenbeck(rate=0.7, noise=1.3), jnp.linspace(0.01, 8.0, 30)
    np.testing.assert_allclose(sde.drift_rate(t), -0.7, rtol=1e-10)
    np.testing.assert_allclose(sde.diffusion(t), 1.3, rtol=1e-8)
    np.testing.assert_allclose(sde.prior_std() ** 2, 1.69 / 1.4)


def test_diagonal_vp_takes_the_same_share_of_each_coordinate():
    """With the scales of the data, data · α and noise have the same ratio in every coordinate, at each t."""
    scales = np.asarray([[0.1, 5.0], [1.0, 30.0]])
    sde, t = DiagonalVP(scales=scales), jnp.linspace(0.01, 1.0, 11)
    assert sde.sigma(t).shape == (11, 2, 2) and sde.sigma(0.5).shape == (1, 2, 2)
    share = (sde.sigma(t) / (sde.alpha(t) * scales[None])).reshape(11, -1)
    np.testing.assert_allclose(share, np.repeat(VP().sigma(t) / VP().alpha(t), 4).reshape(11, 4), rtol=1e-10)
    assert LogSigma()(sde, t).shape == (11,)
    assert LogSigma()(sde, jnp.asarray(0.5)).shape == ()
    np.testing.assert_allclose(sde.time_of_log_snr(LogSigma(scale=-2.0)(sde, t)), t, rtol=1e-8)


@pytest.mark.parametrize("count", [2, 50, 1000])
def test_discrete_vp_is_the_table_at_its_times(count):
    betas = np.linspace(1e-4, 0.02, count)
    kept = np.cumprod(1 - betas)
    t = jnp.arange(1, count + 1) / count
    for sde in (discrete_vp(count), discrete_vp(betas=tuple(betas))):
        np.testing.assert_allclose(sde.alpha(t), np.sqrt(kept), rtol=1e-12)
        np.testing.assert_allclose(sde.sigma(t), np.sqrt(1 - kept), rtol=1e-10)
        step = sde.transition(t[1], t[0])  # one step of the chain is N(√(1 − β) x, β)
        np.testing.assert_allclose([step.alpha, step.sigma], [np.sqrt(1 - betas[1]), np.sqrt(betas[1])], rtol=1e-9)
        t32 = t.astype(jnp.float32)
        np.testing.assert_allclose(sde.sigma(t32), np.sqrt(1 - kept), rtol=1e-5)


def test_discrete_ve_is_the_table_at_its_times():
    table = (0.01, 0.05, 0.1, 0.7, 3.0)
    sde, t = discrete_ve(sigmas=table), jnp.arange(5) / 4
    np.testing.assert_allclose(sde.sigma(t), table, rtol=1e-12)
    np.testing.assert_allclose(sde.alpha(t), 1.0)
    geometric, u = discrete_ve(100, 0.01, 50.0), jnp.linspace(0, 1, 333)
    np.testing.assert_allclose(geometric.sigma(u), VE(sigma_min=0.01, sigma_max=50.0).sigma(u), rtol=1e-10)


def test_tables_are_refused():
    for wrong in ((0.1,), (0.1, 1.5), (0.1, -0.1)):
        with pytest.raises(ValueError, match=r"discrete_vp: expected .*betas"):
            discrete_vp(betas=wrong)
    for wrong in ((0.1,), (0.2, 0.1), (0.0, 0.1)):
        with pytest.raises(ValueError, match=r"discrete_ve: expected .*sigmas"):
            discrete_ve(sigmas=wrong)


def test_discrete_training_sees_the_table_alone():
    """Every t of the time law is a t_k, all are drawn, and the labels are the published integers."""
    sde, law = discrete_vp(20), GridTime(num_steps=20)
    t = law(jax.random.key(0), sde, 4000)
    k = np.asarray(t) * 20
    np.testing.assert_allclose(k, np.round(k), atol=1e-9)
    counts = np.bincount(np.round(k).astype(int), minlength=21)
    assert counts[0] == 0
    chi_square = np.sum((counts[1:] - 200) ** 2 / 200)
    assert chi_square < 43.8  # 99.9 % of the χ² law with 19 degrees of freedom
    labels = ScaledTime(scale=20.0, offset=-1.0)(sde, t)
    np.testing.assert_allclose(labels, np.round(k) - 1, atol=1e-9)


def test_monotone_cubic():
    """Through its knots, monotone, continuous slope, exact on a line; third order or better on a smooth curve."""
    knots, values = jnp.asarray([0.0, 0.1, 0.5, 0.6, 1.0]), jnp.asarray([0.0, 2.0, 2.1, 5.0, 5.05])
    curve = jax.jit(lambda t: monotone_cubic(t, knots, values[0], jnp.diff(values)))
    close(curve(knots), values, 1e-12)
    slope = jax.jit(jax.vmap(jax.grad(curve)))
    assert np.all(np.asarray(slope(jnp.linspace(0, 1, 2001))) > 0)
    np.testing.assert_allclose(slope(knots[1:-1] - 1e-9), slope(knots[1:-1] + 1e-9), rtol=1e-5)
    line = 3 * knots - 1
    t = jnp.linspace(-0.1, 1.1, 50)
    np.testing.assert_allclose(monotone_cubic(t, knots, line[0], jnp.diff(line)), 3 * t - 1, rtol=1e-10)
    errors = []
    for n in (20, 40):
        knots = jnp.linspace(0, 1, n + 1)
        t = jnp.linspace(0.2, 0.8, 999)
        errors.append(np.max(np.abs(monotone_cubic(t, knots, jnp.ones(()), jnp.diff(jnp.exp(knots))) - jnp.exp(t))))
    assert errors[0] / errors[1] > 2**2.7


def test_learned_schedule_reaches_any_shape():
    """Zeros are the linear schedule; the logits of another schedule's differences reproduce it at the knots."""
    t = jnp.linspace(0, 1, 9)
    flat = LearnedLogSNR(logits=jnp.zeros(8))
    close(flat.log_snr(t), 13.3 - 18.3 * t, 1e-9)
    curve = CosineVP().log_snr(jnp.clip(t, 0.05, 0.95))
    shaped = LearnedLogSNR(logits=jnp.log(-jnp.diff(curve) + 1e-9), log_snr_max=curve[0], log_snr_min=curve[-1])
    np.testing.assert_allclose(shaped.log_snr(t), curve, rtol=1e-4, atol=1e-6)
    table = TabulatedLogSNR(knots=t, values=curve)
    np.testing.assert_allclose(table.alpha(t) ** 2, jax.nn.sigmoid(curve), rtol=1e-10)
    np.testing.assert_allclose(table.alpha(t) ** 2 + table.sigma(t) ** 2, 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    "sde", [CosineVP(), RectifiedFlow(), EDM(), discrete_vp(), SubVP()], ids=lambda sde: type(sde).__name__
)
def test_finite_at_both_ends_in_float32(sde):
    """Where α or σ goes to 0 the process stops short of it: nothing is infinite on [t_min, t_max], nor its slope."""
    t = jnp.asarray([sde.t_min, sde.t_max], jnp.float32)
    for name in ("alpha", "sigma", "drift_rate", "diffusion", "log_snr"):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(getattr(sde, name))))(t)
        assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
    x = jnp.ones((2, 3), jnp.float32)
    data = gaussian(jnp.zeros(3, jnp.float32), jnp.ones(3, jnp.float32))
    draws, _ = sde.perturb(sample_keys(jax.random.key(0), jnp.arange(2)), x, t)
    score = data.score_fn(sde)(draws, t)
    for drift in (sde.reverse_drift, sde.flow_drift):
        assert np.all(np.isfinite(drift(draws, t, score)))


@pytest.mark.slow
def test_a_schedule_is_learnt_by_gradient(usual_promotion):
    """The variance-minimizing schedule (Kingma et al. 2021, section 5.1): the loss with the likelihood weight keeps its
    mean and loses a third of its variance or more; one compilation serves all schedules."""
    data = gaussian(jnp.zeros(2), jnp.ones(2))
    tx, traces = optax.adam(0.1), []

    def losses(sde, key, n):
        x0 = data.sample(sample_keys(jax.random.fold_in(key, 1), jnp.arange(n)))
        loss = partial(dsm_loss, weight=LikelihoodWeight())
        return with_draws(loss, UniformTime())(key, data.score_fn(sde), sde, x0)

    @jax.jit
    def step(sde, state, key):
        traces.append(0)
        slope = jax.grad(lambda logits: jnp.mean(losses(sde.replace(logits=logits), key, 512) ** 2))(sde.logits)
        update, state = tx.update(slope, state)
        return sde.replace(logits=sde.logits + update), state

    start = sde = LearnedLogSNR(logits=jnp.zeros(10), log_snr_min=-15.0)
    state = tx.init(sde.logits)
    for k in range(200):
        sde, state = step(sde, state, jax.random.key(k))
    assert len(traces) == 1
    n = 100_000
    before, after = (np.asarray(jax.jit(losses, static_argnums=2)(s, jax.random.key(10**6), n)) for s in (start, sde))
    assert after.var() < 0.67 * before.var()
    assert abs(after.mean() - before.mean()) < 4 * np.hypot(before.std(), after.std()) / np.sqrt(n)


@pytest.mark.parametrize("name", ["cosine", "coefficients", "linear"])
def test_guidance_is_a_score_from_a_score(name):
    """∇log p_t(x | label) = ∇log p_t(x) + ∇log p_t(label | x), for a process told in each of the three ways: the guided
    flow gives the labeled component of a mixture, whose moments are known."""
    sde = Linear(prior=gaussian(jnp.zeros(1), jnp.ones(1))) if name == "linear" else SDES[name]
    kernel = VP(beta_min=0.1, beta_max=10.0) if name == "linear" else sde
    means, stds = jnp.asarray([[-1.0], [0.8]]), jnp.asarray([[0.3], [0.4]])
    mixture = GaussianMixture(means=means, stds=stds, weights=jnp.asarray([0.5, 0.5]))
    component = gaussian(means[1], stds[1])

    def log_label(x, t):
        joint = jnp.log(0.5) + component.marginal_log_prob(kernel, x, t)
        return jnp.sum(joint - mixture.marginal_log_prob(kernel, x, t))

    guided = lambda x, t: mixture.score_fn(kernel)(x, t) + jax.grad(log_label)(x, t)  # noqa: E731
    sampler = Sampler(solver=Heun(), grid=PowerGrid(t_end=1e-3), num_steps=60, denoise=as_is)
    n = 4000
    x = np.asarray(
        jax.jit(lambda keys: sampler(keys, sde, guided, (1,)))(sample_keys(jax.random.key(0), jnp.arange(n)))
    )
    assert abs(x.mean() - 0.8) < 4 * 0.4 / np.sqrt(n) + 0.01
    assert abs(x.std() - 0.4) < 4 * 0.4 / np.sqrt(2 * n) + 0.01
