"""Data sets from arrays in memory or in a NumPy file."""

from os import PathLike
from pathlib import Path

import numpy as np

from data_lib.files import LONGEST
from data_lib.sources import ArraySource, Dataset


def from_arrays(
    x: np.ndarray,
    label: np.ndarray | None = None,
    test: float | int = 0.1,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """A random, disjoint split of x [N, ...] and label [N, ...] by `seed`.

    `test` is a share of the examples (a float below 1) or their number (an int); ValueError unless at
    least one example is left on either side.
    """
    whole = ArraySource(x, label, name)
    count = int(test) if isinstance(test, (int, np.integer)) else round(test * len(whole))
    if not 0 < count < len(whole):
        raise ValueError(
            f"{name}: test={test} of {len(whole)} examples holds {count} out; "
            "at least one must be kept for testing and one left to train on"
        )
    order = np.random.default_rng(seed).permutation(len(whole))
    parts = {"test": order[:count], "train": order[count:]}
    return Dataset(
        **{part: ArraySource(**whole.batch(indices), name=f"{name} {part}") for part, indices in parts.items()}
    )


def from_npz(
    path: str | PathLike,
    x: str = "x",
    label: str | None = None,
    test: float | int = 0.1,
    seed: int = 0,
) -> Dataset:
    """As `from_arrays`, from the arrays `x` and `label` of an .npz file, or from an .npy file of x alone.

    Pickled objects are not loaded. An array called "image" or "images" is one of images: [N, H, W] gets a
    channel axis. FileNotFoundError, or ValueError naming the file, what was asked for and what it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected an .npz file with an array '{x}', or an .npy file")
    arrays = load_arrays(path, x)
    for key in (x, label):
        if key is not None and key not in arrays:
            raise ValueError(f"{path}: expected an array '{key}', got {sorted(arrays)}")
    images = arrays[x]
    if x in ("image", "images") and images.ndim == 3:
        images = images[..., None]
    return from_arrays(images, None if label is None else arrays[label], test, seed, name=path.name)


def load_arrays(path: str | PathLike, x: str = "x") -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, or that of an .npy file under the name `x`. ValueError naming the file."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {x: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds at damaged files
        reason = f"{type(error).__name__}: {error}"[:LONGEST]
        raise ValueError(f"{path}: expected an .npz or .npy file of plain arrays: {reason}") from error
