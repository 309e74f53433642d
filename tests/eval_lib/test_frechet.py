from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from eval_lib import frechet_distance, moments

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


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
    np.testing.assert_allclose(frechet_distance(mean1, cov1, mean2, cov2), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_square_root_of_scipy_agrees(seed):
    (mean1, cov1), (mean2, cov2) = random_gaussian(seed), random_gaussian(seed + 10)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2 - 2 * root.real)
    np.testing.assert_allclose(frechet_distance(mean1, cov1, mean2, cov2), expected, rtol=1e-10)


def test_zero_for_itself_and_symmetric():
    a, b = random_gaussian(0), random_gaussian(1)
    assert abs(frechet_distance(*a, *a)) < 1e-10
    np.testing.assert_allclose(frechet_distance(*a, *b), frechet_distance(*b, *a), rtol=1e-10)


def test_a_shift_counts_with_its_square():
    mean, cov = random_gaussian(0)
    np.testing.assert_allclose(frechet_distance(mean, cov, mean + 3, cov), 9 * mean.size, rtol=1e-10)


def test_moments_are_those_of_numpy(golden):
    for name in ("a", "b"):
        mean, cov = moments(golden[f"feats_{name}"])
        np.testing.assert_allclose(mean, golden[f"mu_{name}"], rtol=1e-12)
        np.testing.assert_allclose(cov[0], golden[f"cov_{name}_row0"], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(np.trace(cov), golden[f"trace_cov_{name}"], rtol=1e-12)


def test_moments_do_not_depend_on_float32():
    features = (1000 + np.random.default_rng(0).normal(size=(50, 3))).astype(np.float32)
    mean, cov = moments(features)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_allclose(cov, np.cov(features.astype(np.float64).T), rtol=1e-10)


def test_foreign_implementations_agree(golden):
    distance = frechet_distance(*moments(golden["feats_a"]), *moments(golden["feats_b"]))
    for name in ("torch_fidelity", "scipy_sqrtm", "tfgan_f64"):
        np.testing.assert_allclose(distance, golden[f"fid_{name}"], rtol=1e-11)


def test_foreign_implementations_agree_without_full_rank(golden):
    with pytest.warns(UserWarning, match="40 samples give no full-rank covariance of 64 features: 65 are needed"):
        a = moments(golden["feats_low_a"])
    with pytest.warns(UserWarning, match="30 samples give no full-rank"):
        b = moments(golden["feats_low_b"])
    for name in ("torch_fidelity", "scipy_sqrtm", "tfgan_f64"):
        np.testing.assert_allclose(frechet_distance(*a, *b), golden[f"low_fid_{name}"], atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"features must be \[N, D\] with N of at least 2, got shape \(1, 3\)"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features: 1 values are not finite"):
        moments(np.array([[0.0], [np.nan], [1.0]]))
    with pytest.raises(ValueError, match=r"expected means \[D\] and covariances \[D, D\] of one D, got \[\(2,\)"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
