"""The work directory of a run: it holds one config, and belongs to the run of that config."""

import contextlib
import fcntl
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ml_collections import ConfigDict

from config_lib.names import ConfigError
from config_lib.saved import diff, from_json

CONFIG = "config.json"
_SHOWN = 3  # of the differences or files that an error lists


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` when all is written: a reader, or a run killed half-way, sees the old
    content or the new. What runs killed here while they wrote the same file have left is removed."""
    path, host = Path(path), os.uname().nodename
    _remove_unfinished(path, host)
    temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # of a full disk all the more
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or nothing."""
    with atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def claim(workdir: str | Path, config_json: str) -> Path:
    """Make the directory this config's own, or find that it already is.

    ConfigError (a ValueError) if it holds another config, naming the differences, or files of something else.
    """
    workdir = Path(workdir)
    if (workdir / CONFIG).exists():
        return claimed(workdir, config_json)
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir} is a file: expected a work directory")
    workdir.mkdir(parents=True, exist_ok=True)
    others = sorted(f.name for f in workdir.iterdir() if not (f.name.startswith(".") and f.name.endswith(".tmp")))
    if (workdir / CONFIG).exists():  # another process has just made it
        return claimed(workdir, config_json)
    if others:
        raise ConfigError(f"{workdir} is not a work directory: it has no {CONFIG} and holds {_some(others)}")
    write_atomic(workdir / CONFIG, config_json)
    return workdir


def claimed(workdir: str | Path, config_json: str) -> Path:
    """The directory, which another process has claimed for this config. ConfigError where this one sees no such."""
    workdir = Path(workdir)
    if not (workdir / CONFIG).exists():
        raise ConfigError(f"{workdir} has no {CONFIG} here: all processes of a run have to see the same directory")
    _require_same(workdir, config_json)
    return workdir


@contextlib.contextmanager
def lock(workdir: str | Path, use: str) -> Iterator[None]:
    """No other process does the same in the directory meanwhile: ConfigError, naming it, where one does.

    The kernel holds the lock, on the file .USE.lock, and lets go of it when the process ends, however that ends.
    """
    with open(Path(workdir) / f".{use}.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(f"{workdir}: process {file.read()} is {use} in it already") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def load_config(workdir: str | Path) -> ConfigDict:
    """The config that the run of this directory was started with."""
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not a work directory: it has no {CONFIG}")
    return from_json(path.read_text())


def _remove_unfinished(path: Path, host: str) -> None:
    for file in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(host)}.*.tmp"):
        pid = file.name.split(".")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _require_same(workdir: Path, config_json: str) -> None:
    # What a later version of the code can vary in sampling and evaluation is no other run.
    later = re.compile(r"config\.(sampling|eval)\.\S*: \(absent\) -> ")
    differences = [line for line in diff(load_config(workdir), from_json(config_json)) if not later.match(line)]
    if differences:
        raise ConfigError(f"{workdir} belongs to a run with another config: {_some(differences, '; ')}")


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more
