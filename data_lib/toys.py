"""Densities in the plane, to study a process or a sampler. The transform into model space is `Identity`.

Each is drawn by `seed`, scaled to a mean square of about 1 per coordinate, and split by `from_arrays`.
"""

import numpy as np

from data_lib.arrays import from_arrays
from data_lib.sources import Dataset

COUNT = 10_000


def moons(count: int = COUNT, noise: float = 0.05, test: float | int = 0.1, seed: int = 0) -> Dataset:
    """Two interleaving half circles, label 0 or 1: scikit-learn's, centered and divided by 0.7."""
    from sklearn.datasets import make_moons  # a second to import

    x, label = make_moons(count, noise=noise, random_state=seed)
    return _split((np.asarray(x) - [0.5, 0.25]) / 0.7, np.asarray(label), test, seed, "moons")


def swirl(count: int = COUNT, noise: float = 0.3, test: float | int = 0.1, seed: int = 0) -> Dataset:
    """A spiral (r, φ) with r = φ in 1.5π..4.5π: scikit-learn's Swiss roll from the side, divided by 7."""
    from sklearn.datasets import make_swiss_roll  # a second to import

    x, _ = make_swiss_roll(count, noise=noise, random_state=seed)
    return _split(x[:, [0, 2]] / 7, None, test, seed, "swirl")


def checkerboard(count: int = COUNT, test: float | int = 0.1, seed: int = 0) -> Dataset:
    """Uniform on the eight fields of a 4 × 4 board on [−2, 2]² where ⌊x₀⌋ + ⌊x₁⌋ is even, divided by 1.15."""
    generator = np.random.default_rng(seed)
    field, place = generator.integers(0, 8, count), generator.random((count, 2))
    row = field // 2
    column = 2 * (field % 2) + row % 2
    x = np.stack([row, column], axis=1) - 2 + place
    return _split(x / 1.15, None, test, seed, "checkerboard")


def gaussians(count: int = COUNT, modes: int = 8, std: float = 0.1, test: float | int = 0.1, seed: int = 0) -> Dataset:
    """Equal Gaussians of `std` around a circle of radius √2; the label is the index of the Gaussian."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, modes, count)
    angle = 2 * np.pi * label / modes
    centers = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _split(centers + std * generator.normal(size=(count, 2)), label, test, seed, "gaussians")


def _split(x: np.ndarray, label: np.ndarray | None, test: float | int, seed: int, name: str) -> Dataset:
    return from_arrays(x.astype(np.float32), label, test, seed, name)
