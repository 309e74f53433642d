"""Sounds as WAV files and as pictures."""

from pathlib import Path

import numpy as np

from io_lib import sample_pictures


def write_wav(file: Path, x: np.ndarray, rate: int) -> None:
    """x [N] with full scale ±1, as 16-bit integers at `rate` values per second."""
    from scipy.io import wavfile

    wavfile.write(file, rate, np.rint(32767 * np.clip(x, -1, 1)).astype(np.int16))


def save_preview(stem: Path, x: np.ndarray, rate: int) -> list[Path]:
    """STEM.png and STEM.wav of the sounds x [N, length]."""
    sample_pictures.save_samples(picture := stem.with_name(stem.name + ".png"), x[..., None])
    write_wav(sound := stem.with_name(stem.name + ".wav"), x[:6].reshape(-1), rate)
    return [picture, sound]
