"""Scalars of a run over its steps: lines of JSON in metrics.jsonl, TensorBoard, W&B, and a progress bar."""

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from config_lib.names import ConfigError, nearest
from io_lib.jupyter import notebook_bar
from io_lib.workdir import write_atomic

METRICS, WANDB_ID = "metrics.jsonl", "wandb_id.txt"
WRITERS, PROJECT = ("tensorboard",), "score-sde"  # of runs whose config has neither
OPEN_SECONDS, UPLOAD_SECONDS = 30.0, 60.0  # how long start and end of training wait for Weights & Biases

log = logging.getLogger(__name__)


class Writer(Protocol):
    """Where the lines of the log can be viewed, in addition to metrics.jsonl."""

    def open(self) -> None:
        """Starts, if that takes time or may be refused: before training, by a ConfigError."""

    def scalars(self, step: int, values: dict[str, int | float]) -> None: ...

    def image(self, step: int, path: Path) -> None: ...

    def rewind(self, step: int) -> None:
        """The next line may be of any step after this one, also of one that was written before."""

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Scalars as events in tensorboard/."""

    def __init__(self, workdir: str | Path):
        self._events = Path(workdir) / "tensorboard"
        self._writer, self._purge_step = None, None

    def open(self) -> None:
        pass

    def scalars(self, step: int, values: dict[str, int | float]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter  # here, since it is slow and only writing needs it

            suffix = f".{os.getpid()}.{self._purge_step or 0}"  # the file name's time is in seconds, so not unique
            self._writer = SummaryWriter(str(self._events), purge_step=self._purge_step, filename_suffix=suffix)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, path: Path) -> None:
        pass

    def rewind(self, step: int) -> None:
        self.close(failed=False)
        self._purge_step = step + 1  # TensorBoard then hides later events in the earlier files

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """Scalars and pictures as a run of Weights & Biases, with the work directory's name.

    The run's id is stored in wandb_id.txt, so a resumed training continues the run. The x axis is `step`, a metric of
    its own: W&B's own step only grows, and a rewind writes steps again. WANDB_MODE chooses online, offline or disabled,
    WANDB_DIR another folder than the work directory for its files. A network that fails never stops training.
    """

    def __init__(self, workdir: str | Path, project: str, config: dict[str, Any]):
        self._workdir, self._project, self._config = Path(workdir), project, config
        self._run, self._failed = None, False

    def open(self) -> None:
        """ConfigError if nobody is logged in. Without a network the run is written offline, with a warning."""
        from wandb.errors import UsageError

        if self._run is not None or self._failed:
            return
        try:
            self._start()
        except UsageError as error:
            raise ConfigError(
                f"config.training.writers: Weights & Biases: {_line(error)}; run `wandb login`, or set "
                f"WANDB_MODE=offline"
            ) from error
        except Exception as error:  # of any class: of the network, the service process, the disk
            log.warning("Weights & Biases cannot be reached, the run is written offline: %s", _line(error))
            self._try(self._start_offline)

    def _start_offline(self) -> None:
        import wandb

        if wandb.run is None:
            wandb.teardown()  # the service process holds the id of the run that could not start
        self._start(mode="offline")

    def _start(self, **options: Any) -> None:
        import wandb

        offline = options.get("mode", os.environ.get("WANDB_MODE")) in ("offline", "disabled")
        settings = wandb.Settings(
            console="off",
            silent=offline,  # online it prints an address
            init_timeout=OPEN_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
        )
        run = wandb.init(
            project=self._project,
            name=self._workdir.resolve().name,
            id=self._id(),
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(self._workdir),
            reinit="create_new",  # a run of the caller's own stays as it is
            settings=settings,
            **options,
        )
        run.config.update(self._config, allow_val_change=True)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        self._run = run

    def _id(self) -> str:
        path = self._workdir / WANDB_ID
        if not path.is_file():
            write_atomic(path, secrets.token_hex(4))
        return path.read_text().strip()

    def scalars(self, step: int, values: dict[str, int | float]) -> None:
        self._log(step, lambda: values)

    def image(self, step: int, path: Path) -> None:
        import wandb

        self._log(step, lambda: {"samples": wandb.Image(str(path))})

    def rewind(self, step: int) -> None:
        pass

    def close(self, failed: bool) -> None:
        """Waits for uploads, up to UPLOAD_SECONDS; `wandb sync` uploads the rest."""
        run, self._run = self._run, None
        if run is not None:
            self._try(lambda: run.finish(exit_code=int(failed)))

    def _log(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        self.open()
        run = self._run
        if run is not None:
            self._try(lambda: run.log({"step": step, **values()}))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # of any class: training must not depend on it
            self._run, self._failed = None, True
            log.warning("Weights & Biases failed, training continues without it: %s", _line(error))


def require_writers(names: Sequence[str]) -> tuple[str, ...]:
    """The names of config.training.writers, each once. ConfigError for an unknown one, or a missing package."""
    listed = [names] if isinstance(names, str) else names
    found = tuple(dict.fromkeys(part for name in listed for part in name.replace(",", " ").split()))
    for name in found:
        if name not in ("tensorboard", "wandb"):
            near = nearest(name, ["tensorboard", "wandb"])
            raise ConfigError(
                f"config.training.writers: expected tensorboard, wandb, both or none, got {name!r}; {near}"
            )
    if "wandb" in found and getattr(find_spec("wandb"), "origin", None) is None:  # a folder wandb/ has no origin
        raise ConfigError(
            "config.training.writers names wandb, which is not installed: pip install 'score-sde-jax[wandb]'"
        )
    return found


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

    def image(self, step: int, path: str | Path) -> None:
        """A picture that was drawn at this step, for the writers that show pictures."""
        for writer in self._writers:
            writer.image(int(step), Path(path))

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

    def image(self, step: int, path: str | Path) -> None:
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


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _whole_lines(path: Path) -> list[str]:
    """The complete lines: a killed run may leave an incomplete last one."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
