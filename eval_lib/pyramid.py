"""Features of signals, images and volumes without a network: what is where, and how much detail there is of each size.

    x_0 = x,  x_{k+1} = means of x_k over cubes of 2 positions along every axis that is longer than the grid         (1)
    d_k = x_k − x_{k+1}, with each mean at all positions of its cube                                                (2)
    features: mean of x_K, and √(mean of d_k²) for k < K, in each cell of a grid and each channel                   (3)

(2) is a Laplacian pyramid with the shortest filter (Burt and Adelson 1983, doi:10.1109/TCOM.1983.1095851). For white
noise of deviation σ along n axes, d_k has the variance (1 − 2⁻ⁿ) σ²/2^{nk}. K is the least for which no axis of x_K is
longer than the grid. The grid has 16 cells along one axis, 4x4 or 3x3x3, or as many as there are positions. An axis of
odd length repeats its last position.

Blur, noise and wrong colors change these features; shapes and their order within a cell hardly do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

CELLS = {1: 16, 2: 4, 3: 3}
"""Number of axes → cells of the grid along each."""


@dataclass(frozen=True)
class PyramidFeatures:
    """(3) of events [N, *space, C] with 1 to 3 axes of space: [N, (K + 1) cells C] in the unit of x.

    ValueError for events of other ranks.

    >>> stripes = np.tile([0.0, 2.0], 128).reshape(1, 256, 1)
    >>> found = PyramidFeatures()(stripes).reshape(5, 16)  # the mean, then the detail of 1, 2, 4 and 8 positions
    >>> print(found[:, 0])
    [1. 1. 0. 0. 0.]
    """

    cheap: ClassVar[bool] = True

    @property
    def protocol(self) -> dict[str, str]:
        return {"features": "pyramid, means and detail by size, in cells", "weights": "none", "resize": "none"}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim - 2 not in CELLS:
            raise ValueError(f"PyramidFeatures: expected events [N, 1 to 3 axes, C], got shape {x.shape}")
        x, most, details = x.astype(np.float64), CELLS[x.ndim - 2], []
        while axes := [axis for axis in range(1, x.ndim - 1) if x.shape[axis] > most]:
            coarse = halved(x, axes)
            details.append(np.sqrt(cell_means((x - repeated(coarse, axes, x.shape)) ** 2, most)))
            x = coarse
        return np.concatenate([part.reshape(len(x), -1) for part in (cell_means(x, most), *details)], axis=1)


def halved(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """(1): a length n of these axes becomes ⌈n/2⌉."""
    for axis in axes:
        first = np.arange(0, x.shape[axis], 2)
        second = np.minimum(first + 1, x.shape[axis] - 1)
        x = (x.take(first, axis) + x.take(second, axis)) / 2
    return x


def repeated(x: np.ndarray, axes: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Each position twice along these axes, cut to `shape`."""
    for axis in axes:
        x = x.take(np.arange(shape[axis]) // 2, axis)
    return x


def cell_means(x: np.ndarray, most: int) -> np.ndarray:
    """Means over a grid of at most `most` cells per axis: [N, *space, C] → [N, *cells, C].

    The lengths of cells differ by at most one position.
    """
    for axis in range(1, x.ndim - 1):
        n, cells = x.shape[axis], min(x.shape[axis], most)
        edges = np.arange(cells + 1) * n // cells
        x = np.add.reduceat(x, edges[:-1], axis) / np.diff(edges).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return x
