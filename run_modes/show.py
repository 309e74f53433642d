"""A picture of a run: its losses, and its last snapshot of samples. In a notebook also while the run trains."""

import contextlib
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from io_lib import pictures
from io_lib.jupyter import Inline
from io_lib.metrics import read_metrics

if TYPE_CHECKING:
    from PIL.Image import Image

SNAPSHOTS = "step_*.png"


def show(directory: str | Path) -> "Image":
    """The losses of a run over its steps, next to its last snapshot or samples, as a picture that notebooks display.

    FileNotFoundError if nothing has been logged yet (config.training.log_every).
    """
    from PIL import Image

    metrics, newest = read_metrics(directory), newest_picture(Path(directory) / "samples")
    figure = pictures.new_figure(9.6 if newest else 5.4, 3.6)
    left, *right = np.ravel(figure.subplots(1, 2 if newest else 1))
    pictures.draw_loss(left, metrics)
    if newest is not None:
        (axes,) = right
        axes.imshow(np.asarray(Image.open(newest)), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"samples at step {int(newest.stem[5:])}" if newest.stem.startswith("step_") else "samples")
        axes.set_axis_off()
    with BytesIO() as file:
        figure.savefig(file, dpi=100, format="png")
        return Image.open(BytesIO(file.getvalue()))


def newest_picture(folder: Path) -> Path | None:
    """The last snapshot of training, or else the picture of samples; None if there is neither."""
    found = [*sorted(folder.glob("samples.png")), *sorted(folder.glob(SNAPSHOTS))]
    return found[-1] if found else None


class Shown:
    """The picture of a run that trains, below the cell; drawn again at most every `seconds`, and at the end."""

    def __init__(self, directory: str | Path, wanted: bool, seconds: float = 3.0):
        self._directory, self._wanted, self._seconds = directory, wanted, seconds
        self._inline, self._at = Inline(), 0.0

    def update(self, last: bool = False) -> None:
        if self._wanted and (last or time.monotonic() - self._at > self._seconds):
            with contextlib.suppress(FileNotFoundError):  # nothing was logged before a stop
                self._inline.show(show(self._directory))
            self._at = time.monotonic()
