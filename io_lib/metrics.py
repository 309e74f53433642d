"""Scalars of a run over its steps: lines of JSON in metrics.jsonl, passed on to writers; and a progress bar."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from io_lib.jupyter import notebook_bar
from io_lib.workdir import write_atomic
from io_lib.writers import TensorBoard, WeightsAndBiases, Writer, require_writers

METRICS = "metrics.jsonl"
WRITERS, PROJECT = ("tensorboard",), "score-sde"  # of runs whose config has neither

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends to metrics.jsonl, which is the record, and passes each line to the writers, which are for viewing.

    `writers` are names of `require_writers`; `project` and `config` are those of a run of Weights & Biases.
    """

    def __init__(
        self,
        workdir: str | Path,
        writers: Sequence[str] = WRITERS,
        project: str = PROJECT,
        config: dict[str, Any] | None = None,
    ):
        self._path = Path(workdir) / METRICS
        made = {
            "tensorboard": lambda: TensorBoard(workdir),
            "wandb": lambda: WeightsAndBiases(workdir, project, config or {}),
        }
        self._writers: list[Writer] = [made[name]() for name in require_writers(writers)]
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._filter(lambda line: True)  # a run was killed while it wrote the last line

    def open(self) -> None:
        """Starts the writers, before training: ConfigError if one of them refuses."""
        for writer in self._writers:
            writer.open()

    def write(self, step: int, **scalars: Any) -> None:
        """One line {"step": step, ...} with sorted keys, flushed. Scalars: Python, NumPy or JAX numbers.

        ValueError for a metric that is not one number.
        """
        values = {name: _number(name, scalars[name]) for name in sorted(scalars)}
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": int(step), **values}) + "\n")
        for writer in self._writers:
            writer.scalars(int(step), values)

    def show(self, step: int, path: str | Path) -> None:
        """Samples of this step, a .png, .wav or .txt file."""
        for writer in self._writers:
            writer.show(int(step), Path(path))

    def rewind(self, step: int) -> None:
        """Remove the lines after this step: call it when training resumes from the step's checkpoint."""
        for writer in self._writers:
            writer.rewind(step)
        if self._path.exists():
            self._filter(lambda line: line["step"] <= step)

    def close(self, failed: bool = False) -> None:
        """Close the writers; a later `write` opens them again. `failed`: the run ends by an error."""
        for writer in self._writers:
            writer.close(failed)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close(failed=kind is not None)

    def _filter(self, keep: Callable[[dict], bool]) -> None:
        lines = [line for line in _whole_lines(self._path) if keep(json.loads(line))]
        write_atomic(self._path, "".join(lines))


class NoLog:
    """A MetricsLog that writes nothing, for every process but the main one."""

    def open(self) -> None:
        pass

    def write(self, step: int, **scalars: Any) -> None:
        pass

    def show(self, step: int, path: str | Path) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *_) -> None:
        pass


def read_metrics(workdir: str | Path) -> list[dict]:
    """Every complete line of metrics.jsonl, in the order of writing. FileNotFoundError if there is no such file."""
    path = Path(workdir) / METRICS
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no {METRICS}")
    return [json.loads(line) for line in _whole_lines(path)]


class Progress:
    """Number done, rate and time left: a bar on a terminal or in Jupyter; elsewhere a line about every ten seconds.

    The rate is that of finished steps, and begins after the first one, which includes the compilation.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        unit: str = "step",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        silent: bool = False,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._silent = silent
        self._clock, self._total, self._unit = clock, total, unit
        self._bar, notebook = None, notebook_bar() if stream is None and not silent else None
        if notebook is not None:
            self._bar = notebook(total=total, initial=start, unit=f" {unit}s")
        elif self._stream.isatty() and not silent:
            self._bar = tqdm(total=total, initial=start, unit=f" {unit}s", file=self._stream, dynamic_ncols=True)
        self._every = 10.0 if self._bar is None else 0.2
        self._first, self._shown, self._shown_at = start, start, clock()

    def update(self, done: int, note: Callable[[], str]) -> None:
        """Call it after every step, with the number done so far.

        `note` waits for the device, since it reads a loss. So it is called only for the first step and when its text is
        shown, and the clock is read after it: steps that are queued are not finished.
        """
        if self._silent or done <= self._shown:
            return
        first = self._shown == self._first
        if not first and done < self._total and self._clock() - self._shown_at < self._every:
            return
        text = note()
        now = self._clock()
        if not first or done == self._total:
            self._show(done, text, (done - self._shown) / max(now - self._shown_at, 1e-9))
        elif self._bar is not None:
            self._bar.update(done - self._shown)
        self._shown, self._shown_at = done, now

    def doing(self, what: str) -> None:
        """Shows what is done while the number does not change."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(what)
        else:
            print(f"{self._unit} {self._shown}/{self._total}: {what}", file=self._stream, flush=True)

    def _show(self, done: int, text: str, rate: float) -> None:
        if self._bar is None:
            left = tqdm.format_interval((self._total - done) / rate)
            line = f"{self._unit} {done}/{self._total}  {text}  {rate:.4g} {self._unit}s/s  {left} left"
            print(line, file=self._stream, flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._shown)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()


def _number(name: str, value: Any) -> int | float:
    if getattr(value, "ndim", 0) or isinstance(value, str):
        raise ValueError(f"metric {name!r}: expected a number, got {type(value).__name__} {value!r}")
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) else float(value)


def _whole_lines(path: Path) -> list[str]:
    """The complete lines: a killed run may leave an incomplete last one."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
