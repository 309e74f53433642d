"""TFRecord files without TensorFlow: frames, the protocol buffer `Example` in them, and the images of FFHQ in those.

    frame    length uint64 · crc uint32 of the length · data · crc uint32 of the data            little-endian
    crc      masked CRC-32C:  ((c >> 15) | (c << 17)) + 0xa282ead8  mod 2³²
    Example  { 1: Features { 1: repeated entry { 1: name, 2: Feature { 1: bytes | 2: floats | 3: integers } } } }

The crc of the length is checked, which detects a truncated file and one of another format. The crc of the data is not
checked: that would take longer than decoding. Protocol buffers: protobuf.dev/programming-guides/encoding.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from functools import cache
from os import PathLike
from pathlib import Path

import numpy as np

from data_lib import files
from data_lib.sources import Batch, Dataset
from data_lib.splits import split

SUFFIXES = (".tfrecords", ".tfrecord")
_HEADER = struct.Struct("<QI")


class TFRecordSource:
    """Images [H, W, C] from records with the features `shape` [C, H, W] and `data`, uint8 in that order.

    This is the format of the published FFHQ and CelebA-HQ (T. Karras et al., Progressive Growing of GANs,
    arXiv:1710.10196).
    """

    def __init__(self, path: str | PathLike, name: str):
        self.path, self.name = Path(path), name
        self._bytes = mapped(self.path)
        self._places = np.array(list(frames(self._bytes, str(path))), np.int64).reshape(-1, 2)
        if not len(self._places):
            raise ValueError(f"{path}: no records")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Batch:
        try:
            return self._image(index, f"{self.path}, record {index}")
        except ValueError as error:
            raise files.ReadError(str(error)) from error

    def _image(self, index: int, where: str) -> Batch:
        start, end = self._places[index]
        features = parse_example(self._bytes[start:end], where)
        shape, data = features.get("shape"), features.get("data")
        if not (isinstance(shape, np.ndarray) and shape.shape == (3,) and shape.dtype.kind == "i") or not (
            isinstance(data, list) and len(data) == 1
        ):
            raise ValueError(f"{where}: expected the features 'shape' [C, H, W] and 'data', got {sorted(features)}")
        if min(shape) < 1 or len(data[0]) != int(np.prod(shape, dtype=object)):
            raise ValueError(f"{where}: shape {tuple(shape)} and {len(data[0])} bytes of data do not agree")
        return {"x": np.frombuffer(data[0], np.uint8).reshape(shape).transpose(1, 2, 0)}


def from_tfrecord(path: str | PathLike, test: float | int = 0.1, seed: int = 0) -> Dataset:
    """FFHQ or CelebA-HQ as prepared for score_sde: a file, or the file of the highest resolution in a folder.

    It is read by index, through a memory map. The hash of an example's index decides its split. FileNotFoundError if
    there is no such file. ValueError for a truncated file and one of another format, with the byte where reading fails.
    """
    path = Path(path)
    if path.is_dir():
        found = files.search(path, SUFFIXES)
        if len(found.names) > 1 and not all(re.search(r"-r\d\d\.", Path(name).name) for name in found.names):
            raise ValueError(
                f"{path}: {len(found.names)} files of records, not one per resolution (-r02 to -r10): name one"
            )
        if len({Path(name).parent for name in found.names}) > 1:
            raise ValueError(f"{path}: files of records in several folders: name one, such as {found.names[-1]}")
        found.say()
        *lower, name = found.names
        if lower:
            files.say(f"{path}: the records of {name} are used, not those of lower resolution: {', '.join(lower)}")
        path = path / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return split(TFRecordSource(path, path.name), test, seed, name=path.name)


def frames(content: bytes | mmap.mmap, where: str) -> Iterator[tuple[int, int]]:
    """(start, end) in bytes of the data of each record. ValueError for a truncated file or one of another format."""
    place, size = 0, len(content)
    while place < size:
        if size - place < _HEADER.size:
            raise ValueError(f"{where}: truncated within a record at byte {place} of {size}")
        length, crc = _HEADER.unpack_from(content, place)
        if crc != masked_crc(content[place : place + 8]):
            raise ValueError(f"{where}: no TFRecord at byte {place} of {size}: the checksum of a length is wrong")
        start = place + _HEADER.size
        place = start + length + 4
        if place > size:
            raise ValueError(f"{where}: truncated within a record at byte {start} of {size}")
        yield start, start + length


def parse_example(data: bytes, where: str = "example") -> dict[str, list[bytes] | np.ndarray]:
    """Name → list of bytes, float32 [N] or int64 [N] of a serialized Example. ValueError, starting with `where`."""
    out = {}
    try:
        for features in _messages(data, 1):
            for entry in _messages(features, 1):
                fields = dict(_fields(entry))
                out[_bytes(fields[1]).decode()] = _feature(_bytes(fields.get(2, b"")))
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{where}: not an Example: {error}") from error
    return out


def _feature(data: bytes) -> list[bytes] | np.ndarray:
    for kind, value in _fields(data):
        if kind == 1:
            return list(_messages(_bytes(value), 1))
        if kind == 2:
            return np.frombuffer(b"".join(_bytes(v) for _, v in _fields(_bytes(value))), "<f4")
        if kind == 3:
            numbers = [n for _, v in _fields(_bytes(value)) for n in ([v] if isinstance(v, int) else _varints(v))]
            return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    return (_bytes(value) for field, value in _fields(data) if field == number)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("expected bytes, got a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field: an int for a varint, bytes otherwise."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
        else:
            length, place = {1: (8, place), 5: (4, place)}.get(kind) or (kind == 2 and _varint(data, place)) or (-1, 0)
            if length < 0 or place + length > len(data):
                raise ValueError(f"a field of kind {kind} and length {length} at byte {place} of {len(data)}")
            value, place = data[place : place + length], place + length
        yield key >> 3, value


def _varints(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError(f"a number of more than 64 bits at byte {place}")


def masked_crc(data: bytes) -> int:
    """The masked CRC-32C of the head of this module."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table()[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> list[int]:
    """CRC-32C of each byte, by the reversed polynomial 0x82f63b78."""
    table = list(range(256))
    for _ in range(8):
        table = [c >> 1 ^ (0x82F63B78 if c & 1 else 0) for c in table]
    return table


def mapped(path: Path) -> bytes | mmap.mmap:
    """The file's bytes as a memory map; b"" for an empty file."""
    if path.stat().st_size == 0:
        return b""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
