"""Likelihoods against the closed forms of Gaussians and mixtures, whose scores are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    EDM,
    VE,
    VP,
    DiagonalVP,
    GaussianMixture,
    LogSNRGrid,
    NonlinearSDE,
    ProbabilityFlowODE,
    RectifiedFlow,
    SubVP,
    expand,
    gaussian,
)
from sde_lib.likelihood.divergence import Exact, Hutchinson, HutchPlusPlus
from sde_lib.likelihood.flow import Likelihood, slerp
from sde_lib.solvers.integrate import Adaptive, Fixed
from tests.contracts import DIAGONAL, SDES, together
from tests.helpers import close, keys

FAST = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "straight_line": RectifiedFlow()}
ALIKE = together(FAST)
TIGHT = Adaptive(rtol=1e-8, atol=1e-8)
COARSE = Fixed(grid=LogSNRGrid(), num_steps=12)


def isotropic(dim):
    return gaussian(jnp.zeros(dim), jnp.full(dim, 0.7))


def anisotropic(dim):
    return gaussian(jnp.zeros(dim), jnp.geomspace(0.3, 1.2, dim))


def mixture(dim):
    """Of mean 0, so that every process's prior fits to second order in what is left of the data."""
    half = jnp.linspace(0.4, 0.8, dim)
    means, stds = jnp.stack([-half, 0.75 * half]), jnp.stack([jnp.full(dim, 0.4), jnp.linspace(0.35, 0.6, dim)])
    return GaussianMixture(means=means, stds=stds, weights=jnp.asarray([3 / 7, 4 / 7]))


class Rotated:
    """A Gaussian of mean 0 with the given standard deviations along random axes: no Jacobian is diagonal."""

    def __init__(self, stds, seed=0):
        self.base = gaussian(jnp.zeros_like(stds), stds)
        self.axes = jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(len(stds), len(stds))))[0])

    def sample(self, keys):
        return self.base.sample(keys) @ self.axes.T

    def score_fn(self, sde):
        score = self.base.score_fn(sde)
        return lambda x, t: score(x @ self.axes, t) @ self.axes.T


def run(likelihood, sde, score_fn, x, seed=1):
    return jax.jit(lambda keys, x: likelihood.log_prob(keys, sde, score_fn, x))(keys(len(x), seed), x)


def values(likelihood, sde, score_fn, x, seed=1):
    """(value, z) alone, for which no error is computed."""
    return jax.jit(lambda keys, x: likelihood.log_prob(keys, sde, score_fn, x)[:2])(keys(len(x), seed), x)


@jax.jit
def of_data(likelihood, sde, data, x):
    """What `run` gives under the exact score of the data: one program for all values of the parameters."""
    return likelihood.log_prob(keys(len(x), 1), sde, data.score_fn(sde), x)


@jax.jit
def values_of_data(likelihood, sde, data, x):
    """(value, z) alone, likewise."""
    return likelihood.log_prob(keys(len(x), 1), sde, data.score_fn(sde), x)[:2]


def check_closed_form(sde, data, dim, to_data, raw=1e-3, atol=2e-4, tol=1e-5):
    """log p at t_min or at 0 to `atol` nats per dimension, once the prior's misfit, log π − log p_{t_max} at the end of
    the path, is taken out; and to `raw` with it."""
    x, solver = data.sample(keys(8)), Adaptive(rtol=tol, atol=tol)
    value, z = values_of_data(Likelihood(divergence=Exact(), solver=solver, to_data=to_data), sde, data, x)
    exact = data.log_prob(x) if to_data else data.marginal_log_prob(sde, x, sde.t_min)
    misfit = sde.prior_logp(z) - data.marginal_log_prob(sde, z, sde.t_max)
    np.testing.assert_allclose((value - misfit) / dim, exact / dim, atol=atol, rtol=0)
    np.testing.assert_allclose(value / dim, exact / dim, atol=raw, rtol=0)


@pytest.mark.parametrize("name", FAST)
def test_closed_form(name):
    check_closed_form(ALIKE[name], mixture(2), 2, to_data=name in ("subvp", "ve", "straight_line"))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize("target", [isotropic, anisotropic, mixture])
@pytest.mark.parametrize("name", SDES)
def test_closed_form_everywhere(name, target, dim):
    # vp_slow keeps α = 0.07 of the data at t_max, and so a prior misfit for data of another variance than 1.
    # Where a table's few knots bend the schedule, steps at the default tolerance cross them: up to 2e-3.
    atol, tol = (1e-3, 1e-7) if name in ("tabulated", "learned") else (2e-4, 1e-5)
    raw = 2e-2 if name == "vp_slow" else 4e-3
    check_closed_form(SDES[name], target(dim), dim, to_data=True, raw=raw, atol=atol, tol=tol)


@pytest.mark.slow
def test_closed_form_of_coordinates_with_unlike_scales():
    check_closed_form(DIAGONAL["diagonal_vp"], mixture(64), 64, to_data=True, raw=1e-2)


@pytest.mark.parametrize(("target", "dim"), [(isotropic, 1), (anisotropic, 64)])
def test_dimensions(target, dim):
    sde, data = VP(), target(dim)
    x = data.sample(keys(4))
    value, _ = values_of_data(Likelihood(divergence=Exact(), to_data=True), sde, data, x)
    np.testing.assert_allclose(value / dim, data.log_prob(x) / dim, atol=1e-4, rtol=0)


@pytest.mark.parametrize("law", ["rademacher", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_image(law):
    """3,072 dimensions in float32. Signs are exact on a diagonal Jacobian; normal probes within 4 standard errors."""
    sde, shape = VP(), (32, 32, 3)
    data = gaussian(jnp.zeros(shape, jnp.float32), jnp.linspace(0.3, 1.2, 3072, dtype=jnp.float32).reshape(shape))
    x = data.sample(keys(3))
    likelihood = Likelihood(divergence=Hutchinson(probes=4, law=law), solver=Fixed(num_steps=64), to_data=True)
    found = run(likelihood, sde, data.score_fn(sde), x)
    assert found.value.dtype == jnp.float32
    error = np.abs(found.value - data.log_prob(x))
    allowed = 1e-3 * 3072 if law == "rademacher" else 4 * found.probes + 0.1
    assert np.all(error < allowed), (error, allowed)
    assert law == "rademacher" or np.all((found.probes > 3) & (found.probes < 300))


@pytest.mark.slow
@pytest.mark.parametrize("target", [isotropic, anisotropic, mixture])
@pytest.mark.parametrize("name", SDES)
def test_many_dimensions_everywhere(name, target):
    """3,072 dimensions in float32, probes of signs: within 10⁻³ nats each, and for a mixture, whose Jacobian is not
    diagonal, 4 of the standard errors it reports."""
    sde, data = SDES[name], jax.tree.map(lambda leaf: leaf.astype(jnp.float32), target(3072))
    x = data.sample(keys(3)).astype(jnp.float32)
    solver = Fixed(grid=LogSNRGrid(), num_steps=64)
    likelihood = Likelihood(divergence=Hutchinson(probes=4), solver=solver, to_data=True)
    found = run(likelihood, sde, data.score_fn(sde), x)
    misfit = sde.prior_logp(found.z) - data.marginal_log_prob(sde, found.z, sde.t_max)
    error = np.abs(found.value - misfit - data.log_prob(x))
    assert np.all(error < 4 * found.probes + 1e-3 * 3072), (error, found.probes)
    assert np.all(found.probes < (100 if target is mixture else 0.5)), found.probes


def test_hutchinson():
    """Unbiased, with a variance that falls as 1/probes and that the reported standard errors tell, for both laws."""
    sde, n = VP(), 400
    data = Rotated(jnp.geomspace(0.1, 1.2, 16))
    x = jnp.broadcast_to(data.sample(keys(1)), (n, 16))

    def found(divergence, n=n):
        likelihood = Likelihood(divergence=divergence, solver=COARSE)

        def value_and_error(keys, x):
            result = likelihood.log_prob(keys, sde, data.score_fn(sde), x)
            return result.value, result.probes

        return jax.jit(value_and_error)(keys(n), x[:n])

    (exact,), (none,) = found(Exact(), 1)
    assert none == 0
    variances = {}
    for law, probes in (("rademacher", 4), ("rademacher", 16), ("gaussian", 4)):
        value, error = found(Hutchinson(probes=probes, law=law))
        variances[law, probes] = np.var(value)
        assert abs(np.mean(value) - exact) < 4 * np.std(value) / np.sqrt(n)
        np.testing.assert_allclose(np.mean(error**2), np.var(value), rtol=0.35)
        if probes == 16:
            assert np.mean(np.abs(value - exact) > 4 * error) < 0.01  # Student's t, 15 degrees of freedom
    np.testing.assert_allclose(variances["rademacher", 4] / variances["rademacher", 16], 4, rtol=0.35)
    assert variances["gaussian", 4] > variances["rademacher", 4] > 0.01  # signs are exact on the diagonal
    assert np.isposinf(Hutchinson().standard_error(jnp.ones((1, 1)))[0])


def test_hutch_plus_plus():
    """On a spectrum that decays: unbiased, and a smaller variance than Hutchinson's at as many products."""
    n, dim, probes = 400, 32, 24
    slopes = jnp.geomspace(1.0, 1e-9, dim)
    matrix = Rotated(jnp.ones(dim)).axes
    matrix = matrix @ jnp.diag(5 * slopes) @ matrix.T - 0.3 * jnp.eye(dim)

    def estimates(divergence):
        x = jnp.ones((n, dim))
        found = jax.jit(lambda keys: divergence(divergence.draw(keys, x), lambda x: x @ matrix, x)[1])(keys(n))
        return np.mean(found, axis=1), np.mean(divergence.standard_error(found) ** 2)

    exact = float(jnp.trace(matrix))
    assert abs(estimates(Exact())[0][0] - exact) < 1e-12 * float(jnp.sum(jnp.abs(matrix)))
    plain, better = estimates(Hutchinson(probes=probes))[0], estimates(HutchPlusPlus(probes=probes))
    for found in (plain, better[0]):
        assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(n)
    assert np.var(better[0]) < np.var(plain) / 10
    np.testing.assert_allclose(better[1], np.var(better[0]), rtol=0.35)


@pytest.mark.slow
def test_hutch_plus_plus_likelihood():
    """Data near a plane: few directions carry the variance, and the Jacobian's deviation from a multiple of 1."""
    sde, n = VP(), 200
    data = Rotated(jnp.where(jnp.arange(24) < 2, 1.5, 0.3))
    x = jnp.broadcast_to(data.sample(keys(1)), (n, 24))
    exact = values(Likelihood(divergence=Exact(), solver=COARSE), sde, data.score_fn(sde), x[:1])[0][0]
    spread = {}
    for divergence in (Hutchinson(probes=12), HutchPlusPlus(probes=12)):
        value, _ = values(Likelihood(divergence=divergence, solver=COARSE), sde, data.score_fn(sde), x)
        spread[type(divergence)] = np.std(value)
        assert abs(np.mean(value) - exact) < 4 * np.std(value) / np.sqrt(n) + 1e-9
    assert spread[HutchPlusPlus] < spread[Hutchinson] / 3


def test_fixed_steps():
    """Order 4; and the error foretold from half of the steps is the error."""
    sde, data = VP(beta_max=10.0, t_min=0.01), mixture(2)
    x = data.sample(keys(8))
    finer = Adaptive(rtol=1e-10, atol=1e-10)
    true = values_of_data(Likelihood(divergence=Exact(), solver=finer), sde, data, x)[0]
    errors = []
    for steps in (12, 48):
        found = run(Likelihood(divergence=Exact(), solver=Fixed(num_steps=steps)), sde, data.score_fn(sde), x)
        errors.append(np.abs(found.value - true))
    assert np.all(found.nfe == 4 * 48)
    rate = np.log2(np.mean(errors[0]) / np.mean(errors[1])) / 2
    assert abs(rate - 4) < 0.4, rate
    np.testing.assert_allclose(np.mean(found.solver), np.mean(errors[-1]), rtol=0.3)


def test_adaptive_error():
    """The error falls with the tolerance, and is foretold: on average within a factor of eight, of few steps each."""
    sde, data = VP(), mixture(2)
    x = data.sample(keys(8))
    true = values_of_data(Likelihood(divergence=Exact(), solver=TIGHT), sde, data, x)[0]
    found = [
        of_data(Likelihood(divergence=Exact(), solver=Adaptive(rtol=tol, atol=tol)), sde, data, x)
        for tol in (1e-3, 1e-5)
    ]
    errors = [np.mean(np.abs(f.value - true)) for f in found]
    assert errors[1] < errors[0] / 10 and errors[1] < 1e-4
    for f, error in zip(found, errors, strict=True):
        assert error / 8 < np.mean(f.solver) < 8 * error
    assert np.all(found[0].nfe < found[1].nfe) and np.all(found[1].nfe < 150)


def test_too_few_steps_are_nan():
    """A bounded number of steps: the samples that did not arrive are NaN, and they alone."""
    sde, data = VP(), mixture(2)
    x = jnp.concatenate([data.sample(keys(3)), jnp.full((1, 2), 50.0)])
    score_fn = lambda x, t: data.score_fn(sde)(x, t) + expand(1e3 * jnp.sin(1e3 * t) * jnp.where(x[:, 0] > 20, 1, 0), x)  # noqa: E731
    likelihood = Likelihood(divergence=Exact(), solver=Adaptive(max_steps=24))
    value, z = values(likelihood, sde, score_fn, x)
    assert np.all(np.isfinite(value[:3])) and np.isnan(value[3]) and np.all(np.isnan(z[3]))


def test_evaluations_are_counted():
    count = []
    sde, data = VP(), mixture(2)

    def score_fn(x, t):
        jax.debug.callback(lambda: count.append(1))
        return data.score_fn(sde)(x, t)

    likelihood = Likelihood(divergence=Exact(), solver=Adaptive(rtol=1e-4, atol=1e-4))
    evaluations = jax.jit(lambda x: likelihood.log_prob(keys(1), sde, score_fn, x).nfe)(data.sample(keys(1)))
    jax.effects_barrier()
    found = int(evaluations[0])
    # Callbacks keep alive the coarser solution and the truncation's evaluation, which nobody reads.
    coarser = likelihood.replace(solver=Adaptive(rtol=1e-3, atol=1e-3))
    rough = run(coarser, sde, data.score_fn(sde), data.sample(keys(1))).nfe[0]
    assert len(count) == found + int(rough) + 1


@pytest.mark.parametrize(
    "name", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ve", "straight_line"))]
)
def test_truncation(name):
    """The first-order estimate of log p_0 − log p_{t_min}; with `to_data` what it leaves is of order σ⁴/α⁴."""
    data = mixture(2)
    x = data.sample(keys(64))

    def left(sde):
        def both(x):
            found = [
                Likelihood(divergence=Exact(), to_data=to_data)
                .log_prob(keys(64), sde, data.score_fn(sde), x)
                .truncation
                for to_data in (False, True)
            ]
            alpha = sde.alpha(sde.t_min)
            scaled = data.marginal_log_prob(sde, alpha * x, sde.t_min) + 2 * jnp.log(alpha)
            gap, whole = data.log_prob(x) - scaled, data.log_prob(x) - data.marginal_log_prob(sde, x, sde.t_min)
            return jnp.stack([jnp.mean(jnp.abs(v)) for v in (gap, gap - found[1], whole, whole - found[0])])

        return jax.jit(both)(x)

    times = FAST[name].time_of_log_snr(jnp.log(jnp.asarray([400.0, 1600.0])))  # σ/α of 0.05 and 0.025
    coarse, fine = (left(FAST[name].replace(t_min=t)) for t in times)
    assert fine[1] < 0.1 * fine[0] and fine[3] < 0.35 * fine[2]
    np.testing.assert_allclose(coarse[0] / fine[0], 4, rtol=0.2)
    np.testing.assert_allclose(coarse[1] / fine[1], 16, rtol=0.25)


def test_encode_is_the_flow():
    """For a Gaussian the flow keeps each coordinate's standard score: x_T = α_T μ + (x − α μ) std_T/std."""
    sde, data = VP(), gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([0.3, 1.5]))
    x = data.sample(keys(5))
    std = lambda t: jnp.sqrt((sde.alpha(t) * data.stds) ** 2 + sde.sigma(t) ** 2)  # noqa: E731
    mean = lambda t: sde.alpha(t) * data.means  # noqa: E731
    scores = (x - mean(sde.t_min)) / std(sde.t_min)
    for solver, atol in ((TIGHT, 1e-6), (Fixed(), 1e-4)):
        z = jax.jit(lambda x, s=solver: Likelihood(solver=s).encode(sde, data.score_fn(sde), x))(x)
        np.testing.assert_allclose(z, mean(sde.t_max) + scores * std(sde.t_max), atol=atol)
    z = np.asarray(z)
    decode = jax.jit(lambda z, t: Likelihood(solver=TIGHT).decode(sde, data.score_fn(sde), z, temperature=t))
    back = mean(sde.t_min) + (0.5 * z - mean(sde.t_max)) / std(sde.t_max) * std(sde.t_min)
    np.testing.assert_allclose(decode(z, 0.5), back, atol=1e-5)


@pytest.mark.parametrize("name", ["vp", pytest.param("edm", marks=pytest.mark.slow)])
def test_round_trip(name):
    sde, data = FAST[name], mixture(4)
    x, likelihood = data.sample(keys(6)), Likelihood(solver=TIGHT)
    score_fn = data.score_fn(sde)
    back = jax.jit(lambda x: likelihood.decode(sde, score_fn, likelihood.encode(sde, score_fn, x)))(x)
    assert np.max(np.abs(back - x)) < 1e-5


@pytest.mark.parametrize(
    "eager", [pytest.param(False, id="jit"), pytest.param(True, id="eager", marks=pytest.mark.slow)]
)
def test_a_sample_stands_alone(eager):
    """Its value does not move with its neighbors, jit, or the number of devices; and does with its key."""
    sde, data = VP(), Rotated(jnp.geomspace(0.2, 1.2, 8))
    likelihood = Likelihood(divergence=Hutchinson(probes=2))
    x = data.sample(keys(8)) * jnp.linspace(0.5, 3, 8)[:, None]
    log_prob = lambda keys, x: likelihood.log_prob(keys, sde, data.score_fn(sde), x)[:2]  # noqa: E731
    compiled = jax.jit(log_prob)
    at_once = compiled(keys(8), x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    apart = compiled(*jax.device_put((keys(8), x), split))
    for a, b in zip(at_once, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    alone = (log_prob if eager else compiled)(keys(8)[5:6], x[5:6])
    for a, b in zip(at_once, alone, strict=True):
        np.testing.assert_allclose(a[5:6], b, rtol=0, atol=1e-5)
    other = compiled(keys(8, 7)[5:6], x[5:6])
    assert abs(other[0] - at_once[0][5:6]) > 1e-2 and np.allclose(other[1], at_once[1][5:6], atol=1e-5)


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(Adaptive(rtol=1e-7, atol=1e-7, max_steps=256), id="adaptive"),
        pytest.param(Fixed(num_steps=48), id="fixed", marks=pytest.mark.slow),
    ],
)
def test_gradients(solver):
    """In x, in the score's parameters and in the process's, against differences of the same numbers."""
    data = mixture(2)
    likelihood = Likelihood(divergence=Exact(), solver=solver)
    x = data.sample(keys(1))

    def value(x, shift, beta_max):
        sde, moved = VP(beta_max=beta_max, t_min=1e-3), data.replace(means=data.means + shift)
        return likelihood.log_prob(keys(1), sde, moved.score_fn(sde), x).value[0]

    at, h = (x, jnp.asarray(0.2), jnp.asarray(20.0)), 1e-4
    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))
    found, slope = lambda *at: both(*at)[0], both(*at)[1]
    difference = lambda plus, minus: (found(*plus) - found(*minus)) / (2 * h)  # noqa: E731
    for j in range(2):
        e = h * jnp.eye(2)[j : j + 1]
        d = difference((x + e, *at[1:]), (x - e, *at[1:]))
        np.testing.assert_allclose(slope[0][0, j], d, rtol=2e-3, atol=2e-4)
    for k in (1, 2):
        moved = [tuple(a + s * h * (i == k) for i, a in enumerate(at)) for s in (1, -1)]
        np.testing.assert_allclose(slope[k], difference(*moved), rtol=2e-3, atol=2e-4)
    exact = jax.grad(lambda x: data.replace(means=data.means + 0.2).marginal_log_prob(VP(), x, 1e-3)[0])(x)
    np.testing.assert_allclose(slope[0], exact, atol=5e-3)


def test_a_condition_travels_with_its_sample():
    sde, data = VP(), isotropic(2)
    shifts = jnp.asarray([[0.0, 0.0], [0.5, -0.5], [1.0, 0.3]])
    score_fn = lambda x, t, shift: data.score_fn(sde)(x - expand(sde.alpha(t), x) * shift, t)  # noqa: E731
    x = shifts + 0.1
    found = jax.jit(
        lambda x: Likelihood(divergence=Exact(), to_data=True).log_prob(keys(3), sde, score_fn, x, shifts).value
    )(x)
    np.testing.assert_allclose(found, data.log_prob(x - shifts), atol=2e-2)  # the prior's mean is 0, not α shift
    np.testing.assert_allclose(found[0], data.log_prob(x - shifts)[0], atol=2e-4)


class Told(NonlinearSDE):
    """VP told by its drift and diffusion alone."""

    def drift(self, x, t):
        return expand(-0.5 * (0.1 + 19.9 * t), x) * x

    def diffusion(self, t):
        return jnp.sqrt(0.1 + 19.9 * t)


def test_without_a_kernel():
    """The same value as the process with its kernel, no truncation, and none to correct."""
    data, prior = mixture(2), gaussian(jnp.zeros(2), jnp.ones(2))
    x, sde = data.sample(keys(4)), Told(prior=prior)
    likelihood = Likelihood(divergence=Exact())
    found = run(likelihood, sde, data.score_fn(VP()), x)
    np.testing.assert_allclose(found.value, values(likelihood, VP(), data.score_fn(VP()), x)[0], atol=1e-7)
    assert np.all(np.isposinf(found.truncation))
    with pytest.raises(TypeError, match=r"to_data needs alpha and sigma of the SDE, which Told lacks"):
        likelihood.replace(to_data=True).log_prob(keys(4), sde, data.score_fn(VP()), x)


def test_slerp():
    """Along the great circle at an even pace, in units of the prior's standard deviation; norms go linearly."""
    sde = VE()
    z0, z1 = jnp.asarray([[50.0, 0, 0], [1.0, 2, 3]]), jnp.asarray([[0.0, 100, 0], [2.0, 4, 6]])
    w = jnp.asarray([0.0, 0.25, 1.0])
    path = np.asarray(slerp(sde, z0, z1, w))
    close(path[[0, 2]], [z0, z1], 1e-12)
    close(path[1, 0], 62.5 * np.asarray([np.cos(np.pi / 8), np.sin(np.pi / 8), 0]), 1e-12)
    close(path[1, 1], 1.25 * z0[1], 1e-12)
    scales = jnp.asarray([1.0, 10.0, 1.0])
    scaled = slerp(DiagonalVP(scales=scales), scales[None] * z0, scales[None] * z1, w)
    close(scaled, np.asarray(scales) * path, 1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"splits its probes in three; got probes=4"):
        HutchPlusPlus(probes=4)
    with pytest.raises(ValueError, match=r"6 probes are too many for 2 dimensions: take Exact\(\)"):
        HutchPlusPlus().draw(keys(1), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"at least 2 steps; got num_steps=1"):
        Fixed(num_steps=1).coarser()
    with pytest.raises(ValueError, match=r"num_steps >= 1; got num_steps=0"):
        Fixed(num_steps=0)


def test_a_likelihood_of_two_steps_is_one():
    """The half of two steps, for the estimate of the error, is one step, and is taken."""
    found = run(Likelihood(divergence=Exact(), solver=Fixed(num_steps=2)), VP(), lambda x, t: -x, jnp.ones((3, 2)))
    assert np.all(np.isfinite(found.value)) and np.all(found.nfe == 8)


def test_the_gradient_through_hutch_plus_plus_where_nothing_deviates():
    """∇·(−c x) = −c d, whose derivative is −d; the basis of a deviation of 0 has none."""
    h, x = HutchPlusPlus(probes=6), jax.random.normal(jax.random.key(0), (4, 8))
    probes = h.draw(keys(4), x)
    slope_of = jax.jit(jax.grad(lambda c: jnp.mean(h(probes, lambda x: -c * x, x)[1])))
    for c in (1.0, 0.7):
        slope = slope_of(c)
        np.testing.assert_allclose(slope, -8.0, rtol=1e-6)


@pytest.mark.parametrize("solver", [Adaptive(), Fixed(num_steps=2)], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("asked, expected", [(None, "HIGHEST"), ("default", "DEFAULT")])
def test_products_are_in_full_precision(solver, asked, expected):
    """TF32's rounding, a GPU's default, took 355 evaluations instead of 85. What a user sets stays."""
    likelihood, x, found = Likelihood(solver=solver, to_data=True), jnp.ones((2, 3)), []

    def score(x, t):
        (product,) = jax.make_jaxpr(jnp.matmul)(x, jnp.eye(3)).eqns
        found.append(str(product.params["precision"]))
        return -x

    with jax.default_matmul_precision(asked):
        for of in (
            lambda: likelihood.log_prob(keys(2), VP(), score, x),
            lambda: likelihood.encode(VP(), score, x),
            lambda: likelihood.decode(VP(), score, x),
            lambda: ProbabilityFlowODE()(keys(2), VP(), score, (3,)),
        ):
            jax.make_jaxpr(of)()
            assert found and set(found) == {f"(Precision.{expected}, Precision.{expected})"}
            found.clear()
