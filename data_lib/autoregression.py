"""Gaussian autoregressive processes of order 2: noise with one resonance, of which everything is known exactly.

    x_j = φ₁ x_{j−1} + φ₂ x_{j−2} + s e_j,      e_j ~ N(0, 1)                                                        (1)
    γ_0 = s² (1 − φ₂)/((1 + φ₂)((1 − φ₂)² − φ₁²)),   γ_1 = φ₁ γ_0/(1 − φ₂),   γ_k = φ₁ γ_{k−1} + φ₂ γ_{k−2}          (2)
    S(ω) = s²/|1 − φ₁ e^{−iω} − φ₂ e^{−2iω}|²                                                                        (3)
    log p(x_1 … x_n) = log N((x_1, x_2); 0, Γ_2) + Σ_{j>2} log N(x_j − φ₁ x_{j−1} − φ₂ x_{j−2}; 0, s²)               (4)

γ_k = E x_j x_{j+k}, Γ_2 the covariance of two neighbors. Box, Jenkins, Reinsel & Ljung 2015, Time Series Analysis,
section 3.2.4. The process is stationary for |φ₂| < 1 and |φ₁| < 1 − φ₂. Its covariance matrix is Toeplitz, with
γ_{|i−j|} as entries, and `sde_lib.exact.FullMixture` of it is the exact score at every noise level: with that, a whole
pipeline of sounds has a truth to be compared with.
"""

import math
from dataclasses import dataclass

import numpy as np

from data_lib.sources import Dataset


@dataclass(frozen=True)
class AR2:
    """The process (1). ValueError unless it is stationary and `std`, the s above, is positive.

    >>> AR2(phi1=0.5, phi2=-0.25).autocovariance(3).round(6)
    array([1.190476, 0.47619 , -0.059524])
    """

    phi1: float
    phi2: float
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.std > 0 and abs(self.phi2) < 1 and abs(self.phi1) < 1 - self.phi2):
            raise ValueError(f"AR2: expected |phi2| < 1, |phi1| < 1 - phi2 and a positive std, got {self}")

    def autocovariance(self, count: int) -> np.ndarray:
        """γ_0 … γ_{count−1} by (2), float64 [count]."""
        lower = 1 - self.phi2
        found = [self.std**2 * lower / ((1 + self.phi2) * (lower**2 - self.phi1**2))]
        found.append(self.phi1 * found[0] / lower)
        while len(found) < count:
            found.append(self.phi1 * found[-1] + self.phi2 * found[-2])
        return np.array(found[:count])

    def covariance(self, length: int) -> np.ndarray:
        """The covariance matrix [length, length] of successive values."""
        from scipy.linalg import toeplitz

        return toeplitz(self.autocovariance(length))

    def spectrum(self, omega: np.ndarray) -> np.ndarray:
        """(3) at angular frequencies per value: Σ_k γ_{|k|} e^{−iωk}."""
        z = np.exp(-1j * np.asarray(omega))
        return self.std**2 / np.abs(1 - self.phi1 * z - self.phi2 * z**2) ** 2

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """(4) of sequences [..., length] with length ≥ 2, in nats [...]."""
        x = np.asarray(x, np.float64)
        g0, g1 = self.autocovariance(2)
        first, second = x[..., 0], x[..., 1]
        pair = -0.5 * (g0 * (first**2 + second**2) - 2 * g1 * first * second) / (g0**2 - g1**2)
        pair -= 0.5 * math.log(g0**2 - g1**2) + math.log(2 * math.pi)
        innovations = (x[..., 2:] - self.phi1 * x[..., 1:-1] - self.phi2 * x[..., :-2]) / self.std
        each = -0.5 * innovations**2 - math.log(self.std) - 0.5 * math.log(2 * math.pi)
        return pair + each.sum(-1)

    def sample(self, draw: np.random.Generator, length: int) -> np.ndarray:
        """A stationary sequence, float64 [length], length ≥ 2."""
        from scipy.signal import lfilter, lfiltic

        g0, g1 = self.autocovariance(2)
        noise = draw.standard_normal(length)
        first = math.sqrt(g0) * noise[0]
        second = g1 / g0 * first + math.sqrt(g0 - g1**2 / g0) * noise[1]
        coefficients = [1.0, -self.phi1, -self.phi2]
        start = lfiltic([self.std], coefficients, [second, first])
        return np.concatenate([[first, second], lfilter([self.std], coefficients, noise[2:], zi=start)[0]])


def resonance(hertz: float, width: float, rate: int, deviation: float = 1.0) -> AR2:
    """The AR2 with poles e^{−π width/rate ± 2πi hertz/rate}: a resonance at `hertz`, `width` wide where power is half.

    `deviation` is that of x. The width is approximate, for width ≪ hertz.
    """
    radius = math.exp(-math.pi * width / rate)
    unit = AR2(2 * radius * math.cos(2 * math.pi * hertz / rate), -(radius**2))
    return AR2(unit.phi1, unit.phi2, deviation / math.sqrt(unit.autocovariance(1)[0]))


def autoregression(process: AR2, length: int, count: int = 100_000, test: int = 1000, seed: int = 0) -> Dataset:
    """Sequences of the process, x float32 [length, 1]; example i is a function of (seed, i), test examples go on."""
    return Dataset(Sequences(process, length, count, seed), Sequences(process, length, test, seed, first=count))


@dataclass(frozen=True)
class Sequences:
    """A source of `count` sequences: example i is sequence first + i of the stream of `seed`."""

    process: AR2
    length: int
    count: int
    seed: int = 0
    first: int = 0
    name: str = "autoregression"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}: expected an index from 0 to {self.count - 1}, got {index}")
        draw = np.random.default_rng((self.seed, self.first + index))
        return {"x": self.process.sample(draw, self.length)[:, None].astype(np.float32)}
