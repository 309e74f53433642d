"""A picture of restored events: observed, answers, mean and standard deviation, and the truth where it is known.

[H, W, C] …      columns of images, one row per measurement; of volumes the middle slice
[length, C], [D]  lines over the position, one plot per measurement: the band is the mean ± 2 standard deviations
"""

from pathlib import Path

import numpy as np

from io_lib import pictures

ANSWERS = 4


def save_restored(
    path: str | Path, observed: np.ndarray, answers: np.ndarray, truth: np.ndarray | None, low: float, high: float
) -> None:
    """Draws observed [N, ...], answers [N, n, *shape] and truth [N, *shape], in units with black `low`, white `high`.

    `observed` of another size than the events is drawn in its own range.
    """
    if answers.ndim >= 5:
        _images(path, observed, answers, truth, low, high)
    else:
        _lines(path, observed, answers, truth)


def _images(path, observed, answers, truth, low, high) -> None:
    n = min(ANSWERS, answers.shape[1])
    columns = [("observed", observed, None), *([] if truth is None else [("truth", truth, (low, high))])]
    columns += [(f"answer {j}", answers[:, j], (low, high)) for j in range(n)]
    std = answers.std(axis=1).mean(axis=-1, keepdims=True)
    columns += [("mean", answers.mean(axis=1), (low, high)), ("std", std, None)]
    figure = pictures.new_figure(1.3 * len(columns), 1.3 * len(answers) + 0.3)
    for row, axes in zip(range(len(answers)), figure.subplots(len(answers), len(columns), squeeze=False), strict=True):
        for axis, (title, images, limits) in zip(axes, columns, strict=True):
            image = _flat(images[row])
            limits = (low, high) if title == "observed" and _within(image, low, high) else limits
            bottom, top = limits or (image.min(), image.max())
            shown = np.clip((image - bottom) / max(top - bottom, 1e-30), 0, 1)
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=120)


def _lines(path, observed, answers, truth) -> None:
    figure = pictures.new_figure(8, 1.8 * len(answers) + 0.4)
    for row, axis in enumerate(figure.subplots(len(answers), 1, sharex=True, squeeze=False)[:, 0]):
        x = answers[row].reshape(*answers.shape[1:3], -1)[..., 0]
        at, mean, std = np.arange(x.shape[1]), x.mean(axis=0), x.std(axis=0)
        axis.fill_between(at, mean - 2 * std, mean + 2 * std, color="C0", alpha=0.2, lw=0, label="mean ± 2 std")
        for j in range(min(ANSWERS, len(x))):
            axis.plot(at, x[j], lw=0.6, color="C0", label="answers" if j == 0 else None)
        y = np.asarray(observed[row]).reshape(len(observed[row]), -1)[:, 0]
        axis.plot(np.linspace(0, len(at) * (1 - 1 / len(y)), len(y)), y, ".", ms=3, color="C1", label="observed")
        if truth is not None:
            axis.plot(at, truth[row].reshape(len(at), -1)[:, 0], "--", lw=0.8, color="black", label="truth")
        axis.spines[["top", "right"]].set_visible(False)
        if row == 0:
            axis.legend(fontsize=7, ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def _flat(image: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3]: the middle slice of a volume, the first of other numbers of channels."""
    while image.ndim > 3:
        image = image[image.shape[0] // 2]
    return image if image.shape[-1] == 3 else image[..., 0]


def _within(image: np.ndarray, low: float, high: float) -> bool:
    """Whether most values are in the data's range, up to noise."""
    width = high - low
    return bool(np.quantile(image, 0.05) > low - 0.2 * width and np.quantile(image, 0.95) < high + 0.2 * width)
