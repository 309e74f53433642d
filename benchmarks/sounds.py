"""Repair of plucked strings: a gap of 50 ms filled, and bandwidth doubled, by posterior sampling and without a network.

    python main.py --config=configs/strings.py --workdir=runs/strings
    python -m benchmarks.sounds --workdir=runs/strings [--picture docs/sounds.png] [--count 24] [--answers 4]

The methods are

    spline     a cubic spline through the known values
    AR         least squares of the prediction error of an autoregressive model, e = A x, over the missing values    (1)
    posterior  MMPS, from the trained prior: one answer, and the mean of several

The coefficients of (1) are fitted to the known values, and again to the repaired sound (Janssen, Veldhuis & Vries
1986, IEEE Trans. ASSP 34(2), section II); the order is the best of ORDERS on DEVELOPMENT training sounds. The posterior
is conditioned on the pitch, which is the truth, or found by autocorrelation in the damaged sound. For bandwidth, the
known values are those of an ideal half-band filter at half the rate, and "none" is that sound at the full rate.
Figures: SI-SDR in the gap, in dB, and the distance of log magnitudes above the band, in dB (`eval_lib.sounds`, eq. 1
and 2); means over test sounds, with standard errors.
"""

import argparse
import json
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

import run_lib
from data_lib import gather
from data_lib.strings import LOWEST, SEMITONES, strings
from eval_lib.sounds import LEAST, pitch, si_sdr
from io_lib import sounds, spectra
from sde_lib.posterior import MMPS, Mask, Observation

RATE, START, GAP = 8000, 1200, 400  # the gap from 150 to 200 ms
ORDERS, DEVELOPMENT = (16, 32, 64, 128), 8
NOISE_STD = 1e-3  # of the measurement that posterior samplers assume
LONGEST = 512  # window of the distance above the band


def known_outside() -> np.ndarray:
    """1 where a sound is known, [4096, 1]."""
    mask = np.ones((4096, 1), np.float32)
    mask[START : START + GAP] = 0
    return mask


def half_band(x):
    """x [B, n, 1] → [B, n/2, 1]: the lower half of the band, at half the rate, by an ideal filter."""
    n = x.shape[1]
    lower = jnp.fft.rfft(x, axis=1)[:, : n // 4 + 1]
    return jnp.fft.irfft(lower.at[:, -1].set(0), n // 2, axis=1) / 2


def by_spline(x: np.ndarray) -> np.ndarray:
    """The gap of sounds [N, n] by a cubic spline through the known values."""
    from scipy.interpolate import CubicSpline

    known = np.flatnonzero(known_outside()[:, 0])
    return CubicSpline(known, x[:, known], axis=1)(np.arange(x.shape[1]))


def by_prediction(x: np.ndarray, order: int, repeats: int = 2) -> np.ndarray:
    """The gap of sounds [N, n] by (1)."""
    return np.stack([_by_prediction(one, order, repeats) for one in x])


def _by_prediction(x: np.ndarray, order: int, repeats: int) -> np.ndarray:
    gap = slice(START, START + GAP)
    x = np.where(known_outside()[:, 0] > 0, x, 0.0)
    parts = [x[:START], x[START + GAP :]]
    for _ in range(repeats):
        a = prediction_error_filter(parts, order)
        near = slice(START - order, START + GAP + order)
        rows = GAP + order
        A = np.zeros((rows, GAP + 2 * order))
        for k in range(order + 1):
            A[np.arange(rows), np.arange(rows) + order - k] = a[k]
        known = x[near].copy()
        known[order:-order] = 0
        x[gap] = least_squares(A[:, order:-order], -A @ known)
        parts = [x]
    return x


def prediction_error_filter(parts: list[np.ndarray], order: int) -> np.ndarray:
    """(1, −a_1 … −a_p): least squares of x_j − Σ a_k x_{j−k} over all j of all parts (the covariance method)."""
    rows = [np.lib.stride_tricks.sliding_window_view(part, order + 1)[:, ::-1] for part in parts]
    all_rows = np.concatenate(rows)
    return np.concatenate([[1.0], -least_squares(all_rows[:, 1:], all_rows[:, 0])])


def least_squares(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """argmin |A x − b|² by the normal equations, with 1e-9 of their mean diagonal added to it."""
    gram = A.T @ A
    gram[np.diag_indices_from(gram)] += 1e-9 * np.trace(gram) / len(gram)
    return np.linalg.solve(gram, A.T @ b)


def in_gap(x: np.ndarray, truth: np.ndarray) -> list[float]:
    """SI-SDR of each sound within the gap, in dB."""
    gap = slice(START, START + GAP)
    return [si_sdr(a[gap], b[gap]) for a, b in zip(x, truth, strict=True)]


def above_band(x: np.ndarray, truth: np.ndarray) -> list[float]:
    """The mean |difference| of levels above rate/4 of each sound, in dB."""
    window = spectra.window_of("hann", LONGEST)
    levels = lambda a: np.log10(np.abs(spectra.stft(a, window, LONGEST // 4)) / (window.sum() / 2) + LEAST)  # noqa: E731
    return list(20 * np.abs(levels(x) - levels(truth))[..., LONGEST // 4 + 2 :].mean((1, 2)))


def answers(model, y: np.ndarray, operator: Callable, count: int, label: np.ndarray, iterations: int) -> np.ndarray:
    """Answers [N, count, n] by MMPS, all in one batch; `label` [N] are the pitches."""
    rows = np.repeat(y, count, axis=0)
    observation = Observation(y=rows.astype(np.float32), operator=operator, noise_std=NOISE_STD)
    x = model.given(observation, MMPS(iterations=iterations)).sample(
        jax.random.key(0), len(rows), np.repeat(label, count)
    )
    return np.asarray(x, np.float64).reshape(len(y), count, -1)


def heard(x: np.ndarray, rate: int) -> np.ndarray:
    """The nearest label of the pitch of each damaged sound [N, n], by autocorrelation."""
    found = pitch(x, rate, LOWEST * 2 ** (-1 / 12), LOWEST * 2 ** (SEMITONES / 12))
    return np.rint(12 * np.log2(found / LOWEST)).clip(0, SEMITONES - 1).astype(int)


def compared(found: Mapping[str, np.ndarray], truth: np.ndarray, figure: Callable) -> dict[str, tuple[float, float]]:
    """(mean, standard error) of a figure over the sounds, of each method."""
    values = {name: np.array(figure(x, truth)) for name, x in found.items()}
    return {name: (float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v)))) for name, v in values.items()}


def gaps(model, x: np.ndarray, label: np.ndarray, development: np.ndarray, count: int, iterations: int):
    """({method: repaired [N, n]}, the order of the AR model) of sounds with a gap."""
    order = max(ORDERS, key=lambda p: np.mean(in_gap(by_prediction(development, p), development)))
    found = {"spline": by_spline(x), "AR": by_prediction(x, order)}
    y, operator = (x[..., None] * known_outside()), Mask(mask=known_outside())
    for name, labels in (("posterior", heard(y[..., 0], RATE)), ("posterior, true pitch", label)):
        drawn = answers(model, y, operator, count, labels, iterations)
        found |= {f"{name}, one answer": drawn[:, 0], f"{name}, mean of {count}": drawn.mean(axis=1)}
    return found, order


def bands(model, x: np.ndarray, label: np.ndarray, count: int, iterations: int) -> dict[str, np.ndarray]:
    """{method: sounds [N, n]} of sounds known at half the rate."""
    from scipy.interpolate import CubicSpline
    from scipy.signal import resample

    y = np.asarray(half_band(jnp.asarray(x[..., None], jnp.float32)), np.float64)
    even = np.arange(0, x.shape[1], 2)
    found = {"none": resample(y[..., 0], x.shape[1], axis=1)}
    found["spline"] = CubicSpline(even, y[..., 0], axis=1)(np.arange(x.shape[1]))
    for name, labels in (("posterior", heard(y[..., 0], RATE // 2)), ("posterior, true pitch", label)):
        found[f"{name}, one answer"] = answers(model, y, half_band, count, labels, iterations)[:, 0]
    return found


def main(workdir: str, count: int, answers_each: int, iterations: int, path: str, results: str) -> None:
    """Prints the figures of all methods, and writes the picture, the sounds next to it, and the file of figures."""
    model = run_lib.load(workdir)
    data = strings()
    batch = gather(data.test, np.arange(count))
    x, label = batch["x"][..., 0].astype(np.float64), batch["label"]
    development = gather(data.train, np.arange(DEVELOPMENT))["x"][..., 0].astype(np.float64)
    repaired, order = gaps(model, x, label, development, answers_each, iterations)
    widened = bands(model, x, label, 1, iterations)
    figures = {
        "gap of 50 ms, SI-SDR in dB": compared(repaired, x, in_gap),
        "twice the bandwidth, distance above the band in dB": compared(widened, x, above_band),
        "order": order,
    }
    print(json.dumps(figures, indent=1))
    if results:
        with open(results, "w") as file:
            json.dump(figures, file, indent=1)
    one = "posterior, one answer"
    shown = {"truth": x[0], "gap by AR": repaired["AR"][0], "gap by the posterior": repaired[one][0]}
    shown |= {"half the band": widened["none"][0], "twice by a spline": widened["spline"][0]}
    shown |= {"twice by the posterior": widened[one][0]}
    sounds.save_picture(path, np.stack(list(shown.values())), RATE, tuple(shown))
    sounds.write_wav(path.removesuffix(".png") + ".wav", sounds.in_sequence(np.stack(list(shown.values())), RATE), RATE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", default="runs/strings")
    parser.add_argument("--count", type=int, default=24, help="test sounds")
    parser.add_argument("--answers", dest="answers_each", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5, help="of MMPS")
    parser.add_argument("--picture", dest="path", default="sounds.png")
    parser.add_argument("--results", default="", help="a JSON file of the figures")
    main(**vars(parser.parse_args()))
