"""Windows of one length, cut one after another from recordings and from texts: events [length, channels].

    WAV, FLAC ─► full scale is ±1 ─► mean of the channels ─► `rate` by a polyphase filter ─► x float32 [length, 1]
    text      ─► UTF-8 bytes ─► their eight bits, the highest first (analog bits)         ─► x int8   [length, 8]

Analog bits: T. Chen, R. Zhang, G. Hinton, Analog Bits, arXiv:2208.04202, section 3: the network sees the bits of a
discrete value as the real numbers ±1, which is `Scale(0, 1)`, and `text_of` takes the sign of what it draws.
What is left at the end of a file is dropped; a file that is shorter than a window is unreadable.
"""

from collections.abc import Sequence
from math import gcd
from os import PathLike
from pathlib import Path

import numpy as np

from data_lib import files
from data_lib.files import UnreadableError
from data_lib.sources import ArraySource, Dataset

SOUNDS = (".wav", ".flac")
TEXTS = (".txt", ".md")


def from_audio(
    path: str | PathLike,
    rate: int = 16_000,
    length: int = 16_384,
    heldout: float | int = 0.1,
    seed: int = 0,
    on_error: str = "raise",
    threads: int = 0,
) -> Dataset:
    """The recordings below a folder, `rate` values a second; windows of one file are on one side of the split.

    FLAC needs the package soundfile. FileNotFoundError, or ValueError as `images.from_folder`.
    """
    names = files.find_files(path, SOUNDS)
    mask = files.heldout_mask(names, heldout, seed, str(path))
    decode = lambda file: _windows(read_audio(file, rate), length)[..., None]  # noqa: E731
    parts = {}
    for part, chosen in (("train", ~mask), ("heldout", mask)):
        paths, name = [str(Path(path, names[i])) for i in np.flatnonzero(chosen)], f"{Path(path).name} {part}"
        found, _, bad = files.decode_all(paths, decode, on_error, threads or files.default_threads(paths), name)
        parts[part] = ArraySource(np.concatenate(found), name=name, unreadable=bad)
    return Dataset(**parts)


def read_audio(path: str | PathLike, rate: int) -> np.ndarray:
    """The recording float32 [N], ±1 at full scale, the channels' mean, at `rate` values a second."""
    from scipy.signal import resample_poly  # a second to import

    given, x = _read_flac(path) if str(path).lower().endswith(".flac") else _read_wav(path)
    x = x.mean(axis=1) if x.ndim == 2 else x
    if not np.isfinite(x).all():
        raise UnreadableError(f"{np.count_nonzero(~np.isfinite(x))} of {x.size} values are not finite")
    common = gcd(rate, given)
    return resample_poly(x, rate // common, given // common).astype(np.float32) if rate != given else x


def _read_wav(path: str | PathLike) -> tuple[int, np.ndarray]:
    """Integers count to 2^(bits − 1); 8-bit ones have their zero at 128 (WAVE, 1991)."""
    import warnings

    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
        rate, x = wavfile.read(path)
    if x.dtype == np.uint8:
        return rate, (x.astype(np.float32) - 128) / 128
    if x.dtype.kind == "i":
        return rate, (x / -float(np.iinfo(x.dtype).min)).astype(np.float32)
    return rate, x.astype(np.float32)


def _read_flac(path: str | PathLike) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError as error:
        raise UnreadableError("FLAC needs the package soundfile: pip install soundfile") from error
    x, rate = soundfile.read(path, dtype="float32")
    return rate, x


def from_text(
    path: str | PathLike, length: int = 64, heldout: float | int = 0.1, seed: int = 0, on_error: str = "raise"
) -> Dataset:
    """Windows of `length` bytes of a text file, or of the .txt and .md files below a folder, as bits 0 and 1.

    A window is held out by its file and number. The bytes need not be UTF-8. FileNotFoundError; ValueError as above.
    """
    root = Path(path)
    names = files.find_files(root, TEXTS) if root.is_dir() else [""]
    if not root.exists():
        raise FileNotFoundError(f"no file {root}")
    paths = [str(root / name) for name in names]
    decode = lambda file: _windows(np.fromfile(file, np.uint8), length)  # noqa: E731
    found, places, bad = files.decode_all(paths, decode, on_error, 1, root.name)
    labels = [f"{names[place]}/{i}" for place, windows in zip(places, found, strict=True) for i in range(len(windows))]
    bits = np.unpackbits(np.concatenate(found)[..., None], axis=-1).astype(np.int8)
    mask = files.heldout_mask(labels, heldout, seed, str(root))
    return Dataset(ArraySource(bits[~mask], name=f"{root.name} train", unreadable=bad), ArraySource(bits[mask]))


def text_of(x: np.ndarray) -> list[str]:
    """Model space [N, length, 8] → texts: bit 1 where x > 0; bytes that are no UTF-8 become U+FFFD."""
    rows: Sequence[np.ndarray] = np.packbits(np.asarray(x) > 0, axis=-1)[..., 0]
    return [row.tobytes().decode("utf-8", errors="replace") for row in rows]


def _windows(x: np.ndarray, length: int) -> np.ndarray:
    """[N] → [N // length, length]."""
    if len(x) < length:
        raise UnreadableError(f"{len(x)} values are shorter than one window of {length}")
    return x[: len(x) // length * length].reshape(-1, length)
