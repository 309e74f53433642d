"""Scalars of a run over its steps: lines of JSON in metrics.jsonl, TensorBoard events, and a progress bar."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from io_lib.jupyter import notebook_bar
from io_lib.workdir import write_atomic

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to metrics.jsonl, which is the record, and to tensorboard/, which is for viewing."""

    def __init__(self, workdir: str | Path):
        self._path = Path(workdir) / METRICS
        self._events = Path(workdir) / "tensorboard"
        self._writer, self._purge_step = None, None
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._filter(lambda line: True)  # a run was killed while it wrote the last line

    def write(self, step: int, **scalars: Any) -> None:
        """One line {"step": step, ...} with sorted keys, flushed. Scalars: Python, NumPy or JAX numbers.

        ValueError for a metric that is not one number.
        """
        values = {name: _number(name, scalars[name]) for name in sorted(scalars)}
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": int(step), **values}) + "\n")
        for name, value in values.items():
            self._tensorboard().add_scalar(name, value, int(step))
        self._tensorboard().flush()

    def rewind(self, step: int) -> None:
        """Remove the lines after this step: call it when training resumes from the step's checkpoint."""
        self.close()
        self._purge_step = step + 1  # TensorBoard then hides later events in the earlier files
        if self._path.exists():
            self._filter(lambda line: line["step"] <= step)

    def close(self) -> None:
        """Close the event file; a later `write` opens a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _filter(self, keep: Callable[[dict], bool]) -> None:
        lines = [line for line in _whole_lines(self._path) if keep(json.loads(line))]
        write_atomic(self._path, "".join(lines))

    def _tensorboard(self):
        if self._writer is None:
            from tensorboardX import SummaryWriter  # here, since it is slow and only writing needs it

            suffix = f".{os.getpid()}.{self._purge_step or 0}"  # the file name's time is in seconds, so not unique
            self._writer = SummaryWriter(str(self._events), purge_step=self._purge_step, filename_suffix=suffix)
        return self._writer


class NoLog:
    """A MetricsLog that writes nothing, for every process but the main one."""

    def write(self, step: int, **scalars: Any) -> None:
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
