import dataclasses

import numpy as np
import pytest
from PIL import Image

from data_lib import ArraySource, Batches, Scale, digits, from_arrays, from_npz, gather, gaussians, split
from data_lib.files import split_mask


class Folder:
    """A source of one's own: 2-D images under TFDS's key, a class, and a string that no device can take."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": np.full((4, 3), index, np.float32), "label": index, "id": b"name"}


class Fetching(Folder):
    def __getitems__(self, indices):
        assert all(type(i) is int for i in indices)
        return [{"image": np.full((4, 3), 10 * i, np.uint8)} for i in indices]


def test_a_source_is_shown_by_its_shapes():
    data = from_arrays(np.zeros((20, 3), np.float32), np.arange(20) % 2, test=0.1)
    assert repr(data.train).splitlines() == ["ArraySource('arrays train': x float32[18, 3], label int32[18])"]


def test_an_own_source_is_stacked_under_canonical_keys():
    batch = gather(Folder(), np.array([3, 1]))
    assert sorted(batch) == ["label", "x"]
    assert batch["x"].shape == (2, 4, 3, 1)
    np.testing.assert_array_equal(batch["x"][:, 0, 0, 0], [3, 1])
    np.testing.assert_array_equal(batch["label"], [3, 1])
    assert batch["label"].dtype == np.int32


def test_getitems_is_used_where_there_is_one():
    batch = gather(Fetching(), [4, 2])
    np.testing.assert_array_equal(batch["x"][:, 0, 0, 0], [40, 20])
    assert sorted(batch) == ["x"]


def test_pictures_of_pillow_are_images():
    pictures = [{"image": Image.fromarray(np.full((2, 3), i, np.uint8))} for i in range(2)]
    assert gather(pictures, [1])["x"].tolist() == [[[[1]] * 3] * 2]


def test_datasets_of_hugging_face_are_sources():
    datasets = pytest.importorskip("datasets")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.fromarray(p) for p in pixels], "label": [i % 2 for i in range(20)]}
    parts = split(datasets.Dataset.from_dict(rows, features=features), 5)
    for part in parts:
        batch = Batches(part, Scale(), 8, seed=0).batch(0)
        found = [np.flatnonzero((pixels == Scale().inverse(x).round()).all((1, 2, 3)))[0] for x in batch["x"]]
        np.testing.assert_array_equal(batch["label"], np.asarray(found) % 2)
    assert len(parts.train) == 15


def test_a_table_of_numbers_is_not_an_image():
    assert ArraySource(np.zeros((7, 64, 3))).x.shape == (7, 64, 3)
    assert ArraySource(np.zeros((7, 64, 3), np.uint8)).x.shape == (7, 64, 3, 1)
    assert gather([{"x": np.zeros((64, 3))}], [0])["x"].shape == (1, 64, 3)


def test_array_source_indexes_and_gathers_alike():
    source = ArraySource(np.arange(12.0).reshape(6, 2), np.arange(6) * 10)
    batch = source.batch([4, 0, 4])
    for row, index in enumerate([4, 0, 4]):
        np.testing.assert_array_equal(batch["x"][row], source[index]["x"])
        assert batch["label"][row] == source[index]["label"] == 10 * index
    batch["x"][:] = -1
    assert source.x.min() == 0


def test_array_source_is_frozen():
    given = np.zeros((3, 2))
    source = ArraySource(given)
    with pytest.raises(ValueError, match="read-only"):
        source.x[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.x = given
    given[0] = 1  # the caller's own array stays writeable


@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (np.zeros((0, 2)), None, r"mine: x must be \[N, \.\.\.\] with N > 0 examples, got shape \(0, 2\)"),
        (np.float32(3.0), None, r"x must be .* got shape \(\)"),
        (np.zeros((3, 2)), np.zeros(4), r"mine: x has 3 examples, label must have as many, got shape \(4,\)"),
        (np.zeros((3, 2)), np.int32(1), r"label must have as many, got shape \(\)"),
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), None, r"mine: x: 2 of 4 values are not finite"),
        (np.zeros((2, 2)), np.array([0.0, np.nan]), r"mine: label: 1 of 2 values are not finite"),
        (np.array([{}, {}]), None, r"mine: x: expected an array of real numbers, got dtype object"),
        (np.zeros((2, 2)), np.array(["cat", "dog"]), r"mine: label: expected an array of real numbers, got dtype <U3"),
        (
            np.zeros((3, 2)),
            np.array([0, -1, 2]),
            r"mine: labels out of range: expected 0, 1, …, but 1 of 3 are not, first -1 of",
        ),
        (np.zeros((2, 2)), np.array([0, 2**40]), r"labels must fit into int32, got a maximum of 1099511627776"),
    ],
)
def test_what_an_array_source_refuses(x, label, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(x, label, name="mine")


def test_labels_without_a_name_are_refused():
    with pytest.raises(ValueError, match=r"expected 0 to 1, but 2 of 4 are not, first 2 of example 1$"):
        ArraySource(np.zeros((4, 2)), np.array([0, 2, 1, 7]), classes=("cat", "dog"))
    assert ArraySource(np.zeros((2, 2)), np.array([[-1, 0], [1, 2]])).label.shape == (2, 2)  # vectors may be any


def test_what_gather_refuses():
    with pytest.raises(ValueError, match=r"example 0: expected a key 'x' or 'image', got \['picture'\]"):
        gather([{"picture": np.zeros(2)}], [0])
    with pytest.raises(ValueError, match=r"examples must be alike: example 1 is .*\(3,\).* example 0 is .*\(2,\)"):
        gather([{"x": np.zeros(2)}, {"x": np.zeros(3)}], [0, 1])
    with pytest.raises(ValueError, match="examples must be alike: example 1"):
        gather([{"x": np.zeros(2), "label": 1}, {"x": np.zeros(2)}], [0, 1])


def test_splits_are_disjoint_and_complete():
    x = np.arange(40.0)[:, None]
    train, test = from_arrays(x, np.arange(40), test=0.25, seed=3)
    assert (len(train), len(test)) == (30, 10)
    assert sorted([*train.label, *test.label]) == list(range(40))
    for part in (train, test):
        np.testing.assert_array_equal(part.x[:, 0], part.label)
    assert [part.name for part in (train, test)] == ["arrays train", "arrays test"]
    assert set(from_arrays(x, test=10, seed=4).test.x[:, 0]) != set(test.x[:, 0])
    np.testing.assert_array_equal(from_arrays(x, test=10, seed=3).test.x, test.x)


@pytest.mark.parametrize(("test", "count"), [(1, 1), (1.0, 1), (np.float64(3), 3), (0.5, 2), (0.25, 1)])
def test_a_whole_number_is_a_count_and_less_than_1_a_share(test, count):
    """In every function with `test`."""
    sizes = [
        len(from_arrays(np.arange(4.0)[:, None], test=test).test),
        len(split([{"x": np.float32([i])} for i in range(4)], test=int(test) if test >= 1 else count).test),
        split_mask(list("abcd"), test if test >= 1 else count, 0, "").sum(),
        len(gaussians(4, test=test).test),
    ]
    assert sizes == [count] * 4


@pytest.mark.parametrize("test", [1.5, 2.25, np.inf, np.nan, -0.5])
def test_a_test_size_that_is_neither_is_refused(test):
    for make in (
        lambda: from_arrays(np.zeros((4, 2)), test=test),
        lambda: split([{"x": np.zeros(1)}] * 4, test=test),
        lambda: gaussians(4, test=test),
    ):
        with pytest.raises(ValueError, match=rf"test={test}: expected a whole number of examples, or a share between"):
            make()


@pytest.mark.parametrize("test", [0, 4, 0.0, 4.0, -1])
def test_a_split_needs_both_sides(test):
    with pytest.raises(ValueError, match=rf"test={test} of 4 examples gives .* test examples: expected at least one"):
        from_arrays(np.zeros((4, 2)), test=test)


def test_digits():
    train, test = digits()
    assert (train.x.shape, test.x.shape) == ((1297, 8, 8, 1), (500, 8, 8, 1))
    assert train.x.dtype == np.uint8 and (train.x.min(), train.x.max()) == (0, 16)
    assert set(train.label) == set(range(10))
    # 1,797 images, all different, so a split that shares one shows
    assert len({x.tobytes() for part in (train, test) for x in part.x}) == 1797
    # an image of a 1 is bright in its middle columns, of a 0 it is not: labels go with their images
    middle = [test.x[test.label == k][:, 3:5, 3:5].mean() for k in (0, 1)]
    assert middle[0] < 4 < 12 < middle[1]


def test_npz_and_npy(tmp_path):
    images, label = np.arange(60, dtype=np.float32).reshape(10, 3, 2), np.arange(10)
    np.savez(tmp_path / "own.npz", images=images, y=label)
    train, test = from_npz(tmp_path / "own.npz", x="images", label="y", test=2)
    assert train.x.shape == (8, 3, 2, 1) and train.name == "own.npz train"
    np.testing.assert_array_equal(test.x[:, 0, 0, 0], 6 * test.label)
    np.save(tmp_path / "own.npy", images)
    assert from_npz(tmp_path / "own.npy", test=2).train.x.shape == (8, 3, 2)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npz: expected an \.npz file with an array 'x'"):
        from_npz(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"a\.npz: expected an array 'y', got \['x'\]"):
        from_npz(tmp_path / "a.npz", label="y")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1]))
    with pytest.raises(ValueError, match=r"objects\.npz: expected an \.npz or \.npy file of plain arrays"):
        from_npz(tmp_path / "objects.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"text\.npz: expected an \.npz or \.npy file of plain arrays"):
        from_npz(tmp_path / "text.npz")
