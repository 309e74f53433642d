"""Tables in CSV files: one line per example, one column per number, with or without a first line of names."""

import csv
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from data_lib.arrays import from_arrays, names_in
from data_lib.sources import Dataset


def read_csv(path: str | PathLike) -> dict[str, list[str]]:
    """Name → the cells of a column. The names are those of the first line, or "0", "1" … if that holds numbers only.

    ValueError naming file and line for an empty file, and for lines of different lengths; FileNotFoundError.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if line]
    if not lines:
        raise ValueError(f"{path}: expected one line per example, got an empty file")
    names = [cell.strip() for cell in lines[0][1]]
    if all(map(is_number, names)):
        names = [str(i) for i in range(len(names))]
    else:
        lines = lines[1:]
    if len(set(names)) < len(names) or not all(names) or not lines:
        shown = ", ".join(names)
        raise ValueError(f"{path}: expected different names and at least one line of numbers, got {shown}")
    for number, line in lines:
        if len(line) != len(names):
            raise ValueError(f"{path}, line {number}: expected {len(names)} cells, got {len(line)}")
    return {name: [line[i].strip() for _, line in lines] for i, name in enumerate(names)}


def from_csv(
    path: str | PathLike,
    x: str = "",
    label: str = "",
    cond: str = "",
    ignore: str = "",
    test: float | int = 0.1,
    seed: int = 0,
) -> Dataset:
    """As `from_arrays`, from columns of a CSV file: x [N, columns] float64, label [N], cond [N, columns].

    `x`, `cond` and `ignore` are names of columns, separated by commas; without `x` it has all columns that no other
    argument names. A label may be text, whose sorted values are the classes 0, 1 …. FileNotFoundError; ValueError
    naming file, column and line for unknown columns and for cells that are not finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected a .csv file with one line per example")
    columns = read_csv(path)
    conditions, ignored, labels = names_in(cond), names_in(ignore), names_in(label)
    events = names_in(x) or [name for name in columns if name not in (*conditions, *ignored, *labels)]
    if unknown := [name for name in (*events, *conditions, *ignored, *labels) if name not in columns]:
        raise ValueError(f"{path}: expected columns {', '.join(columns)}, got {', '.join(unknown)}")
    if not events or len(labels) > 1:
        raise ValueError(f"{path}: expected one column or more for x, and at most one label")
    if left := [n for n in columns if n not in (*events, *conditions, *ignored, *labels)]:
        raise ValueError(f"{path}: not used: {', '.join(left)}; name them by label=, cond= or ignore=")
    given = {
        "x": numbers(path, columns, events),
        "cond": numbers(path, columns, conditions) if conditions else None,
    }
    label_values, names = classes(path, labels[0], columns[labels[0]]) if labels else (None, ())
    return from_arrays(**given, label=label_values, classes=names, test=test, seed=seed, name=path.name)


def numbers(path: Path, columns: dict[str, list[str]], names: Sequence[str]) -> np.ndarray:
    """The columns of these names [N, columns], float64. ValueError for a cell that is not a finite number."""
    for name in names:
        for row, cell in enumerate(columns[name]):
            if not is_number(cell) or not np.isfinite(float(cell)):
                raise ValueError(f"{path}, column {name}, example {row}: expected a finite number, got {cell!r}")
    return np.array([[float(cell) for cell in columns[name]] for name in names]).T


def classes(path: Path, name: str, cells: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels, names of the classes): whole numbers as they are, without names; text by its place when sorted.

    ValueError for an empty cell.
    """
    if "" in cells:
        raise ValueError(f"{path}, column {name}, example {list(cells).index('')}: expected a class, got an empty cell")
    if all(is_number(cell) and float(cell).is_integer() for cell in cells):
        return np.array([int(float(cell)) for cell in cells]), ()
    names, label = np.unique(np.array(cells), return_inverse=True)
    return label.astype(np.int32), tuple(names.tolist())


def is_number(text: str) -> bool:
    """Whether a cell is a number; "nan" and "inf" are."""
    try:
        float(text)
    except ValueError:
        return False
    return True
