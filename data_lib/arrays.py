"""Data sets from arrays in memory or in a NumPy file."""

from collections.abc import Mapping
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
    cond: np.ndarray | Mapping[str, np.ndarray] | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """A random, disjoint split of x [N, ...], label [N, ...] and cond [N, ...], or a dict of such, by `seed`.

    `test` is a share of the examples, below 1, or their number: 1.0 is one example. `classes` names the labels.
    ValueError unless both splits have at least one example, and as in `ArraySource`.
    """
    whole = ArraySource(x, label, name, classes, cond=cond)
    size = files.count_or_share(test, name)
    count = size if isinstance(size, int) else round(size * len(whole))
    if not 0 < count < len(whole):
        raise ValueError(
            f"{name}: test={test} of {len(whole)} examples gives {count} test examples: "
            "expected at least one for testing and one for training, by another test=" + _doubt(whole)
        )
    order = np.random.default_rng(seed).permutation(len(whole))
    return Dataset(whole.part(order[count:], f"{name} train"), whole.part(order[:count], f"{name} test"))


def from_npz(
    path: str | PathLike,
    x: str = "x",
    label: str | None = None,
    test: float | int = 0.1,
    seed: int = 0,
    cond: str = "",
    ignore: str = "",
) -> Dataset:
    """As `from_arrays`, from arrays of an .npz file by their names, or from an .npy file that holds only x.

    `cond` is one name, or several separated by commas, which make a dict. `ignore` names arrays that are not used, "*"
    all others; without it an array that no argument names is an error. Pickled objects are not loaded. An array called
    "image" or "images" holds images: [N, H, W] gets a channel axis.
    FileNotFoundError, or ValueError naming the file, the expected array and the arrays in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected an .npz file with an array '{x}', or an .npy file")
    arrays, conditions = load_arrays(path, x), names_in(cond)
    for key in (x, label, *conditions):
        if key is not None and key not in arrays:
            raise ValueError(f"{path}: expected an array '{key}', got {sorted(arrays)}")
    unused = [key for key in sorted(arrays) if key not in (x, label, *conditions, *names_in(ignore))]
    if unused and "*" not in names_in(ignore):
        shown = ", ".join(f"{key} {list(arrays[key].shape)}" for key in unused)
        raise ValueError(f"{path}: not used: {shown}; name them by label=, cond= or ignore= ('*': all others)")
    images = arrays[x]
    if x in ("image", "images") and images.ndim == 3:
        images = images[..., None]
    given = {key: arrays[key] for key in conditions}
    cond_arrays = next(iter(given.values())) if len(given) == 1 else given or None
    return from_arrays(images, None if label is None else arrays[label], test, seed, path.name, cond_arrays)


def names_in(text: str) -> tuple[str, ...]:
    """The names in a text that separates them by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
