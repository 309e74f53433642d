"""Distances between two sets of points: closed forms, SciPy, and the figures of metrics."""

import numpy as np
import pytest
from scipy import stats

from eval_lib import (
    Statistics,
    c2st,
    classifier_two_sample_test,
    coordinate_moments,
    energy,
    energy_distance,
    ks_statistics,
    marginals,
    moments,
    sliced_wasserstein,
    sliced_wasserstein_distance,
    squared_wasserstein,
)
from eval_lib.two_sample import standardized


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def statistics(x):
    return Statistics(len(x), *moments(x), {}, {}, x)


# Wasserstein


@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 200), (7, 5), (2, 9)])
def test_wasserstein_of_a_line_is_an_assignment(n, m):
    """Both sets repeated to one number of points: the best assignment, by an algorithm that does not sort."""
    from scipy.optimize import linear_sum_assignment

    x, y = normal(0, n, 2), 1 + 2 * normal(1, m, 2)
    found = squared_wasserstein(x, y)
    for k in range(2):
        a, b = (np.repeat(z[:, k], np.lcm(n, m) // len(z)) for z in (x, y))
        cost = (a[:, None] - b) ** 2
        np.testing.assert_allclose(found[k], cost[linear_sum_assignment(cost)].mean(), rtol=1e-10)


def test_wasserstein_where_one_set_is_above_the_other():
    """There the distance of order 1, SciPy's, is the difference of means; a set against one point is its moment."""
    x, y = normal(0, 30, 1), 0.5 * normal(1, 50, 1) + 10
    first = stats.wasserstein_distance(x[:, 0], y[:, 0])
    np.testing.assert_allclose(first, y.mean() - x.mean(), rtol=1e-10)
    assert first**2 < squared_wasserstein(x, y)[0] < 1.05 * first**2  # Jensen, and the spread of the differences
    np.testing.assert_allclose(squared_wasserstein(x, np.full((4, 1), 3.0)), np.mean((x - 3) ** 2), rtol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5, 128])
def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_dimension(d):
    """Exact for two sets that differ by a shift, since directions are orthogonal."""
    x, m = normal(0, 40, d), normal(1, d)
    found = sliced_wasserstein_distance(x, x + m)
    np.testing.assert_allclose(found, np.linalg.norm(m) / np.sqrt(d), rtol=1e-10)
    scaled = sliced_wasserstein_distance(x, 3 * x)
    np.testing.assert_allclose(scaled, 2 * np.sqrt((x**2).sum(1).mean() / d), rtol=1e-10)


def test_sliced_wasserstein_of_gaussians():
    """N(m, I) and N(0, I): |m|²/d, within the error of 4,000 points; more coordinates than directions: on average."""
    m = np.array([1.0, -2.0, 0.5])
    found = sliced_wasserstein_distance(normal(0, 4000, 3) + m, normal(1, 4000, 3))
    np.testing.assert_allclose(found**2, m @ m / 3, rtol=0.06)
    x, far = normal(0, 20, 400), np.zeros(400)
    far[0] = 20.0
    each = [sliced_wasserstein_distance(x, x + far, projections=8, seed=s) ** 2 for s in range(200)]
    assert abs(np.mean(each) - 1) < 4 * np.std(each) / np.sqrt(200)
    assert each[0] != each[1] and each[0] == sliced_wasserstein_distance(x, x + far, projections=8, seed=0) ** 2


# Kolmogorov-Smirnov and moments


def test_ks_of_uniforms_is_the_shift():
    """F(z) − F(z − s) of points on a grid is s; and SciPy's statistic for each column of two random sets."""
    grid = np.linspace(0, 1, 1001)[:, None]
    both = np.concatenate([grid, grid], axis=1)
    np.testing.assert_allclose(ks_statistics(both, both + np.array([0, -0.37])), [0, 0.37], atol=1.01e-3)
    x, y = normal(0, 90, 3), 0.3 + normal(1, 70, 3)
    np.testing.assert_allclose(ks_statistics(x, y), stats.ks_2samp(x, y).statistic, rtol=1e-12)


def test_moments_are_scipys():
    x = np.random.default_rng(0).gamma(2, size=(5000, 3)) * [1, 1e-3, -1e3]
    found = coordinate_moments(np.concatenate([x, np.full((5000, 1), 7.7)], axis=1))
    np.testing.assert_allclose(found.mean[:3], x.mean(0))
    np.testing.assert_allclose(found.sd[:3], x.std(0))
    np.testing.assert_allclose(found.skewness[:3], stats.skew(x), rtol=1e-9)
    np.testing.assert_allclose(found.skewness[:3], [np.sqrt(2)] * 2 + [-np.sqrt(2)], rtol=0.1)
    assert found.skewness[3] == 0


def test_a_constant_coordinate_is_only_shifted():
    x = np.array([[1e6, 2.0], [1e6, 4.0]])
    np.testing.assert_allclose(standardized(x, x.mean(0), x.std(0)), [[0, -1], [0, 1]])
    np.testing.assert_allclose(standardized(x + np.array([3, 0]), x.mean(0), np.array([1e-3, 1])), [[3, -1], [3, 1]])


# Energy distance


def test_the_energy_distance_is_scipys():
    for n, m in ((200, 200), (150, 90)):
        x, y = normal(0, n, 1), 0.4 + 1.5 * normal(1, m, 1)
        theirs = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
        np.testing.assert_allclose(energy_distance(x, y), theirs, rtol=1e-9)
    assert energy_distance(x, x) == 0


def test_the_energy_distance_of_gaussians():
    """E|N(m, s²)| = s √(2/π) exp(−m²/(2 s²)) + m (1 − 2 Φ(−m/s)); points beyond one block of rows."""

    def absolute(m, s):
        return s * np.sqrt(2 / np.pi) * np.exp(-(m**2) / (2 * s**2)) + m * (1 - 2 * stats.norm.cdf(-m / s))

    true = 2 * absolute(1, np.sqrt(5)) - absolute(0, np.sqrt(2)) - absolute(0, np.sqrt(8))
    each = [energy_distance(normal(s, 1100, 1), 1 + 2 * normal(99 + s, 1100, 1)) for s in range(8)]
    bias = (absolute(0, np.sqrt(2)) + absolute(0, np.sqrt(8))) / 1100  # of the points with themselves
    assert abs(np.mean(each) - bias - true) < 4 * np.std(each) / np.sqrt(8) and np.std(each) < 0.2 * true


def test_the_energy_distance_does_not_depend_on_the_axes():
    x, y = normal(0, 80, 4), normal(1, 80, 4) + 0.5
    turn = np.linalg.qr(normal(2, 4, 4)).Q
    np.testing.assert_allclose(energy_distance(x @ turn, y @ turn), energy_distance(x, y), rtol=1e-9)


# Classifier two-sample test


def test_no_classifier_separates_one_distribution():
    for seed in range(2):
        found = classifier_two_sample_test(*normal(seed, 2, 500, 2), seed=seed)
        assert abs(found.accuracy - 0.5) < 3 * np.sqrt(0.25 / 1000)
        np.testing.assert_allclose(found.error, np.sqrt(found.accuracy * (1 - found.accuracy) / 1000))


def test_a_classifier_reaches_the_bayes_error():
    """Of N(0, I) and N(m, I) the best accuracy is Φ(|m|/2); below by little, above by chance alone."""
    m = np.array([1.2, 1.6])  # |m| = 2
    found = classifier_two_sample_test(normal(0, 700, 2), normal(1, 600, 2) + m)
    best = stats.norm.cdf(1)
    np.testing.assert_allclose(found.error, np.sqrt(best * (1 - best) / 1200), rtol=0.1)  # 600 of each
    assert best - 0.03 - 3 * found.error < found.accuracy < best + 3 * found.error
    again = classifier_two_sample_test(normal(0, 700, 2), normal(1, 600, 2) + m)
    assert again == found


def test_a_classifier_finds_what_moments_do_not_show():
    """Two modes at ±1 with deviation 0.3 against the Gaussian of the same moments; their total variation is 0.71."""
    modes = np.sign(normal(0, 600, 1)) + 0.3 * normal(1, 600, 1)
    gauss = np.sqrt(1.09) * normal(2, 600, 1)
    z = np.linspace(-6, 6, 4001)
    p = (stats.norm.pdf(z, 1, 0.3) + stats.norm.pdf(z, -1, 0.3)) / 2
    variation = np.trapezoid(np.abs(p - stats.norm.pdf(z, 0, np.sqrt(1.09))), z) / 2
    found = classifier_two_sample_test(modes, gauss)
    assert abs(found.accuracy - (1 + variation) / 2) < 3 * found.error + 0.03


# Metrics


def test_units_do_not_change_a_figure():
    """Columns from 10⁻³ to 10³, and the same columns with unit deviation."""
    x, y = normal(0, 300, 3) + np.array([0.5, 0, 0]), normal(1, 300, 3)
    scale, shift = np.array([1e-3, 1, 1e3]), np.array([5.0, -2.0, 1e4])
    for metric in (sliced_wasserstein, energy, c2st, marginals):
        one, other = (
            metric(statistics(x), statistics(y)),
            metric(statistics(x * scale + shift), statistics(y * scale + shift)),
        )
        assert one.keys() == other.keys() and metric.floor and metric.requires == ("samples", "data")
        for key in one:
            np.testing.assert_allclose(other[key], one[key], rtol=1e-6, atol=1e-9)


def test_the_unit_is_the_deviation_of_the_data():
    """Samples that are the data, shifted by half a deviation and twice as wide: in one coordinate of two."""
    data = normal(0, 200, 2) * [10, 1]
    sd = data.std(0, ddof=1)
    shifted, wide = data + np.array([0.5 * sd[0], 0]), data + (data - data.mean(0)) * [1, 0]
    found = marginals(statistics(shifted), statistics(data))
    np.testing.assert_allclose([found["mean error [0]"], found["mean error [1]"]], [0.5, 0], atol=1e-9)
    np.testing.assert_allclose(found["mean error max"], 0.5)
    np.testing.assert_allclose(found["sd error max"], 0, atol=1e-9)
    np.testing.assert_allclose(
        sliced_wasserstein(statistics(shifted), statistics(data))["sliced Wasserstein"] ** 2, 1 / 8
    )
    found = marginals(statistics(wide), statistics(data))
    np.testing.assert_allclose([found["sd error [0]"], found["sd error [1]"]], [np.sqrt(199 / 200), 0], atol=1e-9)
    np.testing.assert_allclose(found["skewness error [0]"], 0, atol=1e-9)
    ks = ks_statistics(wide, data)
    assert [found["KS [0]"], found["KS [1]"]] == list(ks)
    np.testing.assert_allclose([found["KS max"], found["KS mean"]], [ks.max(), ks.mean()])
    mirrored = marginals(statistics(-np.exp(data)), statistics(np.exp(data)))
    assert mirrored["mean error [1]"] < 0 and mirrored["skewness error max"] == -mirrored["skewness error [0]"] > 2
    assert {key for key in marginals(statistics(data), statistics(data), listed=1)} == {
        "KS mean", "KS max", "mean error max", "sd error max", "skewness error max",
    }  # fmt: skip


def test_large_sets_are_cut(caplog):
    data, samples = statistics(normal(0, 90, 2)), statistics(normal(1, 60, 2) + 1)
    whole = energy(samples, data, rows=90)["energy distance"]
    both = [standardized(one.features, data.mean, data.sd) for one in (samples, data)]
    np.testing.assert_allclose(whole, energy_distance(*both))
    cut, draw = energy(samples, data, rows=30)["energy distance"], np.random.default_rng(0)
    parts = [x[draw.choice(len(x), 30, replace=False)] for x in both]
    np.testing.assert_allclose(cut, energy_distance(*parts))
    assert len(marginals(samples, data, listed=2)) == 5 + 8
    assert cut != whole and cut == energy(samples, data, rows=30)["energy distance"]
    assert cut != energy(samples, data, rows=30, seed=1)["energy distance"] > 0
    assert c2st(samples, data, rows=4) == {} and "C2ST is left out: 4 rows, at least 5 are required" in caplog.text


def test_what_is_refused():
    x = normal(0, 9, 2)
    with pytest.raises(ValueError, match=r"at least 2 of each, got \(9, 2\) and \(9, 1\)"):
        energy_distance(x, x[:, :1])
    with pytest.raises(ValueError, match="projections=0: expected at least 1"):
        sliced_wasserstein_distance(x, x, projections=0)
    with pytest.raises(ValueError, match="folds=5: expected from 2 to 4, for 9 and 4 points"):
        classifier_two_sample_test(x, x[:4])
    with pytest.raises(ValueError, match="features: 1 values are not finite"):
        ks_statistics(x, np.array([[0.0, np.inf], [1, 1]]))
