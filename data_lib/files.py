"""Many files with one or more examples each: found, split by name, decoded in threads; unreadable ones are counted.

A file is a test file if u = hash(seed, its path below the folder) / 2⁶⁴ < test. This depends only on its name, so
adding or removing files moves no other file to the other split.
"""

import contextlib
import hashlib
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 4 * 2**30
MAX_SHOWN = 3
LONGEST = 300  # characters of a reason, which may quote the file's content
CHUNK = 64
SMALL = 16 * 2**10
RULES = ("raise", "skip")


_quiet = ContextVar("quiet", default=False)


class UnreadableError(ValueError):
    """A file that a rule or its format does not allow; the message is the reason."""


class ReadError(OSError, ValueError):
    """Data that cannot be read, at the start or later in a run."""


@dataclass(frozen=True)
class Unreadable:
    """A file that is not among the examples, and the reason."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Tally:
    """Counts of what was done to the files of a folder, from several threads."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, what: str, count: float = 1) -> None:
        """`count` more, of True as 1."""
        with self._lock:
            self.counts[what] += count

    def say(self, where: str, total: int, things: str) -> None:
        """One line of the log; none if all counts are 0."""
        found = [f"{count:.6g} {what}" for what, count in self.counts.items() if count]
        if found:
            say(f"{where}: of {total} {things}, {', '.join(found)}")


def say(text: str) -> None:
    """Logs what a user has to know about the data, unless `quiet`."""
    if not _quiet.get():
        log.warning("%s", text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it `say` does nothing: for a look at data that are read again later."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def find_files(folder: str | PathLike, suffixes: Sequence[str]) -> list[str]:
    """Sorted paths, relative to the folder and with /, of files with these endings in upper or lower case.

    Hidden files and folders and linked folders are left out. FileNotFoundError if there is no such folder. ValueError
    if it holds no such file, naming one that it does hold.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found, others = [], []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name).relative_to(root).as_posix()
            if not name.startswith("."):
                (found if name.lower().endswith(tuple(suffixes)) else others).append(path)
    if not found:
        held = f"{len(others)} other files, for example {sorted(others)[0]}" if others else "no files"
        raise ValueError(f"{root}: expected files that end in {', '.join(suffixes)}, got {held}")
    return sorted(found)


def split_mask(names: Sequence[str], test: float | int, seed: int, where: str) -> np.ndarray:
    """Which names are for testing, bool [N].

    A float `test` is a fraction by the rule at the head; the lowest hash is always included and the highest never. An
    int n takes the n lowest hashes. ValueError unless both splits have at least one.
    """
    u = np.array([_hash(name, seed) for name in names])
    if isinstance(test, (int, np.integer)):
        mask = np.zeros(len(names), bool)
        mask[np.argsort(u, kind="stable")[: max(test, 0)]] = True
    else:
        mask = u < test
        if 0 < test < 1:  # with few files the rule might take none, or all
            mask[u == u.min()], mask[u == u.max()] = True, False
    if not 0 < mask.sum() < len(names):
        raise ValueError(
            f"{where}: test={test} of {len(names)} gives {mask.sum()} for testing: "
            "expected at least one for testing and one for training"
        )
    return mask


def decode_all(
    paths: Sequence[str], decode: Callable[[str], Any], on_error: str, threads: int, name: str
) -> tuple[list[Any], list[int], tuple[Unreadable, ...]]:
    """(decode(path) of the readable files, their indices in `paths`, the unreadable files), each in order.

    `on_error="raise"` decodes all, then raises one ReadError (a ValueError) with the count and the first paths; "skip"
    logs the same. ReadError in any case if no file can be read.
    """
    require_rule(on_error)
    results, places, bad = [], [], []
    with tqdm(total=len(paths), desc=f"decoding {name}", delay=2) as progress:
        for place, found in enumerate(in_threads(lambda path: attempt(decode, path), paths, threads)):
            progress.update()
            if isinstance(found, Unreadable):
                bad.append(found)
            else:
                results.append(found)
                places.append(place)
    report(bad, len(paths), on_error if results else "raise", name)
    return results, places, tuple(bad)


def attempt(decode: Callable[[str], Any], path: str) -> Any:
    """decode(path), or Unreadable. Decoders raise exceptions of any class for damaged bytes, so all are caught."""
    try:
        return decode(path)
    except Exception as error:
        reason = " ".join(str(error).split()).replace(repr(path), "it")[:LONGEST]
        return Unreadable(path, reason if isinstance(error, UnreadableError) else f"{type(error).__name__}: {reason}")


def report(bad: Sequence[Unreadable], total: int, on_error: str, name: str) -> None:
    """Raises `read_error`, or logs a warning with the count and the first files; nothing if `bad` is empty."""
    if bad and on_error == "raise":
        raise read_error(bad, total, name)
    if bad:
        log.warning("%s: skipped %d of %d files that cannot be read: %s", name, len(bad), total, _shown(bad))


def read_error(bad: Sequence[Unreadable], total: int, name: str) -> ReadError:
    """The error for unreadable files, with their count and the first of them."""
    hint = "" if len(bad) == total else '; on_error="skip" leaves them out'
    return ReadError(f"{name}: {len(bad)} of {total} files cannot be read{hint}: {_shown(bad)}")


def require_rule(on_error: str) -> None:
    """ValueError unless `on_error` is "raise" or "skip"."""
    if on_error not in RULES:
        raise ValueError(f"on_error: expected one of {', '.join(RULES)}, got {on_error!r}")


def default_threads(paths: Sequence[str]) -> int:
    """One per core, at most 32; one in all for files under 16 KiB, whose decoding is mostly Python code under the GIL.

    Measured on two cores: 32×32 PNG, 8,800 files/s with one thread and 4,500 with two; 512×512 JPEG, 300 and 610.
    """
    sizes = [os.stat(path).st_size for path in paths[:: max(1, len(paths) // 100)]]
    return min(32, os.cpu_count() or 1) if sum(sizes) >= SMALL * len(sizes) else 1


def in_threads(function: Callable, items: Sequence, threads: int) -> Iterator:
    """function(item) in order. A task is a chunk of items, since one task per item costs more than a small file.

    The number of results in memory is limited, whatever the number of items.
    """
    size = max(1, min(CHUNK, len(items) // threads))
    chunks = iter([items[i : i + size] for i in range(0, len(items), size)])
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        submit = lambda chunk: pool.submit(lambda: list(map(function, chunk)))  # noqa: E731
        waiting = deque(map(submit, islice(chunks, 2 * threads)))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(map(submit, islice(chunks, 1)))


def _shown(bad: Sequence[Unreadable]) -> str:
    return "; ".join(map(str, bad[:MAX_SHOWN])) + ("; ..." if len(bad) > MAX_SHOWN else "")


def _hash(name: str, seed: int) -> float:
    """Uniform in [0, 1), by the name and the seed."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
