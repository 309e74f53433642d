"""Statistics of the features of any number of images: moments in one pass and constant memory, and their protocol.

Sets A and B of nₐ and n_b features, with means mₐ, m_b and scatters S = Σ (x − m)(x − m)ᵀ, merge as (Chan et al. 1979)

    m = mₐ + n_b/n δ,     S = Sₐ + S_b + nₐ n_b/n δ δᵀ,     δ = m_b − mₐ,  n = nₐ + n_b                              (1)

in float64, so that the result does not depend, to 10⁻⁹, on how the images are split into batches.
"""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from eval_lib.features import FeatureFunction
from eval_lib.network import Features

OLD_KEYS = {"quantisation": "quantization"}
"""Keys of a protocol in files of version 0.1: today's keys."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the features of N images: mean [D], covariance [D, D], and where the images come from.

    cov        [D, D], or the variances [D] if nothing requires more (`statistics_of`)
    protocol   what must agree for two of these to be compared: features, weights, resize, quantization, shape
    about      the source of the images: data, split and other notes
    features, logits   [N, D] and [N, classes], or None where they were not stored
    """

    count: int
    mean: np.ndarray
    cov: np.ndarray
    protocol: Mapping[str, str]
    about: Mapping[str, str]
    features: np.ndarray | None = None
    logits: np.ndarray | None = None

    @property
    def sd(self) -> np.ndarray:
        """The standard deviation of each feature, [D]."""
        return np.sqrt(self.cov if self.cov.ndim == 1 else np.diag(self.cov).clip(0))

    def kept(self, what: str = "features") -> np.ndarray:
        """`features` or `logits`; ValueError if they were not stored."""
        found = getattr(self, what)
        if found is None:
            raise ValueError(
                f"this metric requires the {what} of {dict(self.about)}, which were not computed or stored"
            )
        return found

    def rows(self, index: np.ndarray | slice) -> "Statistics":
        """The same with the features and logits of these rows alone; count and moments remain those of all images."""
        parts = {name: getattr(self, name) for name in ("features", "logits")}
        return replace(self, **{name: None if array is None else array[index] for name, array in parts.items()})


class Moments:
    """Mean and covariance by (1), one batch at a time; without `full`, the diagonal of the covariance alone."""

    def __init__(self, full: bool = True) -> None:
        self.count, self.mean, self.scatter, self.full = 0, np.zeros(0), np.zeros((0, 0) if full else 0), full

    def add(self, features: np.ndarray) -> None:
        """Merges features [B, D]. ValueError for another D, or for values that are not finite."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or (self.count and x.shape[1] != len(self.mean)):
            raise ValueError(f"expected features [B, {len(self.mean) or 'D'}], got shape {x.shape}")
        if bad := np.count_nonzero(~np.isfinite(x)):
            raise ValueError(f"features: {bad} values are not finite, among images {self.count} to "
                             f"{self.count + len(x) - 1}")  # fmt: skip
        mean = x.mean(0)
        scatter = (x - mean).T @ (x - mean) if self.full else ((x - mean) ** 2).sum(0)
        if not self.count:
            self.count, self.mean, self.scatter = len(x), mean, scatter
            return
        n, delta = self.count + len(x), mean - self.mean
        shift = np.outer(delta, delta) if self.full else delta**2
        self.scatter += scatter + shift * (self.count * len(x) / n)
        self.mean += delta * (len(x) / n)
        self.count = n

    def cov(self) -> np.ndarray:
        """The covariance [D, D], or its diagonal [D], with N − 1 in the denominator.

        Warns if N ≤ D, where the covariance cannot have full rank.
        """
        if self.count < 2:
            raise ValueError(f"a covariance requires at least 2 images, got {self.count}")
        if self.full and self.count <= len(self.mean):
            d = len(self.mean)
            warnings.warn(
                f"{self.count} images give no full-rank covariance of {d} features: {d + 1} are needed", stacklevel=2
            )
        return self.scatter / (self.count - 1)


def statistics_of(
    batches: Iterable[np.ndarray],
    feature_function: FeatureFunction,
    protocol: Mapping[str, str],
    about: Mapping[str, str],
    keep: bool = True,
    full: bool = True,
) -> Statistics:
    """Statistics of all images of all batches; with `keep` also their features and logits, in float32.

    Without `keep`, memory does not grow with the number of images. Without `full`, `cov` holds the variances alone, so
    that memory does not grow with the square of the number of features. ValueError for fewer than 2 images, and for
    features that are not finite or not [B, D].
    """
    total, features, logits = Moments(full), [], []
    for images in filter(len, batches):
        found = feature_function(images)
        found = found if isinstance(found, Features) else Features(found)
        total.add(found.features)
        if keep:
            features.append(np.asarray(found.features, np.float32))
        if keep and found.logits is not None:
            logits.append(np.asarray(found.logits, np.float32))
    all_features = np.concatenate(features) if features else None
    all_logits = np.concatenate(logits) if logits and len(logits) == len(features) else None
    return Statistics(total.count, total.mean, total.cov(), dict(protocol), dict(about), all_features, all_logits)


def require_comparable(a: Statistics, b: Statistics) -> None:
    """ValueError, with both protocols, if they differ."""
    differ = [key for key in sorted({*a.protocol, *b.protocol}) if a.protocol.get(key) != b.protocol.get(key)]
    if differ:
        raise ValueError(
            f"the statistics are not comparable, since {', '.join(differ)} differ: {_shown(a)} against {_shown(b)}"
        )


def _shown(stats: Statistics) -> str:
    return json.dumps({**stats.protocol, "about": dict(stats.about)}, ensure_ascii=False)


def save(file: str | Path | BinaryIO, stats: Statistics) -> None:
    """Writes an npz file: count, mean, cov, protocol and about as JSON, and features and logits if there are any."""
    arrays: dict[str, Any] = {"count": stats.count, "mean": stats.mean, "cov": stats.cov}
    arrays |= {name: json.dumps(dict(getattr(stats, name)), sort_keys=True) for name in ("protocol", "about")}
    arrays |= {name: getattr(stats, name) for name in ("features", "logits") if getattr(stats, name) is not None}
    np.savez(file, **arrays)


def load(path: str | Path) -> Statistics:
    """The statistics of a file of `save`, also of version 0.1. ValueError in one line for any other file."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        found |= {name: json.loads(str(found[name])) for name in ("protocol", "about")}
        found["protocol"] = {OLD_KEYS.get(key, key): value for key, value in found["protocol"].items()}
        found["count"] = int(found["count"])
        return Statistics(**found)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can raise almost any error
        raise ValueError(f"{path}: not a file of statistics, as --mode=stats writes them: {error}") from error
