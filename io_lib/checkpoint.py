"""Checkpoints of a training state, written in the background. The only module that uses orbax.

A checkpoint is listed once it is complete: it is written under a temporary name, then renamed. It counts as written
once it has been read back: its metadata, its card, and its smallest leaf, with their checksums. Older checkpoints are
deleted only then, all in the background. An old checkpoint is first renamed into the trash, which is emptied later, so
a run killed at any moment leaves no half-deleted step.

A CRC-32 of each leaf is stored with the state and checked at reading: a disk may lose bytes, or flip bits, in ways that
no decoder notices. An error of the machine, such as a missing permission, is not damage. Readers move nothing.
"""

import contextlib
import errno
import glob
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from io_lib.processes import is_main_process, raise_on_all

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

_TRASH, _DAMAGED = ".trash", ".damaged"
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in [
        "EMFILE",
        "ENFILE",
        "ENOMEM",
        "EIO",
        "ESTALE",
        "EACCES",
        "EPERM",
        "EAGAIN",
        "EBUSY",
        "EINTR",
        "ETIMEDOUT",
        "ENETDOWN",
        "ENETUNREACH",
        "ECONNRESET",
        "ECONNREFUSED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENOTCONN",
        "ESHUTDOWN",
        "EREMOTEIO",
        "ENOSPC",
        "EDQUOT",
        "EROFS",
    ]
    if hasattr(errno, name)
}
"""Errors of the machine that may pass, and do not mean that the file is damaged."""
_OS_ERROR = re.compile(r"OS error (\d+)")  # tensorstore's messages have the number, its exceptions do not
RETRIES = (1.0, 5.0, 0.0)
"""Seconds to wait after each attempt to read a checkpoint back that fails by an error of the machine; 0 ends it."""
_UNFINISHED = "*.orbax-checkpoint-tmp*"

logging.getLogger("absl").addFilter(lambda r: r.levelno >= logging.WARNING or "orbax" not in r.pathname)


class DamagedError(ValueError):
    """A checkpoint differs from what was written."""


class WriteError(OSError):
    """A checkpoint could not be written."""


class Checkpoints:
    """The checkpoints in one directory: the newest `keep_newest`, and every multiple of `keep_every`.

    A state is any pytree of arrays: typed keys, bfloat16, optax states and Python numbers are restored unchanged. One
    run writes, in all processes of jax.distributed; others may read at the same time. Use it as a context manager, or
    call `close`: both wait until everything is written.
    """

    def __init__(self, directory: str | Path, keep_newest: int = 2, keep_every: int | None = None):
        if keep_newest < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(f"expected keep_newest, keep_every >= 1, got {keep_newest} and {keep_every}")
        # Here, since it is slow to import; and not where a checkpoint is read, since a failure there means damage.
        import orbax.checkpoint

        self._orbax = orbax.checkpoint
        self._named = Path(directory).absolute()  # orbax fails late, in its thread, on a relative one
        self._directory = self._plain(self._named)
        self._keep_newest, self._keep_every = keep_newest, keep_every
        self._writing = False
        self._in_flight: int | None = None  # the step that is being written, or read back
        self._reading_back: threading.Thread | None = None
        self._unreadable: Exception | None = None
        self._read_last: tuple[int | None, dict[str, Any]] = None, {}  # the step that was read, and its metadata

    def _plain(self, directory: Path) -> Path:
        """The directory, or a link to it from a path without * ? [: orbax finds its files by unescaped patterns."""
        if not glob.has_magic(str(directory)):
            return directory
        folder = tempfile.mkdtemp(prefix="checkpoints_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        link = Path(folder, "checkpoints")
        link.symlink_to(directory)
        return link

    def save(self, step: int, state: Any, card: dict[str, Any] | None = None) -> None:
        """Start to write the state, whose buffers may be donated at once. Raises the WriteError of an earlier save.

        The card is a dict that JSON can hold and describes the state; the method `card` reads it. ValueError unless
        `step` is after the newest checkpoint.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} is not after the newest checkpoint, {latest}, in {self._named}")
        self._finish()
        if not self._writing:
            self._writing = True
            self._remove(_UNFINISHED)  # left by a killed run
        with self._write_errors():
            content = {"state": state, "card": _as_bytes(card or {})}
            content["crc32"] = np.concatenate([_checksums(content[name]) for name in ("state", "card")])
            self._manager.save(step, args=self._orbax.args.StandardSave(content))
        self._in_flight = step
        if jax.process_count() == 1:  # several processes read together, in `_finish`
            self._reading_back = threading.Thread(target=self._read_back, args=(step,), name="read back", daemon=True)
            self._reading_back.start()

    def raise_if_unreadable(self) -> None:
        """Raises the WriteError of a checkpoint that was found unreadable since; does not wait."""
        if self._reading_back is not None and not self._reading_back.is_alive():
            self._finish()

    def _read_back(self, step: int) -> None:
        """Waits until the step is on disk, reads parts of it, and then deletes the checkpoints that are not kept.

        If it cannot be read, it is moved to .damaged/, and `_finish` raises the reason.
        """
        try:
            self._manager.wait_until_finished()
        except Exception:
            return  # `_finish` waits again, and raises it
        for wait in RETRIES:
            try:
                self._read_parts(step)
                break
            except Exception as error:  # of any class, as in `_undamaged`
                self._unreadable = error
                if isinstance(error, OSError) and wait:  # of the machine: it may pass
                    time.sleep(wait)
                    continue
                if is_main_process() and isinstance(error, DamagedError):
                    self._moved_aside(step)
                return
        self._unreadable = None
        for old in self._not_kept():
            self._delete(old)

    def _read_parts(self, step: int) -> None:
        """The metadata, the card and the smallest leaf. DamagedError, or an error of the machine."""
        self.card(step)
        metadata = self._metadata(step)
        paths = [path for path, _ in sorted(_paths(metadata["state"]), key=lambda found: found[1])]
        if not paths:
            return
        smallest: Any = metadata["state"]
        for key in paths[0]:
            smallest = smallest[key]
        one = np.empty(smallest.shape, smallest.dtype)
        for key in reversed(paths[0]):
            one = {key: one}
        abstract = _with_shardings({"state": one, **_abstract(metadata, "crc32")})
        found = self._undamaged(step, lambda: self._load(step, abstract, partial=True))
        if _checksums(found["state"])[0] not in found["crc32"]:
            where = f"{self._named / str(step)}: leaf {'.'.join(paths[0])}"
            raise DamagedError(f"{where} differs from what was written")

    def _not_kept(self) -> list[int]:
        steps = self.steps()
        every = self._keep_every
        return [n for n in steps[: -self._keep_newest] if every is None or n % every]

    def _delete(self, step: int) -> None:
        if is_main_process():
            trash = self._directory / _TRASH
            trash.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # the next save tries again
                (self._directory / str(step)).rename(trash / str(step))
            self._remove(f"{_TRASH}/*")

    def _finish(self) -> None:
        """Waits until the last checkpoint is on disk and has been read back. WriteError if either failed."""
        step, thread, self._reading_back = self._in_flight, self._reading_back, None
        if thread is not None:
            thread.join()
        try:
            if "_manager" in self.__dict__:
                with self._write_errors():
                    self._manager.wait_until_finished()
            if step is not None and thread is None:
                self._read_back(step)
        finally:
            self._in_flight = None
        error, self._unreadable = self._unreadable, None
        with raise_on_all(WriteError):
            if error is not None:
                best = max((n for n in self.steps() if n != step), default=None)
                raise WriteError(
                    f"the checkpoint of step {step} was written to {self._named}, but cannot be read again: {error}; "
                    f"the newest that can be is {'none' if best is None else f'of step {best}'}"
                ) from error

    def restore(
        self, abstract_state: Any, step: int | None = None, only: tuple[str, ...] = (), set_aside: bool = False
    ) -> Any:
        """The state at `step`, or of the newest undamaged checkpoint, bit for bit, with the layout of `abstract_state`.

        abstract_state: jax.ShapeDtypeStructs, each with its sharding (without one: on the first device). The number of
        devices may differ from that at saving. `only`: read just these fields, of a state that has `replace`; the
        others are not compared, stay abstract, and take neither time nor memory. Without `step`, a damaged newest
        checkpoint causes a warning, and the previous one is read; `set_aside`, for training alone, moves it to
        .damaged/.

        FileNotFoundError if there is no such checkpoint. ValueError naming the first leaf that is missing, unexpected,
        or of another shape or dtype. DamagedError if the checkpoint of `step` is damaged. OSError if it cannot be read
        for now, a PermissionError for example: then nothing is moved.
        """
        self.wait()
        if step is not None:
            if step not in self.steps():
                raise FileNotFoundError(f"no checkpoint of step {step} in {self._named}; it holds steps {self.steps()}")
            return self._read(abstract_state, step, only)
        for newest in reversed(self.steps()):
            try:
                with raise_on_all(DamagedError):
                    return self._read(abstract_state, newest, only)
            except DamagedError as error:
                moved = f"it is now {self._set_aside(newest)}, and " if set_aside else ""
                warnings.warn(f"{error}; {moved}the previous checkpoint is used", stacklevel=2)
        damaged = sorted([*(path.name for path in (self._directory / _DAMAGED).glob("*")), *map(str, self.steps())])
        but = f", but damaged ones: {', '.join(damaged)}" if damaged else ""
        raise FileNotFoundError(f"no checkpoint in {self._named}{but}")

    def card(self, step: int) -> dict[str, Any]:
        """The card saved with the state; empty if there was none. DamagedError as in `restore`."""
        where = self._named / str(step)
        metadata = self._read_last[1] if self._read_last[0] == step else self._metadata(step)
        if "card" not in metadata:  # written by an earlier version
            return {}
        abstract = _abstract(metadata, "card", "crc32")
        found = self._undamaged(step, lambda: self._load(step, _with_shardings(abstract), partial=True))
        if found["crc32"][-1] != _checksums(found["card"])[0]:
            raise DamagedError(f"{where}: its card differs from what was written")
        return self._undamaged(step, lambda: json.loads(np.asarray(found["card"]).tobytes()))

    def leaves(self, step: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name → dtype and shape of each leaf of the state, without reading the leaves."""
        return {
            name: (str(leaf.dtype), tuple(leaf.shape)) for name, leaf in _leaves(self._metadata(step)["state"]).items()
        }

    def verify(self, step: int) -> None:
        """Reads the whole state. DamagedError if a leaf differs from what was written."""
        names = [name for name in ("state", "card") if name in self._metadata(step)]
        found = self._undamaged(step, lambda: self._manager.restore(step, args=self._orbax.args.StandardRestore()))
        now = np.concatenate([_checksums(found[name]) for name in names])
        if sorted(now) != sorted(np.asarray(found["crc32"])):  # sorted: the order of a state's fields is lost here
            raise DamagedError(f"{self._named / str(step)}: a leaf differs from what was written")

    def _metadata(self, step: int) -> dict[str, Any]:
        where = self._named / str(step)
        metadata = self._undamaged(step, lambda: self._manager.item_metadata(step).tree)
        if not {"state", "crc32"} & set(metadata):
            raise ValueError(f"{where} is not a checkpoint of this version: it holds {sorted(metadata)}")
        if not {"state", "crc32"} <= set(metadata):
            raise DamagedError(f"{where} lacks its state or its checksums: it holds {sorted(metadata)}")
        return metadata

    def _read(self, abstract_state: Any, step: int, only: tuple[str, ...]) -> Any:
        where, metadata = self._named / str(step), self._metadata(step)
        self._read_last = step, metadata
        wanted = {name: getattr(abstract_state, name) for name in only} if only else abstract_state
        saved = {name: metadata["state"].get(name, {}) for name in only} if only else metadata["state"]
        _require_same(wanted, saved, where)
        abstract = _with_shardings({"state": wanted, **_abstract(metadata, *({*metadata} - {"state"}))})
        found = self._undamaged(step, lambda: self._load(step, abstract, partial=bool(only)))
        written = dict(zip(_leaves(abstract_state), found["crc32"], strict=False))  # the card's follows them
        named = len(written) + ("card" in metadata) == len(found["crc32"])  # or the other fields are another run's
        expected, leaves = _leaves(wanted), _leaves(found["state"])
        for name, now in zip(leaves, _checksums(found["state"]), strict=True):
            dtypes = [getattr(leaf[name], "dtype", None) for leaf in (leaves, expected)]
            intact = now == written.get(name) if named else now in found["crc32"]
            if not intact or dtypes[0] != dtypes[1]:
                raise DamagedError(f"{where}: leaf {name} differs from what was written")
        return abstract_state.replace(**found["state"]) if only else found["state"]

    def _load(self, step: int, abstract: Any, partial: bool) -> Any:
        if not partial:
            return self._manager.restore(step, args=self._orbax.args.StandardRestore(abstract))
        restore_args = self._orbax.checkpoint_utils.construct_restore_args(abstract)
        args = self._orbax.args.PyTreeRestore(item=abstract, restore_args=restore_args, partial_restore=True)
        with self._orbax.Checkpointer(self._orbax.PyTreeCheckpointHandler()) as reader:
            return reader.restore(self._directory / str(step) / "default", args=args)

    def _undamaged(self, step: int, read: Callable[[], Any]) -> Any:
        """read(); DamagedError for any error in it that is the file's, not the machine's."""
        try:
            return read()
        except (MemoryError, jax.errors.JaxRuntimeError):  # of this machine, not of the file
            raise
        except Exception as error:  # any class: it depends on which byte is wrong
            where, first = self._named / str(step), " ".join(str(error).split())[:200]
            number = _number(error)
            if number in _OF_THE_MACHINE:
                raise OSError(number, f"{os.strerror(number)}: {first}", str(where)) from error
            _open_all(where)
            raise DamagedError(f"{where} cannot be read ({first})") from error

    def _remove(self, pattern: str) -> None:
        if is_main_process():
            for folder in self._directory.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    def _set_aside(self, step: int) -> Path:
        """Move the checkpoint to .damaged/: the main process does, before the others list the steps again."""
        with raise_on_all(WriteError):
            moved = self._moved_aside(step) if is_main_process() else self._directory / _DAMAGED
        self._manager.reload()
        return moved

    def _moved_aside(self, step: int) -> Path:
        folder = self._directory / _DAMAGED
        folder.mkdir(exist_ok=True)
        names = (folder / (str(step) + suffix) for suffix in ("", *(f".{k}" for k in range(1, 1000))))
        moved = next(name for name in names if not name.exists())
        (self._directory / str(step)).rename(moved)
        return self._named / _DAMAGED / moved.name

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending, with that being written."""
        found = {int(path.name) for path in self._directory.glob("*") if path.name.isdigit()}
        return sorted(found if self._in_flight is None else found | {self._in_flight})

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Wait until everything saved is on disk and was read back. WriteError if either failed."""
        if self._in_flight is not None:
            self._finish()
            self._remove(f"{_TRASH}/*")

    def close(self) -> None:
        """Wait, then end the background threads."""
        try:
            self.wait()
        finally:
            if "_manager" in self.__dict__:
                self._manager.close()
                del self.__dict__["_manager"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """An error of tensorstore or of the disk, as a WriteError with a message of one line."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            first = " ".join(str(error).split())[:200]
            raise WriteError(f"a checkpoint could not be written to {self._named}: {first}") from error

    @cached_property
    def _manager(self) -> "CheckpointManager":
        """Made when first needed, since it makes the directory. It deletes nothing: `_read_back` does."""
        self._directory.resolve().mkdir(parents=True, exist_ok=True)  # it may be a link
        options = self._orbax.CheckpointManagerOptions(max_to_keep=None)
        handler = self._orbax.StandardCheckpointHandler()
        return self._orbax.CheckpointManager(self._directory, options=options, item_handlers=handler)


def _number(error: BaseException | None) -> int:
    """The operating system's number for an error or for one of its causes; 0 if there is none."""
    while error is not None:
        found = _OS_ERROR.search(str(error))
        if number := getattr(error, "errno", None) or (int(found[1]) if found else 0):
            return number
        error = error.__cause__ or error.__context__
    return 0


def _open_all(folder: Path) -> None:
    """Opens every file of a checkpoint. OSError if this machine cannot for now: then its content is unknown."""
    try:
        for place, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                with open(Path(place, name), "rb") as file:
                    file.read(1)
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise


def _raise(error: OSError) -> None:
    raise error


def _paths(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """(path, size) of the arrays of a tree of metadata that are reached by the keys of dicts alone."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))
        elif getattr(value, "shape", None) is not None and getattr(value, "dtype", None) is not None:
            yield (*above, key), int(np.prod(value.shape))


def _abstract(metadata: dict[str, Any], *names: str) -> dict[str, np.ndarray]:
    """Entries to read as NumPy arrays: in every process, and on no device."""
    return {name: np.empty(metadata[name].shape, metadata[name].dtype) for name in names}


def _as_bytes(card: dict[str, Any]) -> np.ndarray:
    """The card as JSON in a uint8 array."""
    return np.frombuffer(json.dumps(card, allow_nan=False).encode(), np.uint8)


def _checksums(state: Any) -> np.ndarray:
    """CRC-32 of the bytes of each leaf, uint32 [leaves]."""

    def checksum(leaf):
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    return np.asarray([checksum(leaf) for leaf in jax.tree.leaves(state)], np.uint32)


def _with_shardings(abstract_state: Any) -> Any:
    """The abstract state, with leaves that have no sharding on the first device."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def laid_out(leaf):
        bare = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first) if bare else leaf

    return jax.tree.map(laid_out, abstract_state)


def _require_same(abstract_state: Any, saved: Any, where: Path) -> None:
    """Compares two trees by the names, shapes and dtypes of their leaves; a typed key compares as its key data.

    ValueError naming the first leaf that differs.
    """
    expected, found = _leaves(abstract_state), _leaves(saved)
    for name in sorted({*expected, *found}):
        if name not in found:
            raise ValueError(f"{where}: no leaf {name}, expected {_shown(expected[name])}")
        if name not in expected:
            raise ValueError(f"{where}: unexpected leaf {name}, {_shown(found[name])}")
        if _shown(expected[name]) != _shown(found[name]):
            raise ValueError(f"{where}: leaf {name} is {_shown(found[name])}, expected {_shown(expected[name])}")


def _leaves(tree: Any) -> dict[str, Any]:
    """Dotted name → leaf."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _shown(leaf: Any) -> str:
    """float32(3, 4); for a Python number `number`."""
    if isinstance(leaf, bool | int | float) or type(leaf).__name__ == "ScalarMetadata":
        return "number"
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return f"{leaf.dtype}{tuple(leaf.shape)}"
