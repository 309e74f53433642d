"""Files of every kind with flipped bytes, cuts and repeats: examples come out, or one error that names the file."""

import io
import wave
import zlib

import numpy as np
import pytest
from PIL import Image

from data_lib import (
    from_audio,
    from_cifar,
    from_folder,
    from_idx,
    from_npz,
    from_svhn,
    from_text,
    from_tfrecord,
    gather,
)
from tests.data_lib.test_archives import cifar_100, mnist, svhn
from tests.data_lib.test_tfrecord import written


def numbers(folder):
    np.savez(folder / "a.npz", x=np.arange(60.0).reshape(20, 3), y=np.arange(20))


def sound(folder):
    for name in "ab":
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(100)
            file.writeframes(np.arange(-60, 60, dtype="<i2").tobytes())


def pictures(folder):
    for i, suffix in enumerate(("png", "jpg", "webp", "gif")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"{i}.{suffix}")


def text(folder):
    (folder / "a.txt").write_text("größer " * 40)


KINDS = {  # a folder of files, and how they are read
    "npz": (numbers, lambda folder: from_npz(folder / "a.npz", label="y", test=2)),
    "idx": (lambda folder: mnist(folder, compress=False), from_idx),
    "idx, gzipped": (mnist, from_idx),
    "cifar": (cifar_100, lambda folder: from_cifar(folder / "c.tar.gz")),
    "svhn": (svhn, from_svhn),
    "wav": (sound, lambda folder: from_audio(folder, rate=100, length=20, test=1)),
    "images": (pictures, lambda folder: from_folder(folder, (4, 4, 3), test=2)),
    "images by index": (pictures, lambda folder: from_folder(folder, (4, 4, 3), test=2, in_memory=False)),
    "tfrecord": (lambda folder: written(folder / "a.tfrecords"), lambda folder: from_tfrecord(folder, test=4)),
    "text": (text, lambda folder: from_text(folder, length=10)),
    "characters": (text, lambda folder: from_text(folder, length=10, alphabet="größe ")),
}


def mutated(content, generator):
    """Bytes changed, or cut, or doubled; mostly near the beginning, where headers are."""
    content = np.frombuffer(content, np.uint8).copy()
    end = len(content) if generator.random() < 0.5 else min(len(content), 64)
    kind = generator.integers(3)
    if kind == 0:
        places = generator.integers(0, end, generator.integers(1, 6))
        content[places] = generator.choice([0, 1, 127, 128, 255, *generator.integers(0, 256, 3)], len(places))
    elif kind == 1:
        content = content[: generator.integers(0, len(content))]
    else:
        content = np.insert(content, generator.integers(0, end), content[: generator.integers(1, 50)])
    return content.tobytes()


def fuzz(kind, folder, count, seed):
    """(read, refused): anything but valid examples or a ValueError that names a file is an error."""
    make, read = KINDS[kind]
    make(folder)
    originals = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    generator, outcomes = np.random.default_rng(seed), [0, 0]
    for _ in range(count):
        path = list(originals)[generator.integers(len(originals))]
        path.write_bytes(mutated(originals[path], generator))
        try:
            for part in read(folder):
                batch = gather(part, np.arange(len(part)))
                assert len(batch["x"]) == len(part) > 0 and np.isfinite(batch["x"]).all()
            outcomes[0] += 1
        except ValueError as error:
            assert path.stem in str(error) and len(str(error)) < 2000, error
            outcomes[1] += 1
        path.write_bytes(originals[path])
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused_by_name(kind, count, tmp_path):
    read, refused = fuzz(kind, tmp_path, count, seed=count)
    assert refused >= (0 if kind == "text" else 1) and read + refused == count


def test_a_picture_that_claims_to_be_huge_is_refused_by_its_header(tmp_path):
    bomb = io.BytesIO()
    Image.new("L", (1, 1)).save(bomb, "PNG")
    content = bytearray(bomb.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    pictures(tmp_path)
    with pytest.raises(ValueError, match=r"1 of \d files cannot be read.*bomb\.png: DecompressionBombError"):
        from_folder(tmp_path, (4, 4, 3), test=2)
