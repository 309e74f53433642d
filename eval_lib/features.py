"""Features of images: any function  images [N, ...] → features [N, D],  or → (features, logits [N, classes]).

Three are here. A feature function that says by `protocol` what it is (a dict of strings) can have its statistics kept
in a file and compared with others of the same protocol; one that has `fitted` is first shown the training data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np

from eval_lib.classifier import Classifier
from eval_lib.inception import from_state_dict, inception
from eval_lib.inception_file import SHA256, read_weights


class Seen(NamedTuple):
    """What a feature function says of N images."""

    features: np.ndarray
    logits: np.ndarray | None = None


FeatureFunction = Callable[[np.ndarray], np.ndarray | Seen]


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2048 features and 1008 logits of the FID's network, for images uint8 [N, H, W, 1 or 3].

    `path` is the file of its weights; empty: the one in the cache. Images go through `batch_size` at a time, whatever
    comes in, the last batch padded: so the features of an image do not depend on those beside it.
    """

    path: str = ""
    batch_size: int = 50

    @property
    def protocol(self) -> dict[str, str]:
        return {
            "features": "Inception-v3 of 2015-12-05, last pool, 2048",
            "weights": f"sha256 {SHA256}",
            "resize": "bilinear to 299x299, source coordinate i * in/out, no antialiasing",
        }

    def __call__(self, images: np.ndarray) -> Seen:
        if images.dtype != np.uint8:
            raise ValueError(f"InceptionFeatures: expected uint8 images, got {images.dtype}")
        taps = _in_batches(self._network, images, self.batch_size)
        return Seen(*taps)

    @cached_property
    def _network(self) -> Callable:
        params = from_state_dict(read_weights(self.path))
        compiled = jax.jit(lambda params, x: inception(params, x)._asdict())

        def call(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            taps = compiled(params, images)
            return np.asarray(taps["pool3"]), np.asarray(taps["logits_unbiased"])

        return call


@dataclass(frozen=True)
class ClassifierFeatures:
    """The hidden layer of a small classifier, trained on the training data and their labels: for small images."""

    width: int = 64
    seed: int = 0

    def fitted(self, images: np.ndarray, label: np.ndarray | None) -> "FittedFeatures":
        """The feature function, trained on images [N, ...] and label [N]."""
        if label is None:
            raise ValueError("ClassifierFeatures: the data have no labels to train a classifier on")
        return FittedFeatures(Classifier(_flat(images), np.asarray(label), self.seed, self.width))


@dataclass(frozen=True)
class FittedFeatures:
    """Hidden layer and logits of that classifier.

    Features of two data sets, or of two seeds, are not the same features: `protocol` holds a digest of the weights.
    """

    classifier: Classifier

    @property
    def protocol(self) -> dict[str, str]:
        return {
            "features": "hidden layer of a classifier trained on the data",
            "weights": f"sha256 {self.classifier.digest()}",
            "resize": "none",
        }

    def __call__(self, images: np.ndarray) -> Seen:
        return Seen(*self.classifier.hidden(_flat(images)))


@dataclass(frozen=True)
class RawFeatures:
    """The numbers themselves, flat: pixels, or the coordinates of points."""

    @property
    def protocol(self) -> dict[str, str]:
        return {"features": "the data themselves", "weights": "none", "resize": "none"}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return _flat(x)


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


def _in_batches(function: Callable, x: np.ndarray, size: int) -> list[np.ndarray]:
    """Of a function of exactly `size` examples: its results for all of x."""
    found = []
    for first in range(0, len(x), size):
        part = x[first : first + size]
        padding = np.repeat(part[-1:], size - len(part), axis=0)
        found.append([array[: len(part)] for array in function(np.concatenate([part, padding]))])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
