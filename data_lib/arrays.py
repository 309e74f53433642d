"""Data sets from arrays in memory or in a NumPy file."""

from os import PathLike
from pathlib import Path

import numpy as np

from data_lib import files
from data_lib.files import LONGEST
from data_lib.layout import event_remark
from data_lib.sources import ArraySource, Dataset


def from_arrays(
    x: np.ndarray,
    label: np.ndarray | None = None,
    test: float | int = 0.1,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """A random, disjoint split of x [N, ...] and label [N, ...] by `seed`.

    `test` is a share of the examples, below 1, or their number: 1.0 is one example. ValueError unless both splits have
    at least one example, and as in `ArraySource`.
    """
    whole = ArraySource(x, label, name)
    size = files.count_or_share(test, name)
    count = size if isinstance(size, int) else round(size * len(whole))
    if not 0 < count < len(whole):
        raise ValueError(
            f"{name}: test={test} of {len(whole)} examples gives {count} test examples: "
            "expected at least one for testing and one for training, by another test=" + _doubt(whole)
        )
    order = np.random.default_rng(seed).permutation(len(whole))
    parts = {"train": whole.batch(order[count:]), "test": whole.batch(order[:count])}
    return Dataset(*(ArraySource(part["x"], part.get("label"), f"{name} {key}") for key, part in parts.items()))


def from_npz(
    path: str | PathLike,
    x: str = "x",
    label: str | None = None,
    test: float | int = 0.1,
    seed: int = 0,
) -> Dataset:
    """As `from_arrays`, from the arrays named `x` and `label` of an .npz file, or from an .npy file that holds only x.

    Pickled objects are not loaded. An array called "image" or "images" holds images: [N, H, W] gets a channel axis.
    One line of the log names other arrays of the file, which are not used.
    FileNotFoundError, or ValueError naming the file, the expected array and the arrays in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected an .npz file with an array '{x}', or an .npy file")
    arrays = load_arrays(path, x)
    for key in (x, label):
        if key is not None and key not in arrays:
            raise ValueError(f"{path}: expected an array '{key}', got {sorted(arrays)}")
    if unused := [f"{key} {list(array.shape)}" for key, array in sorted(arrays.items()) if key not in (x, label)]:
        files.say(f"{path}: arrays that are not used: {', '.join(unused)}")
    images = arrays[x]
    if x in ("image", "images") and images.ndim == 3:
        images = images[..., None]
    return from_arrays(images, None if label is None else arrays[label], test, seed, name=path.name)


def _doubt(source: ArraySource) -> str:
    remark = event_remark(source.x.shape)
    return f"; {remark}" if remark else ""


def load_arrays(path: str | PathLike, x: str = "x") -> dict[str, np.ndarray]:
    """Name → array of an .npz file; for an .npy file, its array under the name `x`. ValueError naming the file."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {x: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen classes for damaged files
        reason = f"{type(error).__name__}: {error}"[:LONGEST]
        raise ValueError(f"{path}: expected an .npz or .npy file of plain arrays: {reason}") from error
