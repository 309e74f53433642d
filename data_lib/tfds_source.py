"""Data sets that tensorflow-datasets has prepared, as array_record or as TFRecord, read without TensorFlow.

Nothing is downloaded here. The prepared folder DATA_DIR/NAME[/CONFIG]/VERSION is searched first, and its shards are
checked: without them, tensorflow-datasets would try the network for minutes, or return an empty dict.
"""

import logging
import os
import warnings
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_lib import images, tfrecord
from data_lib.sources import ArraySource, Batch, Dataset, Source, gather

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 4 * 2**30
CHUNK = 256
FORMATS = ("array_record", "tfrecord")


def tfds_dataset(
    name: str = "cifar10",
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | PathLike | None = None,
    shape: tuple[int, ...] | None = None,
) -> Dataset:
    """A prepared data set with a feature "image" or "x", and optionally "label".

    `name` may include a configuration and a version ("mnist_corrupted/identity", "cifar10:3.0.2"); the default is the
    newest version. Splits use the syntax of TFDS ("train[:90%]"); a warning reports two that overlap. `data_dir`
    defaults to $TFDS_DATA_DIR, then to ~/tensorflow_datasets. With `shape`, [H, W, 3 or 1], images of any size are
    converted to it by the rule of `images`.

    Events of one shape are decoded once into memory if they take at most 4 GiB. A split in memory drops its labels if
    any is below 0, the mark of TFDS for labels that were not published.

    FileNotFoundError if nothing is prepared or a shard is missing; ValueError for another file format, an unknown
    split, features without an event, and a `shape` for events that are not images.
    """
    if shape is not None:
        images.require_shape(shape)
    builder = _open(_prepared_folder(data_root(data_dir), name))
    files = [_record_ranges(builder, split) for split in (train_split, test_split)]
    if any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in files[0] for b in files[1]):
        warnings.warn(f"{name}: the splits '{train_split}' and '{test_split}' share examples", stacklevel=2)
    return Dataset(*(_read(builder, split, shape) for split in (train_split, test_split)))


def data_root(data_dir: str | PathLike | None) -> Path:
    """The folder of prepared data sets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _prepared_folder(root: Path, name: str) -> Path:
    """The folder with dataset_info.json at root/name[/config]/version, of the newest version."""
    base = root / name.replace(":", "/")
    found = [p.parent for depth in ("", "*/", "*/*/") for p in base.glob(f"{depth}dataset_info.json")]
    found = [folder for folder in found if not folder.name.startswith("incomplete.")]
    if not found:
        raise FileNotFoundError(
            f"TFDS data set '{name}' is not prepared: no dataset_info.json in {base}[/config]/version; "
            f"prepare it once: python -m data_lib.prepare {name} [ARCHIVE] --data_dir={root}"
        )
    if len({folder.parent for folder in found}) > 1:
        raise ValueError(f"TFDS data set '{name}' has several configurations, name one: {sorted(map(str, found))}")
    return max(found, key=lambda folder: [int(n) if n.isdigit() else -1 for n in folder.name.split(".")])


def _open(folder: Path):
    import tensorflow_datasets as tfds  # here, since it is slow

    builder = tfds.builder_from_directory(str(folder))
    features = builder.info.features
    given = builder.info.file_format.value if builder.info.file_format else None
    if given not in FORMATS:
        raise ValueError(
            f"{folder}: expected the file format {' or '.join(FORMATS)}, got {given}, which is not read without "
            "TensorFlow; prepare it again with --file_format=array_record"
        )
    held = set(features) if isinstance(features, tfds.features.FeaturesDict) else set()
    if not {"x", "image"} & held:
        raise ValueError(f"{folder}: expected a feature 'x' or 'image', got {sorted(held)}")
    return builder


def _record_ranges(builder, split: str) -> list[tuple[str, int, int]]:
    """(file, first record, end) for each shard of `split`; FileNotFoundError for a missing shard."""
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(f"{builder.data_dir}: no split '{split}', it has {sorted(builder.info.splits)}") from error
    for instruction in instructions:
        if not Path(instruction.filename).is_file():
            raise FileNotFoundError(f"split '{split}' is incomplete: no file {instruction.filename}")
    return [(str(i.filename), i.skip, i.skip + i.take) for i in instructions]


def _read(builder, split: str, wanted: tuple[int, ...] | None) -> Source:
    records = builder.info.file_format.value == "tfrecord"
    source = Records(builder, split) if records else builder.as_data_source(split)
    features = builder.info.features
    event = features["x" if "x" in features else "image"]
    shape, dtype = event.shape, np.dtype(event.np_dtype)
    if wanted is not None and tuple(wanted) != shape:
        if dtype != np.uint8 or len(shape) != 3:
            raise ValueError(f"{builder.info.name}: shape={tuple(wanted)} is for images, got {dtype} {shape}")
        source, shape, dtype = Shaped(source, tuple(wanted)), wanted, np.dtype(np.uint8)
    if None in shape or len(source) * prod(shape) * dtype.itemsize > IN_MEMORY_BYTES:
        return source
    return _in_memory(source, f"{builder.info.name} {split}")


class Shaped:
    """The images of a source, converted to one shape."""

    def __init__(self, source: Source, shape: tuple[int, ...]):
        self._source, self._shape = source, shape

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Batch:
        example = dict(self._source[index])
        x = np.asarray(example.pop("x" if "x" in example else "image"))
        return example | {"x": images.made_to(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), self._shape)}


class Records:
    """The examples of a split stored as TFRecord, by index: opening it finds the position of each record."""

    def __init__(self, builder, split: str):
        self._decode, self._files, places = builder.info.features.deserialize_example_np, [], []
        for i, (file, start, end) in enumerate(_record_ranges(builder, split)):
            self._files.append(tfrecord.mapped(Path(file)))
            found = list(tfrecord.frames(self._files[-1], file))[start:end]
            places += [(i, *place) for place in found]
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int):
        file, start, end = self._places[index]
        return self._decode(self._files[file][start:end])


def _in_memory(source: Source, name: str) -> ArraySource:
    first = gather(source, [0])
    arrays = {key: np.empty((len(source), *value.shape[1:]), value.dtype) for key, value in first.items()}
    with tqdm(total=len(source), desc=f"decoding {name}", delay=2) as progress:
        for start in range(0, len(source), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(source)))
            for key, value in gather(source, indices).items():
                arrays[key][indices] = value
            progress.update(len(indices))
    if "label" in arrays and arrays["label"].dtype.kind == "i" and arrays["label"].min() < 0:
        log.warning("%s: labels down to %d are unpublished ones: left out", name, arrays.pop("label").min())
    return ArraySource(arrays["x"], arrays.get("label"), name)
