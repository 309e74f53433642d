"""Data sets prepared for `tfds_dataset`, as array_record, without TensorFlow in this process.

    python -m data_lib.prepare cifar10 cifar-10-binary.tar.gz     the published archive, read by `archives`
    python -m data_lib.prepare mnist FOLDER                       a folder of its idx files; SVHN: of its .mat files
    python -m data_lib.prepare oxford_flowers102                  any other name: downloaded and prepared by TFDS

The last form starts another process, which imports TensorFlow: install it with `pip install '.[prepare]'`, or name an
interpreter that has it by --python. --data_dir has the default of `tfds_dataset`.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from data_lib.archives import from_cifar, from_idx, from_svhn
from data_lib.sources import Dataset, Source
from data_lib.tfds_source import data_root

PUBLISHED = {  # TFDS's name: (its version, our reader, classes)
    "cifar10": ("3.0.2", from_cifar, 10),
    "cifar100": ("3.0.2", from_cifar, 100),
    "svhn_cropped": ("3.1.0", from_svhn, 10),
    "mnist": ("3.0.1", from_idx, 10),
    "fashion_mnist": ("3.0.1", from_idx, 10),
    "kmnist": ("3.0.1", from_idx, 10),
}
NEEDED, MISSING = ("tensorflow_datasets", "tensorflow"), 3
BUILD = f"""
import importlib.util, sys
if not all(map(importlib.util.find_spec, {NEEDED})):  # without TensorFlow, TFDS would try the network for minutes
    sys.exit({MISSING})
import tensorflow_datasets as tfds
name, data_dir = sys.argv[1:]
tfds.builder(name, data_dir=data_dir, file_format="array_record").download_and_prepare()
"""


def from_archive(name: str, path: str | PathLike, data_dir: str | PathLike | None = None) -> Path:
    """Prepares the data set `name` under data_dir from its published archive or folder, and returns its folder.

    ValueError for a name without a reader in `archives`, and for labels outside its classes. FileExistsError if it is
    already prepared.
    """
    if name not in PUBLISHED:
        raise ValueError(f"expected one of {', '.join(PUBLISHED)} with an archive, got {name!r}")
    version, reader, classes = PUBLISHED[name]
    folder = data_root(data_dir) / name / version
    if folder.exists():
        raise FileExistsError(f"{folder} already exists")
    dataset = reader(path)
    if (highest := max(int(part[i]["label"]) for part in dataset for i in range(len(part)))) >= classes:
        raise ValueError(f"{path}: expected the labels 0..{classes - 1} of {name}, got {highest}")
    _builder(name, version, classes, dataset, data_root(data_dir)).download_and_prepare()
    return folder


def by_tfds(name: str, data_dir: str | PathLike | None = None, python: str = sys.executable) -> None:
    """TFDS downloads and prepares `name`, in a process of the interpreter `python`. RuntimeError if it cannot."""
    try:
        code = subprocess.run([python, "-c", BUILD, name, str(data_root(data_dir))], check=False).returncode
    except OSError as error:
        raise RuntimeError(f"cannot run {python}: {error}") from error
    if code == MISSING:
        raise RuntimeError(
            f"{python} lacks {' or '.join(NEEDED)}: pip install '.[prepare]', or pass --python=PATH of one with both"
        )
    if code:
        raise RuntimeError(f"TFDS could not prepare {name!r}: see its output above")


def _builder(name: str, version: str, classes: int, dataset: Dataset, data_dir: Path):
    import tensorflow_datasets as tfds  # here, since it is slow

    class Published(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            image = tfds.features.Image(shape=dataset.train[0]["x"].shape)
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=classes)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download_manager):
            return {"train": _examples(dataset.train), "test": _examples(dataset.test)}

        def _generate_examples(self):
            raise NotImplementedError("the splits are given above")

    Published.name = name
    return Published(data_dir=str(data_dir), file_format="array_record")


def _examples(source: Source) -> Iterator[tuple[int, dict]]:
    """(index, example) with Pillow's images, which TFDS encodes without TensorFlow; for arrays it would need it."""
    from PIL import Image

    for i in range(len(source)):
        x, label = source[i]["x"], source[i]["label"]
        yield i, {"image": Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), "label": int(label)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data_lib.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="the name in tensorflow-datasets")
    parser.add_argument("archive", nargs="?", help=f"the published data; for {', '.join(PUBLISHED)}")
    parser.add_argument("--data_dir")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with both TFDS and TensorFlow")
    given = parser.parse_args(argv)
    try:
        if given.archive is None:
            by_tfds(given.name, given.data_dir, given.python)
        else:
            print(from_archive(given.name, given.archive, given.data_dir))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"data_lib.prepare: {error}")


if __name__ == "__main__":
    main()
