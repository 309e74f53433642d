"""Samples on disk: nothing lost, nothing twice, nothing of another kind."""

import json

import numpy as np
import pytest

from config_lib.spec import ConfigError
from io_lib.shards import Shards, mapped

X = np.random.default_rng(0).normal(size=(30, 2, 3)).astype(np.float32)
N = np.arange(30, dtype=np.int32)


def shards(tmp_path, **changes):
    return Shards(tmp_path / "shards", "step3_seed0_pc", {"seed": 0, "step": 3, **changes})


def write(target, *ranges):
    for first, last in ranges:
        target.write(first, X[first:last], N[first:last])


def test_the_union_is_what_was_written(tmp_path):
    """Of ranges of any lengths, cut where it is asked to end; bit for bit, in a file that np.load reads too."""
    ours, file = shards(tmp_path), tmp_path / "samples.npz"
    assert ours.count() == 0 and not ours.folder.exists()
    write(ours, (0, 7), (7, 8), (8, 20))
    assert ours.count() == 20
    for count in (3, 7, 8, 13, 20):
        ours.union(file, count)
        with np.load(file, allow_pickle=False) as read:
            np.testing.assert_array_equal(read["samples"], X[:count])
            np.testing.assert_array_equal(read["nfe"], N[:count])
            assert json.loads(str(read["made_with"])) == {"seed": 0, "step": 3, "count": count}
        assert ours.is_union(file, count) and not ours.is_union(file, count + 1)
    assert not shards(tmp_path, seed=1).is_union(file, 20)
    assert not ours.is_union(tmp_path / "none.npz", 20)


def test_the_seconds_of_a_sample(tmp_path):
    """Over all samples that there are, however they were drawn."""
    ours = shards(tmp_path)
    assert ours.seconds() == 0
    ours.write(0, X[:20], N[:20], 5.0)
    ours.write(20, X[20:], N[20:], 1.0)
    assert ours.seconds() == pytest.approx(6 / 30)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_map_of_the_union_reads_it_without_loading_it(tmp_path, dtype):
    ours, file = shards(tmp_path), tmp_path / "samples.npz"
    x = (100 * X).astype(dtype)
    ours.write(0, x, N)
    ours.union(file, 30)
    found = mapped(file)
    assert isinstance(found, np.memmap) and not found.flags.writeable and found.dtype == dtype
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(mapped(file, "nfe"), N)
    ours.union(file, 10)  # puts another file in its place: what is mapped stays what it was
    np.testing.assert_array_equal(found, x)


def test_only_samples_without_a_gap_count(tmp_path):
    ours = shards(tmp_path)
    write(ours, (0, 10), (20, 30))
    assert ours.count() == 10
    write(ours, (10, 15))
    assert ours.count() == 15
    write(ours, (10, 20))  # drawn again with a larger batch
    assert ours.count() == 30
    ours.union(tmp_path / "samples.npz", 30)
    np.testing.assert_array_equal(mapped(tmp_path / "samples.npz"), X)


def test_other_things_have_another_folder(tmp_path):
    write(shards(tmp_path), (0, 10))
    for changes in ({"seed": 1}, {"step": 4}, {"sampler": {"num_steps": 9}}):
        assert shards(tmp_path, **changes).count() == 0
    assert json.loads((shards(tmp_path).folder / "made_with.json").read_text()) == {"seed": 0, "step": 3}


def test_a_file_from_elsewhere_is_refused_and_a_damaged_one_drawn_again(tmp_path, capsys):
    ours, theirs = shards(tmp_path), shards(tmp_path, seed=1)
    write(ours, (0, 10))
    write(theirs, (10, 20))
    (file,) = theirs.folder.glob("*.npz")
    moved = ours.folder / file.name
    moved.write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"0000010-0000020.npz was made with another step, seed or sampler"):
        ours.count()
    moved.write_bytes(file.read_bytes()[:300])
    assert ours.count() == 10
    assert "0000010-0000020.npz is damaged or missing" in capsys.readouterr().out
    write(ours, (10, 20))
    assert ours.count() == 20
