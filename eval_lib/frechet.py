"""The Fréchet distance between two sets of features, each taken as a Gaussian N(m, C).

    d² = |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½)        (1)

Dowson and Landau 1982. With Inception features it is the FID of Heusel et al. 2017, eq. 6, which writes (C₁C₂)^½. The
trace is the same, since C₁C₂ and C₁^½ C₂ C₁^½ have the same eigenvalues. But the latter is symmetric, so that `eigh`
suffices and no value is complex.
"""

import warnings

import numpy as np


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] of features [N, D], in float64, with N − 1 in the denominator.

    Warns if N ≤ D, where the covariance cannot have full rank. ValueError unless N ≥ 2 and all values are finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be [N, D] with N of at least 2, got shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"features: {np.count_nonzero(~np.isfinite(features))} values are not finite")
    n, d = features.shape
    if n <= d:
        warnings.warn(f"{n} samples give no full-rank covariance of {d} features: {d + 1} are needed", stacklevel=2)
    mean = features.mean(0)
    centered = features - mean
    return mean, centered.T @ centered / (n - 1)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The Fréchet distance d² of (1) for means [D] and covariances [D, D], in float64, by eigenvalues.

    A negative eigenvalue or d² is due to rounding and counts as 0. Rounding moves an eigenvalue λ of C₁C₂ by up to
    ε λ_max, and √λ by ε λ_max/√λ, or by √(ε λ_max) where λ is 0, with ε = 2.2e-16. A distance below D times that is
    rounding. ValueError for shapes that do not fit.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, np.float64) for a in (mean1, cov1, mean2, cov2))
    d = mean1.size
    if not (mean1.shape == mean2.shape == (d,) and cov1.shape == cov2.shape == (d, d)):
        shapes = [a.shape for a in (mean1, cov1, mean2, cov2)]
        raise ValueError(f"expected means [D] and covariances [D, D] of one D, got {shapes}")
    values, vectors = np.linalg.eigh(cov1)
    root1 = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root1 @ cov2 @ root1)
    trace = np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(product.clip(0)).sum()
    return float(np.maximum(np.sum((mean1 - mean2) ** 2) + trace, 0.0))  # NaN stays NaN
