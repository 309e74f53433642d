"""The proposals against brute force, quadrature and simulation."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from sde_lib import EDM, VE, VP, DiagonalVP, SubVP, fold, sample_keys
from sde_lib.check.suggest import _blocks, prior_kl, suggest
from sde_lib.solvers import Langevin
from sde_lib.solvers.base import SolverState
from tests.contracts import DoubleWell


def normal(count=300, shape=(6,), std=1.0, seed=0):
    return std * np.random.default_rng(seed).normal(size=(count, *shape))


def levels(count=200, shape=(8, 8, 1), number=17, low=-1.0, high=1.0, seed=0):
    """Images of `number` levels, evenly from low to high."""
    return np.random.default_rng(seed).integers(0, number, (count, *shape)) * ((high - low) / (number - 1)) + low


def brute_force(x):
    """(largest, median, median nearest) of the pairwise distances."""
    flat = x.reshape(len(x), -1)
    d = np.asarray([[np.sqrt(np.sum((a - b) ** 2)) for a in flat] for b in flat])
    nearest = np.median([np.min(np.delete(row, i)) for i, row in enumerate(d)])
    return d.max(), np.median([d[i, j] for i in range(len(d)) for j in range(i)]), nearest


@pytest.mark.parametrize("std", [0.05, 3.0])
def test_scale_of_gaussian_data(std):
    x = normal(2500, (4, 2), std) + 7.0
    found = suggest(x)
    assert abs(found.mean - 7) < 4 * std / np.sqrt(x.size)
    assert abs(found.sigma_data / std - 1) < 4 / np.sqrt(2 * x.size)


def test_scale_counts_what_coordinates_differ_in():
    """sigma_data is about the mean of all coordinates: two constant ones at ±1 have it too."""
    x = np.stack([np.ones(50), -np.ones(50), np.tile([0.0, 2.0], 25)], axis=1)
    np.testing.assert_allclose(suggest(x).sigma_data, x.std(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (2,), (3, 4, 2)])
def test_distances_against_brute_force(shape):
    x = normal(50, shape) + 3.0
    found, (largest, median, nearest) = suggest(x), brute_force(x)
    dimensions = int(np.prod(shape))
    assert (found.points, found.compared, found.dimensions) == (50, 50, dimensions)
    np.testing.assert_allclose(
        [found.sigma_max, found.median_distance, found.nearest], [largest, median, nearest / np.sqrt(dimensions)], 1e-9
    )


def test_blocks_do_not_show(monkeypatch):
    x = normal(40, (3, 5)).astype(np.float32)
    whole = suggest(x)
    monkeypatch.setattr(sys.modules["sde_lib.check.suggest"], "BLOCK", 100)
    assert [len(block) for block in _blocks(x.reshape(40, -1))] == [6] * 6 + [4]
    parts = suggest(x)
    for name in ("mean", "sigma_data", "std_ratio", "sigma_max", "nearest", "t_min"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, err_msg=name)


def test_many_points_are_sampled():
    """Moments are those of all points; distances those of `max_points`, and of other ones for another seed."""
    x = normal(3000)
    x[-1] = 1000.0
    few, again, other, whole = (
        suggest(x, max_points=n, seed=seed) for n, seed in ((60, 0), (60, 0), (60, 1), (3000, 0))
    )
    assert (few.sigma_data, few.mean) == (whole.sigma_data, whole.mean) == (other.sigma_data, other.mean)
    np.testing.assert_allclose(few.sigma_data, x.std(), rtol=1e-12)
    assert few == again and few.median_distance != other.median_distance
    assert few.compared == 60 and few.sigma_max < 20 < 2000 < whole.sigma_max
    assert abs(few.median_distance / whole.median_distance - 1) < 0.15
    assert "between 60 of the points" in str(few) and "of the points" not in str(whole)


def test_a_sample_has_each_point_once():
    """All but one of 0, 1, …, 20 span 19 or more."""
    assert min(suggest(np.arange(21.0), max_points=20, seed=seed).sigma_max for seed in range(10)) >= 19


def test_coinciding_points_are_one():
    x = normal(40)
    np.testing.assert_allclose(suggest(np.concatenate([x, x, x])).nearest, suggest(x).nearest, rtol=1e-9)


LENGTHS = ("sigma_data", "sigma_max", "median_distance", "nearest", "sigma_min")
NUMBERS = ("t_min", "beta_max", "snr", "std_ratio", "quartile_ratio")
DATA = {"dense": normal(300, (2,)) * [1.0, 3.0] + 2.0, "wide": normal(100, (50,)) + 2.0, "grid": levels()}
each_data = pytest.mark.parametrize("x", DATA.values(), ids=DATA)


def assert_same(a, b, names, factor=1.0):
    np.testing.assert_allclose([getattr(a, n) for n in names], [factor * getattr(b, n) for n in names], rtol=1e-6)


@each_data
@pytest.mark.parametrize("c", [10.0, 0.1])
def test_scaling_the_data(x, c):
    scaled, found = suggest(c * x), suggest(x)
    assert_same(scaled, found, (*LENGTHS, "mean"), c)
    assert_same(scaled, found, NUMBERS)
    assert (scaled.step is None) == (found.step is None)
    if found.step is not None:
        np.testing.assert_allclose(scaled.step, c * found.step, rtol=1e-6)


@each_data
def test_order_and_translation(x):
    found = suggest(x)
    assert_same(suggest(np.random.default_rng(1).permutation(x)), found, (*LENGTHS, *NUMBERS, "mean"))
    moved = suggest(x + 1e6)
    assert_same(moved, found, (*LENGTHS, *NUMBERS))
    np.testing.assert_allclose(moved.mean, found.mean + 1e6, rtol=1e-12)


def test_rotation():
    x, rotation = DATA["wide"], stats.ortho_group.rvs(50, random_state=0)
    assert_same(suggest(x @ rotation), suggest(x), ("sigma_max", "median_distance", "nearest"))


@pytest.mark.parametrize(("number", "step"), [(2, 2.0), (17, 0.125), (256, 2 / 255)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grid_of_the_values(number, step, dtype):
    np.testing.assert_allclose(suggest(levels(number=number).astype(dtype)).step, step, rtol=1e-6)


def test_grid_with_levels_that_do_not_occur():
    x = levels(number=256)
    kept = x[(np.abs(x) > 0.3) | (x == x.flat[0])][: 64 * 100].reshape(100, 64)
    np.testing.assert_allclose(suggest(kept).step, 2 / 255, rtol=1e-6)


def test_values_on_no_grid():
    """Continuous ones, three levels at unlike distances, two points (of which any two values would be a grid), and the
    grid of the floats themselves."""
    rng = np.random.default_rng(0)
    assert suggest(rng.normal(size=(500, 4)).astype(np.float32)).step is None
    assert suggest(rng.choice([0.0, 1.0, np.pi], (100, 5))).step is None
    assert suggest(np.asarray([[0.0], [1.0]])).step is None
    noisy = np.concatenate([levels(), np.nextafter(levels().astype(np.float32), 2)])
    assert suggest(noisy).step is None


def test_smallest_noise():
    """A quarter of 8-bit steps and of near neighbors' distance; a hundredth of sigma_data for few levels and where
    neighbors are far."""
    eight_bit, dense = suggest(levels(number=256)), suggest(normal(1500, (2,)))
    np.testing.assert_allclose(eight_bit.sigma_min, 0.5 / 255, rtol=1e-9)
    np.testing.assert_allclose(eight_bit.sigma_min, EDM().t_min, rtol=0.03)
    np.testing.assert_allclose(dense.sigma_min, dense.nearest / 4, rtol=1e-9)
    for x in (levels(number=17), DATA["wide"]):
        np.testing.assert_allclose(suggest(x).sigma_min, x.std() / 100, rtol=1e-9)


def test_smallest_noise_can_be_rounded_away():
    x = levels(number=256)
    found = suggest(x)
    noisy = x + found.sigma_min * np.random.default_rng(1).normal(size=x.shape)
    share = np.mean(np.abs(noisy - x) < found.step / 2)
    assert abs(share - 0.9545) < 4 * np.sqrt(0.9545 * 0.0455 / x.size)


@each_data
def test_times_of_the_smallest_noise(x):
    found = suggest(5 * x, sde=EDM())
    vp = VP(beta_max=found.beta_max)
    np.testing.assert_allclose(
        vp.sigma(found.t_min) / vp.alpha(found.t_min), found.sigma_min / found.sigma_data, rtol=1e-9
    )
    np.testing.assert_allclose(found.sde_t_min, found.sigma_min, rtol=1e-9)
    for sde in (SubVP(), VE(sigma_min=found.sigma_min / 10, sigma_max=100.0)):
        t = suggest(5 * x, sde=sde).sde_t_min
        np.testing.assert_allclose(sde.sigma(t) / sde.alpha(t), found.sigma_min, rtol=1e-9)
    assert suggest(5 * x, sde=VE(sigma_min=found.sigma_min * 1.1)).sde_t_min == 0.0


@pytest.mark.parametrize("kl", [1e-2, 1e-5])
@each_data
def test_largest_beta(x, kl):
    """The kernel's divergence from the prior, a mean over the standardized points themselves, is the one asked for."""
    found = suggest(x, kl=kl)
    z = (x.reshape(len(x), -1) - x.mean()) / x.std()
    integral = 0.5 * (0.1 + found.beta_max)
    alpha2 = np.exp(-integral)
    variance = 1 - alpha2
    divergences = 0.5 * np.sum(alpha2 * z**2 + variance - 1 - np.log(variance), axis=1)
    np.testing.assert_allclose(divergences.mean(), kl, rtol=1e-6)
    np.testing.assert_allclose(
        prior_kl(VP(beta_max=found.beta_max), z.mean(axis=0), z.std(axis=0)).at_most * z.shape[1], kl, rtol=1e-6
    )


def divergence(density, prior_std):
    """∫ p log(p/q) for a density on the line and q = N(0, prior_std²), by quadrature."""

    def integrand(x):
        p = density(x)
        return p * (np.log(p) - stats.norm.logpdf(x, scale=prior_std)) if p > 1e-300 else 0.0

    return integrate.quad(integrand, -12 * prior_std, 12 * prior_std, limit=400, epsabs=1e-13)[0]


SHORT = {"vp": VP(beta_max=3.0), "subvp": SubVP(beta_max=4.0), "ve": VE(sigma_max=2.0), "edm": EDM(t_max=3.0)}
each_short = pytest.mark.parametrize("sde", SHORT.values(), ids=SHORT)


@each_short
def test_divergence_of_gaussian_data(sde):
    """The lower bound is the divergence itself, the upper one that of the kernel from the root mean square."""
    alpha, sigma, prior = (float(c) for c in (sde.alpha(sde.t_max), sde.sigma(sde.t_max), sde.prior_std()))
    mean, std = 0.8, 1.3
    kl = prior_kl(sde, np.asarray([mean]), np.asarray([std]))
    marginal = stats.norm(alpha * mean, np.hypot(alpha * std, sigma))
    np.testing.assert_allclose(kl.at_least, divergence(marginal.pdf, prior), rtol=1e-6)
    kernel = stats.norm(alpha * np.hypot(mean, std), sigma)
    np.testing.assert_allclose(kl.at_most, divergence(kernel.pdf, prior), rtol=1e-6)


@each_short
def test_divergence_of_other_data_is_within_the_bounds(sde):
    """Three points on the line, whose marginal is a mixture of three normals."""
    alpha, sigma, prior = (float(c) for c in (sde.alpha(sde.t_max), sde.sigma(sde.t_max), sde.prior_std()))
    points = np.asarray([-1.5, -1.0, 2.0])
    exact = divergence(lambda x: np.mean(stats.norm.pdf(x, alpha * points, sigma)), prior)
    kl = suggest(points[:, None], sde=sde).sde_kl
    assert kl.at_least < exact < kl.at_most
    kernels = [divergence(stats.norm(alpha * x, sigma).pdf, prior) for x in points]
    np.testing.assert_allclose(kl.at_most, np.mean(kernels), rtol=1e-6)


def test_divergence_where_coordinates_differ():
    """DiagonalVP's is the mean of its coordinates', each a VP of its own on data in its own unit."""
    scales, speeds = np.asarray([[0.5, 1.0], [2.0, 4.0]]), np.asarray([[0.7, 1.0], [1.2, 1.5]])
    mean, std = np.asarray([[0.1, -0.4], [1.0, 3.0]]), np.asarray([[0.6, 0.8], [2.5, 3.0]])
    kl = prior_kl(DiagonalVP(scales=scales, speeds=speeds, beta_max=4.0), mean, std)
    each = [
        prior_kl(VP(beta_min=0.1 * r, beta_max=4.0 * r), np.asarray(m / s), np.asarray(d / s))
        for s, r, m, d in zip(scales.flat, speeds.flat, mean.flat, std.flat, strict=True)
    ]
    np.testing.assert_allclose(kl, np.mean(each, axis=0), rtol=1e-9)
    assert np.ptp([at_least for at_least, _ in each]) > 0.005


def test_divergence_of_the_process_given():
    """From each coordinate's own moments, and for VP at the beta_max proposed on the data as they are."""
    x = normal(400, (2, 3)) * np.asarray([0.5, 1.0, 2.0]) + np.asarray([[1.0], [-2.0]])
    sde = DiagonalVP(scales=np.full((2, 3), 1.5), beta_max=5.0)
    found = suggest(x, sde=sde)
    np.testing.assert_allclose(found.sde_kl, prior_kl(sde, x.mean(axis=0), x.std(axis=0)), rtol=1e-9)
    vp = VP(beta_max=found.beta_max)
    np.testing.assert_allclose(found.vp_kl, prior_kl(vp, x.mean(axis=0), x.std(axis=0)), rtol=1e-9)
    assert found.sde == "DiagonalVP" and suggest(x).sde_kl is None


def test_langevin_variance():
    """At the proposed ratio the corrector's stationary variance is 2.5 % too large, where the data stand still."""
    snr, sde, t = suggest(normal()).snr, VE(), jnp.asarray(0.1)
    step = 2 * snr**2  # in units of σ²
    np.testing.assert_allclose((1 - step) ** 2 * 1.025 + 2 * step, 1.025, rtol=1e-12)
    keys, shape = sample_keys(jax.random.key(0), jnp.arange(20_000)), (20_000, 32)
    variance = sde.sigma(t) ** 2

    @jax.jit
    def chain(x):
        def body(k, x):
            state = SolverState(x, x)
            return Langevin(snr=snr).correct(fold(keys, k), state, t, t, t, sde, lambda x, t: -x / variance).x

        return jax.lax.fori_loop(0, 60, body, x)

    x = jnp.sqrt(variance).astype(jnp.float32) * jax.random.normal(jax.random.key(1), shape, jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        excess = float(jnp.mean(chain(x) ** 2) / variance) - 1
    assert abs(excess - 0.025) < 4 * np.sqrt(2 / x.size)


def test_constant_and_rare_coordinates():
    """A border that is always black has no scale, and a few coordinates that hardly vary need no other process."""
    x = levels(shape=(8, 8))
    x[:, 0] = -1.0
    assert suggest(x).constant == 8 and suggest(x).std_ratio < 1.2
    x[:, 1, :5] = -1.0
    x[0, 1, :5] = -0.875
    found = suggest(x)
    assert found.constant == 8 and found.std_ratio > 50 and found.quartile_ratio < 1.2 and not found.warnings


def test_unlike_coordinates_are_told():
    x = normal(500, (3,)) * [0.05, 0.05, 2.0]
    found = suggest(x)
    np.testing.assert_allclose(found.std_ratio, x.std(axis=0).max() / x.std(axis=0).min(), rtol=1e-9)
    assert any(
        "DiagonalVP(scales=...)" in warning and f"{found.std_ratio:.3g} times" in warning for warning in found.warnings
    )
    assert not suggest(x / [0.05, 0.05, 2.0]).warnings
    assert suggest(normal(500, (5,)) * [0.05, 0.05, 1.0, 1.0, 2.0]).warnings
    assert not suggest(normal(500, (5,)) * [0.05, 1.0, 1.0, 1.0, 2.0]).warnings


def test_unlike_unit_is_told():
    x = normal(500, (3,))
    (warning,) = suggest(30 + 10 * x).warnings
    assert "VP expects mean 0 and standard deviation 1" in warning
    assert suggest(x).warnings == ()


def test_short_process_is_told():
    x = normal(500, (3,))
    assert suggest(x, sde=VE(sigma_max=10.0)).warnings == ()
    (warning,) = suggest(x, sde=VE(sigma_max=1.0)).warnings
    expected = 0.5 * (2 - 1 - np.log(2))  # N(0, 1 + 1) from N(0, 1)
    assert (
        "VE ends at least 0.1" in warning and abs(suggest(x, sde=VE(sigma_max=1.0)).sde_kl.at_least - expected) < 0.03
    )


def test_table():
    """Every proposal, once, with its value and its place."""
    found = suggest(levels(), sde=VE(sigma_max=0.5))
    rows = {line.split("  ")[0]: line for line in str(found).splitlines()}
    for name, place in {
        "sigma_data": "EDMPreconditioning(sigma_data)",
        "mean": "Standardize(mean)",
        "sigma_max": "VE(sigma_max), EDM(t_max)",
        "sigma_min": "VE(sigma_min), EDM(t_min)",
        "beta_max": "VP(beta_max)",
        "snr": "Langevin(snr)",
    }.items():
        assert f" {getattr(found, name):.4g} " in rows[name] and f" {place} " in rows[name], rows[name]
    assert f"{found.sde_kl.at_least:.2g} to {found.sde_kl.at_most:.2g}" in rows["KL of VE"]
    assert f" {found.t_min:.4g} " in str(found) and " VP(t_min) " in str(found) and " VE(t_min) " in str(found)
    assert "1/4 of the step of the values' grid, 0.125" in str(found)
    assert "nearest neighbors" in str(suggest(normal())) and "KL of VE" not in str(suggest(normal()))
    assert str(found).splitlines()[-1].startswith("warning: VE ends at least")
    assert max(map(len, str(found).splitlines()[:-1])) < 150


def test_refusals():
    x = normal(5, (3,))
    with pytest.raises(ValueError, match=r"expected at least 2 points \[N, ...\] to compare, got \(1, 3\)"):
        suggest(x[:1])
    with pytest.raises(ValueError, match=r"expected at least 2 points .* max_points=1"):
        suggest(x, max_points=1)
    with pytest.raises(ValueError, match=r"expected data that differ, got 5 points \(of 5\) that are all alike"):
        suggest(np.broadcast_to(x[:1], (5, 3)))
    with pytest.raises(ValueError, match=r"kl > 0; got kl=0"):
        suggest(x, kl=0.0)
    x[1, 2], x[3, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"expected finite values, got 2 of 15 that are not"):
        suggest(x)
    with pytest.raises(TypeError, match=r"expected a process with a kernel \(alpha and sigma\), got DoubleWell"):
        suggest(normal(), sde=DoubleWell())


def test_arrays_of_jax_and_numpy_alike():
    x = normal(50)
    assert suggest(jnp.asarray(x)) == suggest(x)
