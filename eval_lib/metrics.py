"""Metrics of an evaluation: functions of the statistics of samples and data, which a config chooses.

    config.eval.metrics.fid = bind(fid)

A metric returns figures by name. Your own has the same form, (samples, data) → {"name": number}. By `requires` it may
name which of the two must have features, not only moments; this is checked before any sample is drawn.

The keys of figures are those of Inception's features, whatever the features are: so configs and saved reports name them
alike. `figure_name` gives the name for people, which says what the features are.
"""

import logging
from collections.abc import Mapping

from eval_lib.extrapolate import frechet_infinity
from eval_lib.features import features_name, is_inception
from eval_lib.frechet import frechet_distance
from eval_lib.inception_score import inception_score
from eval_lib.kernel import kernel_distance
from eval_lib.neighbors import density_coverage, precision_recall
from eval_lib.requires import requires
from eval_lib.statistics import Statistics

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


@requires("samples")
def fid_infinity(samples: Statistics, data: Statistics, points: int = 15, seed: int = 0) -> Figures:
    """Fréchet distance extrapolated to infinitely many samples (`extrapolate`), and its standard error.

    No figures, and a warning, for fewer than D + `points` samples, where D is the number of features.
    """
    least = len(data.mean) + points
    if samples.count < least:
        log.warning("FID∞ is left out: %d samples, at least %d are required", samples.count, least)
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
