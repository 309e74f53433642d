import json
import time

import numpy as np
import pytest

from data_lib import Scale, digits
from eval_lib import frechet_distance, markdown, moments, small_image_report

TRAIN, TEST = digits()
TRAIN_X, TEST_X = (Scale(0, 16).forward(part.x) for part in (TRAIN, TEST))


def report(samples, **options):
    """Of `samples` with 250 of the test digits; the other 250 can serve as samples."""
    options = {"splits": 4} | options
    return small_image_report(samples, TRAIN_X, TEST_X[250:], TRAIN.label, TEST.label[250:], **options)


@pytest.fixture(scope="module")
def real():
    return report(TEST_X[:250])


def test_other_real_digits_are_as_good_as_real_ones(real):
    """Bounds from 200 random splits: a ratio of distances has a standard deviation of 0.17, the others of 0.02."""
    assert 0.5 < real["frechet"]["ratio"] < 1.6
    assert 0.92 < real["confident"]["ratio"] < 1.08
    assert 0.94 < real["nearest"]["ratio"] < 1.06


def test_the_classifier_can_read():
    whole = small_image_report(TEST_X, TRAIN_X, TEST_X, TRAIN.label, TEST.label)
    assert whole["accuracy"] >= 0.97
    # the samples are the test images themselves, so that every measure is its floor
    for name in ("frechet", "confident", "nearest"):
        np.testing.assert_allclose(whole[name]["ratio"], 1, rtol=1e-5)
    np.testing.assert_allclose(np.array(whole["classes"]["samples"]) / 500, whole["classes"]["test"])
    # a classifier that is 97 % right finds each class as often as its labels do, but for those 3 %
    found, true = np.array(whole["classes"]["samples"]), np.bincount(TEST.label)
    assert np.abs(found - true).sum() <= 2 * 0.03 * 500
    assert whole["classes"]["label"] == list(range(10))


def test_noise_is_recognized():
    noise = report(np.random.default_rng(0).uniform(-1, 1, (250, 8, 8, 1)))
    assert noise["frechet"]["ratio"] > 20
    assert noise["confident"]["ratio"] < 0.7
    assert noise["nearest"]["ratio"] > 2


def test_copies_of_the_training_images_are_recognized(real):
    copies = report(TRAIN_X[:250])
    assert copies["nearest"]["samples"] == copies["nearest"]["ratio"] == 0
    assert copies["frechet"]["ratio"] < 1.6  # copies look perfect to every other measure
    assert copies["confident"]["ratio"] > 0.95


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: (x + np.roll(x, 1, axis=2)) / 2,
        pytest.param(lambda x: np.roll(x, 1, axis=1), marks=pytest.mark.slow),
        pytest.param(lambda x: x + 0.3, marks=pytest.mark.slow),
        lambda x: 0.8 * x,
        pytest.param(lambda x: x + np.random.default_rng(0).normal(scale=0.3, size=x.shape), marks=pytest.mark.slow),
    ],
    ids=["blurred", "shifted", "brightened", "faded", "noisy"],
)
def test_spoiled_digits_have_a_larger_distance(spoil, real):
    assert report(spoil(TEST_X[:250]))["frechet"]["samples"] > 2 * real["frechet"]["samples"]


def test_a_missing_class_shows():
    no_threes = report(TEST_X[:250][TEST.label[:250] != 3])
    count, share = no_threes["classes"]["samples"], no_threes["classes"]["test"]
    assert count[3] <= 3 and share[3] > 0.05
    assert sum(count) == no_threes["counts"]["samples"]


def test_groups_are_of_equal_size(real):
    """Draws from the train split's own Gaussian: 250 of them are further off than all 1,100, by chance alone."""
    mean, cov = moments(TRAIN_X.reshape(-1, 64))
    draws = np.random.default_rng(0).multivariate_normal(mean, cov, 1100).reshape(-1, 8, 8, 1)
    many, one = report(draws)["frechet"], report(draws[:250])["frechet"]
    at_once = frechet_distance(*moments(draws.reshape(-1, 64)), mean, cov)
    assert report(draws)["counts"] == {"samples": 1100, "train": 1297, "test": 250, "group": 250}
    np.testing.assert_allclose(many["samples"], one["samples"], rtol=0.2)
    assert at_once < many["samples"] / 2
    assert many["spread"] > 0 == one["spread"]


def test_few_samples_are_compared_with_as_few_test_images(real):
    few = report(TEST_X[:100])
    assert few["counts"]["group"] == 100
    assert few["frechet"]["test"] > 1.5 * real["frechet"]["test"]


def test_the_seed_makes_it_reproducible_and_it_is_quick():
    samples = np.random.default_rng(0).normal(size=(1000, 8, 8, 1))
    start = time.perf_counter()
    first = report(samples, seed=3)
    assert time.perf_counter() - start < 20
    assert report(samples, seed=3) == first != report(samples, seed=4)


def test_a_threshold_is_a_threshold(real):
    assert report(TEST_X[:250], threshold=0.99)["confident"]["samples"] < real["confident"]["samples"]


def test_the_words_of_the_table():
    """The whole text, on numbers that can be checked by hand."""
    resplit = {"mean": 0.4, "spread": 0.05}
    known = {
        "counts": {"samples": 1000, "train": 1297, "test": 500, "group": 500},
        "frechet": {"samples": 0.36, "test": 0.3, "ratio": 1.2, "spread": 0.016, "resplit": resplit},
        "confident": {"samples": 0.855, "test": 0.9, "ratio": 0.95, "threshold": 0.9},
        "nearest": {"samples": 2.1, "test": 2.0, "ratio": 1.05},
        "classes": {"label": [0, 1], "samples": [400, 600], "test": [0.5, 0.5]},
        "accuracy": 0.97,
    }
    expected = """\
| | samples | test digits | samples / test (ideal) |
|---|--:|--:|---|
| number, compared with 1297 training digits | 1000 | 500 | |
| Fréchet distance in pixels to the training digits, 500 each | 0.360 ± 0.016 | 0.300 | 1.20 (1; higher is worse) |
| the same for 40 random splits of the real digits | | 0.400 ± 0.050 | 0.90 (1) |
| fraction with confidence above 0.9 | 85.5% | 90.0% | 0.95 (1; lower is worse) |
| distance to the nearest training digit, median | 2.100 | 2.000 | 1.05 (1; near 0 for copies) |
| classified as 0 | 40.0% | 50.0% | 0.80 (1) |
| classified as 1 | 60.0% | 50.0% | 1.20 (1) |
| accuracy of the classifier | | 97.0% | |
"""
    assert markdown({**known, "noun": "digit"}) == expected
    assert markdown(known) == expected.replace("digit", "image")


def test_json_and_markdown(real):
    assert json.loads(json.dumps(real)) == real
    assert {line.count("|") for line in markdown(real).splitlines()} == {5}
    assert f"| {real['confident']['samples']:.1%} | {real['confident']['test']:.1%} |" in markdown(real)
    assert sum(line.startswith("| classified as ") for line in markdown(real).splitlines()) == 10
    assert real["text"] == markdown(real) and "test images" in real["text"]
    assert "training digits" in report(TEST_X[:100], noun="digit")["text"]


def test_what_is_refused():
    with pytest.raises(
        ValueError, match=r"of one image shape, got \{'samples': \(9, 7, 7, 1\), 'train': \(1297, 8, 8, 1\)"
    ):
        report(np.zeros((9, 7, 7, 1)))
    with pytest.raises(ValueError, match="samples: 64 of 192 values are not finite"):
        report(np.stack([TEST_X[0], TEST_X[1], np.full((8, 8, 1), np.nan)]))
    with pytest.raises(ValueError, match="samples: at least 2 images are required, got 1"):
        report(TEST_X[:1])
    with pytest.raises(ValueError, match=r"train_label must be \[1297\], one for each image, got shape \(500,\)"):
        small_image_report(TEST_X, TRAIN_X, TEST_X, TEST.label, TEST.label)
