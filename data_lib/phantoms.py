"""Random phantoms: ellipses in an outer one, as in Shepp and Logan's head, made on the fly.

In coordinates in which the image is [−1, 1]², an ellipse with center c, semi-axes a and angle φ has the form

    q(u) = |diag(1/a) R(φ)ᵀ (u − c)|²,   inside where q < 1.                                               (1)

A pixel's share inside is, to first order in the pixel's width h,

    share(u) = clip(1/2 + (1 − q(u))/(h |∇q(u)|), 0, 1).                                                   (2)

A phantom is a rim of value 1, an interior, and 5 to 10 ellipses that add to it, clipped to [0, 1]. Example i is a
function of (seed, i) only. The transform into model space is `Scale(0, 1)`.

L. Shepp and B. Logan 1974, "The Fourier reconstruction of a head section", IEEE Trans. Nucl. Sci. 21.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_lib.sources import Dataset


def phantoms(count: int = 100_000, test: int = 1000, size: int = 64, seed: int = 0) -> Dataset:
    """`count` training and `test` test examples, x float32 [size, size, 1] in [0, 1].

    Test example i is phantom count + i of the same stream.
    """
    return Dataset(Phantoms(count, size, seed), Phantoms(test, size, seed, first=count))


@dataclass(frozen=True)
class Phantoms:
    """A source of `count` phantoms: example i is phantom first + i of the stream of `seed`."""

    count: int
    size: int = 64
    seed: int = 0
    first: int = 0
    name: str = "phantoms"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}: expected an index from 0 to {self.count - 1}, got {index}")
        return {"x": phantom(self.seed, self.first + index, self.size)}


def phantom(seed: int, index: int, size: int) -> np.ndarray:
    """Phantom `index` of the stream of `seed`, float32 [size, size, 1] in [0, 1]."""
    draw = np.random.default_rng((seed, index))
    outer, width, tilt = draw.uniform(0.65, 0.92, 2), draw.uniform(0.06, 0.12), draw.uniform(0, np.pi)
    center, interior, number = draw.uniform(-0.05, 0.05, 2), draw.uniform(0.2, 0.5), draw.integers(5, 11)
    radius, direction = 0.7 * np.sqrt(draw.random(number)), draw.uniform(0, 2 * np.pi, number)
    inner = outer - width
    places = center + rotated(radius * np.stack([np.cos(direction), np.sin(direction)]), tilt, inner)
    axes = draw.uniform(0.06, 0.3, (number, 2))
    values = draw.uniform(0.15, 0.5, number) * draw.choice([-1, 1], number)
    angles = draw.uniform(0, np.pi, number)
    x = ellipses(places, axes, angles, size)
    rim, within = ellipses(np.stack([center, center]), np.stack([outer, inner]), np.array([tilt, tilt]), size)
    inside = interior + np.tensordot(values, x, 1)
    return np.clip(rim - within + within * np.clip(inside, 0, 1), 0, 1)[..., None].astype(np.float32)


def rotated(u: np.ndarray, angle: float, axes: np.ndarray) -> np.ndarray:
    """Points u [2, n] of the unit disk in an ellipse with these semi-axes, turned by `angle`: [n, 2]."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (turn @ (axes[:, None] * u)).T


def ellipses(centers: np.ndarray, axes: np.ndarray, angles: np.ndarray | Sequence[float], size: int) -> np.ndarray:
    """(2) of n ellipses at each pixel, [n, size, size].

    Centers and semi-axes [n, 2] are (column, row) in [−1, 1]²; pixel k has its middle at (2 k + 1)/size − 1.
    """
    at = (2 * np.arange(size) + 1) / size - 1
    column, row = at[None, None, :] - centers[:, :1, None], at[None, :, None] - centers[:, 1:, None]
    c, s = (f(np.asarray(angles))[:, None, None] for f in (np.cos, np.sin))
    a, b = axes[:, :1, None], axes[:, 1:, None]
    along, across = (c * column + s * row) / a, (c * row - s * column) / b
    slope = 2 * np.sqrt((along / a) ** 2 + (across / b) ** 2)  # |∇q|
    pixel = 2 / size
    return np.clip(0.5 + (1 - along**2 - across**2) / np.maximum(pixel * slope, 1e-12), 0, 1)
