"""How far apart two sets of points are, x [N, D] and y [M, D], for data of any kind.

    W₂² = ∫₀¹ (F⁻¹(u) − G⁻¹(u))² du                 in one dimension, with the quantile functions F⁻¹ and G⁻¹       (1)
    SW₂² = E_θ W₂²(θ·x, θ·y)                        θ uniform on the unit sphere                                    (2)
    KS = sup_z |F(z) − G(z)|                        of one coordinate, with the distribution functions F and G      (3)
    E = 2 E|x − y| − E|x − x'| − E|y − y'|          energy distance                                                 (4)
    C2ST = fraction of test points that a classifier trained on the others assigns to the right one of the two sets (5)

(2) is the sliced Wasserstein distance of Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3. (4) is from Székely and
Rizzo 2013, doi:10.1016/j.jspi.2013.03.018, and (5) from Lopez-Paz and Oquab 2017, arXiv:1610.06545, section 3.

(2), (4) and (5) mix coordinates, so these should have comparable units: `standardized`. For finite sets of one
distribution, (1) to (4) are above 0 and fall with N and M: compare them with their values for two sets of real data.
"""

import warnings
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from eval_lib.kernel import checked

RESOLUTION = 1e-6
"""A coordinate whose deviation is below this share of its mean counts as constant: features are stored in float32."""


class TwoSampleTest(NamedTuple):
    """Accuracy of a classifier between two sets, (5), and its standard error √(a (1 − a)/number of test points)."""

    accuracy: float
    error: float


class CoordinateMoments(NamedTuple):
    """Mean, standard deviation and skewness of each coordinate, [D]; the skewness of a constant is 0."""

    mean: np.ndarray
    sd: np.ndarray
    skewness: np.ndarray


def standardized(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(x − mean)/sd in float64, for x [N, D], mean and sd [D]; a constant coordinate is only shifted."""
    constant = sd <= RESOLUTION * np.abs(mean)
    return (np.asarray(x, np.float64) - mean) / np.where(constant, 1.0, sd)


def squared_wasserstein(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(1) for each column of x [N, K] and y [M, K]: [K], exact also for N ≠ M."""
    n, m = len(x), len(y)
    edges = np.union1d(np.arange(n + 1) / n, np.arange(m + 1) / m)  # between them, both quantile functions are constant
    middle = (edges[1:] + edges[:-1]) / 2
    difference = np.sort(x, axis=0)[(middle * n).astype(int)] - np.sort(y, axis=0)[(middle * m).astype(int)]
    return np.diff(edges) @ difference**2


def sliced_wasserstein_distance(x: np.ndarray, y: np.ndarray, projections: int = 128, seed: int = 0) -> float:
    """SW₂, the root of (2), of features x [N, D] and y [M, D], in their units.

    It takes at least `projections` directions, or `projections` if there are more coordinates.
    Directions are the columns of random orthogonal matrices: uniform each, and together of less variance than
    independent ones. A shift by m gives |m|/√D exactly if D ≤ `projections`. ValueError as `checked`.
    """
    x, y = checked(x, y)
    d = x.shape[1]
    if projections < 1:
        raise ValueError(f"projections={projections}: expected at least 1")
    draw = np.random.default_rng(seed)
    matrices = 1 if d == 1 else -(-projections // d)
    total = 0.0
    for _ in range(matrices):
        directions = np.linalg.qr(draw.normal(size=(d, min(d, projections)))).Q
        total += float(np.mean(squared_wasserstein(x @ directions, y @ directions)))
    return float(np.sqrt(total / matrices))


def ks_statistics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(3) of each coordinate of x [N, D] and y [M, D]: [D]."""
    from scipy.stats import ks_2samp  # half a second to import

    x, y = checked(x, y)
    results = (ks_2samp(a, b, method="asymp") for a, b in zip(x.T, y.T, strict=True))
    return np.array([one.statistic for one in results])  # pyright: ignore[reportAttributeAccessIssue]  # has no stub


def coordinate_moments(x: np.ndarray) -> CoordinateMoments:
    """The moments of x [N, D], with N in the denominators."""
    mean, sd = x.mean(0), x.std(0)
    cubes = (standardized(x, mean, sd) ** 3).mean(0)
    return CoordinateMoments(mean, sd, np.where(sd <= RESOLUTION * np.abs(mean), 0.0, cubes))


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance (4) of features x [N, D] and y [M, D], in their units.

    The means within a set include each point with itself: 0 for equal sets, and positive otherwise. In one dimension it
    is the square of `scipy.stats.energy_distance`. ValueError as `checked`.
    """
    x, y = checked(x, y)
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x: np.ndarray, y: np.ndarray, rows: int = 1024) -> float:
    from scipy.spatial.distance import cdist

    return sum(float(cdist(x[i : i + rows], y).sum()) for i in range(0, len(x), rows)) / (len(x) * len(y))


@threadpool_limits.wrap(limits=1)
def classifier_two_sample_test(x: np.ndarray, y: np.ndarray, seed: int = 0, folds: int = 5) -> TwoSampleTest:
    """The accuracy (5) over all points of x [N, D] and y [M, D]; 0.5 for equal distributions.

    Each point is classified by a network that was trained without its fold.
    The network has two hidden layers of 32. The larger set is cut at random to the size of the smaller. For two
    distributions, the accuracy of the best possible classifier is (1 + their total variation)/2. ValueError as
    `checked`, and for fewer points than folds.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second to import
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    x, y = checked(x, y)
    n = min(len(x), len(y))
    if not 2 <= folds <= n:
        raise ValueError(f"folds={folds}: expected from 2 to {n}, for {len(x)} and {len(y)} points")
    draw = np.random.default_rng(seed)
    points = np.concatenate([a if len(a) == n else a[draw.choice(len(a), n, replace=False)] for a in (x, y)])
    label, right = np.repeat([0, 1], n), 0
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(points, label):
        network = MLPClassifier((32, 32), learning_rate_init=1e-2, max_iter=50, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fifty epochs are enough: measured in the tests
            network.fit(points[train], label[train])
        right += int(np.sum(network.predict(points[test]) == label[test]))
    accuracy = right / len(points)
    return TwoSampleTest(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(points))))
