from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from eval_lib import frechet_distance, moments
from tests.helpers import close

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def rounding(cov1, cov2):
    """What rounding may make of a distance: every eigenvalue λ of C₁C₂ moves by ε of the largest, and so √λ by ε/√λ of
    it, at most by √ε. The traces, of sums of D numbers, move by ε of themselves."""
    values, d, eps = np.linalg.eigvals(cov1 @ cov2).real.clip(0), len(cov1), np.finfo(float).eps
    moved = eps * values.max()
    return d * (moved / np.sqrt(max(values.min(), moved)) + eps * np.trace(cov1 + cov2))


def random_gaussian(seed, d=12):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(d, d))
    return generator.normal(size=d), root @ root.T


def test_commuting_gaussians_have_a_closed_form():
    """With C₁ and C₂ diagonal in one basis, d² = |m₁ − m₂|² + Σ (√λ₁ − √λ₂)²."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.normal(size=(5, 5)))
    values1, values2 = generator.uniform(0, 4, (2, 5))
    mean1, mean2 = generator.normal(size=(2, 5))
    cov1, cov2 = ((basis * values) @ basis.T for values in (values1, values2))
    expected = np.sum((mean1 - mean2) ** 2) + np.sum((np.sqrt(values1) - np.sqrt(values2)) ** 2)
    np.testing.assert_allclose(frechet_distance(mean1, cov1, mean2, cov2), expected, atol=rounding(cov1, cov2), rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_square_root_of_scipy_agrees(seed):
    (mean1, cov1), (mean2, cov2) = random_gaussian(seed), random_gaussian(seed + 10)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2 - 2 * root.real)
    # scipy's root of a product that is not symmetric has a rounding of its own, of the same size
    found = frechet_distance(mean1, cov1, mean2, cov2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * rounding(cov1, cov2))


def test_zero_for_itself_and_symmetric():
    a, b = random_gaussian(0), random_gaussian(1)
    assert 0 <= frechet_distance(*a, *a) < rounding(a[1], a[1])
    there, back = frechet_distance(*a, *b), frechet_distance(*b, *a)
    np.testing.assert_allclose(there, back, rtol=0, atol=rounding(a[1], b[1]))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("rank", [3, 12])
def test_the_distance_of_equal_gaussians_is_rounding_and_not_negative(rank, scale):
    """At every scale, and where a covariance has no full rank. A bound that is no wider than the distance of a Gaussian
    from one of a standard deviation that is 0.1 % larger can fail."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        root = scale * generator.normal(size=(12, rank))
        mean, cov = scale * generator.normal(size=12), root @ root.T
        bound = rounding(cov, cov)
        assert 0 <= frechet_distance(mean, cov, mean, cov) < bound < 1e-6 * np.trace(cov)
        assert abs(frechet_distance(mean, cov, mean, 1.002001 * cov) / (1e-6 * np.trace(cov)) - 1) < 1


def test_what_is_not_a_number_is_no_distance_of_0():
    mean, cov = random_gaussian(0)
    assert np.isnan(frechet_distance(mean, cov, np.full_like(mean, np.nan), cov))


def test_a_shift_counts_with_its_square():
    mean, cov = random_gaussian(0)
    found = frechet_distance(mean, cov, mean + 3, cov)
    np.testing.assert_allclose(found, 9 * mean.size, rtol=1e-14 * mean.size, atol=rounding(cov, cov))


def test_moments_are_those_of_numpy(golden):
    for name in ("a", "b"):
        mean, cov = moments(golden[f"feats_{name}"])
        np.testing.assert_allclose(mean, golden[f"mu_{name}"], rtol=1e-12)
        close(cov[0], golden[f"cov_{name}_row0"], 1e-12)
        np.testing.assert_allclose(np.trace(cov), golden[f"trace_cov_{name}"], rtol=1e-12)


def test_moments_do_not_depend_on_float32():
    features = (1000 + np.random.default_rng(0).normal(size=(50, 3))).astype(np.float32)
    mean, cov = moments(features)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_allclose(cov, np.cov(features.astype(np.float64).T), rtol=1e-10)


def test_foreign_implementations_agree(golden):
    a, b = (moments(golden[f"feats_{name}"]) for name in "ab")
    for name in ("torch_fidelity", "scipy_sqrtm", "tfgan_f64"):
        bound = 2 * rounding(a[1], b[1])  # theirs and ours
        np.testing.assert_allclose(frechet_distance(*a, *b), golden[f"fid_{name}"], rtol=0, atol=bound)


def test_foreign_implementations_agree_without_full_rank(golden):
    with pytest.warns(UserWarning, match="40 samples give no full-rank covariance of 64 features: 65 are needed"):
        a = moments(golden["feats_low_a"])
    with pytest.warns(UserWarning, match="30 samples give no full-rank"):
        b = moments(golden["feats_low_b"])
    for name in ("torch_fidelity", "scipy_sqrtm", "tfgan_f64"):
        bound = 2 * rounding(a[1], b[1])
        np.testing.assert_allclose(frechet_distance(*a, *b), golden[f"low_fid_{name}"], rtol=0, atol=bound)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"features must be \[N, D\] with N of at least 2, got shape \(1, 3\)"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features: 1 values are not finite"):
        moments(np.array([[0.0], [np.nan], [1.0]]))
    with pytest.raises(ValueError, match=r"expected means \[D\] and covariances \[D, D\] of one D, got \[\(2,\)"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
