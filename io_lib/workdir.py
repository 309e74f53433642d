"""The work directory of a run: it holds one config and belongs to the run of that config.

`claim` makes or accepts it, `lock` excludes other processes, and `atomic` writes a file completely or not at all.
"""

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
_SHOWN = 3  # how many differences or files an error lists


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, renamed to `path` at the end, so that a reader always finds the old content or the new.

    An error removes the unfinished file. The next call removes those that killed processes of this host left.
    """
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
        temporary.unlink(missing_ok=True)  # above all on a full disk
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file completely or not at all."""
    with atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def claim(workdir: str | Path, config_json: str, compare: bool = True) -> Path:
    """Make the directory belong to this config, unless it already belongs to one.

    ConfigError (a ValueError) if it holds files but no config, and with `compare` if it holds another config, naming
    the differences.
    """
    workdir = Path(workdir)
    if (workdir / CONFIG).exists():
        return require_claimed(workdir, config_json) if compare else workdir
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir} is a file: expected a work directory")
    workdir.mkdir(parents=True, exist_ok=True)
    others = sorted(f.name for f in workdir.iterdir() if not (f.name.startswith(".") and f.name.endswith(".tmp")))
    if (workdir / CONFIG).exists():  # another process has just made it
        return require_claimed(workdir, config_json) if compare else workdir
    if others:
        raise ConfigError(f"{workdir} is not a work directory: it has no {CONFIG} and holds {some(others)}")
    write_atomic(workdir / CONFIG, config_json)
    return workdir


def require_claimed(workdir: str | Path, config_json: str) -> Path:
    """The directory, if it belongs to this config, as `claim` in any process made it. ConfigError otherwise."""
    workdir = Path(workdir)
    if not (workdir / CONFIG).exists():
        raise ConfigError(f"{workdir} has no {CONFIG} here: all processes of a run must use the same directory")
    _require_same(workdir, config_json)
    return workdir


@contextlib.contextmanager
def lock(workdir: str | Path, use: str) -> Iterator[None]:
    """Within the context no other process uses the directory for the same purpose.

    ConfigError naming the process that already does. The lock is on the file .USE.lock; the kernel releases it when the
    process ends for any reason.
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
    """The config that the run of this directory was started with. FileNotFoundError if it holds no config.

    ConfigError for anything but a path, such as a config in its place.
    """
    if not isinstance(workdir, str | os.PathLike):
        raise ConfigError(f"directory: expected a path, 'runs/digits' for instance; got {type(workdir).__name__}")
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
    # Keys that a later version adds do not make it another run.
    later = re.compile(r"config\.((sampling|eval)\.\S*|initial): \(absent\) -> ")
    differences = [line for line in diff(load_config(workdir), from_json(config_json)) if not later.match(line)]
    if differences:
        raise ConfigError(f"{workdir} belongs to a run with another config: {some(differences, '; ')}")


def some(items: list[str], separator: str = ", ") -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more
