"""Data space ↔ model space. The transform is part of the config, since no network centers its data itself.

All methods take numpy arrays with the event in the trailing axes, and never clip, unless stated. `forward` returns
float32. It subtracts in float64 if the data have more digits than float32, or are far from 0 compared with their
spread: seconds since 1970 with a deviation of a minute, say. `inverse` computes in float64. It returns float64 for data
far from 0, and float32 otherwise. With dtype=np.float64 both return float64. "Far" is more than 8
deviations or half-widths, which takes 3 of float32's 24 bits.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike

from data_lib.forms import Form, Sounds, Texts, pixels, plain

MANY = 16  # a last axis of at most this length holds features, each with its own scale
FAR = 8.0  # deviations or half-widths from 0


class Transform(Protocol):
    """`forward` maps data to model space, and `inverse` maps samples to data space: inverse(forward(x)) = x.

    Both are affine: `slope` is d forward/dx, one number or one per entry of the last axis. A transform that is not
    affine raises ValueError there, with the reason. Optional: `form(shape)`, what samples of this shape are
    (`data_lib.forms`); without it they are arrays. `data_shape(shape)`: that of the data, if it is another.
    """

    @property
    def slope(self) -> float | np.ndarray: ...

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray: ...

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray: ...


@dataclass(frozen=True)
class Identity:
    """Model space is data space."""

    slope: ClassVar[float] = 1.0

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return np.asarray(x, dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return np.asarray(x, dtype)


@dataclass(frozen=True)
class Scale:
    """[low, high] → [−1, 1]:  forward(x) = 2 (x − low) / (high − low) − 1."""

    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Scale: expected finite low < high, got low={self.low}, high={self.high}")

    @property
    def slope(self) -> float:
        return 2 / (self.high - self.low)

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_model(x, (self.high + self.low) / 2, self.slope, dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_data(x, (self.high + self.low) / 2, (self.high - self.low) / 2, dtype)

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        """Model space → picture uint8: round(clip(127.5 (x + 1), 0, 255)), for any low and high; no truncation.

        ValueError for values that are not finite.
        """
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            raise ValueError(f"to_uint8: {np.count_nonzero(~np.isfinite(x))} of {x.size} values are not finite")
        return np.rint(np.clip((x + 1) * 127.5, 0, 255)).astype(np.uint8)

    def from_uint8(self, x: np.ndarray) -> np.ndarray:
        """Picture → model space: x/127.5 − 1."""
        return _affine(x, 1 / 127.5, -1.0)

    def form(self, shape: tuple[int, ...]) -> Form:
        """Images [H, W, C]; arrays of other shapes."""
        return pixels(self, shape)


@dataclass(frozen=True)
class Bits(Scale):
    """Bits 0 and 1 → ∓1, those of texts [length, bits] in an alphabet; of bytes if there is none."""

    high: float = 1.0
    alphabet: str = ""

    def form(self, shape: tuple[int, ...]) -> Form:
        return Texts(self, self.alphabet) if len(shape) == 2 else plain(self, shape)


@dataclass(frozen=True)
class UnitScale:
    """[low, high] → [0, 1]:  forward(x) = (x − low) / (high − low), of networks that were trained on [0, 1]."""

    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        Scale(self.low, self.high)  # the same check of the ends

    @property
    def slope(self) -> float:
        return 1 / (self.high - self.low)

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_model(x, self.low, self.slope, dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_data(x, self.low, self.high - self.low, dtype)

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        """Model space → picture uint8: round(clip(255 x, 0, 255)). ValueError for values that are not finite."""
        return Scale().to_uint8(2 * np.asarray(x, np.float32) - 1)

    def from_uint8(self, x: np.ndarray) -> np.ndarray:
        """Picture → model space: x/255."""
        return _affine(x, 1 / 255, 0.0)


@dataclass(frozen=True)
class Standardize:
    """forward(x) = (x − mean) / std, with one mean and std, or with one per entry of the last axis (tuples)."""

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not (np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.std)) and np.all(np.asarray(self.std) > 0)):
            raise ValueError(f"Standardize: mean must be finite and std positive, got {self}")

    @property
    def slope(self) -> float | np.ndarray:
        return 1 / np.asarray(self.std, np.float64)

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_model(x, np.asarray(self.mean, np.float64), self.slope, dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _to_data(x, np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64), dtype)


@dataclass(frozen=True)
class Waveform(Standardize):
    """Recordings [length, 1] at `rate` values per second, with full scale ±1: forward(x) = (x − mean)/std."""

    rate: int = 16_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate > 0:
            raise ValueError(f"Waveform: expected a positive rate, got {self.rate}")

    def form(self, shape: tuple[int, ...]) -> Form:
        return Sounds(self, self.rate) if len(shape) == 2 and shape[1] == 1 else plain(self, shape)


def infer_transform(x: np.ndarray) -> Transform:
    """A transform inferred from data [N, ...], with the statistics in it.

    Scale(0, 255) for uint8. For other images [N, H, W, 1 or 3], Scale(0, 1) or Scale(−1, 1) if all values are in that
    range. Otherwise Standardize, with mean and standard deviation per entry of the last axis, or of all values if that
    axis has more than 16 entries.
    """
    if x.dtype == np.uint8:
        return Scale(0.0, 255.0)
    low, high = float(x.min()), float(x.max())
    if x.ndim == 4 and x.shape[-1] in (1, 3) and -1 <= low < high <= 1:
        return Scale(0.0 if low >= 0 else -1.0, 1.0)
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 and x.shape[-1] <= MANY else None
    first = x.mean(axes, dtype=np.float64)
    centered = np.subtract(
        x, first, dtype=np.float64
    )  # a sum of values far from 0 has lost digits, that of their differences has not
    shift = centered.mean(axes)
    centered -= shift
    np.square(centered, out=centered)
    mean, std = first + shift, np.sqrt(centered.mean(axes))
    std = np.where(x.max(axes) > x.min(axes), std, 1.0)  # a constant entry is only shifted to 0, whatever its rounding
    return Standardize(*(tuple(v.tolist()) if np.ndim(v) else float(v) for v in (mean, std)))


def _to_model(x: np.ndarray, center: float | np.ndarray, slope: float | np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """slope (x − center): in float64 if that is the dtype, or if x has more digits than float32 or is far from 0."""
    x = np.asarray(x)
    if dtype != np.float32 or x.dtype.itemsize > 4 or is_far(center, slope):
        out = x.astype(np.float64)
        out -= center
        out *= slope
        return out.astype(dtype)
    return _affine(x, slope, -center * slope)


def _to_data(x: np.ndarray, center: float | np.ndarray, width: float | np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """center + width x: float64 if the data are far from 0, else rounded to the dtype."""
    out = np.asarray(x, np.float64) * width + center
    return out if is_far(center, 1 / width) else out.astype(dtype)


def is_far(center: float | np.ndarray, slope: float | np.ndarray) -> bool:
    """Whether any center is more than `FAR` spreads 1/slope from 0."""
    return bool(np.any(np.abs(center * slope) > FAR))


def _affine(x: np.ndarray, slope: float | np.ndarray, offset: float | np.ndarray) -> np.ndarray:
    """slope x + offset in float32, with one temporary: a loader spends most of its time here."""
    out = np.multiply(x, np.asarray(slope, np.float32), dtype=np.float32)
    out += np.asarray(offset, np.float32)
    return out
