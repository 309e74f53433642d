"""The text example through every mode, with a small network: masked, uniform and bits."""

import json

import jax
import numpy as np
import pytest

import run_lib
from config_lib.command_line import load_config
from config_lib.spec import ConfigError
from configs.own_data import with_data
from run_modes.infill import gaps_of, infill

pytestmark = pytest.mark.usefixtures("usual_promotion")
TEXT = "".join(f"The {i % 7} cats and {i % 5} dogs. " for i in range(400))


def small(kind, path):
    config = load_config(f"text:{kind}")
    config.data.length = 16
    config = with_data(config, str(path), ["--config.shape=16,5" if kind == "bits" else "--config.shape=16"])
    config.network.update(features=8, depth=1, heads=1)
    config.training.update(num_steps=2, batch_size=8, snapshot_size=2, log_every=1, eval_every=0, sample_every=2)
    config.sampling[config.sampling.use].num_steps = 3
    config.eval.text.update(count=10, times=4, samples=3)
    config.eval.batch_size = 8
    return config


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "cats.txt"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize("kind", ["masked", pytest.param("uniform", marks=pytest.mark.slow), "bits"])
def test_training_samples_reports_and_infilling(kind, text, tmp_path, capsys):
    config, run = small(kind, text), tmp_path / "run"
    alphabet = config.transform.alphabet
    assert alphabet == "".join(sorted(set(TEXT)))
    if kind != "bits":
        assert config.sde.num_tokens == config.network.num_outputs == len(alphabet)
        assert config.network.num_states == len(alphabet) + (kind == "masked")
    assert run_lib.train(config, run, devices=jax.devices()[:1])
    assert (run / "samples" / "step_0000002.txt").read_text().startswith("── 0 ──")
    assert any(b"samples" in file.read_bytes() for file in (run / "tensorboard").iterdir())
    capsys.readouterr()
    x = run_lib.sample(run, 4, out=tmp_path / "files", devices=jax.devices()[:1])
    shown = [(tmp_path / "files" / f"{i:06d}.txt").read_text() for i in range(4)]
    assert len(x) == 4 and all(len(one) == 16 for one in shown) and shown[0] in capsys.readouterr().out
    report = run_lib.evaluate(run, devices=jax.devices()[:1])["text_bits"]
    assert report["count"] == 10 and np.isfinite(report["bits"]["mean"]) and report["bits"]["error"] > 0
    grams = [report["ngrams"][n]["mean"] for n in "123"]
    assert grams[0] > grams[1] > grams[2] and report["bits"]["mean"] > 2
    assert "bits per character (a bound): 10 test windows of 16" in (run / "eval" / "report.md").read_text()
    answers = infill(run, "The [__] cat[_]", num_samples=2, devices=jax.devices()[:1])
    assert all(a[:4] == "The " and a[6:10] == " cat" and len(a) == 11 for a in answers)
    assert json.loads((run / "restored" / "infill" / "report.json").read_text())["task"] == "infill"
    page = (run / "index.html").read_text()
    assert "bits/character" in page and "answer_0.txt" in page


def test_bad_texts_to_complete_are_refused(text, tmp_path):
    run = tmp_path / "run"
    run_lib.train(small("masked", text), run, devices=jax.devices()[:1])
    for given, message in (
        ("The cats", r"expected a gap, underscores in brackets"),
        ("The [__] élan", r"--text: line 1, column 8: 'é' \(U\+00E9\) is not in the alphabet"),
        ("The [____] cats and dogs", r"--text has 22 characters: expected at most 16, a window"),
        (None, "expected a gap"),
    ):
        with pytest.raises(ConfigError, match=message):
            infill(run, given, devices=jax.devices()[:1])


def test_gaps():
    text, hidden = gaps_of("a[b] [__]c[_]")
    assert text == "a[b] aaca" and hidden.tolist() == [False] * 5 + [True] * 2 + [False, True]


def test_bad_kinds_and_data_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"configs/text.py:analog: expected one of masked, uniform, bits"):
        load_config("text:analog")
    (tmp_path / "a.txt").write_bytes(b"ab\xff" * 90)
    with pytest.raises(ConfigError, match=r"--data=.*a.txt: .*expected UTF-8; line 1, byte 2 is 0xff"):
        with_data(load_config("text"), str(tmp_path / "a.txt"), [])
