"""Spectra of sounds: the short-time Fourier transform with its exact inverse, and the powers in mel bands.

For a window w of n values, x zero outside 0 … L − 1, and frames that are centered at 0, h, 2h, …

    X[m, k] = Σ_i w[i] x[m h + i − n/2] e^{−2πi k i/n},     m = 0 … ⌈L/h⌉,  k = 0 … n/2                             (1)
    x[j] = Σ_m w[j − m h + n/2] y_m[j − m h + n/2] / Σ_m w²[j − m h + n/2],     y_m the inverse transform of X[m]    (2)

(2) is the signal whose spectrum is nearest to X in squares, whether or not X is the spectrum of a signal; for one that
is, (2) gives it back (Griffin & Lim 1984, IEEE Trans. ASSP 32(2), eq. 6). It is used with windows and hops that overlap
and add to a constant (COLA),

    Σ_m w[j − m h] = c for every j.                                                                                 (3)

A band b of the mel scale, mel(f) = 2595 log10(1 + f/700), has a triangle H_b(f) with its peak of 1 at the band's center
and 0 at its neighbors' centers. Its level is

    log(10^{floor/10} + Σ_k H_b(f_k) |X[m, k]|² / (½ Σ_i w[i])²),                                                   (4)

so that the highest of the terms of a sine of amplitude 1 is 1, or 0 dB. The windows of (4) have about 32 ms, with a
quarter of that as hop, and are padded with zeros to four times their length, which the narrow bands require.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

BANDS, SECONDS, PADDED = 64, 0.032, 4
FLOOR_DB = -60.0  # below this, levels differ by what no listener hears next to a sound of full scale
NEPERS = math.log(10) / 10  # of power per dB
_SIDE = 1e-6  # a relative deviation of Σ w² or Σ w that counts as 0


def window_of(name: str, length: int) -> np.ndarray:
    """A periodic window of scipy by its name, float64 [length]. ValueError for another name, and for length < 1."""
    from scipy.signal import get_window

    if length < 1:
        raise ValueError(f"window: expected a length of at least 1, got {length}")
    try:
        return np.asarray(get_window(name, length, fftbins=True), np.float64)
    except (ValueError, KeyError) as error:
        raise ValueError(f"window: expected the name of a window of scipy.signal, got {name!r}") from error


def require_cola(window: np.ndarray, hop: int) -> None:
    """ValueError, with the deviation, unless (3) holds to a relative 1e-6, and 1 ≤ hop ≤ length."""
    if not 1 <= hop <= len(window):
        raise ValueError(f"hop: expected 1 to {len(window)}, the window's length, got {hop}")
    sums = np.add.reduceat(np.pad(window, (0, -len(window) % hop)).reshape(-1, hop), [0], axis=0)[0]
    deviation = np.ptp(sums) / np.abs(sums).max()
    if not deviation < _SIDE:
        raise ValueError(
            f"window of {len(window)}, hop {hop}: expected windows that add to a constant (COLA), got a sum that "
            f"varies by {deviation:.1%}; for a Hann window the hop must divide the length 2 times or more"
        )


def num_frames(length: int, hop: int) -> int:
    """The frames of (1) for signals of this length."""
    return -(-length // hop) + 1


def stft(x: np.ndarray, window: np.ndarray, hop: int, size: int = 0) -> np.ndarray:
    """(1) of signals [..., length]: complex [..., frames, size//2 + 1].

    `size` is the length to which windowed frames are padded with zeros; 0 is that of the window. The result is
    complex64 for float32, else complex128.
    """
    n, length = len(window), x.shape[-1]
    left, span = n // 2, (num_frames(length, hop) - 1) * hop + n
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(left, max(0, span - left - length))])
    frames = np.lib.stride_tricks.sliding_window_view(padded, n, axis=-1)[..., : span - n + 1 : hop, :]
    return np.fft.rfft(frames * window.astype(x.dtype), size or n)


def istft(spectrum: np.ndarray, window: np.ndarray, hop: int, length: int) -> np.ndarray:
    """(2) for spectra [..., frames, n//2 + 1]: signals [..., length]. ValueError for another number of frames or k."""
    n, frames = len(window), num_frames(length, hop)
    if spectrum.shape[-2:] != (frames, n // 2 + 1):
        raise ValueError(f"spectrum: expected [..., {frames}, {n // 2 + 1}], got {spectrum.shape}")
    parts = np.fft.irfft(spectrum, n)
    parts *= window.astype(parts.dtype)
    total = np.zeros((*spectrum.shape[:-2], (frames - 1) * hop + n), parts.dtype)
    weight = np.zeros(total.shape[-1])
    for m in range(frames):
        total[..., m * hop : m * hop + n] += parts[..., m, :]
        weight[m * hop : m * hop + n] += window**2
    inside = slice(n // 2, n // 2 + length)
    return total[..., inside] / weight[inside].astype(total.dtype)


def log_mel(x: np.ndarray, rate: int, bands: int = BANDS, floor_db: float = FLOOR_DB) -> np.ndarray:
    """(4) in nepers of power of signals [..., length] with full scale ±1: float64 [..., frames, bands]."""
    window, hop, filters = mel_analysis(rate, bands)
    power = np.abs(stft(np.asarray(x, np.float64), window, hop, PADDED * len(window))) ** 2
    return np.log(10 ** (floor_db / 10) + power @ filters.T / (window.sum() / 2) ** 2)


@lru_cache(maxsize=8)
def mel_analysis(rate: int, bands: int = BANDS) -> tuple[np.ndarray, int, np.ndarray]:
    """(window, hop, filters [bands, frequencies]) of (4). ValueError for a rate or a number of bands below 1."""
    if rate < 1 or bands < 1:
        raise ValueError(f"log_mel: expected a rate and a number of bands of at least 1, got {rate} and {bands}")
    length = max(16, 2 ** round(math.log2(SECONDS * rate)))
    return window_of("hann", length), length // 4, mel_filters(rate, PADDED * length, bands)


def mel_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """H_b of (4) at the frequencies k rate/size: [bands, size//2 + 1]. Centers are equidistant in mel up to rate/2."""
    edges = hertz(np.linspace(0.0, mel(rate / 2), bands + 2))
    frequencies = np.arange(size // 2 + 1) * rate / size
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.minimum(rising, falling).clip(0)


def mel(hertz: ArrayLike) -> np.ndarray:
    """2595 log10(1 + f/700): O'Shaughnessy 1987, Speech Communication."""
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def hertz(mel: ArrayLike) -> np.ndarray:
    """The inverse of `mel`."""
    return 700 * (10 ** (np.asarray(mel, np.float64) / 2595) - 1)
