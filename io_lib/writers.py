"""Where the lines of metrics.jsonl are shown: TensorBoard, Weights & Biases."""

import html
import logging
import os
import secrets
import wave
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from config_lib.names import ConfigError, nearest
from io_lib.workdir import write_atomic

WANDB_ID = "wandb_id.txt"
OPEN_SECONDS, UPLOAD_SECONDS = 30.0, 60.0  # how long start and end of training wait for Weights & Biases

log = logging.getLogger(__name__)


class Writer(Protocol):
    """Where the lines of the log can be viewed, in addition to metrics.jsonl."""

    def open(self) -> None:
        """Starts, if that takes time or may be refused: before training, by a ConfigError."""

    def scalars(self, step: int, values: dict[str, int | float]) -> None: ...

    def show(self, step: int, path: Path) -> None:
        """Samples of this step, as their form shows them: a .png, .wav or .txt file."""

    def rewind(self, step: int) -> None:
        """The next line may be of any step after this one, also of one that was written before."""

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Scalars, and samples as pictures, sounds and texts, as events in tensorboard/."""

    def __init__(self, workdir: str | Path):
        self._events = Path(workdir) / "tensorboard"
        self._writer, self._purge_step = None, None

    def open(self) -> None:
        pass

    def scalars(self, step: int, values: dict[str, int | float]) -> None:
        for name, value in values.items():
            self._opened().add_scalar(name, value, step)
        self._opened().flush()

    def show(self, step: int, path: Path) -> None:
        if path.suffix == ".txt":
            self._opened().add_text("samples", markdown_of(path.read_text()), step)
        else:
            self._opened().file_writer.add_summary(media_summary("samples", path), step)

    def _opened(self) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter  # here, since it is slow and only writing needs it

            suffix = f".{os.getpid()}.{self._purge_step or 0}"  # the file name's time is in seconds, so not unique
            self._writer = SummaryWriter(str(self._events), purge_step=self._purge_step, filename_suffix=suffix)
        return self._writer

    def rewind(self, step: int) -> None:
        self.close(failed=False)
        self._purge_step = step + 1  # TensorBoard then hides later events in the earlier files

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def media_summary(name: str, path: Path) -> Any:
    """The file, as it is, as TensorBoard's record of a picture or a sound."""
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made at import

    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            rate, channels, frames = file.getframerate(), file.getnchannels(), file.getnframes()
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=channels,
            length_frames=frames,
            encoded_audio_string=path.read_bytes(),
            content_type="audio/wav",
        )
        return Summary(value=[Summary.Value(tag=name, audio=audio)])
    from PIL import Image

    with Image.open(path) as picture:
        width, height, channels = *picture.size, len(picture.getbands())
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=path.read_bytes())
    return Summary(value=[Summary.Value(tag=name, image=image)])


def markdown_of(text: str) -> str:
    """The text as a code block of Markdown, which TensorBoard shows as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())


class WeightsAndBiases:
    """Scalars and samples as a run of Weights & Biases, with the work directory's name.

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

    def show(self, step: int, path: Path) -> None:
        import wandb

        if path.suffix == ".txt":
            self._log(step, lambda: {"texts": wandb.Html(f"<pre>{html.escape(path.read_text())}</pre>")})
        elif path.suffix == ".wav":
            self._log(step, lambda: {"sounds": wandb.Audio(str(path))})
        else:
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


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
