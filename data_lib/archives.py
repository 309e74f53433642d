"""Published archives, read without unpacking, so no path in them is ever followed.

    MNIST and its like    idx files, gzipped or not: 0 0 type rank, the sizes as big-endian uint32, the values
    CIFAR-10, CIFAR-100   the "binary version": records of 1 or 2 labels and 3,072 bytes, red, green, blue planes
    SVHN                  {train,test}_32x32.mat: X [32, 32, 3, N], y [N, 1] where 10 is the digit 0

The splits are the published ones.
"""

import gzip
import tarfile
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

from data_lib.sources import ArraySource, Dataset

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_LARGEST = 2**28  # bytes, the limit for one file; the published ones have up to 154 million
_CIFAR = {  # folder in the archive: (bytes of labels, index of the fine label, training files, test files)
    "cifar-10-batches-bin": (1, 0, [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    "cifar-100-binary": (2, 1, ["train.bin"], ["test.bin"]),
}


def from_idx(path: str | PathLike) -> Dataset:
    """MNIST, Fashion-MNIST, KMNIST: the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz] of a folder.

    x uint8 [N, 28, 28, 1], label 0..9. FileNotFoundError for a missing file, ValueError for a damaged one.
    """
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        x, label = (
            _read_idx(_idx_file(Path(path), f"{prefix}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1")
        )
        parts[part] = ArraySource(x, label, f"{Path(path).name} {part}")
    return Dataset(**parts)


def from_cifar(path: str | PathLike, coarse: bool = False) -> Dataset:
    """cifar-10-binary.tar.gz, cifar-100-binary.tar.gz: x uint8 [N, 32, 32, 3], label 0..9 or 0..99.

    `coarse`: the 20 superclasses of CIFAR-100. ValueError for another archive or a damaged one.
    """
    wanted = {f"{folder}/{name}" for folder, (_, _, *parts) in _CIFAR.items() for names in parts for name in names}
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                read = member.isfile() and name in wanted and member.size <= _LARGEST
                file = archive.extractfile(member) if read else None
                contents[name] = b"" if file is None else file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: expected a .tar.gz archive: {error}") from error
    folder = next((name for name in _CIFAR if any(file.startswith(f"{name}/") for file in contents)), None)
    if folder is None:
        held = ", ".join(sorted(contents)[:3]) or "nothing"
        raise ValueError(f"{path}: expected the binary version, a folder {' or '.join(_CIFAR)}, got {held}")
    labels, place, *parts = _CIFAR[folder]
    place = 0 if coarse else place
    found = []
    for part, names in zip(("train", "test"), parts, strict=True):
        records = [_records(contents, f"{folder}/{name}", labels, path) for name in names]
        records = np.concatenate(records)
        x = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        found.append(ArraySource(np.ascontiguousarray(x), records[:, place], f"{Path(path).name} {part}"))
    return Dataset(*found)


def from_svhn(path: str | PathLike) -> Dataset:
    """train_32x32.mat and test_32x32.mat of a folder: x uint8 [N, 32, 32, 3], label 0..9.

    FileNotFoundError for a missing file, ValueError for a damaged one.
    """
    from scipy.io import loadmat

    parts = []
    for part in ("train", "test"):
        file = Path(path, f"{part}_32x32.mat")
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}")
        try:
            arrays = loadmat(file, variable_names=["X", "y"])
            x, label = arrays["X"], arrays["y"].ravel()
        except Exception as error:  # any class: SciPy raises many for a damaged file
            raise ValueError(
                f"{file}: expected X and y of the published file: {type(error).__name__}: {error}"
            ) from error
        if x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.shape[3] != len(label) or not np.isin(label, range(11)).all():
            raise ValueError(f"{file}: expected X [32, 32, 3, N] and y in 1..10, got {x.shape} and {label.shape}")
        parts.append(ArraySource(np.ascontiguousarray(x.transpose(3, 0, 1, 2)), label % 10, f"svhn {part}"))
    return Dataset(*parts)


def _idx_file(folder: Path, name: str) -> Path:
    """The file, gzipped or not, with a hyphen before idx or, as in some copies, a dot."""
    names = [name, name.replace("-idx", ".idx")]
    for candidate in (folder / f"{n}{end}" for n in names for end in ("", ".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no file {folder / name}[.gz]")


def _read_idx(path: Path) -> np.ndarray:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected a gzip file: {error}") from error
    if len(content) > _LARGEST:
        raise ValueError(f"{path}: expected an idx file of at most {_LARGEST} bytes")
    head = len(content) >= 4 and content[:2] == b"\0\0" and content[2] in _IDX_TYPES and content[3] <= 4
    if not head or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path}: expected an idx file, got one that begins with {content[:4]!r}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", content[3], 4))
    dtype, start = np.dtype(_IDX_TYPES[content[2]]), 4 + 4 * len(shape)
    expected = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"{path}: the header says {shape}, so {expected} bytes, got {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _records(contents: dict[str, bytes], name: str, labels: int, path: str | PathLike) -> np.ndarray:
    if name not in contents:
        raise ValueError(f"{path}: no {name} in the archive")
    size = labels + 3072
    if not contents[name] or len(contents[name]) % size:
        raise ValueError(f"{path}: {name} has {len(contents[name])} bytes: expected a multiple of {size}")
    return np.frombuffer(contents[name], np.uint8).reshape(-1, size)
