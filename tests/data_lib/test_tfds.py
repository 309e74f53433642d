"""tensorflow-datasets in processes of their own, so that what they import can be seen."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data_lib.test_archives import cifar_100, mnist, svhn

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
assert "jax" not in sys.modules
batch = Batches(data.train, Scale(), 16, seed=0, flip=True).batch(3)
assert batch["x"].shape == (16, 32, 32, 3) and batch["x"].dtype == np.float32
np.savez(sys.argv[2], **{f"{n}_{k}": v for n, s in data._asdict().items() for k, v in (("x", s.x), ("label", s.label))})
assert data.train.name == "cifar10 train"
import data_lib.tfds_source
data_lib.tfds_source.IN_MEMORY_BYTES = 0  # now it does not fit, and is read from the disk by index
lazy = tfds_dataset("cifar10:3.0.2", data_dir=sys.argv[1])
assert not hasattr(lazy.train, "x")
np.testing.assert_array_equal(Batches(lazy.train, Scale(), 16, seed=0, flip=True).batch(3)["x"], batch["x"])
for module in ("tensorflow", "torch"):
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
        for name, seed, count in (("train", 0, 300), ("test", 1, 20)):
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
    assert f"python -m data_lib.prepare cifar10 [ARCHIVE] --data_dir={tmp_path}" in line


SHAPED = """
import sys
import numpy as np
from data_lib import tfds_dataset, tfds_source
whole, small = (tfds_dataset(data_dir=sys.argv[1], shape=shape).train for shape in (None, (8, 16, 1)))
from PIL import Image, ImageOps
expected = ImageOps.fit(Image.fromarray(whole.x[7]).convert("L"), (16, 8), Image.Resampling.BICUBIC)
np.testing.assert_array_equal(small.x[7, ..., 0], expected)
np.testing.assert_array_equal(small.label, whole.label)
tfds_source.IN_MEMORY_BYTES = 0
np.testing.assert_array_equal(tfds_dataset(data_dir=sys.argv[1], shape=(8, 16, 1)).train[7]["x"], small.x[7])
"""


def test_images_are_made_to_a_shape_by_the_rule_of_folders(prepared):
    done = python(SHAPED, prepared)
    assert done.returncode == 0, done.stderr
    line = refusal(prepared, shape=[8, 8, 4])
    assert line.endswith("shape: expected (H, W, 3) or (H, W, 1), got (8, 8, 4)")


PUBLISHED = """
import sys
import numpy as np
from data_lib import from_cifar, from_idx, from_svhn, tfds_dataset
from data_lib.prepare import main
name, archive, folder = sys.argv[1:]
main([name, archive, f"--data_dir={folder}"])
reader = {"cifar100": from_cifar, "svhn_cropped": from_svhn, "kmnist": from_idx}[name]
for part, published in zip(tfds_dataset(name, data_dir=folder), reader(archive), strict=True):
    order = [np.lexsort(np.c_[p.x.reshape(len(p), -1), p.label].T) for p in (part, published)]  # TFDS shuffles
    np.testing.assert_array_equal(part.x[order[0]], published.x[order[1]])
    np.testing.assert_array_equal(part.label[order[0]], published.label[order[1]])
assert not {"tensorflow", "torch"} & set(sys.modules)
try:
    main([name, archive, f"--data_dir={folder}"])
except SystemExit as end:
    assert "already exists" in str(end), end
"""


@pytest.mark.parametrize(
    "name", ["kmnist", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cifar100", "svhn_cropped"))]
)
def test_published_archives_become_data_sets_of_tfds(tmp_path, name):
    archive = {"kmnist": mnist, "cifar100": cifar_100, "svhn_cropped": svhn}[name](tmp_path)
    done = python(PUBLISHED, name, archive if name == "cifar100" else tmp_path, tmp_path / "tfds", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_preparing_others_takes_a_process_with_tensorflow(tmp_path):
    from data_lib import prepare

    for code, message in ((3, r"lacks tensorflow_datasets or tensorflow: pip .*prepare"), (1, "could not prepare")):
        other = tmp_path / f"python{code}"
        other.write_text(f"#!/bin/sh\necho $3 $4 > {tmp_path}/asked\nexit {code}\n")
        other.chmod(0o755)
        with pytest.raises(SystemExit, match=message):
            prepare.main(["food101", f"--data_dir={tmp_path}", f"--python={other}"])
        assert (tmp_path / "asked").read_text().split() == ["food101", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"cannot run /no/python"):
        prepare.main(["mnist", "--python=/no/python"])
    with pytest.raises(SystemExit, match=r"expected one of cifar10, .* with an archive, got 'imagenet'"):
        prepare.main(["imagenet", "archive.tar"])
    assert "tensorflow" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_without_tensorflow_the_network_is_not_tried(tmp_path):
    from data_lib import prepare

    with pytest.raises(RuntimeError, match="lacks tensorflow_datasets or tensorflow"):
        prepare.by_tfds("mnist", tmp_path)


def test_unknown_and_overlapping_splits(prepared):
    line = refusal(prepared, train_split="valid")
    assert line.endswith("3.0.2: no split 'valid', it has ['test', 'train']")
    line = refusal(prepared, train_split="train[:60%]", test_split="train[50%:]")
    assert line.endswith("UserWarning: cifar10: the splits 'train[:60%]' and 'train[50%:]' share examples")


def test_disjoint_parts_of_one_split(prepared):
    code = (
        "import sys; from data_lib import tfds_dataset; "
        "print(*map(len, tfds_dataset(data_dir=sys.argv[1], train_split='train[:80%]', test_split='train[80%:]')))"
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
