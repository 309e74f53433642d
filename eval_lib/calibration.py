"""Whether conditional samples have the right spread: the coverage of central intervals.

If S draws and the truth are independent draws from one conditional distribution, the rank of the truth among them is
uniform. The central interval of level l, from the quantile (1 − l)/2 of the draws to (1 + l)/2, then contains the truth
with probability

    P(q_{(1−l)/2} ≤ truth ≤ q_{(1+l)/2}) = l,     q_p the order statistic (S + 1) p                                  (1)

exactly where (S + 1)(1 − l)/2 is an integer; elsewhere the quantile is interpolated, and (1) holds to order 1/S.
Coverage below l means that intervals are too narrow, or in the wrong place; above l, that they are too wide. Correct
coverage does not show that samples use the condition: draws from the unconditional distribution have it too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class IntervalCoverage(NamedTuple):
    """For each level [L]: the coverage [L, *event], and the standard error √(l (1 − l)/N) of a correct one, [L]."""

    level: np.ndarray
    coverage: np.ndarray
    error: np.ndarray


def interval_coverage(
    truth: np.ndarray, draws: np.ndarray, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)
) -> IntervalCoverage:
    """(1) measured, for each coordinate: the fraction of truth [N, *event] in the intervals of draws [S, N, *event].

    draws[:, i] are S samples conditioned on the condition of truth[i]. The error is that of independent truths.
    ValueError for shapes that do not fit, values that are not finite, and levels that require more draws: at least
    2/(1 − l) − 1.
    """
    truth, draws, level = (np.asarray(a, np.float64) for a in (truth, draws, levels))
    if draws.ndim < 2 or draws.shape[1:] != truth.shape or not truth.size:
        raise ValueError(f"expected truth [N, ...] and draws [S, N, ...], got {truth.shape} and {draws.shape}")
    for name, array in (("truth", truth), ("draws", draws)):
        if bad := np.count_nonzero(~np.isfinite(array)):
            raise ValueError(f"{name}: {bad} values are not finite")
    for one in level:
        if not 0 < one < 1 or np.round((len(draws) + 1) * (1 - one) / 2, 9) < 1:
            raise ValueError(f"level={one:g}: expected above 0 and at most {1 - 2 / (len(draws) + 1):.4g}, for "
                             f"{len(draws)} draws")  # fmt: skip
    lower, upper = (np.quantile(draws, p, axis=0, method="weibull") for p in ((1 - level) / 2, (1 + level) / 2))
    inside = (lower <= truth) & (truth <= upper)
    return IntervalCoverage(level, inside.mean(1), np.sqrt(level * (1 - level) / len(truth)))
