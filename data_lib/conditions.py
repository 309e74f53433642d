"""What a network is conditioned on: from the data's units to its input, with the numbers recorded in the config.

An example has a "label", a "cond", or a dict "cond" of several. A condition is named after its key: "label", "cond", or
the key in the dict. Real numbers are standardized by the training data, as x is (`infer_transform`): uint8 and images
in [0, 1] become [−1, 1], others get mean 0 and deviation 1, per entry of a last axis of at most 16. Integers of other
dtypes, classes or tokens, are passed as they are.

    examples                              the network's cond
    {"label"} or {"cond": array}          the array
    anything else                         a dict: name → array
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_lib.sources import COND, Batch, Source, gather, spread
from data_lib.transform import Identity, infer_transform

RESERVED = ("label", "cond")
ROWS = 10_000
FAR_TRACED = 1e3  # deviations from 0: float32 keeps 4 digits of the standardized value


@dataclass(frozen=True)
class Condition:
    """One condition of an example: its shape, whether it is of integers, and the transform of real numbers."""

    shape: tuple[int, ...] = ()
    integers: bool = False
    transform: Any = field(default_factory=Identity)

    def forward(self, values: Any) -> Any:
        """[B, *shape] for the network: int32 or float32. Tracers of JAX are allowed."""
        try:
            values = np.asarray(values)
        except TypeError:
            return self._traced(values)
        if self.integers:
            return whole(values, "a condition of integers")
        return np.asarray(self.transform.forward(values), np.float32)

    def _traced(self, values: Any) -> Any:
        """`forward` of a tracer, in float32. ValueError where that would lose digits."""
        if self.integers:
            return values
        offset = self.transform.forward(np.zeros((1, *self.shape), np.float32))
        if np.max(np.abs(offset), initial=0) > FAR_TRACED:
            raise ValueError("cond: values far from 0 lose digits in float32: pass an array, outside of jax.jit")
        slope = np.broadcast_to(np.asarray(self.transform.slope, np.float32), offset.shape)
        return values.astype(np.float32) * slope + offset

    def zeros(self, rows: int) -> np.ndarray:
        """An input of the network, for shapes and dtypes."""
        return np.zeros((rows, *self.shape), np.int32 if self.integers else np.float32)


@dataclass(frozen=True)
class Conditions:
    """All conditions of the examples of a data set, by name."""

    entries: tuple[tuple[str, Condition], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.entries)

    @property
    def is_single(self) -> bool:
        """Whether the network's cond is one array."""
        return len(self.entries) == 1 and self.names[0] in RESERVED

    def zeros(self, rows: int) -> Any:
        """A cond of the network, for shapes and dtypes."""
        return self._cond({name: one.zeros(rows) for name, one in self.entries})

    def of_batch(self, batch: Batch) -> Any:
        """The network's cond for a batch of examples with flat keys."""
        return self._cond({name: one.forward(batch[key_of(name)]) for name, one in self.entries})

    def given(self, batch: Batch) -> Any:
        """The conditions of a batch of examples with flat keys, in the units of the data, as `forward` takes them."""
        return self._cond({name: batch[key_of(name)] for name in self.names})

    def forward(self, cond: Any, rows: int | None = None) -> Any:
        """The network's cond for one in the units of the data: an array if there is one condition, else a dict.

        None is no condition. In a dict, None is that for one of them. ValueError for other names, shapes or numbers of
        rows.
        """
        if cond is None:
            return None
        if not isinstance(cond, Mapping):
            if len(self.entries) > 1:
                raise ValueError(f"cond: expected a dict with {', '.join(self.names)}, got {type(cond).__name__}")
            cond = {self.names[0]: cond}
        if set(cond) != set(self.names):
            raise ValueError(f"cond: expected {', '.join(self.names)}, got {', '.join(map(str, sorted(cond)))}")
        found = {}
        for name, one in self.entries:
            value = cond[name]
            value = np.asarray(value) if isinstance(value, list | tuple) else value
            shape = getattr(value, "shape", None)
            if shape is not None and shape[1:] != one.shape and {shape[1:], one.shape} == {(), (1,)}:
                value = value.reshape(shape[0], *one.shape)  # a scalar and a vector of one number are the same
                shape = value.shape
            if value is not None and (shape is None or shape != (shape[0] if rows is None else rows, *one.shape)):
                expected = (*("B" if rows is None else str(rows),), *map(str, one.shape))
                raise ValueError(f"cond: expected {name} of shape [{', '.join(expected)}], got {shape}")
            found[name] = None if value is None else one.forward(value)
        return self._cond(found)

    def _cond(self, found: dict[str, Any]) -> Any:
        return found[self.names[0]] if self.is_single else found


def key_of(name: str) -> str:
    """The flat key of a condition in a batch."""
    return name if name in RESERVED else COND + name


def name_of(key: str) -> str:
    """The name of the condition with this flat key."""
    return key.removeprefix(COND)


def keys_in(example: Mapping[str, Any]) -> tuple[str, ...]:
    """The flat keys of an example's conditions, without the label."""
    return tuple(key for key in example if key == "cond" or key.startswith(COND))


def whole(values: Any, name: str) -> np.ndarray:
    """Whole numbers as int32, also if they are stored as floats. ValueError for others."""
    values = np.asarray(values)
    found = values.astype(np.int64) if values.dtype.kind in "iubf" and np.isfinite(values).all() else None
    if found is None or not np.array_equal(found, values) or np.any(np.abs(found) >= 2**31):
        raise ValueError(f"cond: expected whole numbers for {name}, got {values.dtype} of shape {values.shape}")
    return found.astype(np.int32)


def measured(source: Source, keys: Sequence[str], real: bool = False) -> dict[str, Condition]:
    """The conditions with these keys, by name, with transforms from at most ROWS examples.

    `real` standardizes integers too, except labels: for networks that embed real numbers only.
    ValueError for a name that is reserved, or cannot be a key of a config.
    """
    rows = gather(source, spread(source, ROWS))
    found = {}
    for key in keys:
        name, values = name_of(key), rows[key]
        if "." in name or (key.startswith(COND) and name in RESERVED):
            raise ValueError(f"cond: a condition cannot have the name {name!r}")
        integers = values.dtype.kind in "iub" and values.dtype != np.uint8 and not (real and name != "label")
        values = values if integers or values.dtype == np.uint8 else values.astype(np.float64)
        transform = Identity() if integers else infer_transform(values)
        found[name] = Condition(tuple(map(int, values.shape[1:])), integers, transform)
    return found
