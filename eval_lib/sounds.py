"""Sounds without a network: log-mel features, distances of spectra, signal-to-distortion ratio, and pitch.

For spectra S and Ŝ of a truth and of an estimate, with N values each,

    spectral convergence  ‖|S| − |Ŝ|‖_F/‖|S|‖_F,       log-magnitude distance  (1/N) Σ |log |S| − log |Ŝ||         (1)
    SI-SDR = 10 log10(‖a s‖²/‖a s − ŝ‖²) dB,           a = ⟨ŝ, s⟩/‖s‖²                                          (2)

(1), averaged over windows of several lengths, is the loss of Yamamoto, Song & Kim 2020, arXiv:1910.11480, equations 3
to 6. (2) does not depend on the scale of ŝ: Le Roux et al. 2019, arXiv:1811.02508, eq. 3. The pitch is rate/τ for the
lag τ of a peak of the autocorrelation

    r(τ) = Σ_j x_j x_{j+τ}/√(Σ_{j < n−τ} x_j² Σ_{j ≥ τ} x_j²),                                                      (3)

interpolated to eight lags per value, and by a parabola through the peak and its neighbors. Of the peaks of at least 0.9
times the highest one, it is that of the smallest lag: at its multiples r is as high.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from eval_lib.requires import requires
from io_lib import spectra

SIZES = (512, 1024, 2048)  # windows of (1), with hops of a quarter
LEAST = 1e-5  # added to |S|/(½ Σ w) in the logarithm of (1): −100 dB of a sine of full scale
SURE, FINE = 0.9, 8  # of the highest peak; lags per value


@dataclass(frozen=True)
class LogMelFeatures:
    """Mean and standard deviation over time of the log-mel levels of sounds [N, length, 1] with full scale ±1.

    [N, 2 bands], in nepers of power. Levels, bands and floor are those of `io_lib.spectra`, eq. 4. Of white noise, gain
    g shifts the means by log g² where the floor does not matter, and leaves the deviations. ValueError for other
    shapes.
    """

    rate: int = 16_000
    bands: int = spectra.BANDS
    floor_db: float = spectra.FLOOR_DB
    cheap: ClassVar[bool] = True

    @property
    def protocol(self) -> dict[str, str]:
        levels = f"{self.bands} log-mel levels at {self.rate} Hz above {self.floor_db:g} dB"
        return {
            "features": f"log-mel levels, mean and deviation over time: {levels}",
            "weights": "none",
            "resize": "none",
        }

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 3 or x.shape[2] != 1:
            raise ValueError(f"LogMelFeatures: expected sounds [N, length, 1], got shape {x.shape}")
        return np.stack([self.of_one(one) for one in x[..., 0]])

    def of_one(self, x: np.ndarray) -> np.ndarray:
        """The features [2 bands] of one sound [length]."""
        levels = spectra.log_mel(x, self.rate, self.bands, self.floor_db)
        return np.concatenate([levels.mean(axis=0), levels.std(axis=0)])


def spectral_convergence(x: np.ndarray, truth: np.ndarray, sizes: Sequence[int] = SIZES) -> float:
    """The first of (1) for sounds [length], averaged over windows; 0 for equal ones. ValueError for a silent truth."""
    pairs = _magnitudes(x, truth, sizes)
    if not all(np.any(b) for _, b in pairs):
        raise ValueError("spectral_convergence: the truth is silent, so there is no relative error")
    return float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))


def log_magnitude_distance(x: np.ndarray, truth: np.ndarray, sizes: Sequence[int] = SIZES) -> float:
    """The second of (1) for sounds [length], averaged over windows, in nepers of magnitude; 1 neper is 8.7 dB.

    1e-5 of the magnitude of a sine of full scale is added to magnitudes, so that silence has a logarithm.
    """
    pairs = _magnitudes(x, truth, sizes)
    return float(np.mean([np.mean(np.abs(np.log(a + LEAST) - np.log(b + LEAST))) for a, b in pairs]))


def _magnitudes(x: np.ndarray, truth: np.ndarray, sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """|S| of both for each window, over that of a sine of full scale."""
    pair, found = _pair(x, truth), []
    for size in sizes:
        window = spectra.window_of("hann", size)
        a, b = (np.abs(spectra.stft(one, window, size // 4)) / (window.sum() / 2) for one in pair)
        found.append((a, b))
    return found


def si_sdr(x: np.ndarray, truth: np.ndarray) -> float:
    """(2) in dB for an estimate x of a sound: ∞ if they are proportional, −∞ if orthogonal.

    ValueError for a silent truth.
    """
    x, truth = _pair(x, truth)
    energy = np.sum(truth**2)
    if not energy:
        raise ValueError("si_sdr: the truth is silent, so there is no ratio")
    target = np.sum(x * truth) / energy * truth
    signal, distortion = np.sum(target**2), np.sum((target - x) ** 2)
    if not (signal and distortion):
        return float("inf" if signal else "-inf")
    return float(10 * np.log10(signal / distortion))


def _pair(x: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, truth = np.asarray(x, np.float64), np.asarray(truth, np.float64)
    if x.shape != truth.shape:
        raise ValueError(f"expected sounds of one shape, got {x.shape} and {truth.shape}")
    return x, truth


def pitch(x: np.ndarray, rate: int, lowest: float, highest: float) -> np.ndarray:
    """The pitch in Hz of each of the sounds [N, length] by (3), between `lowest` and `highest`; NaN for silence.

    Frequencies at the ends are found if they are a quarter tone inside. ValueError unless 0 < lowest < highest ≤
    rate/4, or if a sound is shorter than two periods of the lowest one.
    """
    if not 0 < lowest < highest <= rate / 4 or x.shape[-1] < 2 * rate / lowest:
        raise ValueError(
            f"pitch: expected 0 < lowest < highest <= {rate / 4:g}, a quarter of the rate, and two periods of the "
            f"lowest, got {lowest:g}, {highest:g} and {x.shape[-1]} values"
        )
    lags = np.arange(int(FINE * rate / highest) - 1, int(np.ceil(FINE * rate / lowest)) + 2)
    return np.array([_pitch(autocorrelation(one, lags), rate * FINE / lags) for one in np.asarray(x, np.float64)])


def _pitch(r: np.ndarray, frequencies: np.ndarray) -> float:
    """The pitch from r at successive lags and the frequencies of these."""
    peaks = 1 + np.flatnonzero((r[1:-1] >= r[:-2]) & (r[1:-1] > r[2:]) & (r[1:-1] > 0))
    if not len(peaks):
        return float("nan")
    k = peaks[r[peaks] >= SURE * r[peaks].max()][0]
    shift = 0.5 * (r[k - 1] - r[k + 1]) / (r[k - 1] - 2 * r[k] + r[k + 1])  # of the parabola's peak, in lags
    return float(1 / (1 / frequencies[k] + shift * (1 / frequencies[k + 1] - 1 / frequencies[k])))


def autocorrelation(x: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """r of (3) for one sound [length], at lags in eighths of a value; 0 where a part is silent.

    Between whole lags the numerator is interpolated by its Fourier series, the denominator linearly.
    """
    n = len(x)
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    spectrum[-1] /= 2  # shared with its mirror image, which the longer transform has apart
    products = FINE * np.fft.irfft(spectrum, 2 * n * FINE)[lags]
    sums = np.concatenate([[0.0], np.cumsum(x**2)])
    norm = np.sqrt(np.interp(lags / FINE, np.arange(n + 1), sums[::-1] * (sums[n] - sums)))
    return np.divide(products, norm, out=np.zeros(len(lags)), where=norm > 1e-12 * sums[n])


@requires("label")
def pitch_report(
    samples: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    train_label: np.ndarray,
    test_label: np.ndarray,
    rate: int = 8000,
    lowest: float = 110.0,
    classes: int = 24,
) -> dict[str, Any]:
    """The fraction of sounds whose pitch is within half a semitone of their class, of samples and of test examples.

    Class k has lowest · 2^{k/12} Hz, and sample i class i mod classes, as config.sampling.classes="uniform" draws them
    for `classes` classes. "cents" is the median error in hundredths of a semitone. "ratio" is samples/test.
    """
    drawn = semitone_errors(samples, np.arange(len(samples)) % classes, rate, lowest, classes)
    real = semitone_errors(test, test_label, rate, lowest, classes)
    right = {name: float(np.mean(error < 0.5)) for name, error in (("samples", drawn), ("test", real))}
    cents = {name: float(100 * np.nanmedian(error)) for name, error in (("samples", drawn), ("test", real))}
    report = {
        "counts": {"samples": len(samples), "test": len(test)},
        "right": {**right, "ratio": right["samples"] / right["test"] if right["test"] else float("inf")},
        "cents": cents,
    }
    return {**report, "text": pitch_table(report)}


def semitone_errors(x: np.ndarray, label: np.ndarray, rate: int, lowest: float, classes: int) -> np.ndarray:
    """|12 log2(pitch/(lowest · 2^{label/12}))| of sounds [N, length, 1]; infinite where there is no pitch."""
    found = pitch(np.asarray(x)[..., 0], rate, lowest * 2 ** (-2 / 12), lowest * 2 ** ((classes + 1) / 12))
    errors = np.abs(12 * np.log2(found / lowest) - np.asarray(label))
    return np.where(np.isnan(errors), np.inf, errors)


def pitch_table(report: dict[str, Any]) -> str:
    """The report as a table of Markdown."""
    right, cents, counts = report["right"], report["cents"], report["counts"]
    return "\n".join([
        "| | samples | test sounds | samples / test (ideal) |",
        "|---|--:|--:|---|",
        f"| number | {counts['samples']} | {counts['test']} | |",
        f"| pitch within half a semitone of the class | {right['samples']:.1%} | {right['test']:.1%} "
        f"| {right['ratio']:.2f} (1; lower is worse) |",
        f"| error of the pitch in cents, median | {cents['samples']:.1f} | {cents['test']:.1f} | |",
        "",
    ])  # fmt: skip
