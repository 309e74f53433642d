import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from data_lib import archives, from_cifar, from_idx, from_svhn


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(folder, compress=True):
    x, label = images(30, 28, 28), np.arange(30, dtype=np.uint8) % 10
    for prefix, part in (("train", slice(20)), ("t10k", slice(20, 30))):
        for kind, array in (("images-idx3", x[part]), ("labels-idx1", label[part])):
            content = gzip.compress(idx(array)) if compress else idx(array)
            (folder / f"{prefix}-{kind}-ubyte{'.gz' if compress else ''}").write_bytes(content)
    return x, label


@pytest.mark.parametrize("compress", [True, False])
def test_idx(tmp_path, compress):
    x, label = mnist(tmp_path, compress)
    parts = from_idx(tmp_path)
    for part, rows in zip(parts, (slice(20), slice(20, 30)), strict=True):
        np.testing.assert_array_equal(part.x, x[rows, ..., None])
        np.testing.assert_array_equal(part.label, label[rows])


def test_idx_that_is_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*train-images-idx3-ubyte\[\.gz\]"):
        from_idx(tmp_path)
    mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train-images.*: expected a gzip file"):
        from_idx(tmp_path)
    file.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(ValueError, match=r"header says \(20, 28, 28\), so 15696 bytes, got 15695"):
        from_idx(tmp_path)
    file.write_bytes(gzip.compress(b"text"))
    with pytest.raises(ValueError, match=r"expected an idx file, got one that begins with b'text'"):
        from_idx(tmp_path)


def archive(path, contents):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def records(x, *labels):
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.concatenate([*(np.asarray(label, np.uint8)[:, None] for label in labels), planes], axis=1).tobytes()


def test_cifar_10(tmp_path):
    x, label = images(60, 32, 32, 3), np.arange(60) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    path = archive(
        tmp_path / "cifar-10-binary.tar.gz",
        {
            "../../outside.bin": b"not to be followed",
            **{f"cifar-10-batches-bin/{n}": records(x[i::6], label[i::6]) for i, n in enumerate(names)},
        },
    )
    train, test = from_cifar(path)
    np.testing.assert_array_equal(train.x, np.concatenate([x[i::6] for i in range(5)]))
    np.testing.assert_array_equal(train.label, np.concatenate([label[i::6] for i in range(5)]))
    np.testing.assert_array_equal(test.x, x[5::6])
    assert (
        sorted(file.name for file in tmp_path.iterdir()) == [path.name]
        and not (tmp_path / "../../outside.bin").exists()
    )


def cifar_100(folder):
    x = images(6, 32, 32, 3)
    contents = {
        f"cifar-100-binary/{name}.bin": records(x, np.arange(6), 90 + np.arange(6)) for name in ("train", "test")
    }
    return archive(folder / "c.tar.gz", contents)


def test_only_what_is_asked_for_is_read_of_an_archive(tmp_path, monkeypatch):
    """Links and other files, however large they say that they are, are passed over."""
    read = []
    real = tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda self, m: read.append(m.name) or real(self, m))
    path = cifar_100(tmp_path)
    with tarfile.open(path) as old, tarfile.open(tmp_path / "more.tar", "w") as new:
        for member in old.getmembers():
            new.addfile(member, old.extractfile(member))
        link = tarfile.TarInfo("cifar-100-binary/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        new.addfile(link)
        new.addfile(tarfile.TarInfo("/absolute"), io.BytesIO())
    read.clear()
    assert len(from_cifar(tmp_path / "more.tar").train) == 6
    assert read == ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]
    monkeypatch.setattr(archives, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"train\.bin has 0 bytes: expected a multiple of 3074"):
        from_cifar(path)


def test_cifar_100_has_fine_and_coarse_labels(tmp_path):
    path = cifar_100(tmp_path)
    np.testing.assert_array_equal(from_cifar(path).train.label, 90 + np.arange(6))
    np.testing.assert_array_equal(from_cifar(path, coarse=True).train.label, np.arange(6))
    np.testing.assert_array_equal(from_cifar(path).test.x, images(6, 32, 32, 3))


def test_archives_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_cifar(tmp_path / "none.tar.gz")
    path = archive(tmp_path / "python.tar.gz", {"cifar-10-batches-py/data_batch_1": b"pickle"})
    with pytest.raises(ValueError, match=r"expected the binary version, .*, got cifar-10-batches-py/data_batch_1"):
        from_cifar(path)
    path = archive(tmp_path / "cut.tar.gz", {"cifar-100-binary/train.bin": b"1" * 3000})
    with pytest.raises(ValueError, match=r"train\.bin has 3000 bytes: expected a multiple of 3074"):
        from_cifar(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.tar\.gz: expected a \.tar\.gz archive"):
        from_cifar(path)


def svhn(folder):
    x, label = images(20, 32, 32, 3), np.arange(20) % 10 + 1
    for part, rows in (("train", slice(15)), ("test", slice(15, 20))):
        savemat(folder / f"{part}_32x32.mat", {"X": x[rows].transpose(1, 2, 3, 0), "y": label[rows, None]})


def test_svhn(tmp_path):
    svhn(tmp_path)
    train, test = from_svhn(tmp_path)
    np.testing.assert_array_equal(train.x, images(20, 32, 32, 3)[:15])
    np.testing.assert_array_equal(test.label, [6, 7, 8, 9, 0])
    (tmp_path / "test_32x32.mat").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"test_32x32\.mat: expected X and y of the published file"):
        from_svhn(tmp_path)
