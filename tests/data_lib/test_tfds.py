"""tensorflow-datasets in processes of their own, so that what they import can be seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

PREPARE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Cifar10(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("3.0.2")

    def _info(self):
        features = tfds.features.FeaturesDict({
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        })
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples(0, 300), "test": self._generate_examples(1, 20)}

    def _generate_examples(self, seed, count):
        generator = np.random.default_rng(seed)
        for i in range(count):
            label = int(generator.integers(10))
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            pixels[0, 0] = (label, i % 256, seed)
            yield f"{seed}_{i}", {"id": f"{seed}_{i}", "image": Image.fromarray(pixels), "label": label}

Cifar10(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""

READ = """
import sys
import numpy as np
from data_lib import Batches, Scale, tfds_dataset

assert "tensorflow_datasets" not in sys.modules
data = tfds_dataset("cifar10", data_dir=sys.argv[1])
batch = Batches(data.train, Scale(), 16, seed=0, flip=True).batch(3)
assert batch["x"].shape == (16, 32, 32, 3) and batch["x"].dtype == np.float32
np.savez(sys.argv[2], **{f"{n}_{k}": v for n, s in data._asdict().items() for k, v in (("x", s.x), ("label", s.label))})
assert data.train.name == "cifar10 train"
import data_lib.tfds_source
data_lib.tfds_source.IN_MEMORY_BYTES = 0  # now it does not fit, and is read from the disk by index
lazy = tfds_dataset("cifar10:3.0.2", data_dir=sys.argv[1])
assert not hasattr(lazy.train, "x")
np.testing.assert_array_equal(Batches(lazy.train, Scale(), 16, seed=0, flip=True).batch(3)["x"], batch["x"])
for module in ("tensorflow", "torch", "jax"):
    assert module not in sys.modules, module
"""


def python(code, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    scratch = tmp_path_factory.mktemp("scratch")  # tensorflow-datasets leaves a folder behind
    done = python(PREPARE, folder, TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    return folder


def to_tfrecord(folder):
    """The same records as TensorFlow would have written them, which alone writes them."""
    from array_record.python.array_record_module import ArrayRecordReader

    from tests.data_lib.test_tfrecord import frame

    for file in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        file.with_name(file.name.replace("array_record", "tfrecord")).write_bytes(
            b"".join(map(frame, reader.read_all()))
        )
        reader.close()
        file.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


def refusal(data_dir, **options):
    code = "import json, sys; from data_lib import tfds_dataset; tfds_dataset(**json.loads(sys.argv[1]))"
    done = python(code, json.dumps({"data_dir": str(data_dir), **options}))
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("change", [lambda folder: None, to_tfrecord], ids=["array_record", "tfrecord"])
def test_a_prepared_cifar10_is_read_without_tensorflow(prepared, tmp_path, change):
    done = python(READ, copy_of(prepared, tmp_path, change), tmp_path / "read.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "read.npz") as read:
        for name, seed, count in (("train", 0, 300), ("heldout", 1, 20)):
            x, label = read[f"{name}_x"], read[f"{name}_label"]
            assert x.shape == (count, 32, 32, 3) and x.dtype == np.uint8
            # the first pixel carries the label, the number and the split: every example is there once, with its label
            np.testing.assert_array_equal(x[:, 0, 0, 0], label)
            assert sorted(x[:, 0, 0, 1]) == sorted(i % 256 for i in range(count))
            assert (x[:, 0, 0, 2] == seed).all()


def test_an_unprepared_set_fails_at_once_in_one_line(tmp_path):
    line = refusal(tmp_path, name="cifar10")
    assert line.startswith(
        f"FileNotFoundError: TFDS data set 'cifar10' is not prepared: no dataset_info.json in {tmp_path}"
    )
    assert f"tfds build cifar10 --file_format=array_record --data_dir={tmp_path}" in line


def test_unknown_and_overlapping_splits(prepared):
    line = refusal(prepared, train_split="valid")
    assert line.endswith("3.0.2: no split 'valid', there are ['test', 'train']")
    line = refusal(prepared, train_split="train[:60%]", heldout_split="train[50%:]")
    assert line.endswith("UserWarning: cifar10: the splits 'train[:60%]' and 'train[50%:]' share examples")


def test_disjoint_parts_of_one_split(prepared):
    code = (
        "import sys; from data_lib import tfds_dataset; "
        "print(*map(len, tfds_dataset(data_dir=sys.argv[1], train_split='train[:80%]', heldout_split='train[80%:]')))"
    )
    assert python(code, prepared).stdout == "240 60\n"


def copy_of(prepared, folder, change):
    source, target = prepared / "cifar10" / "3.0.2", folder / "cifar10" / "3.0.2"
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    change(target)
    return folder


def test_a_missing_shard_is_named(prepared, tmp_path):
    copy_of(prepared, tmp_path, lambda folder: next(folder.glob("*test*")).unlink())
    assert "FileNotFoundError: split 'test' is incomplete: no file" in refusal(tmp_path)


def test_other_file_formats_are_refused(prepared, tmp_path):
    def as_parquet(folder):
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "parquet"))

    line = refusal(copy_of(prepared, tmp_path, as_parquet))
    assert "expected the file format array_record or tfrecord, got parquet" in line


def test_several_configurations_must_be_named(prepared, tmp_path):
    for config in ("clean", "noisy"):
        folder = tmp_path / "mnist" / config / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert "ValueError: TFDS data set 'mnist' has several configurations, name one" in refusal(tmp_path, name="mnist")


def test_the_newest_version_is_taken(tmp_path):
    from data_lib.tfds_source import _prepared_folder

    for version in ("3.0.2", "3.0.10", "incomplete.X_9.0.0"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").write_text("{}")
    assert _prepared_folder(tmp_path, "cifar10").name == "3.0.10"
    assert _prepared_folder(tmp_path, "cifar10:3.0.2").name == "3.0.2"
