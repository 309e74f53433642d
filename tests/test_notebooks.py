"""The lessons run, and the numbers that they print are right: shortened in `make test`, whole in `make test-all`.

A lesson is run cell by cell in a process of its own, in an empty folder (`tests/lessons.py`). The shortened form
replaces values of the cell with the tag `parameters`. What is asserted are the lesson's own variables, those that it
prints.
"""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import numpy as np
import pytest

from io_lib.metrics import read_metrics
from notebooks.make import notebook_of, sources
from tests.environment import SMALL_PROGRAMS

ROOT = Path(__file__).parents[1]
NAMES = [source.stem for source in sources()]
whole = pytest.mark.slow
NETWORK = {"nf": 8, "ch_mult": (1,), "attn_resolutions": ()}  # of digits: compiles in half the time


def lesson(number: int, folder: Path, **smaller) -> SimpleNamespace:
    """The lesson's variables after all its cells have run, with other parameters."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    if smaller:  # compiling takes longer than running
        environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {SMALL_PROGRAMS}"
    file = folder / "variables.pickle"
    command = [sys.executable, "-m", "tests.lessons", str(number), json.dumps(smaller), str(file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return SimpleNamespace(**pickle.loads(file.read_bytes()))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_source(name):
    """The committed .ipynb has the cells of the .py, outputs of all cells that were run, and no error."""
    (source,) = (source for source in sources() if source.stem == name)
    made, found = notebook_of(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = lambda notebook: [(c.cell_type, c.id, c.source, c.metadata.get("tags", [])) for c in notebook.cells]  # noqa: E731
    assert cells(found) == cells(made), "run `python notebooks/make.py`"
    assert found.metadata == made.metadata
    nbformat.validate(found)
    ran = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert not any(output.output_type == "error" for cell in ran for output in cell.outputs)
    assert source.with_suffix(".ipynb").stat().st_size < 1_000_000


def test_the_lessons_open_alike():
    """The first cell installs, and is the same in all; the second says what the lesson ends with. Links resolve."""
    opened = [jupytext.read(source).cells[:2] for source in sources()]
    assert [source.name[:2] for source in sources()] == [f"{k:02d}" for k in range(1, len(opened) + 1)]
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


def score(folder, **smaller):
    n = lesson(1, folder, **smaller)
    assert n.exact_loss <= n.learned_loss + 1e-4  # the exact score has the lowest loss
    assert n.found["exact"] < 2.5 * n.found["floor"] and abs(n.left["exact"] - 0.6) < 0.015
    return n


def test_1_a_score(tmp_path):
    n = score(tmp_path, num_steps=1000, num_samples=5000)
    assert n.learned_loss < n.exact_loss + 0.1 and max(n.errors[2:]) < 0.5 and n.found["learned"] < 0.3


@whole
def test_1_a_score_whole(tmp_path):
    n = score(tmp_path)
    assert n.learned_loss < n.exact_loss + 0.002
    assert np.all(np.asarray(n.errors) < [0.45, 0.2, 0.08, 0.04]) and n.found["learned"] < 0.025


def own_sde(folder, **smaller):
    n = lesson(2, folder, **smaller)
    assert abs(n.derived_g / n.exact_g - 1) < 1e-5 and not n.report.failed
    assert "FAIL" in n.complaint and "diffusion(t) is g²" in n.complaint
    assert n.quadrature < 1e-5
    assert n.done and n.on_moons > n.off_moons + 1
    return n


def test_2_an_sde_of_ones_own(tmp_path):
    n = own_sde(tmp_path, num_steps=300, num_samples=500)
    assert n.distance < 0.6  # of noise: 1.3


@whole
def test_2_an_sde_of_ones_own_whole(tmp_path):
    n = own_sde(tmp_path)
    assert n.distance < 0.15 and 0.02 < n.floor < 0.08 and n.on_moons > -1.5


def samplers(folder, **smaller):
    n = lesson(3, folder, **smaller)
    assert not n.report.failed and abs(n.report.order - 2) < 0.25
    assert all(found[-1] < found[0] for found in (*n.errors.values(), *n.ratios.values()))
    return n


def test_3_samplers(tmp_path):
    n = samplers(tmp_path, num_samples=500, evaluations=(16, 32))
    assert 0.7 < n.orders["Euler"] < 1.3 and 1.5 < n.orders["Heun"] < 2.6 and n.orders["UniPC 2"] > 2


@whole
def test_3_samplers_whole(tmp_path):
    n = samplers(tmp_path)
    exact = {"Euler": 1, "Heun": 2, "DPM-Solver++ 2M": 2, "UniPC 2": 3, "DEIS 3": 3}
    assert all(abs(n.orders[name] - order) < 0.25 for name, order in exact.items()), n.orders
    assert n.errors["UniPC 2"][1] < n.errors["Heun"][1] * 1.5 < n.errors["Euler"][1] * 0.75
    assert n.ratios["DEIS 3 (no noise)"][1] < 1.6 and n.ratios["predictor–corrector"][1] > 3
    assert max(found[-1] for found in n.ratios.values()) < 1.8


def likelihood(folder, **smaller):
    n = lesson(4, folder, **smaller)
    errors = [row[1] for row in n.rows]
    assert errors[-1] < 1e-4 and errors == sorted(errors, reverse=True) and n.prior_misfit < 2e-3
    assert 0.5 < n.probe_error / n.probe_estimate < 2
    assert n.bounds[1] > n.bounds[4] > n.exact_bits - 0.01 and abs(n.bounds[64] - n.exact_bits) < 0.02
    assert n.round_trip < 0.02
    return n


def test_4_likelihood(tmp_path):
    n = likelihood(tmp_path, num_steps=150, count=100, cells=30)
    assert 0.7 < n.integral < 1.1  # some of its mass is outside of the picture


@whole
def test_4_likelihood_whole(tmp_path):
    n = likelihood(tmp_path)
    assert abs(n.integral - 1) < 0.02 and n.new < n.old and n.new > -1.3
    assert np.all(np.abs(n.code_std - 1) < 0.2)


def posterior(folder, **smaller):
    n = lesson(5, folder, **smaller)
    assert n.distances["MMPS"] < n.distances["DPSGaussian"]
    assert abs(n.upper["MMPS"] - n.upper["exact"]) < 0.06 < abs(n.upper["DPSGaussian"] - n.upper["exact"])
    assert n.done and n.answers.shape == (8, n.answers_each, 8, 8, 1)
    return n


def test_5_posterior_sampling(tmp_path):
    n = posterior(tmp_path, num_samples=1000, num_steps=20, answers_each=2, network=NETWORK)
    assert n.misfit < 3 and np.all(np.isfinite(n.answers))


@whole
def test_5_posterior_sampling_whole(tmp_path):
    n = posterior(tmp_path)
    assert n.distances["MMPS"] < 0.07 and n.distances["exact"] < 0.05 and n.distances["DPSGaussian"] > 0.12
    assert 0.4 < n.misfit < 0.7 and n.error < 0.75 * n.average and 0.6 < n.width / n.error < 1.6


def digits_run(folder, **smaller):
    """A second call of sample draws the same; the page is there; ratios are those of the report that was written."""
    n = lesson(6, folder, **smaller)
    assert n.complete and np.array_equal(n.samples, n.same) and n.evaluations == 14
    assert len(n.samples) == n.num_samples and n.samples.dtype == np.uint8 and n.few.shape == (36, 8, 8, 1)
    written = json.loads((folder / n.run / "eval" / "report.json").read_text())
    assert [n.frechet, n.confident, n.nearest] == [written[k]["ratio"] for k in ("frechet", "confident", "nearest")]
    assert (folder / n.run / "index.html").is_file()
    return n


def test_6_digits(tmp_path):
    digits_run(tmp_path, num_steps=20, num_samples=20, network=NETWORK)


@whole
def test_6_digits_whole(tmp_path):
    n = digits_run(tmp_path)
    assert n.frechet < 2 and n.confident > 0.7 and 0.9 < n.nearest < 1.3


def published(folder, **smaller):
    n = lesson(8, folder, **smaller)
    assert n.step == n.num_steps and n.difference < 1e-6
    assert n.known_error < 0.5 * n.drawn_error
    return n


def test_8_a_published_checkpoint(tmp_path):
    published(tmp_path, num_steps=10, num_samples=12, network=NETWORK)


@whole
def test_8_a_published_checkpoint_whole(tmp_path):
    n = published(tmp_path)
    assert n.known_error < 0.3 and 2 < n.drawn_error < 7


def published_networks(folder, **smaller):
    """The denoiser agrees with the score; the likelihood is finite; answers fit what was measured."""
    n = lesson(11, folder, **smaller)
    assert n.disagreement < 1e-4 and n.improvement < 0.6
    assert np.all(np.isfinite(n.found.value)) and n.residual < 3 * n.noise_std
    return n


@whole  # its parts are tests of their own
def test_11_published_networks_whole(tmp_path):
    n = published_networks(tmp_path)
    assert n.improvement < 0.3 and np.mean(n.found.value) > np.mean(n.of_shuffled.value) + 30


def own_images(folder, **smaller):
    """The data are described; more training resumes; samples are new images, written as PNG files."""
    n = lesson(7, folder, **smaller)
    assert n.description.train.shape == n.shape and n.complete
    assert len(n.train) + len(n.test) == n.num_crops and n.train.dtype == n.samples.dtype == np.uint8
    steps = [line["step"] for line in read_metrics(folder / "own_images")]
    assert steps == sorted(set(steps)) and steps[-1] == n.num_steps + n.more_steps
    assert n.distance.min() > 0.5 and len(list((folder / "own_images_png").glob("*.png"))) == n.num_samples
    assert np.any(n.samples != n.first_samples)
    return n


def test_7_own_images(tmp_path):
    n = own_images(tmp_path, shape=(16, 16, 3), num_crops=100, num_steps=90, more_steps=60, num_samples=8, nf=8)
    assert n.late < n.early


@whole
def test_7_own_images_whole(tmp_path):
    n = own_images(tmp_path)
    assert n.late < 0.6 * n.early and n.still_later < 0.6 * n.early
    floor, (distance, color, contrast) = n.second["training images"][0], n.second["samples"]
    assert floor < 0.4 and distance < 1.3
    assert np.all(np.abs(color - n.second["test images"][1]) < 50) and 15 < contrast < 65


def conditioned(folder, **smaller):
    n = lesson(9, folder, **smaller)
    inside = np.all((n.c > n.hole_low) & (n.c < n.hole_high), axis=1)
    assert not inside.any() and np.all((n.c >= n.low) & (n.c <= n.high))
    assert all(max(n.floor[name]) < 3 / np.sqrt(n.num_samples) for name in n.conditions)  # of the exact moments too
    assert np.all(np.abs(n.exact_mean - n.true) < 4 * n.exact_std)
    return n


def test_9_conditioning(tmp_path):
    n = conditioned(tmp_path, num_steps=1000, num_samples=300, features=64, grid_size=3)
    assert all(max(n.found[name]) < 0.6 for name in n.conditions), n.found


@whole
def test_9_conditioning_whole(tmp_path):
    n = conditioned(tmp_path)
    assert all(mean < 0.15 and std < 0.1 for mean, std in n.found.values()) and n.correlation_error < 0.15
    assert np.all(np.abs(n.learned_mean - n.exact_mean) < n.exact_std)
    assert np.all(np.abs(np.log(n.learned_std / n.exact_std)) < np.log(1.6))
    assert abs(n.offset @ n.exact_p.ravel()) < 4


def augmentation(folder, **smaller):
    """All cells of the table are there; pairs share their digits; more digits give a better classifier."""
    n = lesson(10, folder, **smaller)
    assert all(len(values) == len(n.seeds) for values in n.found.values())
    assert n.gains.keys() == {(size, method) for size in n.sizes for method in n.METHODS[1:]}
    assert all(np.isfinite(gain) and error >= 0 for gain, error in n.gains.values())
    assert n.judge.score(n.test_x, n.test_label) > 0.97
    alone = [np.mean(n.found[size, "digits alone"]) for size in n.sizes]
    assert 0.75 < alone[0] < 0.93 and alone == sorted(alone)
    return n


def test_10_augmentation(tmp_path):
    n = augmentation(tmp_path, sizes=(50,), seeds=(0, 1), num_steps=400, num_samples=100, features=64)
    assert np.mean(n.of_class[50]) > 0.3  # 0.1 by chance


@whole
def test_10_augmentation_whole(tmp_path):
    n = augmentation(tmp_path)
    alone = {size: np.mean(n.found[size, "digits alone"]) for size in n.sizes}
    assert 0.89 < alone[100] < 0.965 and 0.93 < alone[200] < 0.985
    assert all(np.mean(n.of_class[size]) > 0.8 for size in n.sizes)
    assert all(0.7 < np.mean(n.found[size, "samples alone"]) < 0.98 for size in n.sizes)
    assert all(n.ratio[size] > 0.4 for size in n.sizes)  # the samples are no copies
    assert all(n.gains[size, "+ shifts"][0] > 0 for size in n.sizes)


def text(folder, **smaller):
    """Both bounds are −log p within their errors; one token per step is exact, more have an error of order 1/N."""
    n = lesson(12, folder, **smaller)
    for name, found in n.bits.items():
        assert np.all(np.abs(n.apart[name]) < 5.5)
        assert abs(np.sum(n.p * (found.mean(1) - n.right))) < 5 * np.sqrt(np.sum((n.p * found.std(1)) ** 2) / n.repeats)
    assert n.distances["AnyOrder", 3] < 2 * n.noise and n.infilled < 2 * n.noise
    for name in ("EulerTokens", "AncestralTokens"):
        assert n.distances[name, 2] > 1.5 * n.distances[name, 4] > 2 * n.distances[name, 8] > 4 * n.noise
    return n


def test_12_text(tmp_path):
    text(tmp_path, repeats=100)


@whole
def test_12_text_whole(tmp_path):
    text(tmp_path)


def sound(folder, **smaller):
    """Samples have the pitch of their class, and a gap is filled better than with silence (0 dB or less)."""
    n = lesson(13, folder, **smaller)
    assert n.pitch_right > 0.95 and n.report["right"]["test"] == 1.0
    assert min(n.in_gap) > 10
    assert np.asarray(n.drawn).std() / n.real.std() < 1.3
    return n


def test_13_sound(tmp_path):
    sound(tmp_path, num_steps=40, num_sounds=48, answers_each=1)


@whole
def test_13_sound_whole(tmp_path):
    n = sound(tmp_path)
    assert n.distance < 2 * n.floor
