"""Folders of WAV and FLAC files as windows of one length: x float32 [length, 1], with full scale ±1.

    file ─► full scale is ±1 ─► mean of the channels, or each ─► `rate` by a polyphase filter ─► windows, `hop` apart

Another rate is a ratio up/down of whole numbers. The filter is scipy's `resample_poly`: a low pass of 20 max(up, down)
+ 1 values, with a Kaiser window of β = 5. Value k is then at k down/up of the file's own, and a window read from a part
of a file is the same as that of the whole file. WAV files have integers of 8, 16, 24 or 32 bits, or floats; full scale
of integers is 2^(bits − 1). FLAC requires the package soundfile.

The rest of a file after its last window is left out. A file shorter than one window is unreadable. One line of the log
counts what is resampled, averaged and left out. Folders train and test are splits (`files`).
"""

import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_lib import files
from data_lib.files import Unreadable, UnreadableError
from data_lib.images import numbered
from data_lib.sources import ArraySource, Batch, Dataset, Source
from io_lib.sounds import full_scale

SOUNDS = (".wav", ".wave", ".bwf", ".flac")
CHANNELS = ("mean", "each")
LABELS = ("auto", "folders", "none")


class Cut(NamedTuple):
    """How windows are cut: values per second, values per window and from one start to the next; channels, silence."""

    rate: int
    length: int
    hop: int
    channels: str = "mean"
    silence_db: float | None = None


class Recording(NamedTuple):
    """An opened file: `part(start, stop)` reads float32 [stop − start, channels], with full scale ±1."""

    rate: int
    frames: int
    channels: int
    part: Callable[[int, int], np.ndarray]


def from_audio(
    path: str | PathLike,
    rate: int = 16_000,
    length: int = 16_384,
    test: float | int = 0.1,
    seed: int = 0,
    on_error: str = "raise",
    threads: int = 0,
    hop: int = 0,
    channels: str = "mean",
    silence_db: float | None = None,
    labels: str = "auto",
    in_memory: bool = True,
) -> Dataset:
    """The recordings below a folder at `rate` values per second; all windows of a file are in the same split.

    hop          values from the start of a window to the next; 0 is `length`, so that windows do not overlap
    channels     "mean": of the channels; "each": every channel has windows of its own
    silence_db   windows whose root mean square is below this many dB of full scale are dropped, and counted; None: none
    labels       "folders": the label of a window is the folder of its file, directly below `path` or the folder of its
                 split, in alphabetical order, or by value if all are whole numbers; "auto": that, if all files are in
                 such folders; "none"

    If they take at most 4 GiB and `in_memory` is True, all windows are read once, else each when it is used. A file
    that then has values that are not finite raises; with on_error="skip" the next window replaces it.

    FileNotFoundError and ValueError as in `images.from_folder`; ValueError also if all windows are silent.
    """
    root, cut, found = Path(path), checked_cut(rate, length, hop, channels, silence_db), files.search(path, SOUNDS)
    files.require_rule(on_error)
    found.say()
    train, held, inside = files.split_files(found.names, test, seed, root)
    classes, label = folder_labels(root, found.names, inside, labels)
    tally, parts = files.Tally(), {}
    for part, chosen in (("train", train), ("test", held)):
        folder = Folder(
            root, [found.names[i] for i in np.flatnonzero(chosen)], on_error, threads, f"{root.name} {part}"
        )
        parts[part] = windows(folder, cut, in_memory, None if label is None else label[chosen], classes, tally)
    tally.say(str(root), int((train | held).sum()), "recordings")
    return Dataset(**parts)


class Folder(NamedTuple):
    """Files of one split, and how they are read."""

    root: Path
    names: list[str]
    on_error: str
    threads: int
    name: str

    def decoded(self, decode: Callable, places: Sequence[int]) -> tuple[list, list[int], tuple[Unreadable, ...]]:
        """`files.decode_all` of the files at these places: results, places of readable files, the others."""
        paths = [str(self.root / self.names[place]) for place in places]
        threads = self.threads or files.default_threads(paths)
        found, readable, bad = files.decode_all(paths, decode, self.on_error, threads, self.name)
        return found, [places[i] for i in readable], bad


def windows(
    folder: Folder, cut: Cut, in_memory: bool, label: np.ndarray | None, classes: tuple[str, ...], tally: files.Tally
) -> Source:
    """The windows of a split's files: in memory if they fit, else a source that reads them. Headers are read first."""
    counts, places, bad = folder.decoded(partial(counted, cut=cut, tally=tally), range(len(folder.names)))
    fits = in_memory and 4 * cut.length * sum(map(len, counts)) <= files.IN_MEMORY_BYTES
    if fits or cut.silence_db is not None:
        decode = partial(loud_windows if fits else loud_places, cut=cut, tally=tally)
        counts, places, more = folder.decoded(decode, places)
        bad += more
    total = sum(map(len, counts))
    if not total:
        raise ValueError(f"{folder.name}: all windows are below silence_db={cut.silence_db:g}")
    own = None if label is None else np.repeat(label[places], [len(each) for each in counts])
    if fits:
        return ArraySource(np.concatenate(counts)[..., None], own, folder.name, classes, bad)
    paths = [str(folder.root / folder.names[place]) for place in places]
    at = tuple((path, int(i)) for path, each in zip(paths, counts, strict=True) for i in each)
    threads = folder.threads or files.default_threads(paths)
    return WindowSource(at, own, cut, folder.on_error, threads, folder.name, classes, bad)


def checked_cut(rate: int, length: int, hop: int, channels: str, silence_db: float | None) -> Cut:
    """ValueError for numbers below 1, a hop below 0, and unknown channels."""
    if min(rate, length) < 1 or hop < 0:
        got = f"{rate}, {length} and {hop}"
        raise ValueError(f"from_audio: expected rate and length of 1 or more, and hop of 0 or more, got {got}")
    if channels not in CHANNELS:
        raise ValueError(f"from_audio: channels: expected one of {', '.join(CHANNELS)}, got {channels!r}")
    return Cut(rate, length, hop or length, channels, silence_db)


def folder_labels(
    root: Path, names: Sequence[str], inside: int, labels: str
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """(the classes, the label of each file [N]), or ((), None) if there are none. ValueError as `from_audio` says."""
    if labels not in LABELS:
        raise ValueError(f"from_audio: labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    folders = [name.split("/")[inside] if name.count("/") > inside else "" for name in names]
    if labels == "none" or (labels == "auto" and not any(folders)):
        return (), None
    if all(folders):
        return numbered(folders)
    first = names[folders.index("")]
    if labels == "folders":
        raise ValueError(f"{root}: labels='folders', but {first} is in no folder below it")
    files.say(f"{root}: no labels, since {folders.count('')} recordings are in no folder (first: {first})")
    return (), None


def counted(path: str, cut: Cut, tally: files.Tally) -> range:
    """The numbers of a file's windows, by its header: those of the first channel come first.

    UnreadableError if it is shorter than one window.
    """
    found = open_recording(path)
    total = resampled_length(found, cut.rate)
    if total < cut.length:
        raise UnreadableError(f"{total} values are shorter than one window of {cut.length}")
    each, several = (total - cut.length) // cut.hop + 1, found.channels > 1
    tally.add(f"resampled to {cut.rate} values per second", found.rate != cut.rate)
    tally.add("of several channels, averaged", several and cut.channels == "mean")
    tally.add("of several channels, each with windows of its own", several and cut.channels == "each")
    tally.add("values after a last window left out", total - (each - 1) * cut.hop - cut.length)
    return range(each * (found.channels if cut.channels == "each" else 1))


def all_windows(path: str, cut: Cut) -> np.ndarray:
    """The windows of a file [n, length], float32, in the order of `counted`. UnreadableError as `resampled`."""
    found = open_recording(path)
    x = by_channel(resampled(found, cut.rate, 0, resampled_length(found, cut.rate)), cut.channels)
    return np.lib.stride_tricks.sliding_window_view(x, cut.length, axis=1)[:, :: cut.hop].reshape(-1, cut.length)


def loud(x: np.ndarray, cut: Cut, tally: files.Tally) -> np.ndarray:
    """Which windows [n, length] have a root mean square of at least `silence_db`, bool [n]."""
    if cut.silence_db is None:
        return np.ones(len(x), bool)
    found = np.mean(x.astype(np.float64) ** 2, axis=1) >= 10 ** (cut.silence_db / 10)
    tally.add(f"windows below {cut.silence_db:g} dB dropped", int(np.count_nonzero(~found)))
    return found


def loud_windows(path: str, cut: Cut, tally: files.Tally) -> np.ndarray:
    """The windows of a file that are `loud`."""
    x = all_windows(path, cut)
    return x[loud(x, cut, tally)]


def loud_places(path: str, cut: Cut, tally: files.Tally) -> np.ndarray:
    """The numbers of the windows of a file that are `loud`."""
    return np.flatnonzero(loud(all_windows(path, cut), cut, tally))


@dataclass(frozen=True, eq=False)
class WindowSource:
    """Windows (path, number) that are read when they are used: of a long file the part that a window requires."""

    places: tuple[tuple[str, int], ...]
    label: np.ndarray | None
    cut: Cut
    on_error: str
    threads: int
    name: str
    classes: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        x, place = files.next_readable(self._attempted, index, len(self), self.on_error, self.name)
        return {"x": x} if self.label is None else {"x": x, "label": self.label[place]}

    def _attempted(self, place: int) -> "np.ndarray | Unreadable":
        path, number = self.places[place]
        return files.attempt(lambda path: read_window(path, number, self.cut), path)

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return list(files.in_threads(self.__getitem__, indices, self.threads))


def read_window(path: str, number: int, cut: Cut) -> np.ndarray:
    """A window of a file, float32 [length, 1], numbered as in `counted`. UnreadableError as `resampled`."""
    found = open_recording(path)
    each = (resampled_length(found, cut.rate) - cut.length) // cut.hop + 1
    start = number % each * cut.hop
    x = by_channel(resampled(found, cut.rate, start, start + cut.length), cut.channels)
    return x[number // each][:, None]


def by_channel(x: np.ndarray, channels: str) -> np.ndarray:
    """[length, channels] → [1, length], the mean, or [channels, length]."""
    return x.mean(axis=1)[None] if channels == "mean" else x.T


def read_audio(path: str | PathLike, rate: int) -> np.ndarray:
    """The recording as float32 [N], ±1 at full scale: the mean of its channels at `rate` values per second.

    UnreadableError, or an error of the reader, if it cannot be read.
    """
    found = open_recording(path)
    return by_channel(resampled(found, rate, 0, resampled_length(found, rate)), "mean")[0]


def resampled_length(found: Recording, rate: int) -> int:
    """The number of values of the file at `rate` values per second: ⌈frames up/down⌉."""
    return -(-found.frames * rate // found.rate)


def resampled(found: Recording, rate: int, start: int, stop: int) -> np.ndarray:
    """Values start to stop − 1 of the file at `rate` values per second, float32 [stop − start, channels].

    The part that is read begins at a multiple of `down`, so that values of the filter fall on the same places as for
    the whole file, and is longer by the filter's half length on either side. UnreadableError for values that are not
    finite.
    """
    from scipy.signal import resample_poly  # a second to import

    common = gcd(rate, found.rate)
    up, down = rate // common, found.rate // common
    margin = 0 if up == down else 10 * max(up, down) // up + 2
    first = max(0, (start * down // up - margin) // down * down)
    x = found.part(first, min(found.frames, -(-stop * down // up) + margin))
    if bad := np.count_nonzero(~np.isfinite(x)):
        raise UnreadableError(f"{bad} of {x.size} values are not finite")
    if up != down:
        x = resample_poly(x, up, down, axis=0).astype(np.float32)
    offset = first // down * up
    return x[start - offset : stop - offset]


def open_recording(path: str | PathLike) -> Recording:
    """The file's rate, length, channels and reader. UnreadableError, or an error of the reader, if it has none."""
    found = open_flac(path) if str(path).lower().endswith(".flac") else open_wav(path)
    if not found.frames:
        raise UnreadableError("it has no values")
    return found


def open_wav(path: str | PathLike) -> Recording:
    """A WAV file. 8-bit integers have their zero at 128 (WAVE, 1991); 24 bits are read by Python's `wave`."""
    import warnings

    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # for chunks that are not sound
            rate, x = wavfile.read(path, mmap=True)
    except ValueError as error:
        if "mmap" not in str(error):
            raise
        return open_wav_of_24_bits(path)
    x = x[:, None] if x.ndim == 1 else x
    return Recording(int(rate), len(x), x.shape[-1], lambda start, stop: full_scale(x[start:stop]))


def open_wav_of_24_bits(path: str | PathLike) -> Recording:
    """Integers of three bytes, the lowest first."""
    with wave.open(str(path)) as file:
        rate, frames, channels, width = file.getframerate(), file.getnframes(), file.getnchannels(), file.getsampwidth()

    def part(start: int, stop: int) -> np.ndarray:
        with wave.open(str(path)) as file:
            file.setpos(start)
            content = np.frombuffer(file.readframes(stop - start), np.uint8).reshape(-1, channels, width)
        high = np.zeros((*content.shape[:2], 4), np.uint8)
        high[..., 4 - width :] = content
        return full_scale(high.view("<i4")[..., 0])

    return Recording(rate, frames, channels, part)


def open_flac(path: str | PathLike) -> Recording:
    """A FLAC file, by the package soundfile."""
    try:
        import soundfile  # pyright: ignore[reportMissingImports]  # optional: the extra "audio"
    except ImportError as error:
        raise UnreadableError("FLAC requires the package soundfile: pip install soundfile") from error
    about = soundfile.info(str(path))

    def part(start: int, stop: int) -> np.ndarray:
        return soundfile.read(str(path), start=start, stop=stop, dtype="float32", always_2d=True)[0]

    return Recording(about.samplerate, about.frames, about.channels, part)
