"""Coverage of conditional intervals: exact conditional Gaussians, and intervals that are wrong in a known way."""

import numpy as np
import pytest
from scipy.stats import norm

from eval_lib import interval_coverage

LEVELS = (0.5, 0.8, 0.9, 0.95)


def conditional_gaussian(n, draws, width=1.0, shift=0.0):
    """Truth y = (c, −2 c) + (1, 3) ε for conditions c, and draws from that distribution with another width and mean."""
    draw = np.random.default_rng(0)
    c, sd = draw.normal(size=(n, 1)) * [1, -2], np.array([1.0, 3.0])
    return c + sd * draw.normal(size=(n, 2)), c + sd * (width * draw.normal(size=(draws, n, 2)) + shift)


def test_exact_conditional_samples_have_the_nominal_coverage():
    """With 39 draws all levels are ratios of ranks, so that (1) holds exactly: within four binomial errors."""
    found = interval_coverage(*conditional_gaussian(4000, 39), LEVELS)
    np.testing.assert_allclose(found.level, LEVELS)
    np.testing.assert_allclose(found.error, [np.sqrt(level * (1 - level) / 4000) for level in LEVELS])
    assert found.coverage.shape == (4, 2)
    assert np.all(np.abs(found.coverage - found.level[:, None]) < 4 * found.error[:, None])


@pytest.mark.parametrize(("width", "shift"), [(0.8, 0.0), (1.3, 0.0), (1.0, 0.7)])
def test_wrong_intervals_have_their_own_coverage(width, shift):
    """An interval of ± width z around the shifted mean contains Φ(shift + width z) − Φ(shift − width z)."""
    found = interval_coverage(*conditional_gaussian(4000, 399, width, shift), (0.5, 0.9))
    z = width * norm.ppf((1 + found.level) / 2)
    true = norm.cdf(shift + z) - norm.cdf(shift - z)
    np.testing.assert_allclose(found.coverage, np.repeat(true[:, None], 2, axis=1), atol=0.03)
    assert np.all(np.abs(found.coverage[1] - 0.9) > 5 * found.error[1])


def test_ranks_by_hand():
    """Draws 1 … 9: the interval of level 0.8 is [1, 9], that of 0.6 is [2, 8], that of 0.7 is [1.5, 8.5]."""
    truth = np.array([0.9, 1.0, 1.5, 2.0, 5.0, 8.0, 8.6, 9.0, 9.1])
    draws = np.repeat(np.arange(1.0, 10)[::-1, None], 9, axis=1)
    found = interval_coverage(truth, draws, (0.8, 0.6, 0.7))
    np.testing.assert_allclose(found.coverage, [7 / 9, 3 / 9, 4 / 9])


def test_what_is_refused():
    with pytest.raises(
        ValueError, match=r"expected truth \[N, ...\] and draws \[S, N, ...\], got \(3, 2\) and \(9, 3\)"
    ):
        interval_coverage(np.zeros((3, 2)), np.zeros((9, 3)))
    with pytest.raises(ValueError, match=r"level=0.95: expected above 0 and at most 0.9474, for 37 draws"):
        interval_coverage(np.zeros(3), np.zeros((37, 3)))
    with pytest.raises(ValueError, match=r"level=1: expected above 0 and at most"):
        interval_coverage(np.zeros(3), np.zeros((37, 3)), (1.0,))
    with pytest.raises(ValueError, match=r"draws: 3 values are not finite"):
        interval_coverage(np.zeros(3), np.full((1, 3), np.nan))
