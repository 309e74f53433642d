"""Kernel distance, Inception score, precision and recall, density and coverage, FID∞: goldens and closed forms."""

from pathlib import Path

import numpy as np
import pytest

from eval_lib import (
    ClassifierFeatures,
    InceptionFeatures,
    RawFeatures,
    Statistics,
    classifier_score,
    density_coverage,
    fid,
    fid_infinity,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
    kid,
    moments,
    precision_recall,
    squared_mmd,
)
from eval_lib.metrics import figure_name
from eval_lib.neighbors import nearest, radii

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


# Kernel distance


def test_the_kernel_distance_is_that_of_others(golden):
    full = squared_mmd(golden["feats_a"], golden["feats_b"])
    np.testing.assert_allclose(full, golden["kid_full_unbiased"], rtol=1e-12)
    np.testing.assert_allclose(full, golden["kid_tfgan_f64"], rtol=1e-12)
    low = squared_mmd(golden["feats_low_a"], golden["feats_low_b"])
    np.testing.assert_allclose(low, golden["low_kid_full_unbiased"], rtol=1e-12)


def test_each_subset_is_that_of_torch_fidelity(golden):
    a, b = golden["feats_a"], golden["feats_b"]
    pairs = zip(golden["kid_subset_idx_a"], golden["kid_subset_idx_b"], strict=True)
    each = [squared_mmd(a[i], b[j]) for i, j in pairs]
    np.testing.assert_allclose(each, golden["kid_each_subset"], rtol=1e-10)
    np.testing.assert_allclose(np.std(each), golden["kid_subsets_std"], rtol=1e-10)


def test_subsets_agree_with_the_whole(golden):
    a, b = golden["feats_a"], golden["feats_b"]
    found = kernel_distance(a, b, subsets=200, subset_size=100, seed=1)
    assert abs(found.mean - golden["kid_full_unbiased"]) < 4 * golden["kid_subsets_std"] / np.sqrt(200)
    np.testing.assert_allclose(found.error, found.std / 2, rtol=1e-12)  # four disjoint hundreds in 400
    assert found == kernel_distance(a, b, 200, 100, seed=1) != kernel_distance(a, b, 200, 100, seed=2)


def test_the_kernel_distance_has_no_bias():
    """Of two sets of one law its mean is 0, within four standard errors, for eight features each."""
    draw = np.random.default_rng(0)
    each = [squared_mmd(*draw.normal(size=(2, 8, 3))) for _ in range(2000)]
    assert abs(np.mean(each)) < 4 * np.std(each) / np.sqrt(2000)


# Inception score


def test_the_inception_score_is_that_of_others(golden):
    mean, std = inception_score(golden["logits"], splits=1)
    np.testing.assert_allclose(mean, golden["is_tfgan_f64"], rtol=1e-10)
    assert std == 0
    mean, std = inception_score(golden["logits"], splits=10)
    np.testing.assert_allclose(mean, golden["is_splits10_noshuffle_mean"], rtol=1e-10)
    np.testing.assert_allclose(std, golden["is_splits10_noshuffle_std"], rtol=1e-9)
    samples = Statistics(9, None, None, {}, {}, logits=golden["logits"])
    assert classifier_score(samples, samples) == {"IS": mean, "IS sd of splits": std}


def test_inception_scores_that_are_known():
    certain = 1000 * np.eye(7)[np.arange(70) % 7]
    assert inception_score(certain, splits=5)[0] == pytest.approx(7, rel=1e-12)
    assert inception_score(np.random.default_rng(0).normal(size=7)[None].repeat(20, 0), 2)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"expected logits \[N, classes\] with N of at least splits=10, got shape"):
        inception_score(np.zeros((9, 3)))


# Precision and recall, density and coverage


def test_equal_sets():
    x = np.random.default_rng(0).normal(size=(300, 4))
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x, k=5).coverage == 1
    # a ball holds its center and k neighbors
    assert density_coverage(x, x, k=5).density == pytest.approx(6 / 5)


def test_points_on_a_line():
    """Data 0, 1, 2, 10 with k = 1: radii 1, 1, 1, 8. Samples 0.5, 2.5, 30, 31, with radii 2, 2, 1, 1."""
    data, samples = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [2.5], [30], [31]])
    np.testing.assert_allclose(radii(data, 1), [1, 1, 1, 64])
    assert precision_recall(samples, data, k=1) == (2 / 4, 3 / 4)
    # 0.5 lies in the balls of 0 and 1, 2.5 in those of 2 and 10
    assert density_coverage(samples, data, k=1) == (4 / 4, 4 / 4)
    assert precision_recall(data, samples, k=1) == (3 / 4, 2 / 4)
    assert density_coverage(data, samples, k=1) == (5 / 4, 2 / 4)
    # the same sample twice changes neither share
    assert density_coverage(samples.repeat(2, 0), data, k=1) == (1, 1)


def test_equal_laws_give_the_expected_density_and_coverage():
    """The mean density of equal laws is 1; a ball of k of N lacks all of M = N samples with probability near 2⁻ᵏ."""
    draw = np.random.default_rng(1)
    found = np.array([density_coverage(*draw.normal(size=(2, 400, 2)), k=3) for _ in range(40)])
    mean, error = found.mean(0), found.std(0) / np.sqrt(40)
    assert np.all(np.abs(mean - [1, 1 - 2**-3]) < 4 * error + [0, 0.005])


def test_what_is_missing_and_what_is_wrong_are_told_apart():
    draw = np.random.default_rng(2)
    two = np.concatenate([draw.normal(size=(200, 3)), draw.normal(size=(200, 3)) + 20])
    one, strange = draw.normal(size=(400, 3)), np.concatenate([two[::2] + 0.01, draw.normal(size=(200, 3)) - 20])
    lacking = precision_recall(one, two)
    assert lacking.precision > 0.9 and 0.4 < lacking.recall < 0.55
    wrong = precision_recall(strange, two)
    assert 0.45 < wrong.precision < 0.55 and wrong.recall > 0.9
    assert 0.4 < density_coverage(one, two).coverage < 0.55
    assert density_coverage(strange, two).density < 0.7


def test_neighbors():
    draw = np.random.default_rng(3)
    data = 1000 + draw.normal(size=(3000, 5))
    x = np.concatenate([data[[7, 2999]], 1000 + draw.normal(size=(1500, 5))])
    index, distance = nearest(x, data, 3)
    assert list(index[:2, 0]) == [7, 2999] and np.all(distance[:2, 0] == 0)
    brute = np.linalg.norm(x[2:40, None] - data[None], axis=2)
    np.testing.assert_array_equal(index[2:40], brute.argsort(1)[:, :3])
    np.testing.assert_allclose(distance[2:40], np.sort(brute, 1)[:, :3], rtol=1e-12)
    with pytest.raises(ValueError, match="k=5 neighbors: expected from 1 to 4, for 5 points"):
        radii(data[:5], 5)


# The bias of a number of samples


def test_fid_infinity_is_nearer_than_fid():
    """Samples of the data's own law: the distance of 2,000 is above 0 by its bias, D(D + 5)/(4N) to leading order."""
    d, n = 16, 2000
    found = frechet_infinity(np.random.default_rng(0).normal(size=(n, d)), np.zeros(d), np.eye(d), seed=1)
    np.testing.assert_allclose(found.slope, d * (d + 5) / 4, rtol=0.25)
    assert abs(found.value) < 4 * found.error + 0.01 and found.slope / n > 0.03


def test_the_error_of_frechet_infinity_is_that_of_a_straight_line():
    x = np.random.default_rng(0).normal(size=(400, 3)) + 1
    found = frechet_infinity(x, np.zeros(3), np.eye(3), smallest=50, points=8, seed=5)
    draw, sizes = np.random.default_rng(5), np.linspace(50, 400, 8).astype(int)
    distances = [frechet_distance(*moments(x[draw.choice(400, n, False)]), np.zeros(3), np.eye(3)) for n in sizes]
    (slope, value), cov = np.polyfit(1 / sizes, distances, 1, cov=True)
    np.testing.assert_allclose(found, (value, np.sqrt(cov[1, 1]), slope), rtol=1e-8)


def test_the_error_of_kid_where_a_subset_could_be_all():
    """Subsets are halves at most, so their spread is that of the estimate over many draws, within a factor of 2."""
    draw = np.random.default_rng(0)
    found = [kernel_distance(*draw.normal(size=(2, 60, 4)), subsets=20, seed=k) for k in range(40)]
    spread, error = np.std([one.mean for one in found]), np.mean([one.error for one in found])
    assert 0.5 < error / spread < 2


def test_fid_infinity_of_few_samples_is_left_out(caplog):
    x = np.random.default_rng(0).normal(size=(20, 16))
    stats = Statistics(20, x.mean(0), np.cov(x.T), {}, {}, x)
    assert fid_infinity(stats, stats) == {}
    assert "N → ∞ (own features) is left out: 20 samples, at least 31 are required" in caplog.text
    inception = Statistics(20, x.mean(0), np.cov(x.T), InceptionFeatures().protocol, {}, x)
    assert fid_infinity(inception, inception) == {} and "FID∞ is left out: 20 samples" in caplog.text


def test_only_inceptions_distance_is_called_fid():
    """In reports for people; the key of a figure does not depend on the features."""
    images = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype(float)
    classifier = ClassifierFeatures(width=4).fitted(images, np.arange(40) % 2)
    for protocol, fid_name, score_name in (
        (InceptionFeatures().protocol, "FID", "IS"),
        (classifier.protocol, "Fréchet distance (classifier features)", "classifier score (classifier features)"),
        (RawFeatures().protocol, "Fréchet distance (raw data)", "classifier score (raw data)"),
        (
            {"features": "DINOv2 ViT-L/14, class token, 1024"},
            "Fréchet distance (DINOv2 ViT-L/14)",
            "classifier score (DINOv2 ViT-L/14)",
        ),
        ({"features": {"bind": "mine:f"}}, "Fréchet distance (own features)", "classifier score (own features)"),
    ):
        assert figure_name("FID", protocol) == fid_name and figure_name("IS", protocol) == score_name
        assert figure_name("precision", protocol) == "precision"
        assert figure_name("FID∞", protocol).startswith(fid_name.split(" (")[0])


def test_metrics_say_what_they_require():
    assert [metric.requires for metric in (fid_infinity, kid)] == [("samples",), ("samples", "data")]
    assert fid_infinity.__name__ == "fid_infinity" and not hasattr(fid, "requires")


def test_what_frechet_infinity_refuses():
    with pytest.raises(ValueError, match=r"frechet_infinity of 10 samples with 16 features: expected at least 3 poi"):
        frechet_infinity(np.zeros((10, 16)), np.zeros(16), np.eye(16))


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 of each, got \(1, 3\) and \(4, 3\)"):
        squared_mmd(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="features: 1 values are not finite"):
        precision_recall(np.array([[0.0], [np.nan]]), np.zeros((4, 1)))
