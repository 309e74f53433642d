"""Checkpoints written by `torch.save`, read without PyTorch and without running anything in them.

    file.pth = zip, nothing compressed (since PyTorch 1.6)
      ├─ root/data.pkl     a pickle (protocol 2) of dicts, lists, numbers, and tensors without their numbers
      ├─ root/data/KEY     the numbers of one storage, little-endian
      └─ root/version, root/byteorder, …

    file.pth = pickles one after another (before): a magic number, 1001, {"little_endian": …}, the value, its KEYs;
               then for each KEY the count of its numbers as int64, and the numbers

The pickle runs on the interpreter of `plain_pickle`, with the names of `_TABLE`. Each is replaced by a function of this
module that only stores its arguments. Tensors become arrays after the whole pickle is read:

    storage  = persistent id ("storage", type, KEY, location, count)          the location (cpu, cuda:0) is ignored
    tensor   = (storage, offset, shape, strides),   Π shape ≤ count,   offset + Σ (shapeᵢ − 1) stridesᵢ < count      (1)
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from published_lib.plain_pickle import Bounded, Name, run_pickle, shown

_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
    "BFloat16Storage": ml_dtypes.bfloat16,
}  # fmt: skip
_SCALARS = ("f8", "f4", "i8", "i4", "b1")
_MAX_AXES = 8
_ZIP, _PICKLE = b"PK", b"\x80\x02"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def is_torch_file(path: str | Path) -> bool:
    """Whether the file starts as a zip or, as before PyTorch 1.6, as a pickle."""
    with open(path, "rb") as file:
        return file.read(2) in (_ZIP, _PICKLE)


def read_torch(path: str | Path) -> Any:
    """The saved value: dicts, lists and tuples of arrays (read-only) and numbers.

    ValueError, on one line with the name of the file, unless it is a complete file of this kind with known names only.
    """
    with open(path, "rb") as file:
        try:
            return _read(file, Path(path).stat().st_size)
        except Exception as error:  # a damaged file fails wherever its first wrong byte leads
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: not a PyTorch checkpoint that can be read: {reason}") from error


def _read(file: BinaryIO, size: int) -> Any:
    start = file.read(4)
    if start.startswith(_PICKLE):
        file.seek(0)
        return _read_pickles(Bounded(file, size), size)
    if start != _ZIP + b"\x03\x04":
        raise ValueError(f"expected a zip file, which starts with PK, got {start!r}")
    with zipfile.ZipFile(file) as archive:
        _require_plain(archive, size)
        names = set(archive.namelist())
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"expected one entry data.pkl, got {len(pickles)}")
        root, program = pickles[0].removesuffix("data.pkl"), archive.read(pickles[0])
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("expected little-endian numbers")
        entry = lambda key: archive.read(f"{root}data/{key}") if f"{root}data/{key}" in names else None  # noqa: E731
        return _Arrays(entry, len(program)).of(run_pickle(program, _TABLE, _storage))


def _read_pickles(file: Bounded, size: int) -> Any:
    """A file from before PyTorch 1.6."""
    value, keys, storages, length = _head(file, _TABLE)
    content = {}
    for key in keys:
        content[key] = file.read(_counted(file, storages, key, size)[1])
    return _Arrays(content.get, length).of(value)


def read_storage(stream: bytes) -> np.ndarray:
    """The numbers of one storage that was saved alone, in the form from before PyTorch 1.6: read-only, not copied.

    ValueError for anything else; a pickle may name the types of storages, and nothing else.
    """
    file = Bounded(io.BytesIO(stream), len(stream))
    value, keys, storages, _ = _head(file, {name: None for name in _TABLE if name[0] == "torch"})
    if type(value) is not _Storage or keys != [value.key]:
        raise ValueError(f"expected the pickle of one storage, got {shown(value)}")
    count, _ = _counted(file, storages, value.key, len(stream))
    if count != value.length:
        raise ValueError(f"storage {shown(value.key)}: expected {value.length} numbers, got {count}")
    return np.frombuffer(stream, np.dtype(_STORAGES[value.kind]), count, file.tell())


def _head(file: Bounded, table: Mapping) -> "tuple[Any, list, dict[str, _Storage], int]":
    """The pickles before the numbers: the value, the keys of its storages, and the storages; and the value's length."""
    magic, version, system = (run_pickle(file, {}, _storage) for _ in range(3))
    if (magic, version) != (_MAGIC, _VERSION) or type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("expected a zip file, or the magic number of PyTorch before 1.6 and little-endian numbers")
    start, storages = file.tell(), {}

    def storage(pid: Any) -> _Storage:
        found = _storage(pid)
        if pid[5:] not in ((), (None,)) or storages.setdefault(found.key, found) != found:
            raise ValueError(f"storage {shown(found.key)}: views, and two storages of one key, are not supported")
        return found

    value = run_pickle(file, table, storage)
    length = file.tell() - start
    return value, run_pickle(file, {}, _storage), storages, length


def _counted(file: Bounded, storages: "dict[str, _Storage]", key: Any, size: int) -> tuple[int, int]:
    """The count of numbers and of bytes of the storage that comes next."""
    if key not in storages:
        raise ValueError(f"there is no tensor of storage {shown(key)}")
    count = int.from_bytes(file.read(8), "little")
    num_bytes = count * np.dtype(_STORAGES[storages[key].kind]).itemsize
    if num_bytes > size - file.tell():
        raise ValueError(f"storage {shown(key)}: the file ends before its {count} numbers do")
    return count, num_bytes


def _require_plain(archive: zipfile.ZipFile, size: int) -> None:
    """ValueError for compressed entries, and for more bytes than the file has. So the file's size bounds the memory."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("expected entries that are not compressed")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two entries have one name")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"its entries claim more than the {size} bytes of the file")


# What the pickle may name


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it, not checked yet."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class Scalar(NamedTuple):
    """A NumPy number as the pickle describes it: its dtype, and its bytes. Not checked yet."""

    dtype: Any
    raw: Any


class Dtype:
    """NumPy's dtype, by its name. The state that follows adds only the byte order."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False):
        self.name = name

    def build(self, state: Any) -> None:
        if type(state) is not tuple or state[1:2] not in (("<",), ("|",)):
            raise ValueError(f"expected a little-endian dtype, got {shown(state)}")


class _Mapping(dict):
    """OrderedDict, without the attribute _metadata that PyTorch adds to its own."""

    def build(self, state: Any) -> None:
        pass


class _Namespace(dict):
    """argparse's Namespace, as the dict of its attributes."""

    def build(self, state: Any) -> None:
        if type(state) is not dict:
            raise ValueError(f"expected the attributes of a Namespace, got {shown(state)}")
        self.update(state)


def ordered_dict(pairs: Any = ()) -> _Mapping:
    """An empty OrderedDict, as a dict that is filled later. ValueError if it is given pairs."""
    if pairs != ():
        raise ValueError("expected an empty OrderedDict, filled later")
    return _Mapping()


def rebuild_tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    """PyTorch's `_rebuild_tensor_v2`: the tensor's description; the last three arguments are ignored."""
    return Tensor(storage, offset, shape, strides)


def _encode(text: str, encoding: str) -> bytes:
    """_codecs.encode, by which protocol 2 writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError(f"expected bytes written in latin1, got {shown(encoding)}")
    return text.encode("latin1")


def _storage(pid: Any) -> _Storage:
    """The storage of a persistent id. The fourth entry, the device that it was on, is ignored."""
    tag, kind, key, _, count = pid[:5] if type(pid) is tuple and len(pid) >= 5 else (None,) * 5
    if tag != "storage" or type(kind) is not Name or kind.module != "torch" or type(key) is not str:
        raise ValueError(f"expected the persistent id of a storage, got {shown(pid)}")
    if type(count) is not int or not _counts((count,)):
        raise ValueError(f"storage {shown(key)}: expected a number of elements, got {shown(count)}")
    return _Storage(kind.name, key, count)


_TABLE = {
    ("collections", "OrderedDict"): ordered_dict,
    ("argparse", "Namespace"): _Namespace,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("numpy", "dtype"): Dtype,
    ("numpy.core.multiarray", "scalar"): Scalar,
    ("numpy._core.multiarray", "scalar"): Scalar,
    ("_codecs", "encode"): _encode,
} | {("torch", name): None for name in _STORAGES}


# Arrays


class _Arrays:
    """The tensors of one file as arrays; those of one storage share its memory."""

    def __init__(self, entry: Callable[[str], bytes | None], budget: int):
        self._entry = entry
        self._storages: dict[str, bytes | None] = {}
        self._budget = budget  # of values: each takes a byte or more of the pickle, unless the memo repeats it

    def of(self, value: Any) -> Any:
        self._budget -= 1
        if self._budget < 0:
            raise ValueError("its pickle repeats its values too often")
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Scalar):
            return scalar_of(value)
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.of(item) for item in value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise ValueError(f"expected tensors, numbers and containers of them, got {shown(value)}")

    def _tensor(self, tensor: Tensor) -> np.ndarray:
        """The array of a tensor that satisfies eq. (1)."""
        if type(tensor.storage) is not _Storage:
            raise ValueError(f"expected a tensor with a storage, got {shown(tensor.storage)}")
        return strided(self._numbers(tensor.storage), tensor, f"a tensor in storage {shown(tensor.storage.key)}")

    def _numbers(self, storage: _Storage) -> np.ndarray:
        if storage.key not in self._storages:
            self._storages[storage.key] = self._entry(storage.key)
        raw, dtype = self._storages[storage.key], np.dtype(_STORAGES[storage.kind])
        if raw is None:
            raise ValueError(f"there is no entry for storage {shown(storage.key)}")
        if len(raw) != storage.length * dtype.itemsize:
            raise ValueError(f"storage {shown(storage.key)}: expected {storage.length} numbers of {dtype.itemsize} "
                             f"bytes, got {len(raw)} bytes")  # fmt: skip
        return np.frombuffer(raw, dtype)


def strided(numbers: np.ndarray, tensor: Tensor, where: str) -> np.ndarray:
    """The view of a storage's numbers that a tensor describes. ValueError, naming `where`, unless (1) holds."""
    _, offset, shape, strides = tensor
    if not (_counts(shape) and _counts(strides) and _counts((offset,)) and len(shape) == len(strides)):
        raise ValueError(f"{where}: expected a shape, strides and an offset without negative numbers")
    if len(shape) > _MAX_AXES:
        raise ValueError(f"{where}: expected at most {_MAX_AXES} axes, got {len(shape)}")
    size, last = math.prod(shape), offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size > numbers.size or (size and last >= numbers.size):
        raise ValueError(f"{where}: shape {shape}, strides {strides} and offset {offset} reach outside its "
                         f"{numbers.size} numbers")  # fmt: skip
    if not size:
        return np.zeros(shape, numbers.dtype)
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)


def scalar_of(scalar: Scalar) -> np.generic:
    """The number of one of the types f8, f4, i8, i4 and b1. ValueError for others, and for bytes of another length."""
    name, raw = scalar.dtype.name if type(scalar.dtype) is Dtype else None, scalar.raw
    if type(name) is not str or name not in _SCALARS or type(raw) is not bytes or len(raw) != np.dtype(name).itemsize:
        raise ValueError(f"expected a NumPy number of type {', '.join(_SCALARS)}, got {shown(name)} in {shown(raw)}")
    return np.frombuffer(raw, f"<{name}")[0]


def _counts(values: Any) -> bool:
    """Whether it is a tuple of integers from 0 to 2^62 − 1."""
    return type(values) is tuple and all(type(value) is int and 0 <= value < 2**62 for value in values)
