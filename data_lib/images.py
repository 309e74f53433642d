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
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from data_lib import files
from data_lib.files import Unreadable, UnreadableError
from data_lib.sources import ArraySource, Batch, Dataset, Source

SUFFIXES = (  # all that Pillow registers for the formats below, but .pfm, which holds floats without a range
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")  # no format that runs another program
MODES = {1: "L", 3: "RGB"}
_WHOLE = re.compile(r"-?[0-9]+")
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

    Folders train and test below `path` are splits (`files`). Otherwise `test` is the share of test images, or their
    number.

    `labels` is "folders", "auto", "none" or a CSV file. With "folders", the label of an image is its folder directly
    below `path`, or below the folder of its split. "auto" means "folders" if all images are in such folders, else
    "none". A CSV file has the header file,label and one line per image. Labels are names, and the `classes` of the
    sources. They are numbered in alphabetical order, or by value if all are whole numbers; so 0, 1 … n − 1 keep theirs.

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
    found = files.search(root, SUFFIXES)
    found.say(except_for=[_below(root, labels)])
    train, held, inside = files.split_files(found.names, test, seed, root)
    names, mask = [found.names[i] for i in np.flatnonzero(train | held)], held[train | held]
    classes, label = _labels(root, names, labels, inside, found.names)
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


def read_exact(path: str | PathLike, shape: tuple[int, ...]) -> np.ndarray:
    """A file as uint8 of exactly this shape [H, W, C]: turned by EXIF, to 8 bits, but neither cropped nor resized.

    RGB of equal channels fits one channel. UnreadableError for another size, colors where one channel is expected, gray
    where three are, and transparency.
    """
    require_shape(shape)
    with _open(path) as file:
        image = _eight_bits(ImageOps.exif_transpose(file), file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if np.asarray(image)[..., 3].min() < 255:
                raise UnreadableError("it has transparent parts: expected opaque colors")
        if image.size != (shape[1], shape[0]):
            expected, got = (f"{h} × {w}" for h, w in (shape[:2], (image.height, image.width)))
            raise UnreadableError(f"expected {expected} pixels (height × width), got {got}")
        gray = image.mode in ("1", "L")
        x = np.asarray(image.convert("L" if gray else "RGB"), np.uint8).reshape(*shape[:2], -1)
    if shape[2] == 1 and not gray:
        if np.any(x != x[..., :1]):
            raise UnreadableError("expected gray, 1 channel, got 3 channels that differ")
        return x[..., :1]
    if shape[2] != x.shape[2]:
        raise UnreadableError(f"expected {shape[2]} channels, got {x.shape[2]}")
    return x


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
        decoded = lambda place: files.attempt(self.decode, self.paths[place])  # noqa: E731
        x, place = files.next_readable(decoded, index, len(self), self.on_error, self.name)
        return {"x": x} if self.label is None else {"x": x, "label": self.label[place]}

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


def _transparency(file: ImageFile.ImageFile) -> dict[str, int | tuple[int, ...]]:
    """The transparent color of a PNG in the values that Pillow decodes to: it reports those of the file's bit depth.

    Of 16-bit color only high bytes are left to compare.
    """
    value, raw = file.info.get("transparency"), file.tile[0][3] if file.tile else ""
    if file.format != "PNG" or not isinstance(value, int | tuple):
        return {}
    if isinstance(value, tuple):
        return {"transparency": tuple(v >> 8 for v in value)} if raw == "RGB;16B" else {}
    return {"transparency": value * {"L;2": 85, "L;4": 17}.get(str(raw), 1)}


def _is_turned(file: Image.Image) -> bool:
    return file.getexif().get(ORIENTATION) in range(2, 9)  # damaged files have any value there


def _has_frames(file: Image.Image) -> bool:
    with contextlib.suppress(Exception):  # of any class: later frames may be damaged
        return getattr(file, "is_animated", False)
    return False


def _opened(path: str) -> None:
    with _open(path):
        pass


@contextlib.contextmanager
def _open(path: str | PathLike) -> Iterator[ImageFile.ImageFile]:
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


def _labels(
    root: Path, names: list[str], labels: str, inside: int, known: list[str]
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """(the classes by number, the label of each file [N]), or ((), None).

    A class is the folder below `inside` others. `known` are all images of the root, used or not.
    """
    parts = [name.split("/")[inside:] for name in names]
    folders = [part[0] if len(part) > 1 else "" for part in parts]
    if labels == "none" or (labels == "auto" and not any(folders)):
        return (), None
    if labels in ("auto", "folders"):
        if not all(folders):
            first = names[folders.index("")]
            if labels == "folders":
                raise ValueError(f"{root}: labels='folders', but {first} is in no folder below it")
            files.say(f"{root}: no labels, since {folders.count('')} images are in no folder{_first([first])}")
            return (), None
        return numbered(folders)
    table = _read_table(Path(labels))
    missing, extra = [name for name in names if name not in table], sorted(set(table) - set(known))
    if missing or extra:
        raise ValueError(
            f"{labels}: expected one line for each of the {len(names)} images of {root}; "
            f"{len(missing)} have none{_first(missing)}, {len(extra)} lines have no image{_first(extra)}"
        )
    values = [table[name] for name in names]
    if negative := [value for value in values if _WHOLE.fullmatch(value) and int(value) < 0]:
        raise ValueError(f"{labels}: labels that are numbers must be 0 or more, got {negative[0]}")
    classes, numbers = numbered(values)
    if _WHOLE.fullmatch(classes[0]) and not all(name == str(i) for i, name in enumerate(classes)):
        shown = ", ".join(f"{name} is {i}" for i, name in enumerate(classes[:3]))
        files.say(f"{labels}: its labels are not 0 to {len(classes) - 1}, so they are numbered in order: {shown}, …")
    return classes, numbers


def _below(root: Path, labels: str) -> str:
    """The name of the labels' CSV file below the root, if that is where it is; else ""."""
    with contextlib.suppress(ValueError, OSError):
        return Path(labels).resolve().relative_to(root.resolve()).as_posix()
    return ""


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


def numbered(values: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """(classes, labels [N]): names, numbered by value if all are whole numbers that differ, else alphabetically.

    So the names 0, 1 … n − 1 are their own numbers; 1 and 01 are two classes.
    """
    names = sorted(set(values))
    if all(map(_WHOLE.fullmatch, names)) and len({int(name) for name in names}) == len(names):
        names.sort(key=int)
    place = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([place[value] for value in values])


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
