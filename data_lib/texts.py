"""Texts as tokens: windows of characters, each character the number of its place in an alphabet.

    text ─► test and training blocks ─► windows [length] ─► x int32 [N, length]           (`from_characters`)
                                                       └──► bits, the highest first: x int8 [N, length, n], with `bits`

A text is split into blocks of consecutive windows; every k-th block is for testing, so that no test window overlaps a
training window. Windows of training start every `stride` characters within the blocks, those of testing every `length`.
What is left after a block's last window is left out. Text is UTF-8, of which a byte order mark is dropped and line ends
become \\n. Without a path the text is `reference_text`, which every Python has.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from data_lib import files
from data_lib.forms import Form, Texts, plain
from data_lib.sequences import TEXTS, binary, bits_of
from data_lib.sources import ArraySource, Dataset

BLOCK = 32  # windows per block of the split, at most
UNKNOWN = "\ufffd"


@dataclass(frozen=True)
class Characters:
    """Tokens 0 … V − 1, the places of characters in an alphabet; model space has the same numbers.

    ValueError for an alphabet that is empty or has a character twice.
    """

    alphabet: str = ""
    slope: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet):
            twice = next(c for i, c in enumerate(self.alphabet) if c in self.alphabet[:i])
            raise ValueError(f"Characters: expected an alphabet of different characters, got {twice!r} twice")

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        return np.asarray(x, dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.int32) -> np.ndarray:
        return np.rint(x).astype(np.int32)

    def form(self, shape: tuple[int, ...]) -> Form:
        return CharacterTexts(self, self.alphabet) if len(shape) == 1 else plain(self, shape)

    def tokens(self, text: str, where: str = "text") -> np.ndarray:
        """The tokens [len(text)]. ValueError, with line and column, for a character outside the alphabet."""
        return tokens_of(text, self.alphabet, where)


@dataclass(frozen=True)
class CharacterTexts(Texts):
    """Texts as tokens [length]. A token outside the alphabet, such as a mask, becomes U+FFFD."""

    def texts(self, x: np.ndarray) -> list[str]:
        known = lambda i: self.alphabet[i] if 0 <= i < len(self.alphabet) else UNKNOWN  # noqa: E731
        return ["".join(known(int(i)) for i in row) for row in np.asarray(x)]


def reference_text() -> str:
    """English prose on Python: `pydoc_data.topics`, of which paragraphs that occur again are left out.

    It is about 0.4 MB, and differs between versions of Python.
    """
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def from_characters(
    path: str = "",
    length: int = 128,
    alphabet: str = "",
    test: float = 0.1,
    stride: int = 0,
    bits: bool = False,
) -> Dataset:
    """Windows of `length` characters of a text file, of the text files below a folder, or of `reference_text`.

    x int32 [N, length]; int8 [N, length, bits] with `bits`. The alphabet is that of the text by default
    (`text_alphabet`). FileNotFoundError if there is no such file. ValueError, with the place, for a character outside
    the alphabet, bytes that are not UTF-8, binary data, and texts with fewer than two windows.
    """
    parts = read_texts(path)
    alphabet = alphabet or "".join(sorted(set().union(*(text for _, text in parts))))
    rows = [tokens_of(text, alphabet, where) for where, text in parts]
    windows = {"train": [], "test": []}
    for row in rows:
        for block, testing in blocks(row, length, test):
            step = length if testing else stride or length
            windows["test" if testing else "train"].append(cut(block, length, step))
    found = {name: np.concatenate(w) if w else np.zeros((0, length), np.int32) for name, w in windows.items()}
    if not len(found["train"]) or (test and not len(found["test"])):
        longest = max(len(row) for row in rows)
        raise ValueError(
            f"{path or 'the reference text'}: expected at least two windows of {length} characters in a text, one for "
            f"testing; the longest has {longest} characters"
        )
    if bits:
        found = {name: binary(x, bits_of(alphabet)) for name, x in found.items()}
    return Dataset(**{name: ArraySource(x, name=f"text {name}") for name, x in found.items()})


def blocks(row: np.ndarray, length: int, test: float) -> list[tuple[np.ndarray, bool]]:
    """(block, whether it is for testing) of a text: every k-th of at least 2 blocks, k about 1/test."""
    count = len(row) // length
    if not test:
        return [(row, False)]
    every = max(2, round(1 / test))
    size = length * max(1, min(BLOCK, count // (2 * every)))
    return [(row[i : i + size], i // size % every == every // 2) for i in range(0, len(row), size)]


def cut(row: np.ndarray, length: int, step: int) -> np.ndarray:
    """Windows [N, length] that start every `step` places."""
    starts = np.arange(0, len(row) - length + 1, step)
    return row[starts[:, None] + np.arange(length)[None]] if len(starts) else np.zeros((0, length), row.dtype)


def text_alphabet(path: str = "") -> str:
    """The characters of a text, of the texts below a folder, or of `reference_text`, in the order of Unicode."""
    return "".join(sorted(set().union(*(text for _, text in read_texts(path)))))


def read_texts(path: str = "") -> list[tuple[str, str]]:
    """(place, text) of each file. FileNotFoundError and ValueError as in `from_characters`."""
    if not path:
        return [("the reference text", reference_text())]
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no file {root}")
    if not root.is_dir():
        return [(str(root), read_text(root))]
    found = files.search(root, TEXTS)
    found.say()
    return [(str(root / name), read_text(root / name)) for name in found.names]


def read_text(file: Path) -> str:
    """The text of a UTF-8 file. ValueError, with the place, for anything else, and for an empty file."""
    data = file.read_bytes()
    if not data.strip():
        raise ValueError(f"{file}: expected a text, got {'an empty file' if not data else 'white space alone'}")
    if (at := data.find(b"\0")) >= 0:
        raise ValueError(f"{file}: expected a text, got binary data: byte {at} is 0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}: expected UTF-8; line {line}, byte {error.start} is 0x{data[error.start]:02x}: {error.reason}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tokens_of(text: str, alphabet: str, where: str) -> np.ndarray:
    """The places of characters, int32. ValueError, with line and column, for one outside the alphabet."""
    place = {character: i for i, character in enumerate(alphabet)}
    try:
        return np.fromiter((place[c] for c in text), np.int32, len(text))
    except KeyError:
        at = next(i for i, c in enumerate(text) if c not in place)
        line, column = text[:at].count("\n") + 1, at - (text.rfind("\n", 0, at) + 1) + 1
        others = len(set(text) - set(place))
        raise ValueError(
            f"{where}: line {line}, column {column}: {text[at]!r} (U+{ord(text[at]):04X}) is not in the alphabet of "
            f"{len(alphabet)} characters" + (f"; {others - 1} more are not" if others > 1 else "")
        ) from None
