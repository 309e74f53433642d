"""Files embedded in a page of limited size: the bytes that are left, and pictures that are reduced to fit."""

import functools
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from io_lib.run_page import Links, Media

ITEM = 700_000  # bytes of an embedded file
SIDE = 1024  # pixels of a reduced picture
FRAMES, REDUCED_FRAMES = 40, 16  # pictures of a slider, at most; the second if they have to be reduced
FRAME_SIDE = 640
OVERHEAD = 4000  # bytes of the markup around a file, with its name
NAMED = 5  # files that a note names
KINDS = {".png": "image/png", ".gif": "image/gif", ".wav": "audio/wav"}


class Space:
    """The bytes that are left for embedded files, of which `reserved` are for later ones. Paths are in `directory`."""

    def __init__(self, directory: Path, left: int):
        self.directory, self.left, self.reserved = directory, left, 0
        self.left_out: list[Path] = []

    def reserve(self, fraction: float) -> None:
        """Reserves this fraction of what is left."""
        self.reserved = int(fraction * max(0, self.left))

    def media(self, title: str, path: Path) -> list[Media]:
        """The file, or a reduced picture of it; nothing, and a line of the next note, if it does not fit."""
        found, room = Media(title, KINDS[path.suffix.lower()], b"", self.relative(path)), self.left - self.reserved
        if path.stat().st_size <= ITEM and cost(path.stat().st_size) <= room:
            found = found._replace(data=path.read_bytes())
        elif found.kind == "image/png":
            found = found._replace(title=f"{title} (reduced)", kind="image/jpeg", data=reduced(path, SIDE))
        if not found.data or cost(len(found.data)) > room:
            self.left_out.append(path)
            return []
        self.left -= cost(len(found.data))
        return [found]

    def frames(self, titles: Sequence[str], paths: Sequence[Path]) -> list[Media]:
        """Pictures of a slider: evenly chosen, with the first and the last, and reduced if necessary."""
        chosen = evenly(list(zip(titles, paths, strict=True)), FRAMES)
        sizes = [path.stat().st_size for _, path in chosen]
        if max(sizes, default=0) <= ITEM and sum(map(cost, sizes)) <= self.left:
            found = [Media(title, "image/png", path.read_bytes()) for title, path in chosen]
        else:
            chosen = evenly(chosen, REDUCED_FRAMES)
            found = [Media(title, "image/jpeg", reduced(path, FRAME_SIDE)) for title, path in chosen]
            found = [one for one in found if one.data]
            largest = max((cost(len(one.data)) for one in found), default=1)
            found = evenly(found, max(0, self.left // largest))
        self.left -= sum(cost(len(one.data)) for one in found)
        return found

    def relative(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def note(self) -> list[Links]:
        """Names what was left out since the last note."""
        paths, self.left_out = [self.relative(path) for path in self.left_out], []
        if not paths:
            return []
        more = f", {len(paths)} files, such as" if len(paths) > NAMED else ""
        return [Links(f"Left out to keep this page small{more}:", paths[:NAMED])]


def cost(size: int) -> int:
    """The bytes that a file of this size takes in the page: 4/3 of it in base64, and its markup."""
    return 4 * -(-size // 3) + OVERHEAD


def reduced(path: Path, side: int) -> bytes:
    """A picture as JPEG, at most `side` pixels wide and high; empty for a file that is not a picture, or a huge one."""
    found = path.stat()
    return _reduced(path, side, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)  # training embeds the same snapshots in every page
def _reduced(path: Path, side: int, size: int, modified: int) -> bytes:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image, BytesIO() as buffer:
                image.thumbnail((side, side))
                image.convert("L" if image.mode in ("1", "L") else "RGB").save(buffer, "JPEG", quality=85)
                return buffer.getvalue()
    except Exception:  # of any class: Pillow raises its own, SyntaxError and struct.error for damaged files
        return b""


def evenly(items: list, count: int) -> list:
    """At most `count` of the items, evenly chosen, with the first and the last; of one item the last."""
    if len(items) <= count:
        return items
    if count < 2:
        return items[len(items) - count :]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
