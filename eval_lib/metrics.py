"""Metrics of an evaluation: functions of the statistics of samples and data, which a config chooses.

    config.eval.metrics.fid = bind(fid)

A metric returns figures by name. Your own has the same form, (samples, data) → {"name": number}. By `requires` it may
name which of the two must have features, not only moments; this is checked before any sample is drawn.

The keys of figures are those of Inception's features, whatever the features are: so configs and saved reports name them
alike. `figure_name` gives the name for people, which says what the features are. A config may use either.

Metrics marked with `with_floor` compare equal numbers of samples and training examples. Evaluation prints next to each
of their figures its floor: the figure of as many test examples.
"""

import logging
import warnings
from collections.abc import Mapping

import numpy as np

from eval_lib.extrapolate import frechet_infinity
from eval_lib.features import features_name, is_inception
from eval_lib.frechet import frechet_distance, moments
from eval_lib.inception_score import inception_score
from eval_lib.kernel import kernel_distance
from eval_lib.neighbors import density_coverage, precision_recall
from eval_lib.requires import requires, with_floor
from eval_lib.statistics import Statistics
from eval_lib.two_sample import (
    classifier_two_sample_test,
    coordinate_moments,
    energy_distance,
    ks_statistics,
    sliced_wasserstein_distance,
    standardized,
)

log = logging.getLogger(__name__)

Figures = dict[str, float]

NAMES = {
    "FID": "Fréchet distance",
    "FID∞": "Fréchet distance for N → ∞",
    "FID∞ error": "standard error of the Fréchet distance for N → ∞",
    "KID": "kernel distance",
    "KID error": "standard error of the kernel distance",
    "IS": "classifier score",
    "IS sd of splits": "sd of the classifier score over splits",
}
"""Figures whose key is the name for Inception's features: the name for other features."""


def figure_name(figure: str, protocol: Mapping[str, str]) -> str:
    """The name of a figure in reports for people.

    "FID" with Inception's features, else "Fréchet distance (classifier features)", for example.
    """
    if figure not in NAMES or is_inception(protocol):
        return figure
    return f"{NAMES[figure]} ({features_name(protocol)})"


def fid(samples: Statistics, data: Statistics) -> Figures:
    """Fréchet distance of the two Gaussians (`frechet`): the FID if the features are Inception's."""
    return {"FID": frechet_distance(samples.mean, samples.cov, data.mean, data.cov)}


@with_floor
@requires("samples", "data")
def feature_frechet(samples: Statistics, data: Statistics) -> Figures:
    """Fréchet distance of the two Gaussians (`frechet`), of equal numbers of samples and real examples, with a floor.

    The distance falls with their number, and so does the floor: compare it with that. No figures, and a warning, for
    fewer than 2 rows.
    """
    x, y = samples.kept(), data.kept()
    if (least := min(len(x), len(y))) < 2:
        log.warning("Fréchet distance is left out: %d rows, at least 2 are required", least)
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few rows: the floor shows what they do
        return {"Fréchet distance": frechet_distance(*moments(x), *moments(y))}


@requires("samples")
def fid_infinity(samples: Statistics, data: Statistics, points: int = 15, seed: int = 0) -> Figures:
    """Fréchet distance extrapolated to infinitely many samples (`extrapolate`), and its standard error.

    No figures, and a warning, for fewer than D + `points` samples, where D is the number of features.
    """
    least = len(data.mean) + points
    if samples.count < least:
        name = figure_name("FID∞", data.protocol)
        log.warning("%s is left out: %d samples, at least %d are required", name, samples.count, least)
        return {}
    found = frechet_infinity(samples.kept(), data.mean, data.cov, points=points, seed=seed)
    return {"FID∞": found.value, "FID∞ error": found.error}


@requires("samples", "data")
def kid(samples: Statistics, data: Statistics, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> Figures:
    """Kernel distance (`kernel`) and its standard error: the KID if the features are Inception's."""
    found = kernel_distance(samples.kept(), data.kept(), subsets, subset_size, seed)
    return {"KID": found.mean, "KID error": found.error}


def classifier_score(samples: Statistics, data: Statistics, splits: int = 10) -> Figures:
    """Inception score of the samples (`inception_score`), from the logits of any classifier."""
    mean, std = inception_score(samples.kept("logits"), splits)
    return {"IS": mean, "IS sd of splits": std}


@requires("samples", "data")
def fidelity(samples: Statistics, data: Statistics, k: int = 3) -> Figures:
    """Improved precision and recall (`neighbors`)."""
    return precision_recall(samples.kept(), data.kept(), k)._asdict()


@requires("samples", "data")
def coverage(samples: Statistics, data: Statistics, k: int = 5) -> Figures:
    """Density and coverage (`neighbors`)."""
    return density_coverage(samples.kept(), data.kept(), k)._asdict()


@with_floor
@requires("samples", "data")
def sliced_wasserstein(samples: Statistics, data: Statistics, projections: int = 128, seed: int = 0) -> Figures:
    """Sliced Wasserstein distance of order 2 (`two_sample`, eq. 2), in units of the data's standard deviation."""
    x, y = _standardized(samples, data)
    return {"sliced Wasserstein": sliced_wasserstein_distance(x, y, projections, seed)}


@with_floor
@requires("samples", "data")
def energy(samples: Statistics, data: Statistics, rows: int = 5000, seed: int = 0) -> Figures:
    """Energy distance (`two_sample`, eq. 4) of coordinates in units of the data's standard deviation.

    Of a set with more than `rows` rows, that many at random: time grows with the square of their number.
    """
    x, y = _standardized(samples, data, rows, seed)
    return {"energy distance": energy_distance(x, y)}


@with_floor
@requires("samples", "data")
def c2st(samples: Statistics, data: Statistics, rows: int = 2000, folds: int = 5, seed: int = 0) -> Figures:
    """Classifier two-sample test (`two_sample`, eq. 5) of standardized coordinates, of at most `rows` rows each.

    No figures, and a warning, for fewer than `folds` rows.
    """
    x, y = _standardized(samples, data, rows, seed)
    if (least := min(len(x), len(y))) < folds:
        log.warning("C2ST is left out: %d rows, at least %d are required", least, folds)
        return {}
    return {"C2ST": classifier_two_sample_test(x, y, seed, folds).accuracy}


@with_floor
@requires("samples", "data")
def marginals(samples: Statistics, data: Statistics, listed: int = 16) -> Figures:
    """Each coordinate by itself: Kolmogorov-Smirnov statistic, and errors of mean, deviation and skewness.

    KS               sup |F − G| of the two distribution functions (`two_sample`, eq. 3)
    mean error       (mean of samples − mean of data)/sd, where sd is the data's standard deviation, or 1 if that is 0
    sd error         (sd of samples − sd of data)/sd
    skewness error   skewness of samples − skewness of data

    "KS mean" is the mean over coordinates; "KS max", "mean error max" … are the largest magnitudes. Data of at most
    `listed` coordinates also have "KS [0]", "KS [1]" …, "mean error [0]" …
    """
    x, y = _standardized(samples, data)
    ks, ours, true = ks_statistics(x, y), coordinate_moments(x), coordinate_moments(y)
    columns = {"KS": ks}
    columns |= {f"{name} error": getattr(ours, name) - getattr(true, name) for name in ours._fields}
    found = {"KS mean": float(ks.mean())}
    found |= {f"{name} max": float(np.abs(column).max()) for name, column in columns.items()}
    if len(ks) <= listed:
        found |= {f"{name} [{i}]": float(v) for name, column in columns.items() for i, v in enumerate(column)}
    return found


def _standardized(
    samples: Statistics, data: Statistics, rows: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The features of both, by the data's mean and standard deviation; at most `rows` random rows of each."""
    draw, both = np.random.default_rng(seed), []
    for features in (samples.kept(), data.kept()):
        if rows is not None and len(features) > rows:
            features = features[draw.choice(len(features), rows, replace=False)]
        both.append(standardized(features, data.mean, data.sd))
    return both[0], both[1]
