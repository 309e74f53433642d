"""Features of images: any function  images [N, ...] → features [N, D],  or → Features(features, logits [N, classes]).

Four are defined here. A feature function may also have these attributes:

    protocol    a dict of strings that describes it. Statistics are compared only if their protocols agree, and
                evaluation caches the features under it.
    fitted      (images, label) → the function, fitted to the training data
    loaded      (devices) → the function, with its files read
    cheap       True: evaluation does not cache its features
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np

from eval_lib import dinov2
from eval_lib.classifier import Classifier
from eval_lib.inception import from_state_dict, inception
from eval_lib.inception_file import SHA256, read_weights
from eval_lib.network import Device, Features, NetworkFeatures

FeatureFunction = Callable[[np.ndarray], np.ndarray | Features]

INCEPTION = "Inception-v3 of 2015-12-05, last pool, 2048"
CLASSIFIER = "hidden layer of a classifier trained on the data"
RAW = "the data themselves"


def is_inception(protocol: Mapping[str, str]) -> bool:
    """Whether the features of this protocol are those of the FID."""
    return protocol.get("features") == INCEPTION


def features_name(protocol: Mapping[str, str]) -> str:
    """A short name of the features of this protocol, for reports."""
    found = protocol.get("features")
    if not isinstance(found, str):  # of a function without a protocol, its section of the config
        return "own features"
    return {CLASSIFIER: "classifier features", RAW: "raw data"}.get(found, found.split(",")[0])


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2048 features and 1008 logits of the FID's network, for images uint8 [N, H, W, 1 or 3].

    `path` is the file of its weights, by default the one in the cache. Each device processes `batch_size` images at a
    time.
    """

    path: str = ""
    batch_size: int = 50

    @property
    def protocol(self) -> dict[str, str]:
        return {
            "features": INCEPTION,
            "weights": f"sha256 {SHA256}",
            "resize": "bilinear to 299x299, source coordinate i * in/out, no antialiasing",
        }

    def loaded(self, devices: Sequence[Device]) -> NetworkFeatures:
        """The function with its weights read. FileNotFoundError or ValueError, in one line, as `read_weights`."""
        params = from_state_dict(read_weights(self.path))
        return NetworkFeatures(_last_pool, params, self.protocol, self.batch_size, tuple(devices))

    def __call__(self, images: np.ndarray) -> Features:
        return self._on_all_devices(images)

    @cached_property
    def _on_all_devices(self) -> NetworkFeatures:
        return self.loaded(jax.devices())


def _last_pool(params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    taps = inception(params, images)
    return taps.pool3, taps.logits_unbiased


@dataclass(frozen=True)
class DINOv2Features:
    """The class token of a DINOv2 vision transformer (`dinov2`), for images uint8 [N, H, W, 1 or 3]; no logits.

    `path` is a published file (dinov2_vitl14_pretrain.pth …), which you must download yourself. The shapes in it
    determine which network it is. The Fréchet distance of these features is the FD-DINOv2 of Stein et al. 2023,
    arXiv:2306.04675.
    """

    path: str
    batch_size: int = 50

    def loaded(self, devices: Sequence[Device]) -> NetworkFeatures:
        """The function with its weights read. FileNotFoundError or ValueError, in one line."""
        vit, digest = dinov2.read(self.path)
        protocol = {
            "features": f"DINOv2 {vit.name}, class token, {vit.width}",
            "weights": f"sha256 {digest}",
            "resize": f"bicubic to {dinov2.SIZE}x{dinov2.SIZE} by Pillow, antialiased, in uint8",
        }
        function = lambda params, x: (dinov2.forward(vit, params, x),)  # noqa: E731
        return NetworkFeatures(function, vit.params, protocol, self.batch_size, tuple(devices), dinov2.prepare)

    def __call__(self, images: np.ndarray) -> Features:
        return self._on_all_devices(images)

    @cached_property
    def _on_all_devices(self) -> NetworkFeatures:
        return self.loaded(jax.devices())


@dataclass(frozen=True)
class ClassifierFeatures:
    """For small images: the hidden layer [N, width] of a small classifier, trained on the training data and labels."""

    width: int = 64
    seed: int = 0

    def fitted(self, images: np.ndarray, label: np.ndarray | None) -> "FittedFeatures":
        """The feature function, trained on images [N, ...] and label [N]. ValueError without labels."""
        if label is None:
            raise ValueError(
                "ClassifierFeatures: the data have no labels to train a classifier on; InceptionFeatures and "
                "RawFeatures require none"
            )
        return FittedFeatures(Classifier(_flat(images), np.asarray(label), self.seed, self.width))


@dataclass(frozen=True)
class FittedFeatures:
    """Hidden layer and logits of a trained classifier.

    Classifiers of two data sets, or two seeds, give different features; so `protocol` holds a digest of the weights.
    """

    classifier: Classifier

    @property
    def protocol(self) -> dict[str, str]:
        return {
            "features": CLASSIFIER,
            "weights": f"sha256 {self.classifier.digest()}",
            "resize": "none",
        }

    def __call__(self, images: np.ndarray) -> Features:
        return Features(*self.classifier.hidden(_flat(images)))


@dataclass(frozen=True)
class RawFeatures:
    """The data themselves, flattened to [N, D]: pixels, or the coordinates of points."""

    cheap: ClassVar[bool] = True

    @property
    def protocol(self) -> dict[str, str]:
        return {"features": RAW, "weights": "none", "resize": "none"}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return _flat(x)


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)
