"""A published network as a feature function, on any number of devices.

Every device runs one program for exactly `batch_size` images; a batch of fewer is padded with copies of its last image.
So the features of an image depend neither on the other images nor on the number of devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no stubs


class Features(NamedTuple):
    """The result of a feature function for N images: features [N, D], and logits [N, classes] of a classifier."""

    features: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class NetworkFeatures:
    """Features of uint8 images [N, H, W, 1 or 3]. ValueError for images of another dtype or shape.

    function    (params, prepared images [B, ...]) → (features [B, D],) or (features, logits); compiled by `jit`
    prepare     uint8 images [N, H, W, C] → the input of `function`, on the host
    protocol    what must agree for statistics to be compared
    devices     the devices that share the work
    """

    function: Callable[[Any, jax.Array], tuple[jax.Array, ...]]
    params: Any
    protocol: Mapping[str, str]
    batch_size: int
    devices: Sequence[Device]
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
    """The results for all of x of a function that takes exactly `size` examples."""
    found = []
    for first in range(0, len(x), size):
        part = x[first : first + size]
        padding = np.repeat(part[-1:], size - len(part), axis=0)
        found.append([array[: len(part)] for array in function(np.concatenate([part, padding]))])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
