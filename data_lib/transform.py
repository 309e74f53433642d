"""Data space ↔ model space: recorded with an experiment, for a network never centres its data itself.

All three work on numpy arrays with the event in the trailing axes, return float32, and never clip.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


class Transform(Protocol):
    """`forward` takes data into model space, `inverse` takes samples back: inverse(forward(x)) = x.

    Both are affine: `slope` is d forward/dx, a number or one for each entry of the last axis.
    """

    @property
    def slope(self) -> float | np.ndarray: ...

    def forward(self, x: np.ndarray) -> np.ndarray: ...

    def inverse(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Identity:
    """Model space is data space."""

    slope: ClassVar[float] = 1.0

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float32)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float32)


@dataclass(frozen=True)
class Scale:
    """[low, high] → [−1, 1]:  forward(x) = 2 (x − low) / (high − low) − 1."""

    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Scale: low must be below high, got low={self.low}, high={self.high}")

    @property
    def slope(self) -> float:
        return 2 / (self.high - self.low)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return _affine(x, self.slope, -(self.high + self.low) / (self.high - self.low))

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return _affine(x, (self.high - self.low) / 2, (self.high + self.low) / 2)

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        """Model space → picture: round(clip(127.5 (x + 1), 0, 255)), for any low and high; no truncation."""
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            raise ValueError(f"to_uint8: {np.count_nonzero(~np.isfinite(x))} of {x.size} values are not finite")
        return np.rint(np.clip((x + 1) * 127.5, 0, 255)).astype(np.uint8)

    def from_uint8(self, x: np.ndarray) -> np.ndarray:
        """Picture → model space: x/127.5 − 1."""
        return _affine(x, 1 / 127.5, -1.0)


@dataclass(frozen=True)
class Standardize:
    """forward(x) = (x − mean) / std, for all values alike or for each entry of the last axis (tuples)."""

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not (np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.std)) and np.all(np.asarray(self.std) > 0)):
            raise ValueError(f"Standardize: mean must be finite and std positive, got {self}")

    @property
    def slope(self) -> float | np.ndarray:
        return 1 / np.asarray(self.std, np.float64)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return _affine(x, self.slope, -np.asarray(self.mean, np.float64) * self.slope)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return _affine(x, self.std, self.mean)


def _affine(x: np.ndarray, slope: float | np.ndarray, offset: float | np.ndarray) -> np.ndarray:
    """slope x + offset in float32; one temporary, for this is where a loader's time goes."""
    out = np.multiply(x, np.asarray(slope, np.float32), dtype=np.float32)
    out += np.asarray(offset, np.float32)
    return out
