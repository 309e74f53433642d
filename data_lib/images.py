"""A folder of images of any sizes and modes, converted by one rule to examples x uint8 [H, W, C].

    file ─► oriented by EXIF ─► 8 bits ─► transparent parts over `background` ─► mode RGB or L
         ─► center crop to the ratio W : H ─► bicubic, antialiased, to H × W           (Pillow's ImageOps.fit)

The bicubic filter also reads pixels just outside the crop. An image of size H × W is not resampled. Only the first of
several frames is used. A palette is converted to its colors. CMYK becomes RGB by Pillow's conversion without a color
profile. Gray of more than 8 bits becomes 255 v / full scale, rounded; full scale is 65535, 4095 in a TIFF of 12 bits,
and in a PGM the maximum that it states. Of 16-bit color Pillow keeps the high byte. One line of the log counts what was
done to the files.

Unreadable are files of 32-bit integers or floats, which have no stated range; and files that are empty, truncated, of
another format than their name says, or beyond Pillow's limit against decompression bombs.
"""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_lib import files
from data_lib.files import Unreadable, UnreadableError
from data_lib.sources import ArraySource, Batch, Dataset, Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no format that runs another program
MODES = {1: "L", 3: "RGB"}
ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0  # tags of TIFF 6.0, section 8


def from_folder(
    path: str | PathLike,
    shape: tuple[int, ...] = (32, 32, 3),
    labels: str = "auto",
    background: tuple[int, ...] = (255, 255, 255),
    test: float | int = 0.1,
    seed: int = 0,
    on_error: str = "raise",
    in_memory: bool = True,
    threads: int = 0,
) -> Dataset:
    """The images below `path` as uint8 of `shape` [H, W, 3 or 1], split by the hash of their paths (`files`).

    `labels` is "folders", "auto", "none" or a CSV file. With "folders", the label of an image is its folder directly
    below `path`, numbered in the order of names. "auto" means "folders" if all images are in such folders, else "none".
    A CSV file has the header file,label and one line per image. Its labels are whole numbers, or names, numbered in
    their order. The names are the `classes` of the sources.

    `on_error` is "raise" or "skip". "skip" logs unreadable files and lists them in `unreadable` of the sources.

    If they take at most 4 GiB and `in_memory` is True, all images are decoded once. Otherwise all are opened at the
    start, and each is decoded when it is read. A file that then turns out to be truncated raises; with "skip" the next
    image replaces it. `threads` is the number of decoding threads; 0 means one per core, or one in all for small files.

    FileNotFoundError if there is no such folder; ValueError for a folder without images and for missing labels.
    """
    root = Path(path)
    files.require_rule(on_error)
    require_shape(shape)
    tally = files.Tally()
    decode = partial(read_image, shape=tuple(shape), background=tuple(background))
    names = files.find_files(root, SUFFIXES)
    classes, label = _labels(root, names, labels)
    mask = files.split_mask(names, test, seed, str(root))
    threads = threads or files.default_threads([str(root / name) for name in names])
    fits = in_memory and len(names) * prod(shape) <= files.IN_MEMORY_BYTES
    make = partial(_decoded, tally=tally) if fits else FileSource.checked
    parts = {}
    for part, chosen in (("train", ~mask), ("test", mask)):
        paths = [str(root / names[i]) for i in np.flatnonzero(chosen)]
        own = None if label is None else label[chosen]
        parts[part] = make(paths, own, decode, on_error, threads, f"{root.name} {part}", classes)
    if fits:
        tally.say(str(root), len(names), "images")
    else:
        files.say(
            f"{root}: images are decoded when they are read, turned by EXIF, cropped and resized to {tuple(shape)}"
        )
    return Dataset(**parts)


def read_image(
    path: str | PathLike,
    shape: tuple[int, ...],
    background: tuple[int, ...] = (255, 255, 255),
    tally: files.Tally | None = None,
) -> np.ndarray:
    """A file as uint8 [H, W, C], by the rule at the head. UnreadableError, or an error of Pillow, if it cannot be.

    `tally` counts what the rule did to the file.
    """
    with _open(path) as file:
        file.info.update(_transparency(file))  # before anything loads the file
        turned = _is_turned(file)
        image = _eight_bits(ImageOps.exif_transpose(file), file)
        found = made_to(image, shape, background)
        if tally is not None:
            tally.add("turned by EXIF", turned)
            tally.add("cropped", image.width * shape[0] != image.height * shape[1])
            tally.add("resized", image.size != (shape[1], shape[0]))
            tally.add("composited over the background", image.has_transparency_data)
            tally.add("with more than one frame, of which the first is used", _has_frames(file))
        return found


def made_to(image: Image.Image, shape: tuple[int, ...], background: tuple[int, ...] = (255, 255, 255)) -> np.ndarray:
    """A picture as uint8 [H, W, C], by the rule at the head without EXIF."""
    height, width, channels = shape
    image = _eight_bits(image, image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    image = image.convert("RGB" if channels == 3 or image.mode not in ("1", "L") else "L").convert(MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(shape)


def require_shape(shape: tuple[int, ...]) -> None:
    """ValueError unless the shape is (H, W, 3) or (H, W, 1)."""
    if len(shape) != 3 or shape[2] not in MODES or min(shape) < 1:
        raise ValueError(f"shape: expected (H, W, 3) or (H, W, 1), got {tuple(shape)}")


@dataclass(frozen=True, eq=False)
class FileSource:
    """Images that are decoded when they are read; a batch is decoded in threads."""

    paths: tuple[str, ...]
    label: np.ndarray | None
    decode: partial
    on_error: str
    threads: int
    name: str
    classes: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @classmethod
    def checked(cls, paths, label, decode, on_error, threads, name, classes) -> "FileSource":
        """The source of those files that Pillow can open."""
        _, places, bad = files.decode_all(paths, _opened, on_error, threads, name)
        label = None if label is None else label[places]
        return cls(tuple(paths[i] for i in places), label, decode, on_error, threads, name, classes, bad)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Batch:
        bad = []
        for step in range(len(self)):
            place = (index + step) % len(self)
            found = files.attempt(self.decode, self.paths[place])
            if not isinstance(found, Unreadable):
                files.report(bad, len(self), self.on_error, self.name)
                return {"x": found} if self.label is None else {"x": found, "label": self.label[place]}
            bad.append(found)
            if self.on_error == "raise":
                break
        raise files.read_error(bad, len(self), self.name)

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return list(files.in_threads(self.__getitem__, indices, self.threads))


def _decoded(paths, label, decode, on_error, threads, name, classes, tally) -> Source:
    x = np.empty((len(paths), *decode.keywords["shape"]), np.uint8)
    row = {path: i for i, path in enumerate(paths)}

    def fill(path: str) -> None:
        x[row[path]] = decode(path, tally=tally)

    _, places, bad = files.decode_all(paths, fill, on_error, threads, name)
    label = None if label is None else label[places]
    return ArraySource(x[places] if bad else x, label, name, classes, bad)


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """`image` with 8 bits per channel; `file` is what it was read from, with the tags of its format."""
    tags = getattr(file, "tag_v2", {})
    deep = image.mode.startswith("I;16") or (image.mode == "I" and file.format == "PPM")
    if image.mode in ("I", "F") and not deep:
        bits = tags.get(BITS, (32,))[0]
        raise UnreadableError(
            f"mode {image.mode}, {bits} bits per pixel, has no stated range: expected 8 or 16 bits without a sign"
        )
    image.load()
    if not deep:
        return image
    values, full = np.asarray(image).astype(np.uint32), 4095 if tags.get(BITS) == (12,) else 65535
    shown = full - values if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values  # Pillow inverts only 8 bits
    gray = Image.fromarray(((2 * 255 * shown + full) // (2 * full)).astype(np.uint8))
    if image.info.get("transparency") is not None:
        gray.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return gray


def _transparency(file: Image.Image) -> dict[str, int | tuple[int, ...]]:
    """The transparent color of a PNG in the values that Pillow decodes to: it reports those of the file's bit depth.

    Of 16-bit color only high bytes are left to compare.
    """
    value, raw = file.info.get("transparency"), file.tile[0][3] if getattr(file, "tile", ()) else ""
    if file.format != "PNG" or not isinstance(value, int | tuple):
        return {}
    if isinstance(value, tuple):
        return {"transparency": tuple(v >> 8 for v in value)} if raw == "RGB;16B" else {}
    return {"transparency": value * {"L;2": 85, "L;4": 17}.get(str(raw), 1)}


def _is_turned(file: Image.Image) -> bool:
    return 2 <= file.getexif().get(ORIENTATION, 1) <= 8


def _has_frames(file: Image.Image) -> bool:
    with contextlib.suppress(Exception):  # of any class: later frames may be damaged
        return getattr(file, "is_animated", False)
    return False


def _opened(path: str) -> None:
    with _open(path):
        pass


@contextlib.contextmanager
def _open(path: str | PathLike) -> Iterator[Image.Image]:
    """Opened as a file object, since Pillow 13 misreads uncompressed TIFF that are turned if it maps them to memory."""
    with open(path, "rb") as stream:
        try:
            image = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError as error:
            empty = Path(path).stat().st_size == 0
            reason = "the file is empty" if empty else f"it is not an image of the formats {', '.join(FORMATS)}"
            raise UnreadableError(reason) from error
        with image:
            yield image


def _labels(root: Path, names: list[str], labels: str) -> tuple[tuple[str, ...], np.ndarray | None]:
    """(the classes by number, the label of each file [N]), or ((), None)."""
    inside = [name.partition("/")[0] if "/" in name else "" for name in names]
    if labels == "none" or (labels == "auto" and not all(inside)):
        return (), None
    if labels in ("auto", "folders"):
        if not all(inside):
            raise ValueError(f"{root}: labels='folders', but {names[inside.index('')]} is in no folder below it")
        return _numbered(inside)
    table = _read_table(Path(labels))
    missing = [name for name in names if name not in table]
    if missing or len(table) > len(names):
        extra = sorted(set(table) - set(names))
        raise ValueError(
            f"{labels}: expected one line for each of the {len(names)} images of {root}; "
            f"{len(missing)} have none{_first(missing)}, {len(extra)} lines have no image{_first(extra)}"
        )
    return _numbered([table[name] for name in names])


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"labels: expected 'auto', 'folders', 'none' or a CSV file, got {str(path)!r}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the header file,label, got {','.join(reader.fieldnames or ())!r}")
        table: dict[str, str] = {}
        for row in reader:
            if not row["label"] or row["file"] in table:
                what = "appears twice" if row["file"] in table else "has no label"
                raise ValueError(f"{path}: line {reader.line_num}: {row['file']!r} {what}")
            table[row["file"]] = row["label"]
        return table


def _numbered(values: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """(classes, labels [N]): whole numbers unchanged, if all are; otherwise names, numbered in sorted order."""
    try:
        numbers = np.array([int(value) for value in values])
    except (ValueError, TypeError):
        classes = tuple(sorted({str(value) for value in values}))
        place = {name: i for i, name in enumerate(classes)}
        return classes, np.array([place[str(value)] for value in values])
    if numbers.min() < 0:
        raise ValueError(f"labels that are numbers must be 0 or more, got {numbers.min()}")
    return tuple(map(str, range(numbers.max() + 1))) if numbers.max() < 10_000 else (), numbers


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
