"""How much of a Fréchet distance is due to the number of samples: Chong and Forsyth 2020, arXiv:1911.07023.

The distance of N samples to fixed moments is biased, and to leading order

    E d²(N) = d²(∞) + b/N                                                                                           (1)

where b depends on the model. So a comparison of models at one N is biased, whatever N is. A straight line in 1/N, when
fitted to the distances of random subsets of several sizes, gives d²(∞) at 1/N = 0.
"""

from typing import NamedTuple

import numpy as np

from eval_lib.frechet import frechet_distance, moments


class Extrapolated(NamedTuple):
    """d²(∞), its standard error from the residuals of the line, and the slope b of (1)."""

    value: float
    error: float
    slope: float


def frechet_infinity(
    samples: np.ndarray, mean: np.ndarray, cov: np.ndarray, smallest: int = 0, points: int = 15, seed: int = 0
) -> Extrapolated:
    """(1) fitted to random subsets of features [N, D], against the mean [D] and covariance [D, D] of the data.

    Sizes are evenly spaced from `smallest` to N. By default (0) that is a tenth of N, but more than D, so that
    covariances have full rank. The data's moments are taken as exact: the bias from a finite number of data remains.
    ValueError unless D < smallest < N and there are at least 3 points.
    """
    samples = np.asarray(samples, np.float64)
    n, d = samples.shape
    smallest = smallest or max(n // 10, d + 1)
    if not d < smallest < n or points < 3:
        raise ValueError(
            f"frechet_infinity of {n} samples with {d} features: expected at least 3 points and sizes from {d + 1} to "
            f"{n}, got points={points}, smallest={smallest}"
        )
    draw = np.random.default_rng(seed)
    sizes = np.linspace(smallest, n, points).astype(int)
    subsets = (samples[draw.choice(n, size, replace=False)] for size in sizes)
    distances = np.array([frechet_distance(*moments(x), mean, cov) for x in subsets])
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, distances, rcond=None)
    residual = distances - design @ np.array([value, slope])
    variance = residual @ residual / (points - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Extrapolated(float(value), float(np.sqrt(variance)), float(slope))
