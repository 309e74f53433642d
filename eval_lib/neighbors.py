"""Fidelity and diversity, measured separately: are samples close to data, and are data close to samples?

B_k(x) is the ball around x whose radius is the distance to its k-th nearest neighbor in its own set; 1[…] an indicator:

    precision = mean_j 1[yⱼ ∈ ∪ᵢ B_k(xᵢ)]      recall = mean_i 1[xᵢ ∈ ∪ⱼ B_k(yⱼ)]                                   (1)
    density = 1/(kM) Σⱼ Σᵢ 1[yⱼ ∈ B_k(xᵢ)]     coverage = mean_i 1[∃j: yⱼ ∈ B_k(xᵢ)]                                (2)

for data x₁ … x_N and samples y₁ … y_M. (1) is Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; there one
outlier's ball can contain many samples. (2) is Naeem et al. 2020, arXiv:2002.09797, eq. 6 and 8. Density may exceed 1.
If samples and data have one distribution, the mean density is 1, and the mean coverage about 1 − 2⁻ᵏ for N = M.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eval_lib.kernel import checked


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


def precision_recall(samples: np.ndarray, data: np.ndarray, k: int = 3) -> PrecisionRecall:
    """(1) for features of samples [M, D] and data [N, D]; balls are closed."""
    samples, data = checked(samples, data)
    inside = lambda points, centers: np.mean(_counts_inside(points, centers, radii(centers, k))[0] > 0)  # noqa: E731
    return PrecisionRecall(float(inside(samples, data)), float(inside(data, samples)))


def density_coverage(samples: np.ndarray, data: np.ndarray, k: int = 5) -> DensityCoverage:
    """(2) for features of samples [M, D] and data [N, D]."""
    samples, data = checked(samples, data)
    of_sample, of_ball = _counts_inside(samples, data, radii(data, k))
    return DensityCoverage(float(of_sample.sum() / (k * len(samples))), float(np.mean(of_ball > 0)))


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance [N] of each point [N, D] to its k-th nearest neighbor. ValueError unless 1 ≤ k < N."""
    if not 1 <= k < len(x):
        raise ValueError(f"k={k} neighbors: expected from 1 to {len(x) - 1}, for {len(x)} points")
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in _distances(x, x)])


def nearest(x: np.ndarray, data: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of data [N, D] to each of x [M, D], nearest first: indices and Euclidean distances, both [M, k].

    Distances are computed from differences, so that a copy has distance exactly 0. ValueError unless 1 ≤ k ≤ N.
    """
    x, data = checked(x, data)
    if not 1 <= k <= len(data):
        raise ValueError(f"k={k} neighbors: expected from 1 to {len(data)}")
    index = np.concatenate([np.argsort(d, axis=1, kind="stable")[:, :k] for _, d in _distances(x, data)])
    return index, np.linalg.norm(x[:, None] - data[index], axis=2)


def _counts_inside(points: np.ndarray, centers: np.ndarray, squared_radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of balls that contain each point [M], and the number of points in each ball [N]."""
    of_point, of_ball = [], np.zeros(len(centers), int)
    for _, d in _distances(points, centers):
        inside = d <= squared_radii[None] * (1 + 1e-9)  # includes a neighbor on the boundary despite rounding
        of_point.append(inside.sum(1))
        of_ball += inside.sum(0)
    return np.concatenate(of_point), of_ball


def _distances(x: np.ndarray, y: np.ndarray, rows: int = 1024) -> Iterator[tuple[int, np.ndarray]]:
    """|x − y|² in blocks of rows of x, by |x|² + |y|² − 2 x·y; values below its rounding error count as 0."""
    norm_x, norm_y = (x**2).sum(1), (y**2).sum(1)
    for i in range(0, len(x), rows):
        scale = norm_x[i : i + rows, None] + norm_y[None]
        d = scale - 2 * x[i : i + rows] @ y.T
        d[d < 1e-12 * scale] = 0
        yield i, d
