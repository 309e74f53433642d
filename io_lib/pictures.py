"""Pictures of samples and losses. matplotlib takes a second to import, so only the functions that draw import it."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from io_lib.workdir import write_atomic

_WHITE = 255
WIDTH = 256  # pixels, at least, of an animation


def image_grid(images: np.ndarray, columns: int | None = None, pad: int = 1, scale: int = 1) -> np.ndarray:
    """uint8 images [N, H, W, C] row by row in one picture [H', W', 3 or 1], with `pad` white pixels between them.

    Every pixel is repeated `scale` times along both axes, which enlarges small images. Without `columns` the grid is as
    square as possible. If the images have neither 1 nor 3 channels, the first channel is shown. ValueError for anything
    other than one or more uint8 images.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"expected uint8 images [N, H, W, C], got {images.dtype} {images.shape}")
    images = images if images.shape[-1] in (1, 3) else images[..., :1]
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    n, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, height + pad, width + pad, channels), _WHITE, np.uint8)
    cells[:n, :height, :width] = images
    grid = cells.reshape(rows, columns, height + pad, width + pad, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + pad), columns * (width + pad), channels)
    return grid[: grid.shape[0] - pad, : grid.shape[1] - pad]


def save_png(path: str | Path, array: np.ndarray) -> None:
    """A uint8 picture [H, W, 3 or 1] as a PNG file."""
    from PIL import Image

    Image.fromarray(_drawable(array)).save(path, format="PNG")


def save_gif(path: str | Path, frames: list[np.ndarray], seconds: float = 5.0, hold: float = 2.0) -> None:
    """uint8 pictures [H, W, 3 or 1] as an endless animation: all frames in `seconds`, the last one for `hold` seconds.

    Pixels are repeated until a frame is at least 256 pixels wide, and a white line makes odd sizes even, which many
    players require. Gray pictures are exact; a frame of a GIF holds at most 256 colors.
    """
    from PIL import Image

    first, *rest = (Image.fromarray(_drawable(_for_players(frame))) for frame in frames)
    each = round(1000 * seconds / len(frames))
    durations = [each] * len(rest) + [round(1000 * hold)]
    with BytesIO() as buffer:
        first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
        write_atomic(path, buffer.getvalue())


def _for_players(frame: np.ndarray) -> np.ndarray:
    """The picture, enlarged by a whole number to WIDTH or more, with even sizes."""
    scale = max(1, math.ceil(WIDTH / frame.shape[1]))
    frame = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    odd = [(0, size % 2) for size in frame.shape[:2]]
    return np.pad(frame, [*odd, (0, 0)], constant_values=_WHITE)


def point_frames(times: np.ndarray, states: np.ndarray) -> list[np.ndarray]:
    """Pictures [H, W, 3] of the states [K, B, 1 or 2]: a histogram for one coordinate, points for two."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(new_figure(4, 4))
    low, high = np.quantile(states, [0.001, 0.999], axis=(0, 1))
    edges, frames = np.linspace(low[0], high[0], 61), []
    for t, x in zip(times, states, strict=True):
        canvas.figure.clear()
        axes = canvas.figure.subplots()
        axes.set(title=f"t = {t:.3f}", xlim=(low[0], high[0]), yticks=[])
        if x.shape[-1] == 1:
            axes.hist(x[:, 0], edges, color="C0")
        else:
            axes.scatter(x[:, 0], x[:, 1], s=2, lw=0, color="C0")
            axes.set(ylim=(low[1], high[1]), xticks=[])
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames


def save_grids_side_by_side(
    path: str | Path, left: np.ndarray, right: np.ndarray, titles: tuple[str, str] = ("samples", "data")
) -> None:
    """Two pictures [H, W, 3 or 1], as `image_grid` makes them, next to each other under their titles."""
    figure = new_figure(8, 4.4)
    for axes, picture, title in zip(figure.subplots(1, 2), (left, right), titles, strict=True):
        axes.imshow(_drawable(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=150)


def plot_loss(path: str | Path, metrics: list[dict], train: str = "loss", evaluation: str = "eval_loss") -> None:
    """Training and evaluation loss of `read_metrics` over the step; training also smoothed, over 1/40 of the run."""
    figure = new_figure(6.4, 4)
    draw_loss(figure.subplots(), metrics, train, evaluation)
    figure.savefig(path, dpi=150)


def draw_loss(axes, metrics: list[dict], train: str = "loss", evaluation: str = "eval_loss") -> None:
    """What `plot_loss` draws, in axes of a figure."""
    steps, values = _series(metrics, train)
    axes.plot(steps, values, color="C0", alpha=0.25, lw=0.8)
    axes.plot(*_series(metrics, evaluation), color="C1", marker="o", ms=3, label="evaluation")
    axes.plot(steps, smooth(values, max(1, len(values) // 40)), color="C0", label="training, smoothed")
    if min((v for key in (train, evaluation) for v in _series(metrics, key)[1]), default=0.0) > 0:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    _label_curves(axes, xlabel="step", ylabel="loss")


def plot_losses(path: str | Path, runs: dict[str, list[dict]]) -> None:
    """Losses of runs by their names over the step: of training, smoothed over 1/40 of a run; of test data, points."""
    figure = new_figure(6.4, 4)
    axes = figure.subplots()
    low = np.inf
    for k, (name, metrics) in enumerate(runs.items()):
        steps, values = _series(metrics, "loss")
        axes.plot(steps, smooth(values, max(1, len(values) // 40)), color=f"C{k % 10}", label=name)
        tested = _series(metrics, "eval_loss")
        axes.plot(*tested, color=f"C{k % 10}", marker="o", ms=3, ls="none")
        low = min([low, *values, *tested[1]])
    if 0 < low < np.inf:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    _save_curves(path, figure, xlabel="step", ylabel="loss (points: test)")


def plot_loss_over_time(path: str | Path, t: list[float], loss: list[float], error: list[float]) -> None:
    """A loss with its standard errors over the time t of the process."""
    figure = new_figure(6.4, 4)
    axes = figure.subplots()
    axes.errorbar(t, loss, error, marker="o", ms=3, lw=0.8, color="C0")
    _save_curves(path, figure, xlabel="t", ylabel="loss, test")


def _save_curves(path: str | Path, figure, xlabel: str, ylabel: str) -> None:
    """Saves a figure of one axes with curves."""
    (axes,) = figure.axes
    _label_curves(axes, xlabel, ylabel)
    figure.savefig(path, dpi=150)


def _label_curves(axes, xlabel: str, ylabel: str) -> None:
    """Labels, a grid, no frame at the top and right."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def plot_marginals_and_pairs(
    path: str | Path, samples: np.ndarray, data: np.ndarray, names: Sequence[str], points: int = 1000
) -> None:
    """A matrix of pictures of samples [N, D] and data [M, D]: histograms on its diagonal, pairs of coordinates below.

    Axes show the data's range, from quantile 0.001 to 0.999 and a quarter more on each side. The title of a histogram
    gives the fraction of samples outside. At most `points` of each set are drawn in a pair, all of them in a histogram.
    ValueError for other shapes.
    """
    samples, data = np.asarray(samples), np.asarray(data)
    if not samples.ndim == data.ndim == 2 or not samples.shape[1] == data.shape[1] == len(names) > 0:
        raise ValueError(f"expected [N, D] and [M, D] with D names, got {samples.shape}, {data.shape}, {len(names)}")
    low, high = np.quantile(data, [0.001, 0.999], axis=0)
    margin = np.where(high > low, (high - low) / 4, 0.5)
    low, high = low - margin, high + margin
    d, drawn = len(names), (("data", data, "C7", "stepfilled"), ("samples", samples, "C0", "step"))
    figure = new_figure(1.2 + 2.2 * d, 0.8 + 2.2 * d)
    for i, row in enumerate(figure.subplots(d, d, squeeze=False)):
        for j, axes in enumerate(row):
            if j > i:
                axes.set_axis_off()
                continue
            axes.set(xlim=(low[j], high[j]), xlabel=names[j] if i == d - 1 else "")
            if i == j:
                outside = np.mean((samples[:, i] < low[i]) | (samples[:, i] > high[i]))
                axes.set(yticks=[], title=f"{names[i]}, {outside:.1%} outside" if outside else names[i])
                for label, x, color, style in drawn:
                    edges, share = np.linspace(low[i], high[i], 41), np.full(len(x), 1 / len(x))
                    axes.hist(x[:, i], edges, weights=share, color=color, alpha=0.7, histtype=style, label=label)
                continue
            axes.set(ylim=(low[i], high[i]), ylabel=names[i] if j == 0 else "")
            for _, x, color, _ in drawn:
                axes.scatter(x[:points, j], x[:points, i], s=3, lw=0, alpha=0.6, color=color)
    figure.axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def plot_process(path: str | Path, forward: tuple, reverse: tuple) -> None:
    """A forward and a reverse process, each (times [N], states [N, B, *event]).

    With one coordinate: the density of the states over time, and thirty paths. With more: the states at five
    equidistant times, by their first two coordinates. Times may increase or decrease; each picture runs from its first
    time to its last. ValueError unless there are as many times as states, two or more.
    """
    both = [(np.asarray(t, float), np.asarray(x, float).reshape(len(x), x.shape[1], -1)) for t, x in (forward, reverse)]
    for times, states in both:
        if len(times) != len(states) or len(times) < 2:
            raise ValueError(f"expected as many times as states, two or more; got {len(times)} and {len(states)}")
    line = both[0][1].shape[-1] == 1
    figure = new_figure(9 if line else 11, 3.2 if line else 4.6)
    if line:
        for axes, name, (times, states) in zip(figure.subplots(1, 2), ("forward", "reverse"), both, strict=True):
            _density(axes, times, states[..., 0])
            axes.set(title=name, xlabel="t", ylabel="x", xlim=(times[0], times[-1]))
    else:
        rows = figure.subplots(2, 5, sharex=True, sharey=True)
        for row, name, (times, states) in zip(rows, ("forward", "reverse"), both, strict=True):
            for axes, t in zip(row, np.linspace(times[0], times[-1], 5), strict=True):
                k = np.argmin(np.abs(times - t))
                axes.scatter(states[k, :, 0], states[k, :, 1], s=2, lw=0, alpha=0.5, color="C0")
                axes.set(title=f"{name}, t = {times[k]:.3g}", aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def _density(axes, times: np.ndarray, x: np.ndarray) -> None:
    """Histograms of x [N, B] as gray columns, one per time, each scaled to its peak, under thirty paths."""
    low, high = np.quantile(x, [0.001, 0.999])
    edges = np.linspace(low, high, 81)
    columns = np.stack([np.histogram(states, edges)[0] for states in x], axis=1)
    columns = columns / np.maximum(columns.max(axis=0), 1)
    axes.pcolormesh(times, 0.5 * (edges[1:] + edges[:-1]), columns, cmap="Greys", vmax=1.3, shading="nearest")
    axes.plot(times, x[:, :30], color="C0", lw=0.5, alpha=0.7)
    axes.set_ylim(low, high)


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Exponential mean over about `width` values, y_i = Σ_j a^j x_{i−j} / Σ_j a^j with a = 1 − 1/width.

    The division removes the bias toward zero at the start: y_0 = x_0.
    """
    total = weight = 0.0
    decay, means = 1 - 1 / width, []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return np.asarray(means)


def _series(metrics: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(line["step"], line[key]) for line in metrics if key in line]
    return np.asarray([step for step, _ in found]), np.asarray([value for _, value in found], float)


def new_figure(width: float, height: float):
    """A figure of this size in inches, drawn by Agg: without pyplot, so without global state and without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _drawable(picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.dtype != np.uint8 or picture.shape[-1] not in (1, 3):
        raise ValueError(f"expected a uint8 picture [H, W, 3 or 1], got {picture.dtype} {picture.shape}")
    return picture[..., 0] if picture.shape[-1] == 1 else picture
