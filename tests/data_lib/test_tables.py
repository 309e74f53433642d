"""Tables in CSV files: the columns of x, label and cond, and what is no table."""

import numpy as np
import pytest

from data_lib import from_csv

LINES = "mass, kind,T ,id\n1.5,b,300,0\n2.5,a,301,1\n-3,b,302.5,2\n4e2,c,303,3\n"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "t.csv").write_text(LINES)
    return tmp_path / "t.csv"


def together(dataset, name):
    values = [getattr(part, name) for part in dataset]
    order = np.argsort(np.concatenate([part.x for part in dataset])[:, 0])
    return np.concatenate(values)[order]


def test_columns_by_name(table):
    data = from_csv(table, x="mass", label="kind", cond="T", ignore="id", test=1)
    assert [len(part) for part in data] == [3, 1]
    np.testing.assert_array_equal(together(data, "x"), [[-3], [1.5], [2.5], [400]])
    np.testing.assert_array_equal(together(data, "label"), [1, 1, 0, 2])
    np.testing.assert_array_equal(together(data, "cond"), [[302.5], [300], [301], [303]])


def test_without_names_all_columns_are_x(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n3,4\n\n5,6\n")
    np.testing.assert_array_equal(together(from_csv(tmp_path / "t.csv", test=1), "x"), [[1, 2], [3, 4], [5, 6]])
    data = from_csv(tmp_path / "t.csv", cond="1", test=1)
    np.testing.assert_array_equal(together(data, "cond"), [[2], [4], [6]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "column kind, example 0: expected a finite number, got 'b'"),
        ({"x": "mass", "cond": "T"}, "not used: kind, id; name them by label=, cond= or ignore="),
        ({"x": "mas"}, "expected columns mass, kind, T, id, got mas"),
    ],
)
def test_what_does_not_fit(table, options, message):
    with pytest.raises(ValueError, match=message):
        from_csv(table, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "got an empty file"), ("a,b\n1\n", "line 2: expected 2 cells, got 1"), ("a,a\n1,2\n", "different names"),
     ("a\nnan\n1\n", "column a, example 0: expected a finite number, got 'nan'")],
)  # fmt: skip
def test_what_is_no_table(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_csv(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="no file"):
        from_csv(tmp_path / "none.csv")


def test_labels_are_numbers_or_names(tmp_path):
    """Whole numbers also if they are written as floats; text by its place, with the names; no empty cell."""
    lines = {"float": [f"{k}.0" for k in range(12)], "text": list("cabcabcabcab"), "gap": ["1"] * 11 + [""]}
    for name, cells in lines.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,k", *(f"{i},{cell}" for i, cell in enumerate(cells))]))
    data = from_csv(tmp_path / "float.csv", label="k", test=2)
    np.testing.assert_array_equal(together(data, "label"), np.arange(12))
    data = from_csv(tmp_path / "text.csv", label="k", test=2)
    assert data.train.classes == ("a", "b", "c")
    np.testing.assert_array_equal(together(data, "label"), [2, 0, 1] * 4)
    with pytest.raises(ValueError, match="column k, example 11: expected a class, got an empty cell"):
        from_csv(tmp_path / "gap.csv", label="k", test=2)
