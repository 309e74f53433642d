"""The kernel distance between two sets of features: KID, Bińkowski et al. 2018, arXiv:1801.01401.

    k(x, y) = (x·y/D + 1)³                                                                                          (1)
    MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean_{ij} k(xᵢ, yⱼ)                                      (2)

(2) is unbiased for any number of samples, and may be negative. Averaged over subsets it costs less, and the spread over
subsets estimates its error.
"""

from typing import NamedTuple

import numpy as np


class KernelDistance(NamedTuple):
    """Mean over subsets, their standard deviation, and the standard error of the mean (see `kernel_distance`)."""

    mean: float
    std: float
    error: float


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """(2) of features [N ≥ 2, D] and [M ≥ 2, D], in float64 and in blocks of rows."""
    x, y = checked(x, y)
    n, m = len(x), len(y)
    within_x = _sum(x, x) - (_diagonal(x)).sum()
    within_y = _sum(y, y) - (_diagonal(y)).sum()
    return float(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * _sum(x, y) / (n * m))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The kernel distance (2), averaged over `subsets` random subsets of features [N, D] and [M, D].

    A subset, drawn without replacement, has `subset_size` elements, or half of the smaller set if that is less: the
    spread over subsets that are nearly the whole set would not measure the error. `error` is std/√k, where k is
    `subsets`, or the number of disjoint subsets if that is less. Subsets overlap, so more of them do not reduce the
    error further.
    """
    x, y = checked(x, y)
    size = min(subset_size, max(2, min(len(x), len(y)) // 2))
    draw = np.random.default_rng(seed)
    pairs = (
        (draw.choice(len(x), size, replace=False), draw.choice(len(y), size, replace=False)) for _ in range(subsets)
    )
    each = np.array([squared_mmd(x[a], y[b]) for a, b in pairs])
    std = float(np.std(each))
    disjoint = min(subsets, max(1, min(len(x), len(y)) // size))
    return KernelDistance(float(np.mean(each)), std, float(std / np.sqrt(disjoint)))


def checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64; ValueError unless [N ≥ 2, D] and [M ≥ 2, D] of finite numbers."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"expected features [N, D] and [M, D], at least 2 of each, got {x.shape} and {y.shape}")
    if bad := np.count_nonzero(~np.isfinite(x)) + np.count_nonzero(~np.isfinite(y)):
        raise ValueError(f"features: {bad} values are not finite")
    return x, y


def _kernel(product: np.ndarray, d: int) -> np.ndarray:
    return (product / d + 1) ** 3


def _diagonal(x: np.ndarray) -> np.ndarray:
    return _kernel(np.einsum("nd,nd->n", x, x), x.shape[1])


def _sum(x: np.ndarray, y: np.ndarray, rows: int = 2048) -> float:
    """Σ_ij k(xᵢ, yⱼ)."""
    return sum(float(_kernel(x[i : i + rows] @ y.T, x.shape[1]).sum()) for i in range(0, len(x), rows))
