"""The numbers that an evaluation gives, of the statistics of samples and of data: for a config to choose from.

    config.eval.metrics.fid = bind(fid)

A metric returns figures by name. One of the user's own has the same form: (samples, data) → {"name": number}. It may
say by `requires` of which of the two it needs the features themselves, and not their moments alone: then they are known
to be kept before a sample is drawn.
"""

import logging

from eval_lib.extrapolate import frechet_infinity
from eval_lib.frechet import frechet_distance
from eval_lib.inception_score import inception_score
from eval_lib.kernel import kernel_distance
from eval_lib.neighbors import density_coverage, precision_recall
from eval_lib.statistics import Statistics

log = logging.getLogger(__name__)

Figures = dict[str, float]


def fid(samples: Statistics, data: Statistics) -> Figures:
    """Fréchet distance of the two Gaussians (`frechet`); with Inception's features it is the FID."""
    return {"FID": frechet_distance(samples.mean, samples.cov, data.mean, data.cov)}


def fid_infinity(samples: Statistics, data: Statistics, points: int = 15, seed: int = 0) -> Figures:
    """The same for infinitely many samples (`extrapolate`), and the standard error of that.

    Nothing, and a warning, of samples that are not many more than the features: there is no line to lay through them.
    """
    if samples.count < len(data.mean) + points:
        log.warning("FID∞ is left out: %d features want more samples than %d", len(data.mean), samples.count)
        return {}
    found = frechet_infinity(samples.kept(), data.mean, data.cov, points=points, seed=seed)
    return {"FID∞": found.value, "FID∞ error": found.error}


def kid(samples: Statistics, data: Statistics, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> Figures:
    """Kernel distance (`kernel`) and its standard error."""
    found = kernel_distance(samples.kept(), data.kept(), subsets, subset_size, seed)
    return {"KID": found.mean, "KID error": found.error}


def classifier_score(samples: Statistics, data: Statistics, splits: int = 10) -> Figures:
    """Inception score of the samples (`inception_score`), by the logits of whatever classifier the features are of."""
    mean, std = inception_score(samples.kept("logits"), splits)
    return {"IS": mean, "IS sd of splits": std}


def fidelity(samples: Statistics, data: Statistics, k: int = 3) -> Figures:
    """Improved precision and recall (`neighbors`)."""
    return precision_recall(samples.kept(), data.kept(), k)._asdict()


def coverage(samples: Statistics, data: Statistics, k: int = 5) -> Figures:
    """Density and coverage (`neighbors`)."""
    return density_coverage(samples.kept(), data.kept(), k)._asdict()


fid_infinity.requires = ("samples",)
for _metric in (kid, fidelity, coverage):
    _metric.requires = ("samples", "data")
