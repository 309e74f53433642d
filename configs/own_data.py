"""--data=PATH|NAME: other data for a config, without editing its file.

    PATH or NAME                  source                                            transform
    folder of images              from_folder, cropped/resized to config.shape      Scale(0, 255)
    .npz, .npy                    from_npz: x, image or images, or the only array   by the values, see `infer_transform`
    .csv                          from_csv: columns of numbers                      by the values
    .tar.gz, idx or SVHN folder   CIFAR-10/100; MNIST and similar sets; SVHN        Scale(0, 255)
    .tfrecords, a folder of them  from_tfrecord: FFHQ, CelebA-HQ                    Scale(0, 255)
    folder of .wav, .flac         from_audio, windows of config.shape[0]            Waveform(rate)
    .txt, .md, a folder of them   from_text, windows of config.shape[0]             Bits(alphabet)
    moons, swirl, checkerboard, gaussians, digits                                   Identity; digits Scale(0, 16)
    any other name                tfds_dataset, cropped/resized to config.shape     Scale(0, 255)

`--config.data.KEY=VALUE` and `--config.shape=…` apply before the data are read for their shape and transform, which are
those of the training examples. config.json records the transform with its parameters. Starting points also choose noise
levels from the data, and print them: `choose`.
"""

import functools
import math
import re
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

import data_lib
from config_lib.command_line import apply_overrides
from config_lib.names import ConfigError
from config_lib.spec import build, spec
from data_lib import (
    Bits,
    Characters,
    Identity,
    Scale,
    Standardize,
    Transform,
    Waveform,
    files,
    images,
    infer_transform,
    recordings,
    sequences,
    text_alphabet,
    tfrecord,
)
from data_lib.arrays import load_arrays
from data_lib.sources import spread
from data_lib.transform import MANY
from models.conditioning import options_for

TOYS = ("moons", "swirl", "checkerboard", "gaussians")
SHAPE = re.compile(r"^--?config\.shape=")
PIXELS = Scale(0.0, 255.0)
ROWS, FILES, NUMBERS, LEAST = 10_000, 300, 2**23, 64  # of `_examples`
EVENTS, LABELS = ("x", "image", "images"), ("label", "labels", "y")  # names of arrays in an .npz file
CONDITIONS = ("cond", "condition", "conditions")


class Choice(NamedTuple):
    """A section for config.data, and a function of it, once its overrides are applied: transform and shape of events.

    The shape is None if the config decides it.
    """

    section: ConfigDict
    read: Callable[[ConfigDict], tuple[Any, tuple[int, ...] | None]]


def with_data(config: ConfigDict, data: str, overrides: Sequence[str] = (), measure: bool = True) -> ConfigDict:
    """Sets data and transform of the config in place, and the shape if the data determine it; returns the config.

    `overrides` are flags such as --config.data.test=5 and --config.shape=32,32,3. ConfigError for data that are
    missing, of an unknown format, or of events unlike the config's, and for flags of no such key. `measure` also makes
    the choices of a starting point (`choose`).
    """
    if not data:
        raise ConfigError("--data= is empty: expected a path or a name")
    shape_flags = [flag for flag in overrides if SHAPE.match(flag)]
    if shape_flags:
        config.shape = apply_overrides(ConfigDict({"shape": tuple(config.shape)}), shape_flags).shape
    rest = [flag for flag in overrides if flag not in shape_flags]
    try:
        choice = _choice(config, Path(data).expanduser(), data)
        section = apply_overrides(ConfigDict({"data": choice.section}), rest).data
        with files.quiet():  # the data are read again, and described then
            _put(config, section, *choice.read(section))
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"--data={data}: {error}") from error
    if measure:
        choose(config)
    return config


def choose(config: ConfigDict, given: Container[str] = ()) -> None:
    """Sets the values that a starting point's config.from_data chooses, and prints each with its reason.

    It receives evenly spaced training examples in model space (`_examples`). Keys in `given`, such as "sde.t_max", were
    set by a flag and stay. Nothing happens for a config without from_data. Examples that are all alike leave the config
    as it is, with one line. ConfigError for data that cannot be read, or not of config.shape.
    """
    if "from_data" not in config:
        return
    try:
        with files.quiet():
            x, about = _examples(config)
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"config.data: {error}") from error
    if x.shape[1:] != tuple(config.shape):
        raise ConfigError(f"config.shape is {tuple(config.shape)}, but the data are {x.shape[1:]}")
    try:
        choices = build(config.from_data, "config.from_data")(config, x, about)
    except ConfigError:
        raise
    except ValueError as error:
        print(f"the config stays as it is: {error}")
        return
    print(f"Chosen by {len(x):,} of {about['examples']:,} training examples; --config.KEY=VALUE changes a value:")
    for choice in choices:
        print(f"  {_chosen(config, choice.key, choice.reason, choice.value, choice.key in given)}")


def _chosen(config: ConfigDict, key: str, reason: str, value: float | None, given: bool) -> str:
    """Sets one value, unless it was given; a line that states it."""
    *sections, name = key.split(".")
    section = functools.reduce(getattr, sections, config)
    if given:
        reason = "set by a flag" if value is None else f"set by a flag; the data give {value:g}, {reason}"
    elif value is not None:
        section[name] = value
    now = section[name]
    shown = "" if isinstance(now, ConfigDict) else f"={now:g}" if isinstance(now, float) else f"={now}"
    return f"config.{key}{shown.replace(' ', '')}: {reason}"


def _examples(config: ConfigDict) -> tuple[np.ndarray, dict[str, int]]:
    """Training examples in model space, evenly spaced, and how many there are in all, and of classes.

    At most ROWS, or FILES if each is a file, and fewer if they have more than NUMBERS numbers together.
    """
    section = config.data.copy_and_resolve_references()
    if "in_memory" in section:
        section.in_memory = False
    train = build(section, "config.data").train
    most = ROWS if isinstance(train, data_lib.ArraySource) else FILES
    count = min(len(train), max(LEAST, min(most, NUMBERS // math.prod(config.shape))))
    rows = spread(train, count)
    x = build(config.transform, "config.transform").forward(data_lib.gather(train, rows)["x"])
    label = getattr(train, "label", None)
    numbered = label is not None and label.ndim == 1 and label.dtype.kind == "i"
    return x, {"examples": len(train), "classes": int(np.asarray(label).max()) + 1 if numbered else 0}


def _choice(config: ConfigDict, path: Path, name: str) -> Choice:
    if path.is_dir():
        return _of_folder(config, path)
    if path.is_file():
        return _of_file(config, path)
    if "/" in name and (path.suffix or path.parent.is_dir() or name.startswith(("/", ".", "~"))):
        raise FileNotFoundError("no such file or folder")
    if name in TOYS:
        return _fixed(spec(getattr(data_lib, name)), Identity(), (2,))
    if name == "digits":
        return _fixed(spec(data_lib.digits), Scale(0.0, 16.0), (8, 8, 1))
    if path.suffix.lower() in (".npz", ".npy", ".csv", ".gz", ".tgz", *sequences.TEXTS, *tfrecord.SUFFIXES):
        raise FileNotFoundError("no such file")
    return _fixed(spec(data_lib.tfds_dataset, name=name), PIXELS, None)


def _of_folder(config: ConfigDict, path: Path) -> Choice:
    text = str(path)
    if any(path.glob("train-*ubyte*")):
        return _fixed(spec(data_lib.from_idx, path=text), PIXELS, (28, 28, 1))
    if (path / "train_32x32.mat").is_file():
        return _fixed(spec(data_lib.from_svhn, path=text), PIXELS, (32, 32, 3))
    found = files.find_files(path, [suffix for suffixes in _suffixes().values() for suffix in suffixes])
    kinds = [sum(name.lower().endswith(s) for name in found) for s in _suffixes().values()]
    make = list(_suffixes())[int(np.argmax(kinds))]
    return make(config, text)


def _of_file(config: ConfigDict, path: Path) -> Choice:
    text, name = str(path), path.name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        return _fixed(spec(data_lib.from_cifar, path=text), PIXELS, (32, 32, 3))
    if name.endswith(tfrecord.SUFFIXES):
        return _of_tfrecord(config, text)
    if name.endswith(sequences.TEXTS):
        return _of_text(config, text)
    if name.endswith((".npz", ".npy")):
        return _of_npz(config, text)
    if name.endswith(".csv"):
        return _of_csv(config, text)
    raise ValueError("expected a folder, or a file that ends in .npz, .npy, .csv, .tar.gz, .tfrecords, .txt")


def _fixed(section: ConfigDict, transform: Any, shape: tuple[int, ...] | None) -> Choice:
    return Choice(section, lambda section: (transform, shape))


def _of_images(config: ConfigDict, path: str) -> Choice:
    shape = tuple(config.shape)
    if not _is_image(config):
        raise ValueError(f"the data are images, but config.shape is {shape}: expected (H, W, 3) or (H, W, 1)")
    return _fixed(spec(data_lib.from_folder, path=path, shape=shape), PIXELS, None)


def _is_image(config: ConfigDict) -> bool:
    return len(config.shape) == 3 and config.shape[2] in images.MODES


def _of_audio(config: ConfigDict, path: str) -> Choice:
    section = spec(data_lib.from_audio, path=path, length=config.shape[0])
    return Choice(section, lambda section: (Waveform(rate=section.rate), (section.length, 1)))


def _of_text(config: ConfigDict, path: str) -> Choice:
    if str(config.get("data", {}).get("call", "")).endswith(":from_characters"):
        return _of_characters(config, path)
    section = spec(data_lib.from_text, path=path, length=config.shape[0])
    shape = lambda section: (section.length, sequences.bits_of(section.alphabet))  # noqa: E731
    return Choice(section, lambda section: (Bits(alphabet=section.alphabet), shape(section)))


def _of_characters(config: ConfigDict, path: str) -> Choice:
    options = {name: config.data[name] for name in ("length", "test", "stride", "bits")}

    def read(section: ConfigDict) -> tuple[Bits | Characters, tuple[int, ...]]:
        alphabet = section.alphabet or text_alphabet(section.path)
        if section.bits:
            return Bits(alphabet=alphabet), (section.length, sequences.bits_of(alphabet))
        return Characters(alphabet), (section.length,)

    return Choice(spec(data_lib.from_characters, path=path, **options), read)


def _of_tfrecord(config: ConfigDict, path: str) -> Choice:
    def read(section: ConfigDict) -> tuple[Scale, tuple[int, ...]]:
        return PIXELS, data_lib.from_tfrecord(**_arguments(section)).train[0]["x"].shape

    return Choice(spec(data_lib.from_tfrecord, path=path), read)


def _of_npz(config: ConfigDict, path: str) -> Choice:
    keys = list(load_arrays(path))
    events = [key for key in EVENTS if key in keys] or keys
    labels = [key for key in LABELS if key in keys and key != events[0]]
    conditions = [key for key in CONDITIONS if key in keys and key != events[0]]
    x = events[0] if len(events) == 1 and (events[0] in EVENTS or len(keys) == 1) else ""

    def read(section: ConfigDict) -> tuple[Transform, tuple[int, ...]]:
        if not section.x:
            raise ValueError(
                f"expected one array x, image or images, got {sorted(keys)}: name it, --config.data.x=NAME"
            )
        if section.label == section.x:
            section.label = None
        return _read(config, data_lib.from_npz(**_arguments(section)))

    named = {"label": labels[0]} if labels else {}
    named |= {"cond": conditions[0]} if conditions else {}
    return Choice(spec(data_lib.from_npz, path=path, x=x, **named), read)


def _of_csv(config: ConfigDict, path: str) -> Choice:
    section = spec(data_lib.from_csv, path=path)
    return Choice(section, lambda section: _read(config, data_lib.from_csv(**_arguments(section))))


def _read(config: ConfigDict, dataset: data_lib.Dataset) -> tuple[Transform, tuple[int, ...]]:
    """Transform and shape of arrays. Their conditions set the options of the config's network, if it has these."""
    train = dataset.train
    assert isinstance(train, data_lib.ArraySource)
    shapes = {key: array.shape[1:] for key, array in train.arrays().items() if key not in ("x", "label")}
    for option, size in options_for(shapes, train.x.ndim - 1).items():
        if config.network.get(option) == 0:
            config.network[option] = size
            print(f"config.network.{option}={size}: for the cond of the data, of this size")
    infer = _each_column if config.get("each_column", False) and train.x.ndim == 2 else infer_transform
    return infer(train.x), train.x.shape[1:]


def _each_column(x: np.ndarray) -> Transform:
    """Standardize with a mean and a deviation for each column of x [N, columns], however many there are."""
    if x.dtype == np.uint8:  # which `infer_transform` takes for pixels
        x = x.astype(np.float32)
    parts = [infer_transform(x[:, i : i + MANY]) for i in range(0, x.shape[1], MANY)]
    assert all(isinstance(part, Standardize) for part in parts)
    return Standardize(*(tuple(v for part in parts for v in getattr(part, name)) for name in ("mean", "std")))


def _arguments(section: ConfigDict) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "call"}


def _put(config: ConfigDict, section: ConfigDict, transform: Any, shape: tuple[int, ...] | None) -> None:
    if shape is not None and len(shape) != len(config.shape):
        raise ValueError(f"events of shape {tuple(shape)}, but the config is for events like {tuple(config.shape)}")
    config.data = section
    config.transform = spec(type(transform), **vars(transform))
    if shape is not None:
        config.shape = tuple(int(n) for n in shape)
    elif "shape" in section and _is_image(config):
        config.data.shape = config.get_oneway_ref("shape")


def _suffixes() -> dict[Callable[[ConfigDict, str], Choice], tuple[str, ...]]:
    """Function that chooses for a folder's files → their suffixes."""
    return {
        _of_images: images.SUFFIXES,
        _of_audio: recordings.SOUNDS,
        _of_text: sequences.TEXTS,
        _of_tfrecord: tfrecord.SUFFIXES,
    }
