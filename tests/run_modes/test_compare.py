"""Runs next to each other: the table has their numbers, and only what differs."""

import json

import pytest

import run_lib
from config_lib.spec import ConfigError, to_json
from configs.points import get_config
from io_lib import workdir


def run(folder, losses, tests, figure=None, **changes):
    config = get_config()
    config.training.update(**changes)
    workdir.claim(folder, to_json(config))
    lines = [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    lines += [{"step": step, "eval_loss": value} for step, value in tests]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if figure is not None:
        (folder / "eval").mkdir()
        report = {"step": 4, "seed": 7, "metrics": {"figures": {"KID": {"mean": figure, "each": [1.0, 2.0]}}}}
        (folder / "eval" / "report.json").write_text(json.dumps(report))
    return folder


def cells(text, row):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_the_table(tmp_path, capsys):
    a = run(tmp_path / "x" / "a", [3.0, 2.0], [(1, 2.5), (2, 2.75)], figure=0.125, ema=0.9)
    b = run(tmp_path / "x" / "b", [1.0] * 39 + [2.0] * 41, [], ema=0.5)
    text = run_lib.compare([a, b], tmp_path / "all.png")
    assert cells(text, "") == ["a", "b"]
    assert cells(text, "step") == ["2", "80"] and cells(text, "training loss") == ["2.0000", "2.0000"]
    assert cells(text, "test loss") == ["2.7500", ""] and cells(text, "best test loss") == ["2.5000 at step 1", ""]
    assert cells(text, "eval: metrics.figures.KID.mean") == ["0.125", ""]
    assert cells(text, "training.ema") == ["0.9", "0.5"]
    assert "training.num_steps" not in text and "seed" not in text
    assert (tmp_path / "all.md").read_text() == text and (tmp_path / "all.png").stat().st_size > 10_000
    assert text in capsys.readouterr().out


def test_runs_without_a_difference(tmp_path):
    a, b = (run(tmp_path / name, [1.0], []) for name in "ab")
    assert "config: no difference" in run_lib.compare([a, b], tmp_path / "c.png")


def test_what_cannot_be_compared(tmp_path):
    a = run(tmp_path / "a", [1.0], [])
    with pytest.raises(ConfigError, match="expected two or more"):
        run_lib.compare([a])
    with pytest.raises(ConfigError, match="b is not a work directory"):
        run_lib.compare([a, tmp_path / "b"])
