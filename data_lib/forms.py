"""What a sample is: how samples are stored, written to files, drawn, animated, and compared with data.

    form     events                         stored                     file of one          picture of several
    Images   [H, W, C], with a transform    uint8                      PNG if C is 1 or 3   a grid
             that converts to pixels
    Sounds   [length, 1] at a rate          full scale is ±1           WAV of 16 bits       waveforms, log-mel; a WAV
    Texts    [length, bits]                 bits as real numbers       txt, UTF-8           the texts
    Points   [1], [2]                       in the units of the data   npy                  a histogram, points
    Arrays   any                            in the units of the data   npy                  lines, gray levels

A transform brings the form of its events, by `transform.form(shape)`; those of a transform without that method are
arrays, or points. Four methods convert batches [N, ...], and model space is the network's:

    model space ── to_samples ──► samples as stored ── to_data ──► the units of the data
    model space ◄── from_samples ── samples as stored ◄── of_data ── the units of the data
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from data_lib.sequences import text_of
from io_lib import pictures, sample_pictures, sounds
from io_lib.workdir import write_atomic

PIXELS = "uint8, round(127.5 (x + 1)) of x in [-1, 1], clipped"  # part of a protocol: two that differ do not compare
REAL = 100  # examples in a picture of samples next to data


class Form(Protocol):
    """See the module's head. Optional: `frames`, pictures of an animation, and `compare`, of samples next to data."""

    suffix: str
    quantization: str
    shown: int  # examples in a picture of data, samples in an animation

    def to_samples(self, z: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray: ...

    def from_samples(self, x: np.ndarray) -> np.ndarray: ...

    def to_data(self, x: np.ndarray) -> np.ndarray: ...

    def of_data(self, x: np.ndarray) -> np.ndarray: ...

    def write(self, file: Path, one: np.ndarray) -> None:
        """Writes one sample, into a file whose name ends in `suffix`."""
        ...

    def preview(self, stem: Path, x: np.ndarray) -> list[Path]:
        """Writes what shows several samples, STEM.png and others; returns the files."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Samples in the units of the data, in files of numpy."""

    transform: Any
    suffix = "npy"
    quantization = "none"
    shown = 100

    def to_samples(self, z: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
        return self.transform.inverse(np.asarray(z), **({} if dtype is None else {"dtype": dtype}))

    def from_samples(self, x: np.ndarray) -> np.ndarray:
        return self.transform.forward(x)

    def to_data(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float32)

    def of_data(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x)

    def write(self, file: Path, one: np.ndarray) -> None:
        np.save(file, one)

    def preview(self, stem: Path, x: np.ndarray) -> list[Path]:
        sample_pictures.save_samples(file := with_ending(stem, ".png"), x)
        return [file]


@dataclass(frozen=True)
class Points(Arrays):
    """Vectors of one or two coordinates."""

    shown = 2000

    def frames(self, times: np.ndarray, z: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        """Pictures of states z [K, N, 1 or 2] in model space at `times` [K]; the last one is of the samples x."""
        states = np.concatenate([z[:-1], self.from_samples(x)[None]])
        return pictures.point_frames(times, states.reshape(len(times), len(x), -1))


@dataclass(frozen=True)
class Images(Arrays):
    """Images [H, W, C] of 8 bits, whose transform has `to_uint8` and `from_uint8`."""

    suffix = "png"
    quantization = PIXELS
    shown = 64

    @property
    def integers(self) -> bool:
        """Whether the data are the same integers 0 … 255 as stored samples."""
        return (getattr(self.transform, "low", None), getattr(self.transform, "high", None)) == (0, 255)

    def to_samples(self, z: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
        return self.transform.to_uint8(np.asarray(z))

    def from_samples(self, x: np.ndarray) -> np.ndarray:
        return self.transform.from_uint8(x)

    def to_data(self, x: np.ndarray) -> np.ndarray:
        """low + (high − low) v/255 of a pixel v."""
        return self.transform.inverse(self.transform.from_uint8(x))

    def of_data(self, x: np.ndarray) -> np.ndarray:
        return self.to_samples(self.transform.forward(x))

    def write(self, file: Path, one: np.ndarray) -> None:
        pictures.save_png(file, one)

    def preview(self, stem: Path, x: np.ndarray) -> list[Path]:
        pictures.save_png(file := with_ending(stem, ".png"), self.grid(x[: sample_pictures.IMAGES]))
        return [file]

    def compare(self, folder: Path, x: np.ndarray, real: np.ndarray) -> None:
        """FOLDER/samples.png: the first samples next to examples."""
        grids = [pictures.image_grid(np.asarray(images[:REAL])) for images in (x, real)]
        pictures.save_grids_side_by_side(folder / "samples.png", *grids, titles=("samples", "real"))

    def frames(self, times: np.ndarray, z: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        return [self.grid(images) for images in (*map(self.to_samples, z[:-1]), x)]

    def grid(self, x: np.ndarray, columns: int | None = None) -> np.ndarray:
        """Images row by row in one picture; small ones are enlarged to about 32 pixels, by a whole number."""
        return pictures.image_grid(x, columns=columns, scale=max(1, 32 // x.shape[1]))


@dataclass(frozen=True)
class ManyChannels(Images):
    """Images of another number of channels than 1 or 3, for which PNG files have no form."""

    suffix = "npy"

    def write(self, file: Path, one: np.ndarray) -> None:
        np.save(file, one)


@dataclass(frozen=True)
class Sounds(Arrays):
    """Recordings [length, 1] at `rate` values per second."""

    rate: int
    suffix = "wav"

    def write(self, file: Path, one: np.ndarray) -> None:
        sounds.write_wav(file, one[:, 0], self.rate)

    def preview(self, stem: Path, x: np.ndarray) -> list[Path]:
        return sounds.save_preview(stem, np.asarray(x)[..., 0], self.rate)

    def compare(self, folder: Path, x: np.ndarray, real: np.ndarray) -> None:
        self.preview(folder / "samples", x)
        self.preview(folder / "real", real)


@dataclass(frozen=True)
class Texts(Arrays):
    """Texts as bits [length, bits], of characters of an alphabet or of bytes."""

    alphabet: str
    suffix = "txt"

    def texts(self, x: np.ndarray) -> list[str]:
        return text_of(self.from_samples(x), self.alphabet)

    def write(self, file: Path, one: np.ndarray) -> None:
        write_atomic(file, self.texts(one[None])[0])

    def preview(self, stem: Path, x: np.ndarray) -> list[Path]:
        write_atomic(file := with_ending(stem, ".txt"), separated(self.texts(x[: sample_pictures.CELLS])))
        return [file]

    def compare(self, folder: Path, x: np.ndarray, real: np.ndarray) -> None:
        self.preview(folder / "samples", x)
        self.preview(folder / "real", real)


def separated(texts: Sequence[str]) -> str:
    """Texts in one file, under numbered lines."""
    return "".join(f"── {number} ──\n{text}\n\n" for number, text in enumerate(texts))


def with_ending(stem: Path, ending: str) -> Path:
    """STEM.ending, whatever dots the stem has."""
    return stem.with_name(stem.name + ending)


def form_of(transform: Any, shape: tuple[int, ...]) -> Form:
    """The form that the transform brings, or else points or arrays."""
    brought = getattr(transform, "form", None)
    return plain(transform, shape) if brought is None else brought(tuple(shape))


def plain(transform: Any, shape: tuple[int, ...]) -> Form:
    """Samples in the units of the data."""
    return Points(transform) if tuple(shape) in ((1,), (2,)) else Arrays(transform)


def pixels(transform: Any, shape: tuple[int, ...]) -> Form:
    """Images, if the events have three axes."""
    if len(shape) != 3:
        return plain(transform, shape)
    return Images(transform) if shape[2] in (1, 3) else ManyChannels(transform)
