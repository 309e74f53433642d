"""Features of any number of images in one pass: their moments, in constant memory, and what they may be compared with.

Sets A and B of nₐ and n_b features with means mₐ, m_b and scatters S = Σ (x − m)(x − m)ᵀ join as (Chan et al. 1979)

    m = mₐ + n_b/n δ,     S = Sₐ + S_b + nₐ n_b/n δ δᵀ,     δ = m_b − mₐ,  n = nₐ + n_b                              (1)

in float64, so that the result does not depend, to 10⁻⁹, on how the images were cut into batches.
"""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eval_lib.features import FeatureFunction
from eval_lib.network import Features


@dataclass(frozen=True)
class Statistics:
    """N images seen through a feature function.

    protocol   what must agree for two of these to be compared: features, weights, resize, quantisation, shape
    about      where the images come from: data, split, whatever else is worth knowing
    features, logits   [N, D] and [N, classes], or None where they were not kept
    """

    count: int
    mean: np.ndarray
    cov: np.ndarray
    protocol: Mapping[str, str]
    about: Mapping[str, str]
    features: np.ndarray | None = None
    logits: np.ndarray | None = None

    def kept(self, what: str = "features") -> np.ndarray:
        """`features` or `logits`, or ValueError where there are none."""
        found = getattr(self, what)
        if found is None:
            raise ValueError(f"this metric needs the {what} of {dict(self.about)}, and they were not kept or computed")
        return found


class Moments:
    """(1), batch after batch."""

    def __init__(self) -> None:
        self.count, self.mean, self.scatter = 0, np.zeros(0), np.zeros((0, 0))

    def add(self, features: np.ndarray) -> None:
        """More features [B, D]."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or (self.count and x.shape[1] != len(self.mean)):
            raise ValueError(f"expected features [B, {len(self.mean) or 'D'}], got shape {x.shape}")
        if bad := np.count_nonzero(~np.isfinite(x)):
            raise ValueError(f"features: {bad} values are not finite, among numbers {self.count} to "
                             f"{self.count + len(x) - 1}")  # fmt: skip
        mean = x.mean(0)
        scatter = (x - mean).T @ (x - mean)
        if not self.count:
            self.count, self.mean, self.scatter = len(x), mean, scatter
            return
        n, delta = self.count + len(x), mean - self.mean
        self.scatter += scatter + np.outer(delta, delta) * (self.count * len(x) / n)
        self.mean += delta * (len(x) / n)
        self.count = n

    def cov(self) -> np.ndarray:
        """With N − 1 in the denominator; warns when N ≤ D, for then it has no full rank."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        if self.count <= len(self.mean):
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
) -> Statistics:
    """Of all images of all batches. Without `keep` the memory does not grow with their number."""
    total, kept = Moments(), []
    for images in filter(len, batches):
        seen = feature_function(images)
        seen = seen if isinstance(seen, Features) else Features(seen)
        total.add(seen.features)
        if keep:
            kept.append(Features(*(None if a is None else np.asarray(a, np.float32) for a in seen)))
    columns = [None if any(c is None for c in column) else np.concatenate(column) for column in zip(*kept, strict=True)]
    features, logits = columns or (None, None)
    return Statistics(total.count, total.mean, total.cov(), dict(protocol), dict(about), features, logits)


def require_comparable(a: Statistics, b: Statistics) -> None:
    """ValueError, with both protocols, where they differ."""
    differ = [key for key in sorted({*a.protocol, *b.protocol}) if a.protocol.get(key) != b.protocol.get(key)]
    if differ:
        raise ValueError(
            f"not comparable, for {', '.join(differ)} differ: {_shown(a)} against {_shown(b)}"
        )  # fmt: skip


def _shown(stats: Statistics) -> str:
    return json.dumps({**stats.protocol, "of": dict(stats.about)}, ensure_ascii=False)


def save(file: str | Path | BinaryIO, stats: Statistics) -> None:
    """An npz file: count, mean, cov, protocol and about as JSON, and features and logits where they were kept."""
    arrays = {name: getattr(stats, name) for name in ("features", "logits") if getattr(stats, name) is not None}
    texts = {name: json.dumps(dict(getattr(stats, name)), sort_keys=True) for name in ("protocol", "about")}
    np.savez(file, count=stats.count, mean=stats.mean, cov=stats.cov, **texts, **arrays)


def load(path: str | Path) -> Statistics:
    """ValueError in one line for a file that is none of these."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        texts = {name: json.loads(str(found.pop(name))) for name in ("protocol", "about")}
        return Statistics(**found | {"count": int(found["count"])} | texts)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file fails wherever its first wrong byte leads
        raise ValueError(f"{path}: no file of statistics, as --mode=stats writes: {error}") from error
