"""Samples on disk while they are drawn: one file per batch, in one folder per setting, and their union in one file.

    FOLDER/made_with.json           the settings that all samples in the folder were made with
    FOLDER/0000500-0001000.npz      samples 500 to 999 [500, *shape], nfe [500], seconds, made_with

A file is complete or absent, so a kill loses only the current batch. The folder's name ends in a digest of the
settings, so samples made with other settings have another folder. The union is written file by file and read through a
memory map: neither holds all samples in memory.
"""

import hashlib
import json
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from config_lib.names import ConfigError
from io_lib.metrics import Progress
from io_lib.signals import StopRequest
from io_lib.workdir import atomic, write_atomic

BROKEN = (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError)  # what NumPy raises for a damaged file


class Shards:
    """The samples 0, 1, 2, … drawn so far with the settings `made_with`, in the folder parent/NAME_DIGEST."""

    def __init__(self, parent: Path, name: str, made_with: dict[str, Any]):
        self.made_with = json.dumps(made_with, sort_keys=True)
        self.folder = Path(parent) / f"{name}_{hashlib.sha256(self.made_with.encode()).hexdigest()[:8]}"

    def count(self) -> int:
        """The number of samples from 0 without a gap."""
        return max((last for _, last, _ in self._chain()), default=0)

    def write(self, first: int, samples: np.ndarray, nfe: np.ndarray, seconds: float = 0.0) -> None:
        """Write samples first, first + 1, … [B, *shape], the NFE of each [B] and the seconds, as one file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "made_with.json").exists():
            write_atomic(self.folder / "made_with.json", json.dumps(json.loads(self.made_with), indent=1))
        with BytesIO() as buffer:
            np.savez(buffer, samples=samples, nfe=nfe, seconds=seconds, made_with=self.made_with)
            write_atomic(self.folder / f"{first:07d}-{first + len(samples):07d}.npz", buffer.getvalue())

    def seconds(self) -> float:
        """Seconds per sample: the mean over the samples whose files record it; 0 if there are none."""
        count, total = 0, 0.0
        for first, last, path in self._chain():
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if "seconds" in arrays.files:
                    count, total = count + last - first, total + float(arrays["seconds"])
        return total / max(count, 1)

    def union(self, path: Path, count: int) -> None:
        """Write samples 0 to count − 1 as one npz file: samples [count, *shape], nfe [count], made_with."""
        files = [(path, min(last, count) - first) for first, last, path in self._chain() if first < count]
        head = _read(files[0][0], "samples")
        nfe = np.concatenate([_read(path, "nfe")[:n] for path, n in files])
        with atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("samples.npy", "w", force_zip64=True) as member:
                shape = (count, *head.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(head.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for path, n in files:
                    member.write(_read(path, "samples")[:n].tobytes())
            for name, value in (("nfe", nfe), ("made_with", np.asarray(self.union_made_with(count)))):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)

    def union_made_with(self, count: int) -> str:
        """The text `made_with` in the union of the first `count` samples."""
        return json.dumps({**json.loads(self.made_with), "count": count}, sort_keys=True)

    def is_union(self, path: Path, count: int) -> bool:
        """Whether that file is the union of the first `count` of these samples."""
        try:
            return str(_read(path, "made_with")) == self.union_made_with(count)
        except ConfigError:
            return False

    def _chain(self) -> Iterator[tuple[int, int, Path]]:
        """(first, last + 1, file) of the files that continue each other from sample 0, without damaged ones."""
        found: dict[int, list] = {}
        for path in sorted(self.folder.glob("*-*.npz")):
            first, last = map(int, path.stem.split("-"))
            found.setdefault(first, []).append((last, path))
        done = 0
        while done in found:
            whole = [(last, path) for last, path in found[done] if self._is_ours(path)]
            if not whole:
                return
            last, path = max(whole)
            yield done, last, path
            done = last

    def _is_ours(self, path: Path) -> bool:
        """False for a damaged file; ConfigError for one of other settings."""
        try:
            made_with = str(_read(path, "made_with"))
        except ConfigError as error:
            print(f"{error}: its samples are drawn again")
            return False
        if made_with != self.made_with:
            raise ConfigError(f"{path} was made with another step, seed or sampler than the other files: remove it")
        return True


def fill(
    shards: Shards,
    count: int,
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]],
    unit: str,
    note: Callable[[np.ndarray, np.ndarray], str],
) -> bool:
    """Computes the missing ones of rows 0 to count − 1, one file per batch; False if SIGTERM or Ctrl-C stopped it.

    `batch(first)` returns rows first, first + 1, … [B, ...] and the NFE of each [B]. `unit` names a row, and
    `note(rows, nfe)` is the progress bar's text for a batch. An exception in `batch` ends the loop; the batches
    before it stay on disk.
    """
    done = shards.count()
    with StopRequest() as stop, Progress(count, min(done, count), unit) as progress:
        while done < count and not stop.requested:
            start = time.perf_counter()
            rows, nfe = batch(done)
            shards.write(done, rows, nfe, time.perf_counter() - start)
            done += len(rows)
            progress.update(min(done, count), partial(note, rows, nfe))
    if done < count:
        print(f"stopped after {done} of {count} {unit}s: the same command resumes there")
    return done >= count


def mapped(path: str | Path, name: str = "samples") -> np.ndarray:
    """An array of an uncompressed npz file as a read-only memory map: only the parts that are read take memory.

    ConfigError for an array of objects.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.hasobject:  # a map would use the file's bytes as addresses
            raise ConfigError(f"{path}: {name} holds objects, expected numbers")
        in_member, start = member.tell(), archive.getinfo(f"{name}.npy").header_offset
    with open(path, "rb") as file:
        file.seek(start + 26)  # in a zip file's local header of 30 bytes: the lengths of the name and the extra field
        lengths = struct.unpack("<HH", file.read(4))
    return np.memmap(path, dtype, "r", start + 30 + sum(lengths) + in_member, shape)


def _read(path: Path, name: str) -> np.ndarray:
    """One array of an npz file. ConfigError if the file is damaged or missing."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[name]
    except BROKEN as error:
        raise ConfigError(f"{path} is damaged or missing ({error})") from error
