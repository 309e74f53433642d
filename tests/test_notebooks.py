"""The lessons run, and the numbers that they print are right: shortened in `make test`, whole in `make test-all`.

A lesson is run cell by cell in a module of its own, in an empty folder. The shortened form replaces values of the cell
with the tag `parameters`. What is asserted are the lesson's own variables, those that it prints.
"""

import re
import sys
import types
from pathlib import Path

import jax
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


@pytest.fixture
def one_device(monkeypatch):
    """Lessons train on all devices: on one of the tests' simulated ones."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def own_images(folder, monkeypatch, **smaller):
    """The data are described; more training resumes; samples are new images, written as PNG files."""
    n = lesson(7, folder, monkeypatch, **smaller)
    assert n.description.train.shape == n.shape and n.complete
    assert len(n.train) + len(n.test) == n.num_crops and n.train.dtype == n.samples.dtype == np.uint8
    steps = [line["step"] for line in n.read_metrics("own_images")]
    assert steps == sorted(set(steps)) and steps[-1] == n.num_steps + n.more_steps
    assert n.distance.min() > 0.5 and len(list((folder / "own_images_png").glob("*.png"))) == n.num_samples
    assert np.any(n.samples != n.first_samples)
    return n


@whole  # 45 s of CPU, most of it to compile
@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_7_own_images(tmp_path, monkeypatch):
    n = own_images(
        tmp_path, monkeypatch, shape=(16, 16, 3), num_crops=100, num_steps=90, more_steps=60, num_samples=8, nf=8
    )
    assert n.late < n.early


@whole
@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_7_own_images_whole(tmp_path, monkeypatch):
    n = own_images(tmp_path, monkeypatch)
    assert n.late < 0.6 * n.early and n.still_later < 0.6 * n.early
    floor, (distance, color, contrast) = n.second["training images"][0], n.second["samples"]
    assert floor < 0.4 and distance < 1.3
    assert np.all(np.abs(color - n.second["test images"][1]) < 50) and 15 < contrast < 65


def conditioned(folder, monkeypatch, **smaller):
    n = lesson(9, folder, monkeypatch, **smaller)
    inside = np.all((n.c > n.hole_low) & (n.c < n.hole_high), axis=1)
    assert not inside.any() and np.all((n.c >= n.low) & (n.c <= n.high)) and n.config.network.cond_dim == 2
    assert all(max(n.floor[name]) < 3 / np.sqrt(n.num_samples) for name in n.conditions)  # of the exact moments too
    assert np.all(np.abs(n.exact_mean - n.true) < 4 * n.exact_std)
    return n


@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_9_conditioning(tmp_path, monkeypatch):
    n = conditioned(tmp_path, monkeypatch, num_steps=1000, num_samples=300, features=64, grid_size=3)
    assert all(max(n.found[name]) < 0.6 for name in n.conditions), n.found


@whole
@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_9_conditioning_whole(tmp_path, monkeypatch):
    n = conditioned(tmp_path, monkeypatch)
    assert all(mean < 0.15 and std < 0.1 for mean, std in n.found.values()) and n.correlation_error < 0.15
    assert np.all(np.abs(n.learned_mean - n.exact_mean) < n.exact_std)
    assert np.all(np.abs(np.log(n.learned_std / n.exact_std)) < np.log(1.6))
    assert abs(n.offset @ n.exact_p.ravel()) < 4


def augmentation(folder, monkeypatch, **smaller):
    """All cells of the table are there; pairs share their digits; more digits give a better classifier."""
    n = lesson(10, folder, monkeypatch, **smaller)
    assert all(len(values) == len(n.seeds) for values in n.found.values())
    assert n.gains.keys() == {(size, method) for size in n.sizes for method in n.METHODS[1:]}
    assert all(np.isfinite(gain) and error >= 0 for gain, error in n.gains.values())
    assert n.judge.score(n.test_x, n.test_label) > 0.97
    for size in n.sizes:
        x, label = n.few(size, n.seeds[0])
        assert x.shape == (size, 64) and np.all(np.bincount(label) == size // 10)
        assert not (x[:, None] == n.test_x).all(2).any()  # no test digit is trained on
    alone = [np.mean(n.found[size, "digits alone"]) for size in n.sizes]
    assert 0.75 < alone[0] < 0.93 and alone == sorted(alone)
    return n


@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_10_augmentation(tmp_path, monkeypatch):
    n = augmentation(tmp_path, monkeypatch, sizes=(50,), seeds=(0, 1), num_steps=400, num_samples=100, features=64)
    assert np.mean(n.of_class[50]) > 0.3  # 0.1 by chance


@whole
@pytest.mark.usefixtures("usual_promotion", "one_device")
def test_10_augmentation_whole(tmp_path, monkeypatch):
    n = augmentation(tmp_path, monkeypatch)
    alone = {size: np.mean(n.found[size, "digits alone"]) for size in n.sizes}
    assert 0.89 < alone[100] < 0.965 and 0.93 < alone[200] < 0.985
    assert all(np.mean(n.of_class[size]) > 0.8 for size in n.sizes)
    assert all(0.7 < np.mean(n.found[size, "samples alone"]) < 0.98 for size in n.sizes)
    assert all(n.ratio[size] > 0.4 for size in n.sizes)  # the samples are no copies
    assert all(n.gains[size, "+ shifts"][0] > 0 for size in n.sizes)
