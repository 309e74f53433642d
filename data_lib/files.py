"""Many files with one or more examples each: found, split by name, decoded in threads; unreadable ones are counted.

A file is a test file if u = hash(seed, its path below the folder) / 2⁶⁴ < test. This depends only on its name, so
adding or removing files moves no other file to the other split.

Folders train and test directly below the root are splits: their files are the training and the test examples, whatever
`test` says. val, valid or validation replaces a missing test. train alone is split by the rule above.
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
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 4 * 2**30
MAX_SHOWN = 3
MAX_KINDS = 8  # endings in a line on files that are left out
TRAIN_FOLDER, TEST_FOLDERS = "train", ("test", "val", "valid", "validation")  # in any case; the first one there is used
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

    def add(self, what: str, count: int = 1) -> None:
        """`count` more, of True as 1."""
        with self._lock:
            self.counts[what] += count

    def say(self, where: str, total: int, things: str) -> None:
        """One line of the log; none if all counts are 0."""
        found = [f"{count} {what}" for what, count in self.counts.items() if count]
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


@dataclass(frozen=True)
class Found:
    """The files of a folder: those with the wanted endings, and what is left out."""

    root: Path
    names: list[str]
    others: list[str]
    links: int
    hidden: int

    def say(self, except_for: Sequence[str] = ()) -> None:
        """One line of the log on what is left out, without the files `except_for`; none if nothing is."""
        others = [name for name in self.others if name not in except_for]
        ends = Counter(Path(name).suffix.lower() or "without an ending" for name in others)
        kinds = ", ".join(f"{count} {end}" for end, count in ends.most_common(MAX_KINDS))
        kinds += f", and {len(ends) - MAX_KINDS} more kinds" if len(ends) > MAX_KINDS else ""
        parts = [f"{_counted(len(others), 'file')} ({kinds})"] if others else []
        parts += [_counted(self.links, "linked folder")] if self.links else []
        parts += [f"{self.hidden} hidden"] if self.hidden else []
        if parts:
            say(f"{self.root}: left out: {', '.join(parts)}")


def search(folder: str | PathLike, suffixes: Sequence[str]) -> Found:
    """The files below a folder with these endings in upper or lower case: sorted paths, relative to it and with /.

    Hidden files and folders and linked folders are left out. FileNotFoundError if there is no such folder, OSError for
    a folder below it that cannot be read. ValueError if it holds no such file, naming one that it does hold.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found, others, links, hidden = [], [], 0, 0
    for place, folders, names in os.walk(root, onerror=_raise):
        hidden += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += sum(os.path.islink(os.path.join(place, name)) for name in folders)
        for name in names:
            path = Path(place, name).relative_to(root).as_posix()
            if not name.startswith("."):
                (found if name.lower().endswith(tuple(suffixes)) else others).append(path)
    if not found:
        held = f"{len(others)} other files, for example {sorted(others)[0]}" if others else "no files"
        raise ValueError(f"{root}: expected files that end in {', '.join(suffixes)}, got {held}")
    return Found(root, sorted(found), sorted(others), links, hidden)


def _raise(error: OSError) -> None:
    raise error


def find_files(folder: str | PathLike, suffixes: Sequence[str]) -> list[str]:
    """The names that `search` finds."""
    return search(folder, suffixes).names


class Splits(NamedTuple):
    """Masks of the names, bool [N]; a file of neither mask is not used.

    `test` is None if no folder has test files, so that they come from `train`. `inside` is the number of leading
    folders that are splits: 1, or 0 without.
    """

    train: np.ndarray
    test: np.ndarray | None
    inside: int


def folder_splits(names: Sequence[str], root: Path) -> Splits:
    """The splits by folders directly below the root, as at the head; all are for training if there are none.

    One line of the log says which folders are used for what. ValueError for a folder test without a folder train, since
    its files would be used for training. Folders train among others, without a folder test, are no splits.
    """
    tops = np.array([name.partition("/")[0].lower() if "/" in name else "" for name in names])
    counts = Counter(tops.tolist())
    tests = [top for top in TEST_FOLDERS if top in counts]
    only = all(top in (TRAIN_FOLDER, *TEST_FOLDERS) for top in counts)
    if TRAIN_FOLDER not in counts or not (tests or only):
        if tests and only:
            raise ValueError(
                f"{root}: there is a folder {tests[0]} but no folder {TRAIN_FOLDER}: name one of its folders"
            )
        return Splits(np.ones(len(names), bool), None, 0)
    used = (TRAIN_FOLDER, *tests[:1])
    unused = [f"{top or 'directly below it'} ({_counted(n, 'file')})" for top, n in counts.items() if top not in used]
    rest = f"; not used: {', '.join(unused)}" if unused else ""
    tested = (
        f"{tests[0]} ({counts[tests[0]]}), for any test=" if tests else "a part of these, as there is no folder test"
    )
    say(f"{root}: for training: {TRAIN_FOLDER} ({_counted(counts[TRAIN_FOLDER], 'file')}); for testing: {tested}{rest}")
    return Splits(tops == TRAIN_FOLDER, tops == tests[0] if tests else None, 1)


def split_files(names: Sequence[str], test: float | int, seed: int, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """`folder_splits`; without a folder of test files, these are chosen by `split_mask`."""
    train, mask, inside = folder_splits(names, root)
    if mask is None:
        mask = np.zeros(len(names), bool)
        own = [name for name, chosen in zip(names, train, strict=True) if chosen]
        mask[train] = split_mask(own, test, seed, str(root))
    return train & ~mask, mask, inside


def count_or_share(test: float | int, where: str) -> int | float:
    """`test` as a number of examples (int) if it is a whole number, else as a share of them (float below 1).

    ValueError for 1.5, which is neither.
    """
    if float(test).is_integer():
        return int(test)
    if not 0 < test < 1:
        raise ValueError(f"{where}: test={test}: expected a whole number of examples, or a share between 0 and 1")
    return float(test)


def split_mask(names: Sequence[str], test: float | int, seed: int, where: str) -> np.ndarray:
    """Which names are for testing, bool [N].

    `test` below 1 is a share by the rule at the head; the lowest hash is always included and the highest never. A
    whole number n takes the n lowest hashes. ValueError unless both splits have at least one, and for 1.5.
    """
    u, size = np.array([_hash(name, seed) for name in names]), count_or_share(test, where)
    if isinstance(size, int):
        mask = np.zeros(len(names), bool)
        mask[np.argsort(u, kind="stable")[: max(size, 0)]] = True
    else:
        mask = u < size
        mask[u == u.min()], mask[u == u.max()] = True, False  # with few files the rule might take none, or all
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


def next_readable(attempted: Callable[[int], Any], index: int, count: int, on_error: str, name: str) -> tuple[Any, int]:
    """(attempted(place), place) of the first place index, index + 1, … (modulo count) that is not `Unreadable`.

    What is skipped is logged. ReadError if none can be read, and for the first with `on_error="raise"`.
    """
    bad = []
    for place in ((index + step) % count for step in range(count)):
        found = attempted(place)
        if not isinstance(found, Unreadable):
            report(bad, count, on_error, name)
            return found, place
        bad.append(found)
        if on_error == "raise":
            break
    raise read_error(bad, count, name)


def report(bad: Sequence[Unreadable], total: int, on_error: str, name: str) -> None:
    """Raises `read_error`, or logs a warning with the count and the first files; nothing if `bad` is empty."""
    if bad and on_error == "raise":
        raise read_error(bad, total, name)
    if bad:
        log.warning("%s: skipped %d of %d files that cannot be read: %s", name, len(bad), total, _shown(bad))


def read_error(bad: Sequence[Unreadable], total: int, name: str) -> ReadError:
    """The error for unreadable files, with their count and the first of them."""
    hint = "" if len(bad) == total else '; on_error="skip" (--config.data.on_error=skip) leaves them out'
    return ReadError(f"{name}: {len(bad)} of {total} files cannot be read{hint}: {_shown(bad)}")


def require_rule(on_error: str) -> None:
    """ValueError unless `on_error` is "raise" or "skip"."""
    if on_error not in RULES:
        raise ValueError(f"on_error: expected one of {', '.join(RULES)}, got {on_error!r}")


def default_threads(paths: Sequence[str]) -> int:
    """One per core, at most 32; one in all for files under 16 KiB, whose decoding is mostly Python code under the GIL.

    Measured on two cores: 32×32 PNG, 8,800 files/s with one thread and 4,500 with two; 512×512 JPEG, 300 and 610.
    """
    looked_at = paths[:: max(1, len(paths) // 100)]
    sizes = [os.stat(path).st_size if os.path.exists(path) else 0 for path in looked_at]  # 0: a link to nothing
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


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _shown(bad: Sequence[Unreadable]) -> str:
    return "; ".join(map(str, bad[:MAX_SHOWN])) + ("; ..." if len(bad) > MAX_SHOWN else "")


def _hash(name: str, seed: int) -> float:
    """Uniform in [0, 1), by the name and the seed."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
