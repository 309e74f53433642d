"""A picture of samples, by the shape of an event.

uint8 [H, W, C]  images: the first 256, as they are
[1]              a histogram
[2]              points
[D]              histograms of the coordinates, the first 16
[length, C]      lines over the position: 6 samples, a color for each channel; more than 4 channels as gray levels
[H, W, C] …      gray levels of 36 samples in their own range; of volumes the middle slice, of channels the first
"""

from pathlib import Path

import numpy as np

from io_lib import pictures

IMAGES, POINTS, COORDINATES, SIGNALS, CHANNELS, CELLS = 256, 5000, 16, 6, 4, 36


def save_samples(path: str | Path, x: np.ndarray, scale: int = 1) -> None:
    """Draws samples x [N, *shape] with N > 0 into a PNG file. Numbers that are not finite are left out.

    Every pixel of a uint8 image is repeated `scale` times along both axes.
    """
    event = x.shape[1:]
    if x.dtype == np.uint8 and len(event) == 3:
        pictures.save_png(path, pictures.image_grid(x[:IMAGES], scale=scale))
    elif len(event) == 2 and event[1] <= CHANNELS:
        _lines(path, np.asarray(x[:SIGNALS]))
    elif len(event) >= 2:
        pictures.save_png(path, _gray(np.asarray(x[:CELLS])))
    elif event == (2,):
        _points(path, np.asarray(x[:POINTS]))
    else:
        _histograms(path, np.asarray(x[:POINTS]).reshape(len(x[:POINTS]), -1)[:, :COORDINATES])


def _points(path: str | Path, x: np.ndarray) -> None:
    figure = pictures.new_figure(5, 5)
    axes = figure.subplots()
    axes.scatter(x[:, 0], x[:, 1], s=4, lw=0, alpha=0.6, color="C0")
    axes.set(xlabel="x[0]", ylabel="x[1]")
    figure.savefig(path, dpi=120)


def _histograms(path: str | Path, x: np.ndarray) -> None:
    columns = min(4, x.shape[1])
    rows = -(-x.shape[1] // columns)
    figure = pictures.new_figure(2.6 * columns + (2 if columns == 1 else 0), 2.4 * rows + (1.5 if rows == 1 else 0))
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= x.shape[1]:
            axes.set_axis_off()
            continue
        axes.hist(x[np.isfinite(x[:, i]), i], bins=60, color="C0")
        axes.set(xlabel=f"x[{i}]", yticks=[])
    figure.savefig(path, dpi=120)


def _lines(path: str | Path, x: np.ndarray) -> None:
    figure = pictures.new_figure(8, 1.3 * len(x) + 0.6)
    all_axes = figure.subplots(len(x), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, (axes, signal) in enumerate(zip(all_axes, x, strict=True)):
        for channel in range(signal.shape[1]):
            axes.plot(signal[:, channel], lw=0.8, color=f"C{channel}")
        axes.set_ylabel(f"sample {i}")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("position")
    figure.savefig(path, dpi=120)


def _gray(x: np.ndarray) -> np.ndarray:
    """The picture of x [N, ...] as gray levels, from the smallest to the largest value drawn."""
    while x.ndim > 4:
        x = x[:, x.shape[1] // 2]
    x = x[..., :1] if x.ndim == 4 else x[..., None]
    finite = x[np.isfinite(x)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    levels = np.nan_to_num((x - low) / max(high - low, 1e-30), nan=0.0, posinf=1.0, neginf=0.0)
    return pictures.image_grid(np.rint(255 * levels.clip(0, 1)).astype(np.uint8), scale=max(1, 32 // x.shape[1]))
