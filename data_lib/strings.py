"""Plucked strings: sums of damped harmonics with random pitch, pluck position, brightness and decay, made on the fly.

    x(t) = gain · Σ_k a_k e^{−t/τ_k} sin(2π k f t) / peak + noise,     k f < 0.95 rate/2                               (1)
    a_k = sin(k π p)/k^b                       p: where it is plucked, as a fraction of its length                 (2)
    1/τ_k = (1 + (k f/1500 Hz)²)/τ             higher harmonics decay faster                                       (3)
    f = 110 Hz · 2^{m/12},   m = 0 … 23        two octaves of semitones from A2                                    (4)

With b = 1 and without decay, (2) is the velocity of an ideal string that is released from a triangle with its peak at p
(Morse & Ingard 1968, Theoretical Acoustics, section 4.3). `peak` is the maximum of the sum's magnitude. All parameters
are independent: m and p are uniform, b in [1, 2], τ in [0.1, 0.5] seconds, log-uniform, and the gain in [0.3, 0.9]. The
noise is white, with a deviation of 0.002. The label is m. Example i is a function of (seed, i) only.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_lib.sources import Dataset

LOWEST, SEMITONES = 110.0, 24
DAMPED, HIGHEST = 1500.0, 0.95  # Hz of (3); the share of rate/2 up to which there are harmonics
NOISE_STD = 0.002


def strings(count: int = 100_000, test: int = 1000, length: int = 4096, rate: int = 8000, seed: int = 0) -> Dataset:
    """`count` training and `test` test sounds, x float32 [length, 1] with full scale ±1, label = semitones above A2.

    Test example i is sound count + i of the same stream. ValueError for a rate that has no harmonic of the highest pitch.
    """
    return Dataset(Strings(count, length, rate, seed), Strings(test, length, rate, seed, first=count))


class Pluck(NamedTuple):
    """The parameters of (1) to (4): semitones above A2, p, b, τ in seconds, gain."""

    semitone: int
    place: float
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

    def __post_init__(self) -> None:
        highest, allowed = float(pitch(SEMITONES - 1)), HIGHEST * self.rate / 2
        if not highest < allowed:
            raise ValueError(f"strings: expected a rate above {highest * 2 / HIGHEST:.0f}, got {self.rate}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}: expected an index from 0 to {self.count - 1}, got {index}")
        draw = np.random.default_rng((self.seed, self.first + index))
        one = random_pluck(draw)
        x = sound(one, self.length, self.rate) + NOISE_STD * draw.standard_normal(self.length)
        return {"x": x[:, None].astype(np.float32), "label": np.int32(one.semitone)}


def pitch(semitone: float | np.ndarray) -> float | np.ndarray:
    """(4) in Hz."""
    return LOWEST * 2 ** (semitone / 12)


def random_pluck(draw: np.random.Generator) -> Pluck:
    """Parameters as the module's head distributes them."""
    return Pluck(
        semitone=int(draw.integers(SEMITONES)),
        place=draw.uniform(0.1, 0.5),
        brightness=draw.uniform(1.0, 2.0),
        decay=0.1 * 5 ** draw.random(),
        gain=draw.uniform(0.3, 0.9),
    )


def sound(one: Pluck, length: int, rate: int) -> np.ndarray:
    """(1) without noise, float64 [length].

    Σ_k c_k z_k^n with n = i s + j is a product of two matrices, (c_k z_k^{i s}) and (z_k^j), of about √length rows.
    """
    f = pitch(one.semitone)
    k = np.arange(1, 1 + int(HIGHEST * rate / 2 / f))
    amplitude = np.sin(k * np.pi * one.place) / k**one.brightness
    exponent = (-(1 + (k * f / DAMPED) ** 2) / one.decay + 2j * np.pi * k * f) / rate
    block = math.isqrt(length - 1) + 1
    coarse = np.exp(np.outer(np.arange(0, length, block), exponent))
    fine = np.exp(np.outer(exponent, np.arange(block)))
    x = ((coarse * amplitude) @ fine).imag.reshape(-1)[:length]
    return one.gain * x / np.abs(x).max()
