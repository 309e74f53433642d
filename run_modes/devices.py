"""Shardings: one mesh axis of devices, over which a batch is split and parameters are replicated."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from config_lib.names import ConfigError


@dataclass(frozen=True)
class Devices:
    """A mesh with the one axis "data", and its shardings."""

    mesh: Mesh

    @property
    def count(self) -> int:
        return self.mesh.size

    def whole(self, size: int) -> int:
        """The batch size, rounded up to a multiple of the number of devices."""
        return -(-size // self.count) * self.count

    @property
    def all(self) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no stubs
        return list(self.mesh.devices.flat)

    @cached_property
    def batch(self) -> NamedSharding:
        """The sharding of a batch, whose rows are split over the devices."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    @cached_property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds in whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of(self, tree: Any) -> Any:
        """The sharding of each leaf of a state or of parameters: every device holds all of them."""
        return jax.tree.map(lambda _: self.replicated, tree)

    def abstract(self, tree: Any) -> Any:
        """Shapes and dtypes of the leaves with their shardings."""
        like = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
        return jax.tree.map(like, tree, self.of(tree))

    def put(self, part: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch, split over the devices. With several processes, each passes its own part of the batch."""
        if jax.process_count() == 1:
            return jax.device_put(part, self.batch)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, self.batch), part)

    def put_whole(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch, split over the devices. With several processes, each passes the whole batch."""
        if jax.process_count() == 1:
            return jax.device_put(batch, self.batch)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, self.batch, x.__getitem__), batch)


def make_devices(devices: list | None = None, processes: bool = False) -> Devices:
    """All devices on one axis named "data", or `devices`, in the order of their processes.

    ConfigError if this is one of several processes, unless `processes` allows it, or if their device counts differ.
    """
    if jax.process_count() > 1 and not processes:
        raise ConfigError(
            f"this is one of {jax.process_count()} processes, but only training runs in several: start one process"
        )
    devices = jax.devices() if devices is None else devices
    if jax.process_count() > 1:
        devices = sorted(devices, key=lambda device: (device.process_index, device.id))
        counts = np.bincount([device.process_index for device in devices], minlength=jax.process_count())
        if len({*counts}) > 1:
            raise ConfigError(f"every process must have the same number of devices, got {', '.join(map(str, counts))}")
    return Devices(Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,)))
