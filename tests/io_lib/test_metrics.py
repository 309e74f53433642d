"""The log of a killed and resumed run is the log of an uninterrupted one."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from io_lib.metrics import MetricsLog, Progress, read_metrics


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
