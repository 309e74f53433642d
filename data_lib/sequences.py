"""Consecutive windows of one length, cut from texts: events [length, bits].

    text ─► UTF-8 bytes ─► their eight bits, the highest first (analog bits)         ─► x int8 [length, 8]
         ─► characters  ─► bits of their indices in an alphabet of 2ⁿ or fewer       ─► x int8 [length, n]

Analog bits: T. Chen, R. Zhang, G. Hinton, Analog Bits, arXiv:2208.04202, section 3. The network receives the bits of a
discrete value as the real numbers ±1, by `Scale(0, 1)`, and `text_of` takes the sign of the samples. The rest of a file
after its last window is left out. A file shorter than one window is unreadable. One line of the log counts what is
resampled, averaged and left out. Folders train and test are splits (`files`); other folders are no labels.
"""

from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from data_lib import files
from data_lib.files import UnreadableError
from data_lib.sources import ArraySource, Dataset

TEXTS = (".txt", ".text", ".md", ".markdown")


def from_text(
    path: str | PathLike,
    length: int = 64,
    test: float | int = 0.1,
    seed: int = 0,
    on_error: str = "raise",
    alphabet: str = "",
) -> Dataset:
    """Windows of `length` bytes of a text file, or of the text files below a folder, as bits 0 and 1.

    x int8 [N, length, 8]. With an `alphabet` (`alphabet_of` finds one), a window has `length` characters and x is
    [N, length, bits]; then a file that is not UTF-8, or has a character outside the alphabet, is unreadable. The split
    is by the hash of the file and the window number. FileNotFoundError and ValueError as in
    `images.from_folder`.
    """
    root, tally = Path(path), files.Tally()
    names = _text_names(root, say=True)
    splits = files.folder_splits(names, root)
    _say_unlabeled(root, names, splits.inside)
    names = [names[i] for i in np.flatnonzero(splits.train if splits.test is None else splits.train | splits.test)]
    paths = [str(root / name) for name in names]
    read = partial(_places, alphabet=alphabet) if alphabet else partial(np.fromfile, dtype=np.uint8)
    decode = lambda file: _windows(read(file), length, tally)  # noqa: E731
    found, places, bad = files.decode_all(paths, decode, on_error, 1, root.name)
    labels = [f"{names[place]}/{i}" for place, windows in zip(places, found, strict=True) for i in range(len(windows))]
    bits = binary(np.concatenate(found), bits_of(alphabet))
    if splits.test is None:
        mask = files.split_mask(labels, test, seed, str(root))
    else:
        mask = np.array([not label.lower().startswith(f"{files.TRAIN_FOLDER}/") for label in labels])
        if not 0 < mask.sum() < len(mask):
            raise ValueError(f"{root}: expected windows in both splits, got {mask.sum()} of {len(mask)} for testing")
    tally.say(str(root), len(names), "texts")
    parts = {"train": ~mask, "test": mask}
    return Dataset(**{k: ArraySource(bits[m], name=f"{root.name} {k}", unreadable=bad) for k, m in parts.items()})


def alphabet_of(path: str | PathLike) -> str:
    """The characters of a text file, or of the text files below a folder, in the order of Unicode."""
    root = Path(path)
    return "".join(sorted(set().union(*(_text(root / name) for name in _text_names(root)))))


def bits_of(alphabet: str) -> int:
    """The number of bits per character, or per byte if there is no alphabet."""
    return max(1, (len(alphabet) - 1).bit_length()) if alphabet else 8


def binary(x: np.ndarray, bits: int) -> np.ndarray:
    """The binary digits of whole numbers [...], the highest first: int8 [..., bits]."""
    return (x[..., None] >> np.arange(bits)[::-1] & 1).astype(np.int8)


def text_of(x: np.ndarray, alphabet: str = "") -> list[str]:
    """Model space [N, length, bits] → N texts: a bit is 1 where x > 0.

    Bytes that are not UTF-8, and indices beyond the alphabet, become U+FFFD.
    """
    places = (np.asarray(x) > 0) @ (1 << np.arange(bits_of(alphabet))[::-1])
    if not alphabet:
        return [bytes(row.tolist()).decode("utf-8", errors="replace") for row in places]
    return ["".join(alphabet[i] if i < len(alphabet) else "\ufffd" for i in row) for row in places]


def _text_names(root: Path, say: bool = False) -> list[str]:
    """The names of the texts below a folder; "" if the path is a file. `say` logs what is left out."""
    if not root.exists():
        raise FileNotFoundError(f"no file {root}")
    if not root.is_dir():
        return [""]
    found = files.search(root, TEXTS)
    if say:
        found.say()
    return found.names


def _say_unlabeled(root: Path, names: list[str], inside: int) -> None:
    """One line of the log if the files are in folders, which may be meant as classes."""
    folders = sorted({"/".join(name.split("/")[inside:-1]) for name in names} - {""})
    if folders:
        files.say(f"{root}: its folders are not read as labels: {', '.join(folders[:3])}{', …' * (len(folders) > 3)}")


def _text(path: str | PathLike) -> str:
    return Path(path).read_bytes().decode("utf-8")  # in text mode newlines would be translated


def _places(path: str, alphabet: str) -> np.ndarray:
    text, place = _text(path), {character: i for i, character in enumerate(alphabet)}
    if others := set(text) - set(place):
        raise UnreadableError(f"{len(others)} characters are not in the alphabet, for example {min(others)!r}")
    return np.array([place[character] for character in text], np.int32)


def _windows(x: np.ndarray, length: int, tally: files.Tally) -> np.ndarray:
    """[N] → [N // length, length]."""
    if len(x) < length:
        raise UnreadableError(f"{len(x)} values are shorter than one window of {length}")
    tally.add("values after a last window left out", len(x) % length)
    return x[: len(x) // length * length].reshape(-1, length)
