"""Checkpoints of a training state, written in the background. The only module that uses orbax.

A checkpoint is listed once it is complete: it is written under a temporary name, then renamed. An old checkpoint is
first renamed into the trash, which is emptied later, so a run killed at any moment leaves no half-deleted step. A
CRC-32 of each leaf is stored with the state and checked at reading: a disk may lose bytes, or flip bits, in ways that
no decoder notices.
"""

import contextlib
import errno
import json
import logging
import shutil
import warnings
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
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EACCES}
"""Errors of the machine that may pass, and do not mean that the file is damaged."""
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
        self._directory = Path(directory).absolute()  # orbax fails late, in its thread, on a relative one
        self._keep_newest, self._keep_every = keep_newest, keep_every
        self._writing = False

    def save(self, step: int, state: Any, card: dict[str, Any] | None = None) -> None:
        """Start to write the state, whose buffers may be donated at once. Raises the WriteError of an earlier save.

        The card is a dict that JSON can hold and describes the state; the method `card` reads it. ValueError unless
        `step` is after the newest checkpoint.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} is not after the newest checkpoint, {latest}, in {self._directory}")
        if not self._writing:
            self._writing = True
            self._remove(_UNFINISHED)  # left by a killed run
        self._remove(f"{_TRASH}/*")
        with self._write_errors():
            content = {"state": state, "card": _as_bytes(card or {})}
            content["crc32"] = np.concatenate([_checksums(content[name]) for name in ("state", "card")])
            self._manager.save(step, args=self._orbax.args.StandardSave(content))

    def restore(self, abstract_state: Any, step: int | None = None, only: tuple[str, ...] = ()) -> Any:
        """The state at `step`, or of the newest undamaged checkpoint, bit for bit, with the layout of `abstract_state`.

        abstract_state: jax.ShapeDtypeStructs, each with its sharding (without one: on the first device). The number of
        devices may differ from that at saving. `only`: read just these fields, of a state that has `replace`; the
        others stay abstract, and take neither time nor memory. Without `step`, a damaged newest checkpoint is moved to
        .damaged/, with a warning, and the previous one is read.

        FileNotFoundError if there is no such checkpoint. ValueError naming the first leaf that is missing, unexpected,
        or of another shape or dtype. DamagedError if the checkpoint of `step` is damaged.
        """
        self.wait()
        if step is not None:
            if step not in self.steps():
                raise FileNotFoundError(
                    f"no checkpoint of step {step} in {self._directory}; it holds steps {self.steps()}"
                )
            return self._read(abstract_state, step, only)
        while steps := self.steps():
            try:
                with raise_on_all(DamagedError):
                    return self._read(abstract_state, max(steps), only)
            except DamagedError as error:
                moved = self._set_aside(max(steps))
                warnings.warn(f"{error}; it is now {moved}, and the previous checkpoint is used", stacklevel=2)
        damaged = sorted(path.name for path in (self._directory / _DAMAGED).glob("*"))
        but = f", but damaged ones in {_DAMAGED}: {', '.join(damaged)}" if damaged else ""
        raise FileNotFoundError(f"no checkpoint in {self._directory}{but}")

    def card(self, step: int) -> dict[str, Any]:
        """The card saved with the state; empty if there was none. DamagedError as in `restore`."""
        where, metadata = self._directory / str(step), self._metadata(step)
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
            raise DamagedError(f"{self._directory / str(step)}: a leaf differs from what was written")

    def _metadata(self, step: int) -> dict[str, Any]:
        where = self._directory / str(step)
        metadata = self._undamaged(step, lambda: self._manager.item_metadata(step).tree)
        if not {"state", "crc32"} & set(metadata):
            raise ValueError(f"{where} is not a checkpoint of this version: it holds {sorted(metadata)}")
        if not {"state", "crc32"} <= set(metadata):
            raise DamagedError(f"{where} lacks its state or its checksums: it holds {sorted(metadata)}")
        return metadata

    def _read(self, abstract_state: Any, step: int, only: tuple[str, ...]) -> Any:
        where, metadata = self._directory / str(step), self._metadata(step)
        _require_same(abstract_state, metadata["state"], where)
        wanted = {name: getattr(abstract_state, name) for name in only} if only else abstract_state
        abstract = _with_shardings({"state": wanted, **_abstract(metadata, *({*metadata} - {"state"}))})
        found = self._undamaged(step, lambda: self._load(step, abstract, partial=bool(only)))
        written = dict(zip(_leaves(abstract_state), found["crc32"], strict=False))  # the card's follows them
        expected, leaves = _leaves(wanted), _leaves(found["state"])
        for name, now in zip(leaves, _checksums(found["state"]), strict=True):
            dtypes = [getattr(leaf[name], "dtype", None) for leaf in (leaves, expected)]
            if now != written.get(name) or dtypes[0] != dtypes[1]:
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
            if getattr(error, "errno", None) in _OF_THE_MACHINE:
                raise
            first = " ".join(str(error).split())[:200]
            raise DamagedError(f"{self._directory / str(step)} cannot be read ({first})") from error

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
        return moved

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending."""
        if not self._directory.is_dir():
            return []
        if not self._writing:
            self._manager.reload()  # another process may be writing
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Wait until everything saved is on disk. WriteError if writing failed."""
        if "_manager" in self.__dict__:
            with self._write_errors():
                self._manager.wait_until_finished()
            self._remove(f"{_TRASH}/*")

    def close(self) -> None:
        """Wait, then end the background threads."""
        self.wait()
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
            raise WriteError(f"a checkpoint could not be written to {self._directory}: {first}") from error

    @cached_property
    def _manager(self) -> "CheckpointManager":
        """Made when first needed, since it makes the directory."""
        from orbax.checkpoint import checkpoint_managers

        keep: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(self._keep_newest)]
        if self._keep_every is not None:
            keep.append(checkpoint_managers.EveryNSteps(self._keep_every))
        options = self._orbax.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep), todelete_subdir=_TRASH
        )
        handler = self._orbax.StandardCheckpointHandler()
        return self._orbax.CheckpointManager(self._directory, options=options, item_handlers=handler)


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
