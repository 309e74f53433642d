"""--data=PATH|NAME: other data for a config, without editing its file.

    PATH or NAME                  source                                            transform
    folder of images              from_folder, cropped/resized to config.shape      Scale(0, 255)
    .npz, .npy                    from_npz: x, image or images, or the only array   by the values, see `infer_transform`
    .tar.gz, idx or SVHN folder   CIFAR-10/100; MNIST and similar sets; SVHN        Scale(0, 255)
    .tfrecords, a folder of them  from_tfrecord: FFHQ, CelebA-HQ                    Scale(0, 255)
    folder of .wav, .flac         from_audio, windows of config.shape[0]            Identity
    .txt                          from_text, windows of config.shape[0]             Scale(0, 1)
    moons, swirl, checkerboard, gaussians, digits                                   Identity; digits Scale(0, 16)
    any other name                tfds_dataset, cropped/resized to config.shape     Scale(0, 255)

config.json records the transform with its parameters. `--config.data.…` and `--config.shape=…` apply afterwards.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

import data_lib
from config_lib.names import ConfigError
from config_lib.spec import spec
from data_lib import Identity, Scale, files, images, infer_transform, sequences, tfrecord
from data_lib.arrays import load_arrays

TOYS = ("moons", "swirl", "checkerboard", "gaussians")
PIXELS = Scale(0.0, 255.0)


def with_data(config: ConfigDict, data: str) -> ConfigDict:
    """Sets data and transform of the config in place, and the shape if the data determine it; returns the config.

    ConfigError for data that are missing, of an unknown format, or of events unlike the config's.
    """
    if not data:
        raise ConfigError("--data= is empty: expected a path or a name")
    try:
        _set(config, Path(data).expanduser(), data)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--data={data}: {error}") from error
    return config


def _set(config: ConfigDict, path: Path, name: str) -> None:
    if path.is_dir():
        _set_folder(config, path)
    elif path.is_file():
        _set_file(config, path)
    elif "/" in name and (path.suffix or path.parent.is_dir() or name.startswith(("/", ".", "~"))):
        raise FileNotFoundError("no such file or folder")
    elif name in TOYS:
        _put(config, spec(getattr(data_lib, name)), Identity(), (2,))
    elif name == "digits":
        _put(config, spec(data_lib.digits), Scale(0.0, 16.0), (8, 8, 1))
    elif path.suffix in (".npz", ".npy", ".txt", ".gz", ".tgz", ".tfrecords"):
        raise FileNotFoundError("no such file")
    else:
        _set_tfds(config, name)


def _set_folder(config: ConfigDict, path: Path) -> None:
    text = str(path)
    if any(path.glob("train-*ubyte*")):
        return _put(config, spec(data_lib.from_idx, path=text), PIXELS, (28, 28, 1))
    if (path / "train_32x32.mat").is_file():
        return _put(config, spec(data_lib.from_svhn, path=text), PIXELS, (32, 32, 3))
    found = files.find_files(path, (*images.SUFFIXES, *sequences.SOUNDS, *sequences.TEXTS, *tfrecord.SUFFIXES))
    kinds = [sum(name.lower().endswith(s) for name in found) for s in _suffixes().values()]
    make = list(_suffixes())[int(np.argmax(kinds))]
    return make(config, text)


def _set_file(config: ConfigDict, path: Path) -> None:
    text, name = str(path), path.name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        _put(config, spec(data_lib.from_cifar, path=text), PIXELS, (32, 32, 3))
    elif name.endswith(tfrecord.SUFFIXES):
        _set_tfrecord(config, text)
    elif name.endswith(sequences.TEXTS):
        _set_text(config, text)
    elif name.endswith((".npz", ".npy")):
        _set_npz(config, text)
    else:
        ends = ".npz, .npy, .tar.gz, .tfrecords, .txt"
        raise ValueError(f"expected a folder, or a file that ends in {ends}")


def _set_images(config: ConfigDict, path: str) -> None:
    shape = tuple(config.shape)
    if not _is_image(config):
        raise ValueError(f"the data are images, but config.shape is {shape}: expected (H, W, 3) or (H, W, 1)")
    _put(config, spec(data_lib.from_folder, path=path, shape=shape), PIXELS, None)
    config.data.shape = config.get_ref("shape")


def _set_tfds(config: ConfigDict, name: str) -> None:
    _put(config, spec(data_lib.tfds_dataset, name=name), PIXELS, None)
    if _is_image(config):
        config.data.shape = config.get_ref("shape")


def _is_image(config: ConfigDict) -> bool:
    return len(config.shape) == 3 and config.shape[2] in images.MODES


def _set_audio(config: ConfigDict, path: str) -> None:
    _put(config, spec(data_lib.from_audio, path=path, length=config.shape[0]), Identity(), (config.shape[0], 1))


def _set_text(config: ConfigDict, path: str) -> None:
    _put(config, spec(data_lib.from_text, path=path, length=config.shape[0]), Scale(0.0, 1.0), (config.shape[0], 8))


def _set_tfrecord(config: ConfigDict, path: str) -> None:
    shape = data_lib.from_tfrecord(path).train[0]["x"].shape
    _put(config, spec(data_lib.from_tfrecord, path=path), PIXELS, shape)


def _set_npz(config: ConfigDict, path: str) -> None:
    keys = list(load_arrays(path))
    events = [key for key in ("x", "image", "images") if key in keys] or keys
    labels = [key for key in ("label", "labels", "y") if key in keys and key != events[0]]
    if len(events) > 1 or (events[0] not in ("x", "image", "images") and len(keys) > 1):
        raise ValueError(f"expected one array x, image or images, got {sorted(keys)}")
    section = spec(data_lib.from_npz, path=path, x=events[0], **({"label": labels[0]} if labels else {}))
    train = data_lib.from_npz(path, events[0], labels[0] if labels else None).train
    assert isinstance(train, data_lib.ArraySource)
    _put(config, section, infer_transform(train.x), train.x.shape[1:])


def _put(config: ConfigDict, section: ConfigDict, transform, shape: tuple[int, ...] | None) -> None:
    if shape is not None and len(shape) != len(config.shape):
        raise ValueError(f"events of shape {tuple(shape)}, but the config is for events like {tuple(config.shape)}")
    config.data = section
    config.transform = spec(type(transform), **vars(transform))
    if shape is not None:
        config.shape = tuple(int(n) for n in shape)


def _suffixes() -> dict[Callable[[ConfigDict, str], None], tuple[str, ...]]:
    """Function that configures a folder's files → their suffixes."""
    return {
        _set_images: images.SUFFIXES,
        _set_audio: sequences.SOUNDS,
        _set_text: sequences.TEXTS,
        _set_tfrecord: tfrecord.SUFFIXES,
    }
