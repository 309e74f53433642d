"""A published network as a feature function: on any number of devices, a fixed number of images on each at a time.

Every device runs one program, for `batch_size` images whatever comes in, the last of them repeated where fewer do. So
the features of an image depend neither on those beside it nor on the number of devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Features(NamedTuple):
    """What a feature function says of N images: features [N, D] and, of a classifier, logits [N, classes]."""

    features: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class NetworkFeatures:
    """Features of uint8 images [N, H, W, 1 or 3].

    function    (params, prepared images [B, ...]) → (features [B, D],) or (features, logits): what is compiled
    prepare     uint8 images [N, H, W, C] → what the function takes, on the host
    protocol    what must agree for numbers to be compared
    devices     those that share the work
    """

    function: Callable[[Any, jax.Array], tuple[jax.Array, ...]]
    params: Any
    protocol: Mapping[str, str]
    batch_size: int
    devices: Sequence[jax.Device]
    prepare: Callable[[np.ndarray], np.ndarray] = np.asarray

    def __call__(self, images: np.ndarray) -> Features:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"{self.protocol['features']}: expected uint8 images [N, H, W, 1 or 3], got {images.dtype} "
                f"{images.shape}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: expected at least 1")
        return Features(*in_batches(self._compiled, images, self.batch_size * len(self.devices)))

    @cached_property
    def _compiled(self) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
        mesh = jax.make_mesh((len(self.devices),), ("data",), axis_types=(AxisType.Auto,), devices=self.devices)
        split, copied = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        params, compiled = jax.device_put(self.params, copied), jax.jit(self.function, out_shardings=split)
        return lambda images: jax.device_get(compiled(params, jax.device_put(self.prepare(images), split)))


def in_batches(function: Callable, x: np.ndarray, size: int) -> list[np.ndarray]:
    """Of a function of exactly `size` examples: its results for all of x."""
    found = []
    for first in range(0, len(x), size):
        part = x[first : first + size]
        padding = np.repeat(part[-1:], size - len(part), axis=0)
        found.append([array[: len(part)] for array in function(np.concatenate([part, padding]))])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
