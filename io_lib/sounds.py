"""Sounds as files: WAV of 16 bits, and pictures of the waveform with the log-mel spectrogram.

A value v in [−1, 1] becomes the integer round(32768 v), at most 32767, and is read as that over 32768: an error of half
a step, 2⁻¹⁶, and of one step at v = 1. Nothing is added (no dither), nothing is scaled. Values beyond ±1 are clipped
and counted.
"""

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from io_lib import pictures, spectra
from io_lib.workdir import write_atomic

log = logging.getLogger(__name__)

STEPS = 2**15
DRAWN, HEARD, PAUSE = 6, 16, 0.25  # sounds in a picture and in a file of several; seconds between them
DECIBELS = 10 / np.log(10)  # of a neper of power


def write_wav(path: str | Path, x: np.ndarray, rate: int) -> int:
    """Writes a sound [length] or [length, channels] at `rate` values per second; returns how many values are clipped.

    The file is written completely or not at all. ValueError for other shapes, numbers that are not finite, or a rate
    below 1.
    """
    content, clipped = wav_bytes(x, rate)
    write_atomic(path, content)
    return clipped


def wav_bytes(x: np.ndarray, rate: int) -> tuple[bytes, int]:
    """(the content of a WAV file, how many values are clipped), as `write_wav`."""
    from scipy.io import wavfile

    x = np.asarray(x, np.float64)
    if x.ndim not in (1, 2) or x.size == 0:
        raise ValueError(f"a sound is [length] or [length, channels], got shape {x.shape}")
    if bad := np.count_nonzero(~np.isfinite(x)):
        raise ValueError(f"a sound has finite values, got {bad} of {x.size} that are not")
    if rate < 1:
        raise ValueError(f"a sound has a rate of at least 1 value per second, got {rate}")
    values = np.rint(x * STEPS).clip(-STEPS, STEPS - 1).astype(np.int16)
    with BytesIO() as buffer:
        wavfile.write(buffer, int(rate), values)
        return buffer.getvalue(), int(np.count_nonzero(np.abs(x) > 1))


def read_wav(path: str | Path) -> tuple[int, np.ndarray]:
    """(rate, values float32 [length] or [length, channels]) of a WAV file of any encoding; full scale is ±1."""
    import warnings

    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # for chunks that are not sound
        rate, x = wavfile.read(path)
    return rate, full_scale(x)


def full_scale(x: np.ndarray) -> np.ndarray:
    """Values of a WAV file as float32. Full scale of integers is 2^(bits − 1); 8-bit integers have their zero at 128.

    Multimedia Programming Interface and Data Specifications 1.0, IBM and Microsoft 1991, which defines WAVE.
    """
    if x.dtype == np.uint8:
        return (x.astype(np.float32) - 128) / 128
    if x.dtype.kind == "i":
        return (x / -float(np.iinfo(x.dtype).min)).astype(np.float32)
    return x.astype(np.float32)


def save_preview(stem: str | Path, x: np.ndarray, rate: int) -> list[Path]:
    """STEM.png, a picture of the first sounds of x [N, length], and STEM.wav, which plays the first 16; the two paths.

    One line of the log counts clipped values, if there are any. Numbers that are not finite are drawn and played as 0,
    and counted in the line.
    """
    x = np.asarray(x[:HEARD], np.float64)
    _require_sounds(x)
    bad = np.count_nonzero(~np.isfinite(x))
    x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    stem = Path(stem)
    picture, sound = (stem.with_name(stem.name + ending) for ending in (".png", ".wav"))
    save_picture(picture, x[:DRAWN], rate)
    clipped = write_wav(sound, in_sequence(x, rate), rate)
    if bad or clipped:
        log.warning(
            "%s: of %d values, %d were beyond full scale and clipped, %d not finite", sound, x.size, clipped, bad
        )
    return [picture, sound]


def in_sequence(x: np.ndarray, rate: int, pause: float = PAUSE) -> np.ndarray:
    """Sounds [N, length] one after the other in one [...], each followed by `pause` seconds of silence."""
    return np.pad(x, ((0, 0), (0, round(pause * rate)))).reshape(-1)


def _require_sounds(x: np.ndarray) -> None:
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"sounds are [N, length], got shape {x.shape}")


def save_picture(path: str | Path, x: np.ndarray, rate: int, titles: tuple[str, ...] = ()) -> None:
    """A PNG of sounds x [N, length]: each waveform above its log-mel spectrogram in dB (`spectra`, eq. 4).

    All share the scales: ±the largest magnitude, and the range from the floor to the highest level. ValueError for
    other shapes.
    """
    _require_sounds(x)
    columns = min(3, len(x))
    rows = -(-len(x) // columns)
    figure = pictures.new_figure(4.2 * columns, 3.4 * rows)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(1, 2) * rows)
    levels, top = DECIBELS * spectra.log_mel(x, rate), float(np.abs(x).max()) or 1.0
    shown: Any = None
    for i in range(rows * columns):
        wave, spectrogram = grid[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        if i >= len(x):
            wave.set_axis_off()
            spectrogram.set_axis_off()
            continue
        draw_wave(wave, x[i], rate, top)
        shown = draw_levels(spectrogram, levels[i], x.shape[1] / rate, rate, float(levels.max()))
        wave.set_title(titles[i] if titles else f"sound {i}", fontsize="small")
    figure.colorbar(shown, ax=grid.ravel().tolist(), label="dB", shrink=0.5, aspect=30)
    figure.savefig(path, dpi=100)


def draw_wave(axes, x: np.ndarray, rate: int, top: float) -> None:
    """A waveform [length] over seconds."""
    axes.plot(np.arange(len(x)) / rate, x, lw=0.5, color="C0")
    axes.set(xlim=(0, len(x) / rate), ylim=(-1.05 * top, 1.05 * top), xticks=[])
    axes.tick_params(labelsize="x-small")


def draw_levels(axes, levels: np.ndarray, seconds: float, rate: int, highest: float):
    """Levels [frames, bands] in dB over seconds, with the frequencies of the bands in kHz; the image."""
    image = axes.imshow(
        levels.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=spectra.FLOOR_DB,
        vmax=max(highest, spectra.FLOOR_DB + 1),
        extent=(0, seconds, 0, spectra.mel(rate / 2)),
        interpolation="nearest",
    )
    kilohertz = [f for f in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if 1000 * f <= rate / 2]
    axes.set_yticks([spectra.mel(1000 * f) for f in kilohertz], [f"{f:g}" for f in kilohertz])
    axes.set(xlabel="s", ylabel="kHz")
    axes.tick_params(labelsize="x-small")
    return image
