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
from config_lib.spec import ConfigError
from io_lib import processes, workdir
from io_lib.metrics import read_metrics
from run_modes.command_line import STOPPED
from run_modes.devices import make_devices
from tests.environment import SMALL_PROGRAMS
from tests.test_main import ROOT
from tests.test_run_lib import final_state

pytestmark = pytest.mark.usefixtures("usual_promotion")

STEPS = 120
SETTINGS = (
    f"num_steps={STEPS}", "eval_every=60", "sample_every=60", "checkpoint_every=40", "keep_newest=3",
    "steps_per_call=4", "accumulate=2", "flip=True",
)  # fmt: skip
LAYOUT = """
import sys
import jax
import numpy as np
from io_lib.processes import join
join(f"localhost:{sys.argv[1]},{sys.argv[2]}/2")
from config_lib.spec import ConfigError
from run_modes.devices import make_devices

x, first = np.arange(8.0), 4 * int(sys.argv[2])
a, b, c, d = jax.devices()
for devices in (None, [a, c, b, d], [d, a]):
    placed = make_devices(devices, processes=True)
    for found in (placed.put({"x": x[first : first + 4]})["x"], placed.put_whole({"x": x})["x"]):
        assert found.shape == x.shape and found.sharding == placed.batch
        places = [shard.index[0].start or 0 for shard in found.addressable_shards]
        assert min(places) == first, places
        assert all(np.array_equal(shard.data, x[shard.index]) for shard in found.addressable_shards)
for devices in ([a, b], [a, b, c]):
    try:
        make_devices(devices, processes=True)
    except ConfigError as error:
        assert "every process must have the same number of devices, got 2, " in str(error)
    else:
        raise AssertionError(devices)
"""
ALONE = ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")  # where jax looks for a cluster


def run(devices, *command):
    flags = f"--xla_force_host_platform_device_count={devices} {SMALL_PROGRAMS}"
    # They compile the same programs, one after another: all of these go into the Makefile's cache.
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {name: value for name, value in os.environ.items() if name not in ALONE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, *map(str, command)]
    return subprocess.Popen(command, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT), **settings}, **pipes)


def start(directory, devices, *flags):
    settings = [f"--config.training.{setting}" for setting in SETTINGS]
    return run(devices, "main.py", "--config=tests/tiny_config.py", f"--workdir={directory}", *flags, *settings)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(directory):
    port = free_port()
    return [start(directory, 2, f"--processes=localhost:{port},{i}/2") for i in range(2)]


def outputs(processes, status=0):
    found = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), found
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The work directory of one process of four devices."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    outputs([start(directory, 4)])
    return directory


def require_same(directory, other, atol=1e-5):
    """The runs ended alike, but for the order in which the devices' gradients were added."""
    for a, b in zip(read_metrics(directory), read_metrics(other), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4)
    a, b = (final_state(run, workdir.load_config(run)) for run in (directory, other))
    assert a.keys() == b.keys() and len(a) > 10
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=1e-3, atol=atol, err_msg=name)


def test_two_processes_stop_together_and_one_goes_on(alone, tmp_path):
    """The second is told to stop; both do so at one step. One process of four devices then ends where `alone` did."""
    directory = tmp_path / "run"
    processes = start_two(directory)
    until = time.monotonic() + 200
    while not (directory / "metrics.jsonl").exists():
        assert time.monotonic() < until and processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, second = outputs(processes, STOPPED)
    step = read_metrics(directory)[-1]["step"]
    assert step < STEPS and f"stopped at step {step}" in first
    assert "step" not in second.replace("[Gloo]", "")
    assert len(list((directory / "tensorboard").iterdir())) == 1
    (resumed,) = outputs([start(directory, 4)])
    assert f"training resumes at step {step}" in resumed
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
    assert "training resumes at step 40" in first and "resumes" not in second, (first, second)
    assert [path.name for path in (directory / "checkpoints" / ".damaged").iterdir()] == ["80"]
    require_same(directory, alone)


def test_what_takes_one_process_says_so(alone, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for use in (lambda: run_lib.sample(alone, 2), lambda: run_lib.load(alone), lambda: run_lib.evaluate(alone, 2)):
        with pytest.raises(ConfigError, match="one of 2 processes, but only training runs in several"):
            use()
    with pytest.raises(ConfigError, match="only training runs in several"):
        make_devices()


def test_what_one_refuses_all_refuse(tmp_path):
    """At once, and not when the others are tired of waiting."""
    with workdir.lock(tmp_path, "training"):
        workdir.write_atomic(tmp_path / "config.json", "{}")
        first, second = outputs(start_two(tmp_path), status=2)
    assert "is training in it already" in first
    assert "refused in another of the processes, whose output says why" in second


def test_batches_lie_on_the_devices_in_the_order_of_the_processes():
    port = free_port()
    outputs([run(2, "-c", LAYOUT, port, i) for i in range(2)])


@pytest.mark.parametrize("place", ["node0", "node0:1234,2/2", "node0:1234,0", "node0:x,0/2"])
def test_a_place_that_is_none(place):
    with pytest.raises(ConfigError, match=f"--processes={place}: expected auto or HOST:PORT,INDEX/COUNT"):
        processes.join(place)


def test_no_cluster_is_found(tmp_path):
    (out,) = outputs([start(tmp_path / "run", 1, "--processes=auto")], status=2)
    assert "--processes=auto: no cluster was found, give HOST:PORT,INDEX/COUNT" in out


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
    monkeypatch.setattr(processes, "any_process", lambda true: True)
    with pytest.raises(ConfigError, match="refused in another of the processes"), processes.raise_on_all():
        pass
    with pytest.raises(OSError, match="full"), processes.raise_on_all():
        raise OSError("full")
    monkeypatch.setattr(processes, "any_process", lambda true: true)
    with processes.raise_on_all():
        pass


def test_a_directory_that_another_process_sees(tmp_path):
    with pytest.raises(ConfigError, match="all processes of a run must use the same directory"):
        workdir.require_claimed(tmp_path, "{}")


@pytest.mark.slow
def test_two_processes_are_conditioned_as_one_is(tmp_path):
    """Each standardizes by all training examples, and its rows have their own conditions."""
    generator = np.random.default_rng(0)
    cond = generator.normal([100.0, 0.0], [30.0, 1.0], (400, 2))
    np.savez(tmp_path / "table.npz", x=cond @ [[0.1, 0.0], [1.0, 2.0]] + generator.normal(size=(400, 2)), cond=cond)
    flags = ["main.py", "--config=configs/table.py", f"--data={tmp_path / 'table.npz'}", "--config.data.cond=cond"]
    flags += [f"--config.training.{setting}" for setting in ("num_steps=40", "eval_every=20", "checkpoint_every=40")]
    port = free_port()
    outputs([run(4, *flags, f"--workdir={tmp_path / 'one'}")])
    outputs([run(2, *flags, f"--workdir={tmp_path / 'two'}", f"--processes=localhost:{port},{i}/2") for i in range(2)])
    one, two = (workdir.load_config(tmp_path / name) for name in ("one", "two"))
    assert one.network.cond_dim == 2 and one.cond.to_dict() == two.cond.to_dict()
    require_same(tmp_path / "two", tmp_path / "one", atol=1e-3)  # of values near 1
