"""The lessons run, and the numbers that they print are right: shortened in `make test`, whole in `make test-all`.

A lesson is run cell by cell in a module of its own, in an empty folder. The shortened form replaces values of the cell
with the tag `parameters`. What is asserted are the lesson's own variables, those that it prints.
"""

import re
import sys
import types
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from notebooks.make import notebook_of, sources

NAMES = [source.stem for source in sources()]
whole = pytest.mark.slow


def lesson(number: int, folder: Path, monkeypatch, **smaller) -> types.ModuleType:
    """The lesson's variables after all its cells have run, with other parameters."""
    (source,) = (source for source in sources() if source.name.startswith(f"{number:02d}_"))
    module = types.ModuleType(f"lesson_{number:02d}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(folder)
    plt.switch_backend("Agg")
    for k, cell in enumerate(jupytext.read(source).cells):
        if cell.cell_type != "code":
            continue
        exec(compile(cell.source, f"{source.name}, cell {k}", "exec"), vars(module))
        if "parameters" in cell.metadata.get("tags", []):
            assert smaller.keys() <= vars(module).keys(), "not a parameter of the lesson"
            vars(module).update(smaller)
    plt.close("all")
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_source(name):
    """The committed .ipynb has the cells of the .py, outputs of all cells that were run, and no error."""
    (source,) = (source for source in sources() if source.stem == name)
    made, found = notebook_of(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = lambda notebook: [(c.cell_type, c.id, c.source, c.metadata.get("tags", [])) for c in notebook.cells]  # noqa: E731
    assert cells(found) == cells(made), "run `python notebooks/make.py`"
    nbformat.validate(found)
    ran = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert not any(output.output_type == "error" for cell in ran for output in cell.outputs)
    assert source.with_suffix(".ipynb").stat().st_size < 1_000_000


def test_the_lessons_open_alike():
    """The first cell installs, and is the same in all; the second says what the lesson ends with. Links resolve."""
    opened = [jupytext.read(source).cells[:2] for source in sources()]
    assert len({cells[0].source for cells in opened}) == 1
    assert all(cells[0].metadata["tags"] == ["install"] for cells in opened)
    for number, (_, second) in enumerate(opened, 1):
        assert re.match(rf"# {number} · .*\n\n\*\*At the end\*\* you have ", second.source), number
    for source in sources():
        for target in re.findall(r"\]\(([^)#:]+)\)", source.read_text()):
            assert (source.parent / target).with_suffix(".py").is_file() or (source.parent / target).exists(), target


def test_no_path_of_a_machine_is_in_an_output():
    private = re.compile(rf"/home/|/root/|/tmp/|/Users/|{re.escape(str(Path.cwd()))}")
    for source in sources():
        assert not private.search(source.with_suffix(".ipynb").read_text()), source


def score(folder, monkeypatch, **smaller):
    n = lesson(1, folder, monkeypatch, **smaller)
    assert n.exact_loss <= n.learned_loss + 1e-4  # the exact score has the lowest loss
    assert n.found["exact"] < 2.5 * n.found["floor"] and abs(n.left["exact"] - 0.6) < 0.015
    return n


def test_1_a_score(tmp_path, monkeypatch):
    n = score(tmp_path, monkeypatch, num_steps=400, num_samples=5000)
    assert n.learned_loss < n.exact_loss + 0.02 and max(n.errors[1:]) < 0.5 and n.found["learned"] < 0.15


@whole
def test_1_a_score_whole(tmp_path, monkeypatch):
    n = score(tmp_path, monkeypatch)
    assert n.learned_loss < n.exact_loss + 0.002
    assert np.all(np.asarray(n.errors) < [0.45, 0.2, 0.08, 0.04]) and n.found["learned"] < 0.025
