"""Two processes of two devices each train what one process of four does, and they stop and resume alike."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import run_lib
import run_parts
import run_processes
from configs.spec import ConfigError
from io_lib import workdir
from io_lib.metrics import read_metrics
from tests.test_main import ROOT
from tests.test_run_lib import final_state
from tests.test_run_lib import usual_promotion as usual_promotion

STEPS = 120
SETTINGS = (f"num_steps={STEPS}", "eval_every=60", "sample_every=60", "checkpoint_every=40", "keep_newest=3")


def start(directory, devices, *flags):
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "main.py", "--config=tests/tiny_config.py", f"--workdir={directory}", *flags]
    command += [f"--config.training.{setting}" for setting in SETTINGS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, **pipes)


def start_two(directory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(directory, 2, f"--processes=localhost:{port},{i}/2") for i in range(2)]


def outputs(processes):
    found = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), found
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The work directory of one process of four devices."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    outputs([start(directory, 4)])
    return directory


def require_same(directory, other):
    """The runs ended alike, but for the order in which the devices' gradients were added."""
    for a, b in zip(read_metrics(directory), read_metrics(other), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4)
    a, b = (final_state(run, workdir.load_config(run)) for run in (directory, other))
    assert a.keys() == b.keys() and len(a) > 10
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_two_processes_stop_together_and_one_goes_on(alone, tmp_path):
    """The second is told to stop; both do so at one step. One process of four devices then ends where `alone` did."""
    directory = tmp_path / "run"
    processes = start_two(directory)
    until = time.monotonic() + 200
    while not (directory / "metrics.jsonl").exists():
        assert time.monotonic() < until and processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, second = outputs(processes)
    step = read_metrics(directory)[-1]["step"]
    assert step < STEPS and f"stopped at step {step}" in first
    assert "step" not in second.replace("[Gloo]", "")
    assert len(list((directory / "tensorboard").iterdir())) == 1
    (resumed,) = outputs([start(directory, 4)])
    assert f"training goes on from step {step}" in resumed
    require_same(directory, alone)
    assert {path.name for path in (directory / "samples").iterdir()} == {"step_0000060.png", "step_0000120.png"}


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(alone, tmp_path):
    """From the newest checkpoint that is whole: the damaged one is set aside once."""
    directory = tmp_path / "run"
    shutil.copytree(alone, directory)
    shutil.rmtree(directory / "checkpoints" / "120")
    for data in (directory / "checkpoints" / "80").rglob("d/*"):
        data.write_bytes(data.read_bytes()[:-100])
    first, second = outputs(start_two(directory))
    assert "training goes on from step 40" in first and "goes on" not in second, (first, second)
    assert [path.name for path in (directory / "checkpoints" / ".damaged").iterdir()] == ["80"]
    require_same(directory, alone)


def test_what_takes_one_process_says_so(alone, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for use in (lambda: run_lib.sample(alone, 2), lambda: run_lib.load(alone), lambda: run_lib.evaluate(alone, 2)):
        with pytest.raises(ConfigError, match="one of 2 processes, which only training takes"):
            use()
    with pytest.raises(ConfigError, match="only training takes"):
        run_parts.make_layout()
    assert run_parts.make_layout(processes=True).count == len(jax.devices())


@pytest.mark.parametrize("place", ["auto", "node0", "node0:1234,2/2", "node0:1234,0", "node0:x,0/2"])
def test_a_place_that_is_none(place):
    with pytest.raises(ConfigError, match=f"--processes={place}: "):
        run_processes.join(place)


def test_parts_of_a_batch_are_laid_out_as_the_whole():
    layout = run_parts.make_layout(jax.devices()[:4])
    x = {"x": np.arange(8.0, dtype=np.float32)}
    for put in (layout.put, layout.put_whole):
        np.testing.assert_array_equal(put(x)["x"], x["x"])
        assert put(x)["x"].sharding == layout.split
