"""The page of a run: what each mode puts into it, its size, hostile contents, and a real browser."""

import json
import logging
import re
import shutil
import wave

import jax
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, spec, to_json
from configs.digits import get_config as digits_config
from configs.points import get_config as points_config
from configs.score_sde import get_config as published_config
from io_lib import workdir
from io_lib.run_page import stored_in
from run_modes import base_config, page, page_parts
from run_modes.base_config import nearest_shipped, recorded_base, write_base
from run_modes.page import LIMIT, PAGE, write_page
from sde_lib.posterior import MMPS
from tests.io_lib.test_run_page import HOSTILE, Elements, noise, png
from tests.run_modes.test_reproduce import small

NAME = '"><img src=x onerror="window.hacked=1">' + "'<script>window.hacked=1<&lt;%22"  # a file's name holds no slash
CARD = {"step": 5, "license": "CC0", "data": {"train": 270, "class_names": ["cat", "dog"]}, "versions": {"jax": "0.10"}}


def sound(path, seconds=0.5, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((3000 * np.sin(np.arange(int(seconds * rate)) / 4)).astype("<i2").tobytes())


def run_of(folder, name="run", text="a text of the run", **changes):
    """A work directory with everything that a page may show, without a training. `name` and `text` are in all of it."""
    directory, config = folder / name, digits_config()
    for key, value in changes.items():
        config.training[key] = value
    config.license = text
    workdir.claim(directory, to_json(config))
    for sub in ("samples", "eval", f"restored/{name}"):
        (directory / sub).mkdir(parents=True)
    lines = [{"step": s, "loss": 1 / s, "eval_loss": 2 / s, text: float("nan") if s == 3 else s} for s in range(1, 100)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    change = {"step": 3, "time": "now", "changes": [f"config.license:  -> {text}"], "initial": {"directory": text}}
    (directory / "config_history.jsonl").write_text(json.dumps(change) + "\n")
    for step in (2, 40, 1000):
        (directory / "samples" / f"step_{step:07}.png").write_bytes(png(value=step % 256))
    for file in ("samples/samples.png", "eval/samples.png", "eval/neighbors.png", f"eval/{name}.png"):
        (directory / file).write_bytes(png())
    (directory / "restored" / name / "restored.png").write_bytes(png())
    sound(directory / "samples" / f"{name}.wav")
    sound(directory / "restored" / name / "a_0.wav")
    (directory / "samples" / f"{name}.txt").write_text(f"once: {text}")
    figures = {"FID": {"mean": 2.5, "sd": 0.25, "each": [2.25, 2.75]}, text: {"mean": 1.0, "sd": 0.5, "each": [1, 2]}}
    floors = {"figures": {"FID": 0.125}, "split": text, "rows": 10}
    curve = {"t": [0.1, 0.5, 1.0], "loss": [1.0, 2.0, 30.0], "error": [0.1, 0.1, 40.0]}
    report = {"step": 5, "eval_loss": 0.5, "loss_of_t": curve, f"{text}_of_t": curve,
              "metrics": {"figures": figures, "names": {"FID": f"distance {text}"}, "floors": floors},
              "bits": {"flow": {"mean": 3.0, "error": 0.01}}}  # fmt: skip
    (directory / "eval" / "report.json").write_text(json.dumps(report))
    (directory / "eval" / "report.md").write_text(
        f"Step 5\n\n| figure | mean |\n|---|--:|\n| {text} | 7 |\n\n- {text}\n"
    )
    expected = {text: {"expected": f"2 ± 1 {text}", "mean": 2.5, "sd": None, "passed": False}}
    (directory / "eval" / "reproduced.json").write_text(json.dumps({"step": 5, "figures": expected}))
    restored = {"task": text, "noise_std": 0.5, "mean": {"misfit": 0.25, text: 1.0}, "each": [{}, {}]}
    (directory / "restored" / name / "report.json").write_text(json.dumps(restored))
    return directory


def read(directory):
    return (directory / PAGE).read_bytes()


def test_everything_is_on_the_page(tmp_path, caplog):
    directory = run_of(tmp_path, num_steps=50_000)
    write_page(directory, CARD)
    found = Elements(read(directory))
    assert not caplog.records
    headings = ["Samples", "Losses", "Evaluation", "Restored", "Sounds", "Texts", "Config", "Card"]
    assert re.findall(r"<h2>(.*?)</h2>", read(directory).decode()) == headings
    assert len(found.of("img")) == 6 and len(found.of("audio")) == 2 and len(found.of("input")) == 1
    assert len(found.of("svg")) == 4  # loss, the other scalar, and two against t
    for text in (
        "2.5 ± 0.25",
        "floor: 10 a text of the run examples",
        "0.125",
        "3 ± 0.01",
        "2 ± 1",
        "missed",
        "misfit",
    ):
        assert text in found.text
    assert "The nearest shipped config is digits: 3 entries differ." in found.text
    assert "training.num_steps" in found.text and "2500" in found.text and "50000" in found.text
    assert (
        "99 of 50,000" in found.text and "once: a text" in found.text and "parameters start as those of" in found.text
    )
    assert "train 270, class_names (cat, dog)" in found.text and "jax 0.10" in found.text


def test_what_is_not_there_leaves_no_trace(tmp_path):
    directory = tmp_path / "run"
    workdir.claim(directory, to_json(points_config()))
    write_page(directory)
    page = read(directory).decode()
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Config"] and len(page) < 30_000
    assert "The nearest shipped config is points: no entry differs." in page


def test_a_large_directory_has_a_small_page(tmp_path):
    """Pictures are reduced, snapshots thinned out, and files that do not fit are named. Other folders do not count."""
    directory = run_of(tmp_path)
    for i in range(60):
        noise(directory / "samples" / f"step_{i + 2000:07}.png", 160, i)
    for i in range(10):
        noise(directory / "eval" / f"picture_{i:02}.png", 750, i)
        (directory / "samples" / f"long_{i:02}.wav").write_bytes(bytes(600_000))
        (directory / "samples" / f"text_{i:02}.txt").write_text("<&" * 100_000)
    noise(directory / "samples" / "samples.png", 2000)
    write_page(directory, CARD | {"entry": "<" * 10**6})
    found = Elements(read(directory))
    assert 2_500_000 < len(read(directory)) < LIMIT == 5_000_000
    assert "the newest samples (reduced)" in found.text and "Left out to keep this page small" in found.text
    frames = int(re.search(r">(\d+) of 63 snapshots, evenly chosen", read(directory).decode())[1])
    assert frames >= 4 and found.of("input")[0]["max"] == str(frames - 1)


def test_a_page_that_cannot_be_small_is_not_written(tmp_path, caplog, monkeypatch):
    directory = run_of(tmp_path)
    monkeypatch.setattr(page, "LIMIT", 20_000)
    write_page(directory, CARD)
    assert not (directory / PAGE).exists() and "expected fewer than 20000 bytes" in caplog.records[0].message


def test_pictures_go_before_the_page_does(tmp_path, monkeypatch):
    directory = run_of(tmp_path)
    monkeypatch.setattr(page, "LIMIT", 70_000)
    write_page(directory, CARD)
    found = Elements(read(directory))
    assert not found.of("img") and len(read(directory)) < 70_000 and "samples/samples.png" in found.text


def test_an_error_is_one_warning_and_no_page(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    write_page(tmp_path / "file" / "run")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "file/run/index.html was not written: " in record.message


def test_what_cannot_be_read_is_said_and_the_rest_stays(tmp_path, caplog):
    directory = run_of(tmp_path)
    (directory / "eval" / "report.json").write_text('{"metrics": ["<b>"]}')
    (directory / "metrics.jsonl").write_text("<b>\n")
    write_page(directory, CARD)
    found = Elements(read(directory))
    assert found.text.count("This part cannot be read.") == 2 and "misfit" in found.text and not found.of("b")
    assert len(caplog.records) == 1 and "Losses: JSONDecodeError" in caplog.text and "Evaluation: " in caplog.text


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "is_main_process", lambda: False)
    write_page(run_of(tmp_path), CARD)
    assert not (tmp_path / "run" / PAGE).exists()


def test_hostile_contents_are_text(tmp_path, caplog):
    directory = run_of(tmp_path, NAME, HOSTILE)
    write_page(directory, {"license": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}, "data": {"class_names": [HOSTILE, NAME]}})
    found = Elements(read(directory))
    assert not caplog.records and found.text.count(HOSTILE) >= 16 and found.text.count(NAME) > 4
    assert [script.get("type") for script in found.of("script")] == ["application/json", "application/json", None]
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:image/png;") for image in found.of("img")) and len(found.of("img")) == 6
    for link in found.of("a"):
        assert link["href"].startswith(("#", "./")) and not set(link["href"]) & set("<>\"' ")
    tags = (
        "html head meta link title style body header h1 h2 p dl div dt dd nav a main section figure figcaption img "
        "button input output script audio svg g line text circle polyline span table thead tbody tr th td pre details "
        "summary"
    )
    assert {tag for tag, _ in found.elements} <= set(tags.split())


def raise_config_error(published):
    raise ConfigError("expected the package configs")


def test_the_nearest_shipped_config():
    config = digits_config()
    config.optimizer.learning_rate = 1e-4
    assert nearest_shipped(config) == ("digits", {"optimizer.learning_rate": ["0.003", "0.0001"]})
    config = published_config("cifar10_ddpmpp_vp")
    assert nearest_shipped(config) == ("score_sde:cifar10_ddpmpp_vp", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_config, "shipped_configs", raise_config_error)
        assert nearest_shipped(config) is None
    del config.eval["intervals"]  # as in a run of an earlier version
    assert nearest_shipped(config) == ("score_sde:cifar10_ddpmpp_vp", {})


def test_the_recorded_base_config(tmp_path):
    """What --config gave before the flags, however near a shipped one is; a damaged record is no record."""
    base, config = digits_config(), digits_config()
    base.training.batch_size = 77
    config.optimizer.learning_rate = 1e-4
    write_base(tmp_path, "a/b/mine.py:small", base)
    rows = {"optimizer.learning_rate": ["0.003", "0.0001"], "training.batch_size": ["77", "64"]}
    assert recorded_base(tmp_path, config) == ("mine.py:small", rows)
    (tmp_path / "base_config.json").write_text('{"name": "mine"}')
    assert recorded_base(tmp_path, config) is None and recorded_base(tmp_path / "other", config) is None


@pytest.mark.usefixtures("usual_promotion")
def test_every_mode_writes_the_page(tmp_path, capsys):
    """Training at its snapshots, and each mode at its end; the card is the checkpoint's."""
    directory, config, one = tmp_path / "run", small(), {"devices": jax.devices()[:1]}
    config.training.update(log_every=1, eval_every=2, sample_every=2)
    config.eval.reproduce.seeds = 2
    config.sampling.use, config.restore.method = "ode", spec(MMPS, iterations=1)
    seen, write = [], page.workdir.write_atomic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.workdir, "write_atomic", lambda path, *rest: (seen.append(path.name), write(path, *rest)))
        run_lib.train(config, directory, **one)
    assert seen.count(PAGE) == 3  # at steps 2 and 4, and at the end
    found = Elements(read(directory))
    assert found.of("input")[0]["max"] == "1" and len(found.of("svg")) == 2 and "seed 42, batch_size 16" in found.text

    assert re.search(r"ema_params [0-9a-f]{64}", found.text)

    before = stored_in(read(directory))
    with pytest.MonkeyPatch.context() as patch:  # the card is taken from the page, not from the checkpoint
        patch.setattr(page_parts, "Checkpoints", None)
        run_lib.sample(directory, 4, **one)
    assert "the newest samples" in Elements(read(directory)).text and stored_in(read(directory)) == before
    assert before["step"] == 4
    (directory / PAGE).write_bytes(read(directory).replace(b'"step": 4', b'"step": 3'))
    write_page(directory)
    assert stored_in(read(directory)) == before

    run_lib.restore(
        directory, "upscale:2", truth=np.zeros((2, 8, 8, 1), np.float32), noise_std=1.0, num_samples=2, **one
    )
    assert "misfit" in Elements(read(directory)).text

    (directory / PAGE).unlink()
    assert run_lib.reproduce(config, directory, **one)
    found = Elements(read(directory))
    assert "4 ± 0" in found.text and "passed" in found.text and "mean ± sd, 2 seeds" in found.text
    assert "nearest neighbors" in found.text and len(found.of("svg")) == 3


def chromium():
    """The path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_in_a_browser(tmp_path):
    """No request, no error, no hostile script; the slider and the sound work."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium() is None:
        pytest.skip("no Chromium is installed")
    directory = run_of(tmp_path, NAME, HOSTILE)
    write_page(directory, {"data": {"class_names": [HOSTILE]}})
    said, requests = [], []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((directory / PAGE).as_uri())

        assert tab.evaluate("window.hacked") is None and tab.title() == NAME
        assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # on a phone
        shown = [tab.evaluate(IMAGE)]
        for value in ("1", "0"):
            tab.locator("input").fill(value)
            shown.append(tab.evaluate(IMAGE))
        assert [text for _, text in shown] == ["step 1,000", "step 40", "step 2"] and len(
            {src for src, _ in shown}
        ) == 3
        tab.locator("button").click()
        api.expect(tab.locator("output")).to_have_text("step 1,000")  # the pictures play to the last
        assert tab.evaluate(IMAGE) == shown[0]
        assert abs(tab.evaluate(DURATION) - 0.5) < 0.05

        assert not said and [url for url in requests if not url.startswith("data:")] == [(directory / PAGE).as_uri()]
        tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
        tab.wait_for_timeout(100)
        assert tab.evaluate("window.hacked") is None and any("Content Security Policy" in text for text in said)
        browser.close()


IMAGE = "[document.querySelector('.slider img').src, document.querySelector('output').textContent]"
DURATION = """new Promise((resolve) => {
  const audio = document.querySelector("audio");
  audio.readyState ? resolve(audio.duration) : audio.addEventListener("loadedmetadata", () => resolve(audio.duration));
})"""
