"""README and docs: their Python runs, one block after another, with fewer steps; commands, links and paths exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import run_lib
from configs import points
from run_modes.trained import open_trained

ROOT = Path(__file__).parents[1]
PAGES = [
    page.relative_to(ROOT)
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md")
    for page in sorted(ROOT.glob(pattern))
]
ROOMS = {path.name for path in ROOT.iterdir() if path.name == "docs" or any(path.glob("*.py"))}
NAMED_PATH = re.compile(r"(?<![\w./$~-])(?:(?:[\w-]+/)+(?:[\w.-]*\w)?|\w+\.py\b)")
TO_WRITE = {"my_config.py", "yours.py", "run_modes/count_parameters.py"}  # the reader's own


def run_blocks(file, tmp_path, monkeypatch, at_least=2):
    """The names that are left when all blocks of the file have run."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
    assert len(blocks) >= at_least
    real = points.get_config

    def short():
        config = real()
        config.training.update(num_steps=20, checkpoint_every=20, log_every=10, batch_size=64)
        return config

    monkeypatch.setattr(points, "get_config", short)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": file}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        for block in blocks:
            exec(compile(block, file, "exec"), names)
    return names


@pytest.mark.slow  # in `make test` it is tests/test_install.py that runs the README, as an installed user would
def test_readme_runs(tmp_path, monkeypatch):
    names = run_blocks("README.md", tmp_path, monkeypatch)
    assert names["samples"].shape == (1000, 2) and np.all(np.isfinite(names["samples"]))
    assert np.all(np.isfinite(names["found"].value)) and names["codes"].shape == (100, 2)
    assert (tmp_path / "runs" / "moons_cosine" / "checkpoints" / "20").is_dir()


@pytest.mark.slow
def test_what_contributors_copy_runs(tmp_path, monkeypatch):
    assert run_blocks("CONTRIBUTING.md", tmp_path, monkeypatch)["TrigFlow"]().t_max == 1.57


@pytest.mark.slow
def test_lesson_on_own_processes_runs(tmp_path, monkeypatch):
    names = run_blocks("docs/own_sde.md", tmp_path, monkeypatch)
    assert "diffusion" in names["complaint"]
    assert names["fitted"].misfit.distance < 0.1
    assert names["samples"].shape == (1000, 1) and names["points"].shape == (1000, 2)
    assert np.mean(names["history"][-10:]) < 0.9 * np.mean(names["history"][:10])
    assert (tmp_path / "moons.png").stat().st_size > 10_000


@pytest.mark.slow
def test_lesson_on_own_data_runs(tmp_path, monkeypatch):
    names = run_blocks("docs/own_data.md", tmp_path, monkeypatch)
    assert "photos/red/cut.png" in names["complaint"] and 'on_error="skip"' in names["complaint"]
    assert [bad.path for bad in names["left_out"]] == ["photos/red/cut.png"]
    red = names["data"].train.x[names["data"].train.label == 1]
    assert names["data"].train.classes == ("blue", "red") and (red == (220, 30, 30)).all()
    np.testing.assert_allclose([names["transform"].mean, names["transform"].std], [(3, -1), (5, 0.2)], atol=0.3)
    np.testing.assert_allclose(names["description"].train.sigma_data, 1, atol=1e-3)
    assert names["finished"] and (tmp_path / "runs" / "points" / "checkpoints" / "20").is_dir()
    doubled, batch = names["doubled"][7], names["batches"].batch(7)
    np.testing.assert_array_equal(doubled, 2 * batch["x"])
    assert names["text"].train.x.shape[1:] == (14, 4)
    (tmp_path / "points.npz").unlink()  # sampling needs no data, and gives their units back
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        model, key = run_lib.load("runs/points"), jax.random.key(1)
        z, x = np.asarray(model.sample_indices(key, jax.numpy.arange(300))), model.sample(key, 300)
    assert model.transform == names["transform"] and np.abs(z).max() > 1.5
    np.testing.assert_allclose(x, z * np.float32(model.transform.std) + np.float32(model.transform.mean), rtol=1e-4)


@pytest.mark.slow
def test_lesson_on_conditioning_runs(tmp_path):
    """The figures that the page states, with room for other processors; in a process with one device, as a user's."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/conditioning.md").read_text(), flags=re.DOTALL)
    figures = "print(max(abs(errors)), max(abs(spreads - 1)), consistency, error, blur_error)"
    (tmp_path / "page.py").write_text("\n".join([*blocks, figures]))
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "page.py"]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    errors, spreads, consistency, error, blur_error = map(float, out.splitlines()[-1].split())
    assert errors < 0.15 and spreads < 0.1 and consistency < 0.2 and error < 0.5 * blur_error


COMMANDS = "".join((ROOT / page).read_text() for page in PAGES)


@pytest.mark.parametrize(
    "line", re.findall(r"^(?:python main.py|score-sde) (.*?)(?:\s+#.*)?$", COMMANDS, flags=re.MULTILINE)
)
def test_every_command_has_flags_that_exist(line, monkeypatch):
    """What is run in full elsewhere is at least spelled right here."""
    from config_lib.command_line import apply_overrides, load_config
    from run_modes.command_line import MODES

    monkeypatch.chdir(ROOT)
    flags = dict(part.lstrip("-").partition("=")[::2] for part in shlex.split(line))
    config = load_config(flags.pop("config", "digits"))
    overrides = [f"--{key}={flags.pop(key)}" for key in list(flags) if key.startswith("config.")]
    apply_overrides(config, overrides)
    of_modes = {flag for mode in MODES.values() for flag in mode.flags}
    assert set(flags) <= {"workdir", "mode", "data", *of_modes}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_and_path_exists(page):
    """Relative links from the page's folder, paths in backticks from the root; code blocks are the other tests'."""
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in link]
    missing = [link for link in links if not (ROOT / page.parent / link).exists()]
    named = {path for code in re.findall(r"`([^`\n]+)`", prose) for path in NAMED_PATH.findall(code)} - TO_WRITE
    missing += [p for p in named if (p.split("/")[0] in ROOMS or "/" not in p) and not (ROOT / p).exists()]
    assert not missing


def test_lesson_on_evaluation_runs(tmp_path, monkeypatch):
    """The FID of equal laws is D(D + 5)/4 · (1/N + 1/M) to leading order, the KID 0."""
    rows = run_blocks("docs/evaluation.md", tmp_path, monkeypatch, at_least=1)["rows"]
    for n, found in rows.items():
        assert abs(found["KID"]) < 4 * found["KID error"]
        assert n == 100 or found["FID"] == pytest.approx(36 * 41 / 4 * (1 / n + 1 / 5000), rel=0.25)
    assert 3 < rows[100]["FID"] < 5 and abs(rows[5000]["FID∞"] - 36 * 41 / 4 / 5000) < 0.03


@pytest.mark.slow
def test_lesson_on_likelihoods_runs(tmp_path, monkeypatch):
    names = run_blocks("docs/likelihood.md", tmp_path, monkeypatch)
    assert np.max(names["rest"]) < 1e-3 < np.max(names["off"]) < 2e-2
    np.testing.assert_allclose(names["nats"], np.asarray(names["found"].value), atol=5e-3)
    np.testing.assert_allclose(names["back"], np.asarray(names["x"]), atol=2e-3)
    mean, std = (np.asarray(m) for m in (names["data"].means[0], names["data"].stds[0]))
    spread = [np.std((names[name] - mean) / std) for name in ("cooler", "back", "warmer")]
    np.testing.assert_allclose(np.asarray(spread) / spread[1], [0.5, 1.0, 1.2], rtol=0.05)


def test_own_solver_in_the_docs_runs(tmp_path, monkeypatch):
    names = run_blocks("docs/samplers.md", tmp_path, monkeypatch, at_least=1)
    np.testing.assert_allclose(names["spread"], [0.3, 1.0], rtol=0.08)


@pytest.mark.slow
def test_every_plug_runs_with_its_signature(tmp_path, monkeypatch):
    names = run_blocks("docs/plugs.md", tmp_path, monkeypatch)
    assert names["apart"] < 1e-5
    np.testing.assert_allclose(names["found"], -1, rtol=1e-5)
    right, wrong = np.asarray(names["losses"]).reshape(2, 2).T
    assert np.all(right < 0.8 * wrong)
    assert np.argmin(names["each"]) == 1 and set(names["shapes"]) == {(4, 2)}
    assert abs(names["report"].order - 3) < 0.25 and not names["report"].failed
    assert "expected the exact mean and deviation of the normal at the end" in names["complaint"]
    assert names["evaluations"] == 2 and set(np.asarray(names["nfe"]).tolist()) == {60}
    np.testing.assert_allclose(names["spread"], [1, 0.5**0.5], rtol=0.08)
    assert 0.98 < names["share"] <= 1
    np.testing.assert_allclose(names["rescaled"], 0.5, rtol=1e-5)
    assert names["samples"].shape == (100, 2) and np.max(np.abs(names["samples"])) < 0.1
    for name in ("radius", "largest"):
        assert np.isfinite(names["figures"][name]["mean"])
    assert names["evaluation"]["metrics"]["protocol"]["features"] == "radius"
    radius = np.linalg.norm(np.load(tmp_path / "runs/circle/samples/samples.npz")["samples"], axis=-1)
    np.testing.assert_allclose(names["figures"]["radius"]["mean"], abs(radius.mean() / 0.01 - 1), rtol=1e-4)


@pytest.mark.slow
def test_lesson_on_own_networks_runs(tmp_path, monkeypatch):
    names = run_blocks("docs/own_network.md", tmp_path, monkeypatch)
    assert names["samples"].shape == (500, 2) and np.all(np.isfinite(names["samples"]))
    assert (tmp_path / "runs" / "gated" / "checkpoints" / "20").is_dir()
    assert names["out"].shape == names["images"].shape and names["out"].dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(names["params"])} == {np.dtype("float32")}
    np.testing.assert_allclose(names["noise"], names["x"][:5] / 5, rtol=1e-6)


@pytest.mark.slow
def test_lesson_on_own_objectives_runs(tmp_path, monkeypatch):
    """The objective's own parameters are trained, averaged and stored; a part of a batch has the rows of the whole."""
    names = run_blocks("docs/own_objective.md", tmp_path, monkeypatch)
    assert names["samples"].shape == (500, 2) and np.all(np.isfinite(names["samples"]))
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        trained = open_trained(tmp_path / "runs" / "uncertainty")
    assert set(trained.params) == {"network", "u"} and np.all(np.abs(trained.params["u"]) > 0)
    np.testing.assert_allclose(names["part"], names["whole"][2:5], rtol=1e-6)


def test_posterior(tmp_path, monkeypatch):
    """The page's numbers: exact for MMPS, the known bias for PiGDM."""
    names = run_blocks("docs/posterior.md", tmp_path, monkeypatch, at_least=1)
    np.testing.assert_allclose(names["exact"].means[0], [0.8, 0.64], rtol=1e-5)
    np.testing.assert_allclose(names["means"]["MMPS"], [0.8, 0.64], atol=0.04)
    assert 0.01 < names["means"]["MMPS"][1] - names["means"]["PiGDM"][1] < 0.06


def test_text(tmp_path, monkeypatch):
    """The page's numbers: both bounds are −log p of each sequence, completions have the chain's law, a bit costs 1."""
    names = run_blocks("docs/text.md", tmp_path, monkeypatch, at_least=3)
    for found in names["bits"].values():
        assert abs(np.sum(names["p"] * (found - names["right"]))) < 0.06
    assert abs(names["share"] - 0.7) < 4.5 * np.sqrt(0.21 / 2000)
    assert abs(names["per_bit"] - 1) < 4.5 * names["error"] and names["error"] < 0.03


@pytest.mark.slow
def test_the_page_on_sound_runs(tmp_path, monkeypatch):
    """The share of x − y that the prior of OUVE lacks, its noise, and enhanced sounds of the right shape."""
    names = run_blocks("docs/sound.md", tmp_path, monkeypatch)
    sde = names["OUVE"]()
    np.testing.assert_allclose([sde.alpha(1.0), sde.sigma(1.0)], [0.223, 0.389], atol=1e-3)
    moments = sde.drift_rate(0.5), sde.diffusion(0.5)
    np.testing.assert_allclose(moments, [-1.5, 0.05 * 10**0.5 * np.sqrt(2 * np.log(10))], rtol=1e-5)
    assert names["enhanced"].shape == (16, 1024, 1) and np.isfinite(names["gain"])
