"""A recipe run to its stated result: what passes, what fails, and what goes on after a kill."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from config_lib.spec import ConfigError, bind, spec
from data_lib import digits
from eval_lib import Expected, RawFeatures, fid
from eval_lib.expected import compare, figure_of, markdown
from io_lib.checkpoint import Checkpoints
from run_modes import reproduce
from run_modes.import_published import import_checkpoint
from tests.published_lib.published import GOLDEN, STEP, config_of
from tests.test_main import CONFIG, ENVIRONMENT, ROOT, command
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


def small():
    """Four steps; Fréchet distances in pixels alone."""
    config = get_config()
    config.training.update(num_steps=4, log_every=0, eval_every=0, sample_every=0, checkpoint_every=2)
    del config.eval["report"]
    config.eval.features, config.eval.metrics = spec(RawFeatures), {"fid": bind(fid)}
    config.eval.reproduce.num_samples = 80
    config.eval.expected = {"steps": spec(Expected, figure="step", value=4, tolerance=0)}
    return config


@pytest.mark.parametrize(
    ("expected", "passes", "fails", "text"),
    [
        (Expected("x", value=1.0, tolerance=0.1), [0.9001, 1.0999], [0.89, 1.11], "1 ± 0.1"),
        (Expected("x", at_most=1.2), [-5, 1.2], [1.2001], "at most 1.2"),
        (Expected("x", at_least=0.97, source="theirs"), [0.97, 3], [0.9699], "at least 0.97 (theirs)"),
        (Expected("x", value=2.0, tolerance=1.0, at_most=2.5), [1, 2.5], [2.6, 0.9], "2 ± 1, at most 2.5"),
    ],
)
def test_what_passes(expected, passes, fails, text):
    assert all(map(expected.passes, passes)) and not any(map(expected.passes, [*fails, math.nan, math.inf, -math.inf]))
    assert str(expected) == text


def test_a_figure_is_found_by_its_name():
    """A mean over seeds comes before the number of the first seed."""
    over = {"mean": 2.0, "sd": 0.5, "each": [1.5, 2.5]}
    report = {"eval_loss": 3.0, "frechet": {"ratio": 1.5, "deep": {"x": 7}}, "over_seeds": {"frechet.ratio": over},
              "metrics": {"figures": {"FID": over | {"mean": 9.0}}}}  # fmt: skip
    assert figure_of(report, "frechet.ratio") == (2.0, 0.5) and figure_of(report, "FID") == (9.0, 0.5)
    assert figure_of(report, "eval_loss") == (3.0, None) and figure_of(report, "frechet.deep.x") == (7.0, None)
    rows = compare({"a": Expected("FID", at_most=8.0), "b": Expected("eval_loss", at_most=8.0)}, report)
    table = markdown(rows, 2).splitlines()
    assert table[2:] == ["| FID | at most 8 | 9 ± 0.5 | FAIL |", "| eval_loss | at most 8 | 3 | pass |"]
    table = markdown(rows, 2, RawFeatures().protocol).splitlines()
    assert table[2] == "| Fréchet distance (raw data) | at most 8 | 9 ± 0.5 | FAIL |"
    with pytest.raises(ValueError, match=r"the report has no figure 'IS'; it has FID, eval_loss, frechet.deep.x"):
        figure_of(report, "IS")
    report["metrics"]["protocol"] = RawFeatures().protocol
    assert figure_of(report, "FID") == figure_of(report, "Fréchet distance (raw data)") == (9.0, 0.5)
    with pytest.raises(ValueError, match=r"has no figure 'IS'; it has Fréchet distance \(raw data\), eval_loss"):
        figure_of(report, "IS")
    for wrong in ({}, {"value": 1.0}, {"tolerance": 1.0, "at_most": 3.0}):
        with pytest.raises(ValueError, match=r"^x: expected (a value with its|value and tolerance)"):
            Expected("x", **wrong)


def test_a_recipe_is_run_and_compared(tmp_path, capsys):
    config, directory, one = small(), tmp_path / "run", jax.devices()[:1]
    config.eval.expected.distance = spec(Expected, figure="FID", at_most=1.0)
    assert reproduce.reproduce(config, directory, devices=one) is False
    shown = capsys.readouterr().out
    assert "| step | 4 ± 0 | 4 | pass |" in shown and "| FAIL |" in shown
    assert "| Fréchet distance (raw data) | at most 1 |" in shown
    assert "NOT reproduced" in (directory / "eval" / "reproduced.md").read_text()
    found = json.loads((directory / "eval" / "reproduced.json").read_text())
    report = json.loads((directory / "eval" / "report_4.json").read_text())
    assert len(report["metrics"]["figures"]["FID"]["each"]) == 3 and report["samples"] == 80
    assert found["figures"]["distance"]["mean"] == report["metrics"]["figures"]["FID"]["mean"] and not found["passed"]


def test_nothing_is_trained_that_could_not_be_evaluated(tmp_path):
    config = small()
    config.eval.features = spec(RawFeatures)
    config.eval.reference = "none.npz"
    with pytest.raises(ConfigError, match=r"config.eval: .*none.npz"):
        reproduce.reproduce(config, tmp_path / "run")
    config.eval.expected = {}
    with pytest.raises(ConfigError, match=r"config.eval.expected is empty: set config.eval.expected.NAME = spec\(Exp"):
        reproduce.reproduce(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_figure_that_no_report_has(tmp_path):
    config = small()
    config.eval.expected.score = spec(Expected, figure="IS", at_least=9.0)
    with pytest.raises(ConfigError, match=r"config.eval.expected: the report has no figure 'IS'; it has Fréchet dist"):
        reproduce.reproduce(config, tmp_path / "run", devices=jax.devices()[:1])


@pytest.mark.slow
def test_a_published_checkpoint_takes_the_place_of_training(tmp_path):
    """And is imported once; sixteen gray digits are data enough for its figures to exist."""
    from data_lib import from_arrays

    config = config_of("ddpmpp_vp")
    config.eval.features, config.eval.metrics = spec(RawFeatures), {"fid": bind(fid)}
    config.sampling.fast.num_steps, config.eval.reproduce.num_samples, config.eval.reproduce.seeds = 1, 8, 1
    config.eval.expected = {"step": spec(Expected, figure="step", value=STEP, tolerance=0)}
    x = digits().train.x[:160].repeat(2, 1).repeat(2, 2).repeat(3, 3) * 15.9
    data, checkpoint = from_arrays(x.astype("uint8")), str(next((GOLDEN / "ddpmpp_vp").glob("*.pth")))
    for _ in range(2):
        with pytest.warns(UserWarning, match="no full-rank covariance"):
            assert reproduce.reproduce(config, tmp_path / "run", checkpoint, data, jax.devices()[:1])
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [STEP]
    with pytest.raises(ConfigError, match="has checkpoints already"):
        import_checkpoint(config, checkpoint, tmp_path / "run")
    other = tmp_path / Path(checkpoint).name
    other.write_bytes(Path(checkpoint).read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"holds a checkpoint of imported from .*, SHA-256 \w+, not of"):
        reproduce.reproduce(config, tmp_path / "run", str(other), data, jax.devices()[:1])


FLAGS = ("--mode=reproduce", CONFIG, "--config.training.num_steps=4", "--config.eval.reproduce.num_samples=1600",
         "--config.sampling.batch_size=8", "--config.eval.expected.distance.tolerance=1e9",
         "--config.eval.expected.nearest.tolerance=1e9")  # fmt: skip


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(tmp_path):
    """kill −9 among the samples and among the features; then it ends, with status 1 while a figure is missed, 0 when
    none is, and neither a sample nor a feature was made twice."""
    directory = tmp_path / "run"
    kept = lambda pattern: {p: p.stat().st_mtime_ns for p in directory.glob(pattern)}  # noqa: E731
    for pattern in ("samples/shards/*/*.npz", "eval/features/*/*.npz"):
        before = len(kept(pattern))
        process = subprocess.Popen(command(*FLAGS, f"--workdir={directory}"), cwd=ROOT, env=ENVIRONMENT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while len(kept(pattern)) < before + 2:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
    made = {**kept("samples/shards/*/*.npz"), **kept("eval/features/*/*.npz")}
    assert made and not (directory / "eval" / "report.json").exists()
    run = lambda tolerance: subprocess.run(  # noqa: E731
        command(*FLAGS, f"--config.eval.expected.sure.tolerance={tolerance}", f"--workdir={directory}"),
        cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    done = run(0.03)
    assert done.returncode == 1 and "NOT reproduced" in done.stdout
    assert "| confident.ratio | 0.96 ± 0.03 |" in done.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items())
    done = run(1e9)
    assert done.returncode == 0 and "NOT" not in done.stdout and "is trained" not in done.stdout, done.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items())


@pytest.mark.slow
def test_a_missed_figure_is_status_1(tmp_path):
    flags = [flag.replace("1600", "100") for flag in FLAGS]
    done = subprocess.run(
        [sys.executable, "main.py", *flags, f"--workdir={tmp_path / 'run'}", "--config.eval.reproduce.seeds=1"],
        cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 1 and "FAIL" in done.stdout, done.stderr
    assert "| confident.ratio | 0.96 ± 0.03 |" in done.stdout
