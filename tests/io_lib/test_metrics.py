"""The log of a killed and resumed run is the log of an uninterrupted one."""

import importlib.util
import io
import json
import logging
import math
import os
import struct
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from config_lib.names import ConfigError
from io_lib.metrics import MetricsLog, Progress, read_metrics, require_writers


def test_lines_are_plain_json_and_exact(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, loss=jnp.float32(0.1), grad_norm=np.float64(1 / 3), images=64)
    assert read_metrics(tmp_path) == [{"step": 1, "grad_norm": 1 / 3, "images": 64, "loss": float(np.float32(0.1))}]
    assert list(read_metrics(tmp_path)[0]) == ["step", "grad_norm", "images", "loss"]
    assert type(read_metrics(tmp_path)[0]["images"]) is int


def test_resumed_log_equals_an_uninterrupted_one(tmp_path):
    def train(folder, steps):
        with MetricsLog(folder) as log:
            for step in steps:
                log.write(step, loss=1 / step)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    train(whole, range(1, 11))
    train(cut, range(1, 8))
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    assert [line["step"] for line in read_metrics(cut)] == [*range(1, 8)]
    with MetricsLog(cut) as log:
        log.rewind(5)
        for step in range(6, 11):
            log.write(step, loss=1 / step)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sorted(f.name for f in cut.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_partial_line_is_dropped_without_a_rewind(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with MetricsLog(tmp_path) as log:
        log.write(2, loss=0.5)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_events_and_what_a_rewind_hides(tmp_path):
    from tensorboardX.proto import event_pb2

    with MetricsLog(tmp_path) as log:
        log.write(1, loss=0.25)
        log.rewind(1)
        log.write(2, loss=0.5)
    events = []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    values = {e.step: e.summary.value[0].simple_value for e in events if e.summary.value}
    starts = [e.step for e in events if e.HasField("session_log")]
    assert values == {1: 0.25, 2: 0.5} and starts == [2]


def test_writers_are_chosen_and_the_record_is_always_written(tmp_path):
    with MetricsLog(tmp_path, writers=()) as log:
        log.open()
        log.write(1, loss=0.5)
        log.show(1, tmp_path / "picture.png")
        log.rewind(0)
        log.write(1, loss=0.25)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.25}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_names_of_writers(monkeypatch, tmp_path):
    assert require_writers(("tensorboard,wandb", "wandb")) == require_writers("tensorboard, wandb")
    assert require_writers(("wandb",)) == ("wandb",) and require_writers(("",)) == ()
    with pytest.raises(ConfigError, match=r"config\.training\.writers: expected .*, got 'wanb'; nearest: wandb"):
        require_writers(("wanb",))
    (tmp_path / "wandb").mkdir()  # where W&B writes by default: a folder is no package
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(ConfigError, match=r"wandb, which is not installed: pip install 'score-sde-jax\[wandb\]'"):
        require_writers(("wandb",))
    assert require_writers(("tensorboard",)) == ("tensorboard",)


def records(file):
    """The records of a .wandb file, in LevelDB's log format: blocks of 32 KiB, parts with a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """W&B without a network, whose service process is ended after the test."""
    wandb = pytest.importorskip("wandb")
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield wandb
    wandb.teardown()
    found = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True).stdout
    assert not [line for line in found.splitlines() if "wandb-core" in line and f"--pid {os.getpid()}" in line]


def test_a_resumed_run_of_weights_and_biases(offline, tmp_path, capfd):
    """Two trainings with one id; after the rewind to step 5 its lines are written again, at their own steps."""
    workdir, config = tmp_path / "digits", {"sde": {"beta_max": 20.0}, "betas": [0.9, 0.999]}
    workdir.mkdir()
    threads = threading.active_count()
    Image.new("L", (3, 2), 128).save(tmp_path / "step_5.png")
    with MetricsLog(workdir, ("wandb",), "project", config) as log:
        log.open()
        log.write(5, loss=np.float32(0.5), grad_norm=2.0)
        log.show(5, tmp_path / "step_5.png")
        log.write(6, loss=0.125)
    with MetricsLog(workdir, ("wandb",), "project", config | {"sde": {"beta_max": 15.0}}) as log:
        log.open()
        log.rewind(5)
        log.write(6, loss=0.25)
        log.write(7, loss=math.inf)
    out, said = capfd.readouterr()
    assert out == "" and [line for line in said.splitlines() if "`resume` will be ignored" not in line] == []  # 0.26
    assert [line["step"] for line in read_metrics(workdir)] == [5, 6, 7]
    assert not (workdir / "tensorboard").exists()

    offline.teardown()  # its service process then has written all
    assert threading.active_count() == threads
    files = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    found = [list(records(file)) for file in files]
    starts = [next(record.run for record in run if record.HasField("run")) for run in found]
    assert [(run.project, run.display_name) for run in starts] == [("project", "digits")] * 2
    assert starts[0].run_id == starts[1].run_id == (workdir / "wandb_id.txt").read_text()
    configs = [{k: v for r in run if r.HasField("config") for k, v in values(r.config.update).items()} for run in found]
    assert [each["sde"]["beta_max"] for each in configs] == [20.0, 15.0] and configs[0]["betas"] == [0.9, 0.999]
    lines = [[values(r.history.item) for r in run if r.HasField("history")] for run in found]
    assert [[(line["step"], line.get("loss")) for line in run] for run in lines] == [
        [(5, 0.5), (5, None), (6, 0.125)],
        [(6, 0.25), (7, math.inf)],
    ]
    assert lines[0][0]["grad_norm"] == 2.0
    picture = {key: lines[0][1][f"samples/{key}"] for key in ("width", "height", "path")}
    assert (picture["width"], picture["height"]) == (3, 2)
    with Image.open(files[0].parent / "files" / picture["path"]) as image:
        assert image.getpixel((0, 0)) == 128
    metrics = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in found[1] if r.HasField("metric")}
    assert metrics["*"] == "step"
    exits = [record.exit.exit_code for run in found for record in run if record.HasField("exit")]
    assert exits == [0, 0]


def test_a_failed_run_is_marked(offline, tmp_path):
    with pytest.raises(FloatingPointError), MetricsLog(tmp_path, ("wandb",)) as log:
        log.write(1, loss=0.5)
        raise FloatingPointError
    offline.teardown()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [record.exit.exit_code for record in records(file) if record.HasField("exit")] == [1]


def test_weights_and_biases_never_stops_training(offline, monkeypatch, tmp_path, caplog):
    """No key is an error before training. A network that fails is a warning, and the run is offline."""
    init = offline.init

    def without_network(**options):
        if "mode" not in options:
            raise offline.errors.CommError("no route to host")
        return init(**options)

    monkeypatch.setattr(offline, "init", without_network)
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path, ("wandb",)) as log:
        log.open()
        log.write(1, loss=0.5)
        assert "cannot be reached, the run is written offline: CommError: no route to host" in caplog.text
        log._writers[0]._run.finish()
        log.write(2, loss=0.25)
        log.write(3, loss=0.25)
    assert caplog.text.count("training continues without it") == 1
    offline.teardown()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [values(r.history.item)["loss"] for r in records(file) if r.HasField("history")] == [0.5]
    assert len(read_metrics(tmp_path)) == 3

    def without_key(**options):
        raise offline.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(offline, "init", without_key)
    with MetricsLog(tmp_path, ("wandb",)) as log, pytest.raises(ConfigError, match=r"no-tty\); run `wandb login`, or"):
        log.open()


@pytest.mark.slow  # W&B itself tries again for ten seconds
def test_without_a_network_the_run_is_offline_with_the_same_id(offline, monkeypatch, tmp_path, caplog):
    if "finish_timeout" not in offline.Settings.model_fields:
        pytest.skip("this version of wandb waits for the network at the end")
    for name, value in {"MODE": "online", "BASE_URL": "http://127.0.0.1:9", "API_KEY": 40 * "a"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setattr("io_lib.metrics.OPEN_SECONDS", 1.0)
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path, ("wandb",)) as log:
        log.open()
        log.write(1, loss=0.5)
    assert "the run is written offline" in caplog.text and "continues without it" not in caplog.text
    offline.teardown()
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{(tmp_path / 'wandb_id.txt').read_text()}.wandb")
    assert [values(record.history.item)["loss"] for record in records(file) if record.HasField("history")] == [0.5]


def test_metrics_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no metrics\.jsonl"):
        read_metrics(tmp_path)
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="metric 'loss': expected a number, got ndarray"):
        log.write(1, loss=np.ones(2))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_is_recorded(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, loss=math.inf)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == math.inf


class Note:
    """Counts how often it is read: reading a loss waits for the device."""

    reads = 0

    def __call__(self):
        Note.reads += 1
        return "loss 0.2500"


def test_progress_off_a_terminal_is_a_line_every_ten_seconds():
    stream, now = io.StringIO(), [0.0]
    with Progress(1000, start=100, stream=stream, clock=lambda: now[0]) as progress:
        for step in range(101, 1001):
            now[0] += 0.05
            progress.update(step, Note())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5 and Note.reads == 6
    assert lines[0] == "step 301/1000  loss 0.2500  20 steps/s  00:34 left"
    assert lines[-1] == "step 1000/1000  loss 0.2500  20 steps/s  00:00 left"


def test_progress_counts_steps_that_are_finished():
    """A queue accepts steps at once, and the device takes two seconds for each, ten for the first: 0.5 steps/s."""
    stream, now, queued = io.StringIO(), [0.0], [0]

    def finish():
        now[0] = max(now[0], 8 + 2 * queued[0])
        return "loss 1.0000"

    with Progress(100, stream=stream, clock=lambda: now[0]) as progress:
        for step in range(1, 101):
            queued[0] = step
            now[0] += 0.01
            if step % 8 == 0:
                finish()  # the queue is full
            progress.update(step, finish)
        progress.doing("writing the last checkpoint")
    *lines, end = stream.getvalue().splitlines()
    rates = [float(line.split("steps/s")[0].split()[-1]) for line in lines]
    assert len(lines) > 5 and all(abs(rate / 0.5 - 1) < 0.01 for rate in rates), lines
    assert end == "step 100/100: writing the last checkpoint"


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream, now = Terminal(), [0.0]
    with Progress(20, stream=stream, clock=lambda: now[0]) as progress:
        for step in range(1, 21):
            now[0] += 1.0
            progress.update(step, lambda: "loss 0.5000")
    assert "20/20" in stream.getvalue() and "loss 0.5000" in stream.getvalue()
