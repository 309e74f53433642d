"""Many files, an example or more in each: found, split by their names, decoded in threads, and counted where they
cannot be read.

A file is a test file if u = hash(seed, its path below the folder) / 2⁶⁴ < test: a function of its name alone, so that
files that are added or removed move no other file to the other side.
"""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
LONGEST = 300  # a reason may quote what the file holds
CHUNK = 64
SMALL = 16 * 2**10
RULES = ("raise", "skip")


class UnreadableError(ValueError):
    """A file that a rule refuses, or that its format does not allow: the message is the reason."""


class ReadError(OSError, ValueError):
    """Data that were there at the start cannot be read: also when a run is under way."""


@dataclass(frozen=True)
class Unreadable:
    """A file, and why it is not among the examples."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def find_files(folder: str | PathLike, suffixes: Sequence[str]) -> list[str]:
    """Paths below the folder, with /, sorted, of files that end so in any case; hidden ones and linked folders apart.

    FileNotFoundError where there is no such folder, ValueError where it holds none, saying what it holds.
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
        held = f"{len(others)} other files, {sorted(others)[0]} for one" if others else "no files"
        raise ValueError(f"{root}: expected files that end in {', '.join(suffixes)}, got {held}")
    return sorted(found)


def split_mask(names: Sequence[str], test: float | int, seed: int, where: str) -> np.ndarray:
    """Which names are kept for testing, bool [N]: a float is a share by the rule above, of which the lowest hash is
    always one and the highest never; an int takes the n lowest hashes.

    ValueError unless at least one is on either side.
    """
    u = np.array([_hash(name, seed) for name in names])
    if isinstance(test, (int, np.integer)):
        mask = np.zeros(len(names), bool)
        mask[np.argsort(u, kind="stable")[: max(test, 0)]] = True
    else:
        mask = u < test
        if 0 < test < 1:  # of a few files the rule may take none, or all
            mask[u == u.min()], mask[u == u.max()] = True, False
    if not 0 < mask.sum() < len(names):
        raise ValueError(
            f"{where}: test={test} of {len(names)} holds {mask.sum()} out; "
            "at least one must be kept for testing and one left to train on"
        )
    return mask


def decode_all(
    paths: Sequence[str], decode: Callable[[str], Any], on_error: str, threads: int, name: str
) -> tuple[list[Any], list[int], tuple[Unreadable, ...]]:
    """(decode(path) of the files that can be read, their places in `paths`, the files that cannot), in order.

    `on_error="raise"` decodes all, then raises one ReadError (a ValueError) with the count and the first paths; "skip"
    logs it. ReadError also where none can be read.
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
    """decode(path), or Unreadable. Decoders meet any bytes, and raise whatever they meet: here all of it is caught."""
    try:
        return decode(path)
    except Exception as error:
        reason = " ".join(str(error).split()).replace(repr(path), "it")[:LONGEST]
        return Unreadable(path, reason if isinstance(error, UnreadableError) else f"{type(error).__name__}: {reason}")


def report(bad: Sequence[Unreadable], total: int, on_error: str, name: str) -> None:
    """A ReadError, or a warning in the log, with the count and the first of the files; nothing if there are none."""
    if not bad:
        return
    shown = "; ".join(map(str, bad[:MAX_SHOWN])) + ("; ..." if len(bad) > MAX_SHOWN else "")
    if on_error == "raise":
        hint = "" if len(bad) == total else '; on_error="skip" leaves them out'
        raise ReadError(f"{name}: {len(bad)} of {total} files cannot be read{hint}: {shown}")
    log.warning("%s: skipped %d of %d files that cannot be read: %s", name, len(bad), total, shown)


def require_rule(on_error: str) -> None:
    if on_error not in RULES:
        raise ValueError(f"on_error: expected one of {', '.join(RULES)}, got {on_error!r}")


def default_threads(paths: Sequence[str]) -> int:
    """One a core, but one in all for files under 16 KiB: what they take is mostly Python, which threads only fight for.

    On two cores 32×32 PNG: 8,800 files/s by one thread, 4,500 by two; 512×512 JPEG: 300 and 610.
    """
    sizes = [os.stat(path).st_size for path in paths[:: max(1, len(paths) // 100)]]
    return min(32, os.cpu_count() or 1) if sum(sizes) >= SMALL * len(sizes) else 1


def in_threads(function: Callable, items: Sequence, threads: int) -> Iterator:
    """function(item) in order; a thread takes a chunk of them, since a task for each costs more than a small file.

    Few results wait, however many items there are.
    """
    size = max(1, min(CHUNK, len(items) // threads))
    chunks = iter([items[i : i + size] for i in range(0, len(items), size)])
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        submit = lambda chunk: pool.submit(lambda: list(map(function, chunk)))  # noqa: E731
        waiting = deque(map(submit, islice(chunks, 2 * threads)))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(map(submit, islice(chunks, 1)))


def _hash(name: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
