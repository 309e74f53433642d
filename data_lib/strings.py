"""Plucked strings: sums of damped harmonics with random pitch, brightness, decay and loudness, made on the fly.

    x(t) = gain · Σ_k a_k e^{−t/τ_k} sin(2π k f t) / peak + noise,     k f < 0.95 rate/2                             (1)
    a_k = sin(k π/5)/k^b                       plucked at a fifth of its length                                     (2)
    1/τ_k = (1 + (k f/1500 Hz)²)/τ             higher harmonics decay faster                                       (3)
    f = 110 Hz · 2^{m/12},   m = 0 … 23        two octaves of semitones from A2                                    (4)

With b = 1 and without decay, (2) is the velocity of an ideal string that is released from a triangle with its peak
there (Morse & Ingard 1968, Theoretical Acoustics, section 4.3). `peak` is the maximum of the sum's magnitude. All
parameters are independent: m is uniform, b uniform in [1, 2], τ log-uniform in [0.1, 0.5] seconds, the gain uniform in
[0.3, 0.9]. The noise is white, with a deviation of 0.003, 50 dB below full scale. The label is m. Example i is a
function of (seed, i) only.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_lib.sources import ArraySource, Dataset, gather

LOWEST, SEMITONES = 110.0, 24
DAMPED, HIGHEST = 1500.0, 0.95  # Hz of (3); the share of rate/2 up to which there are harmonics
NOISE_STD = 0.003
NOTES = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")
NAMES = tuple(f"{NOTES[m % 12]}{2 + (m + 9) // 12}" for m in range(SEMITONES))  # A2 … G#4; octaves begin at C


def strings(
    count: int = 100_000, test: int = 1000, length: int = 4096, rate: int = 8000, seed: int = 0, in_memory: bool = False
) -> Dataset:
    """`count` training and `test` test sounds, x float32 [length, 1] with full scale ±1, label = semitones above A2.

    Test example i is sound count + i of the same stream. With `in_memory` all are made at once, in 0.3 ms and 16 kB
    each: a small network trains faster than they can be made. ValueError for a rate that has no harmonic of the highest
    pitch.
    """
    parts = Strings(count, length, rate, seed), Strings(test, length, rate, seed, first=count)
    return Dataset(*(held(part) if in_memory else part for part in parts))


def held(source: "Strings") -> ArraySource:
    """All sounds of the source as arrays."""
    examples: dict[str, Any] = gather(source, np.arange(len(source)))
    return ArraySource(**examples, name=source.name, classes=NAMES)


class Pluck(NamedTuple):
    """The parameters of (1) to (4): semitones above A2, b, τ in seconds, gain."""

    semitone: int
    brightness: float
    decay: float
    gain: float


@dataclass(frozen=True)
class Strings:
    """A source of `count` plucked strings: example i is sound first + i of the stream of `seed`."""

    count: int
    length: int = 4096
    rate: int = 8000
    seed: int = 0
    first: int = 0
    name: str = "strings"
    classes: tuple[str, ...] = NAMES

    def __post_init__(self) -> None:
        highest, allowed = float(pitch(SEMITONES - 1)), HIGHEST * self.rate / 2
        if not highest < allowed:
            raise ValueError(f"strings: expected a rate above {highest * 2 / HIGHEST:.0f}, got {self.rate}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}: expected an index from 0 to {self.count - 1}, got {index}")
        draw = np.random.default_rng((self.seed, self.first + index))
        one = random_pluck(draw)
        x = sound(one, self.length, self.rate) + NOISE_STD * draw.standard_normal(self.length, np.float32)
        return {"x": x[:, None].astype(np.float32), "label": np.int32(one.semitone)}


def pitch(semitone: float | np.ndarray) -> float | np.ndarray:
    """(4) in Hz."""
    return LOWEST * 2 ** (semitone / 12)


def random_pluck(draw: np.random.Generator) -> Pluck:
    """Parameters as the module's head distributes them."""
    return Pluck(
        semitone=int(draw.integers(SEMITONES)),
        brightness=draw.uniform(1.0, 2.0),
        decay=0.1 * 5 ** draw.random(),
        gain=draw.uniform(0.3, 0.9),
    )


def sound(one: Pluck, length: int, rate: int) -> np.ndarray:
    """(1) without noise, float64 [length].

    Σ_k c_k z_k^n with n = i s + j is a product of two matrices, (c_k z_k^{i s}) and (z_k^j), of about √length columns.
    """
    f = pitch(one.semitone)
    k = np.arange(1, 1 + int(HIGHEST * rate / 2 / f))
    amplitude = np.sin(k * np.pi / 5) / k**one.brightness
    z = np.exp((-(1 + (k * f / DAMPED) ** 2) / one.decay + 2j * np.pi * k * f) / rate)
    fine, z_s = powers(z, math.isqrt(length))
    coarse, _ = powers(z_s, -(-length // fine.shape[1]))
    coarse = (coarse * amplitude[:, None]).T
    x = (np.real(coarse) @ np.imag(fine) + np.imag(coarse) @ np.real(fine)).reshape(-1)[:length]
    return one.gain * x / np.abs(x).max()


def powers(z: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(z^0 … z^{s−1} as [K, s], z^s) of z [K], where s is the least power of 2 that is at least `count`."""
    found = np.ones((len(z), 1), z.dtype)
    while found.shape[1] < count:
        found, z = np.concatenate([found, found * z[:, None]], axis=1), z * z
    return found, z
