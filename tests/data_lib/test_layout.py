"""Each remark's own line of NumPy makes the remark disappear, and gives the array that was meant."""

import numpy as np
import pytest

from data_lib import Dataset, Identity, describe, digits, from_arrays, from_npz, remarks
from data_lib.layout import event_remark, label_remark


def turned(remark, **arrays):
    """The array that the line of the remark makes."""
    line = remark.split(", as ")[1].removesuffix(" makes it").split(" = ", 1)[1]
    return eval(line, {"np": np, **arrays})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((60, 3, 16, 16), (60, 16, 16, 3)),
        ((60, 1, 28, 20), (60, 28, 20, 1)),
        ((9, 4, 8, 8), (9, 8, 8, 4)),
        ((32, 20, 3, 500), (500, 32, 20, 3)),
        ((2, 400), (400, 2)),
        ((10, 5000), (5000, 10)),
        ((50, 1, 1024), (50, 1024, 1)),
        ((50, 3, 100), (50, 100, 3)),
    ],
)
def test_a_layout_that_is_not_meant(shape, expected):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    remark = event_remark(shape)
    made = turned(remark, x=x)
    assert f"x of shape {list(shape)} looks like " in remark
    assert made.shape == expected and not event_remark(made.shape)


@pytest.mark.parametrize(
    "shape",
    [
        *[
            (60, 16, 16, 3),
            (60, 28, 28, 1),
            (60, 4, 4, 3),
            (3, 32, 32, 3),
            (60, 3, 3, 3),
            (60, 1, 1, 3),
            (60, 64, 64, 4),
        ],
        *[(400, 2), (1000, 784), (100, 784), (30, 2), (3, 2), (50, 1024, 1), (50, 64, 8), (50, 256, 2), (50, 5, 5)],
        *[(60, 24, 24, 24, 1), (60, 3, 16, 16, 16), (60,)],
    ],
)
def test_a_layout_that_may_be_meant(shape):
    assert event_remark(shape) == ""


@pytest.mark.parametrize("label", [np.arange(9)[:, None] % 3, np.eye(3)[np.arange(9) % 3], np.arange(9) % 3 + 0.0])
def test_labels_that_are_not_one_integer_each(label):
    np.testing.assert_array_equal(turned(label_remark(label), label=label), np.arange(9) % 3)
    assert turned(label_remark(label), label=label).dtype.kind == "i"


@pytest.mark.parametrize("label", [np.arange(9), np.ones((9, 3)), np.linspace(0, 1, 9), np.eye(9)[:, :3]])
def test_labels_that_are_classes_or_vectors(label):
    assert label_remark(label) == ""


def test_remarks_are_those_of_a_data_set_and_in_its_description(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), np.uint8)
    dataset = from_arrays(x, np.arange(60)[:, None] % 2)
    assert len(remarks(dataset)) == 2 and "np.transpose(x, (0, 2, 3, 1))" in remarks(dataset)[0]
    assert str(describe(dataset, Identity())).count("layout   x of shape [60, 3, 16, 16]") == 1
    rows = [{"x": image} for image in x]
    assert "np.transpose(x, (0, 2, 3, 1))" in remarks(Dataset(rows[:50], rows[50:]))[0]
    assert remarks(digits()) == () and "layout" not in str(describe(digits(), Identity()))
    np.savez(tmp_path / "table.npz", x=np.zeros((2, 400)))
    with pytest.raises(ValueError, match=r"gives 0 test examples: .*\[2, 400\] looks like a table of 2 features"):
        from_npz(tmp_path / "table.npz")


def test_keys_that_are_not_used_are_named():
    rows = [{"image": np.zeros((8, 8, 3), np.uint8), "label": 1, "id": b"1", "mask": np.zeros(3)} for _ in range(9)]
    assert remarks(Dataset(rows[:8], rows[8:])) == ("keys of the examples that are not used: id, mask",)
    rows = [{"x": np.zeros(2), "image": np.zeros((8, 8)), "label": 1} for _ in range(9)]
    assert remarks(Dataset(rows[:8], rows[8:])) == ("keys of the examples that are not used: image",)
