"""The command line, as processes: what a user types, what it says, and what a kill leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from config_lib.spec import to_json
from io_lib import workdir
from io_lib.metrics import read_metrics
from run_modes.command_line import STOPPED
from tests.environment import SMALL_PROGRAMS
from tests.test_run_lib import final_state
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

ROOT = Path(__file__).parents[1]
CONFIG = "--config=tests/tiny_config.py"
# These processes run the same programs: all of them go into the Makefile's cache, and not the slow ones alone.
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": SMALL_PROGRAMS,
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def command(*arguments):
    return [sys.executable, "main.py", *arguments]


def main(*arguments, **environment):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, env={**ENVIRONMENT, **environment}
    )


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def wait_for_step(directory, step, process, seconds=120):
    """Until the log has that step; fails if the process ends before."""
    for _ in range(seconds * 50):
        lines = read_metrics(directory) if (directory / "metrics.jsonl").is_file() else []
        if lines and lines[-1]["step"] >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise TimeoutError(f"no step {step} after {seconds} s")


def test_help_is_quick():
    start_time = time.monotonic()
    done = main("--help")
    assert time.monotonic() - start_time < 2
    assert all(flag in done.stdout for flag in ("--config", "--workdir", "--mode", "--num_samples", "--seed"))


def checkpoints(directory):
    """The steps whose checkpoints are whole."""
    folder = directory / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


LONG = {"num_steps": 1000, "log_every": 7, "checkpoint_every": 100, "eval_every": 250, "sample_every": 500}


@pytest.mark.slow  # in `make test` it is tests/crash that kills
def test_kill_and_resume_is_exact(tmp_path):
    """1,000 steps = some, kill −9, the rest: parameters, EMA, optimizer and metrics, bit for bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [f"--config.training.{key}={value}" for key, value in LONG.items()]
    assert main(CONFIG, f"--workdir={whole}", *flags).returncode == 0
    process = start(CONFIG, f"--workdir={killed}", *flags)
    while not checkpoints(killed) or checkpoints(killed)[-1] < 300:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = checkpoints(killed)[-1]
    assert 300 <= kept < 1000
    resumed = main(CONFIG, f"--workdir={killed}", *flags)
    assert resumed.returncode == 0
    first_shown = int(resumed.stderr.split("step ")[1].split("/")[0])
    assert first_shown > kept  # it did not start again
    config = get_config()
    config.training.update(LONG)
    expected, found = final_state(whole, config), final_state(killed, config)
    assert expected.keys() == found.keys() and expected[".step"] == 1000
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    assert read_metrics(whole) == read_metrics(killed)

    again = main(CONFIG, f"--workdir={killed}", *flags)
    assert again.returncode == 0 and "is trained: 1000 steps" in again.stdout
    drawn = main(f"--workdir={killed}", "--mode=sample", "--num_samples=5", "--seed=7", "--config.sampling.use=ode")
    assert drawn.returncode == 0 and "5 samples of step 1000 (EMA), seed 7" in drawn.stdout
    with np.load(killed / "samples" / "samples.npz", allow_pickle=False) as file:
        assert file["samples"].shape == (5, 8, 8, 1) and file["samples"].dtype == np.uint8


def shards(directory):
    """The files of samples that are whole, and where the last one ends."""
    names = sorted(p.stem for p in (directory / "samples" / "shards").glob("*/*.npz"))
    return names, int(names[-1].split("-")[1]) if names else 0


def signal_after(process, directory, samples, number):
    """Sends it when so many samples are on disk; (how many there were in the end, exit status, stdout)."""
    while shards(directory)[1] < samples:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    return shards(directory)[1], process.returncode, out


@pytest.mark.slow
def test_sampling_stopped_and_killed_goes_on_to_the_same_samples(tmp_path):
    """SIGTERM, then kill −9, then the rest: bit for bit what an uninterrupted run draws, no batch drawn twice."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(CONFIG, f"--workdir={whole}", "--config.training.num_steps=2").returncode == 0
    shutil.copytree(whole, cut)
    flags = ("--mode=sample", "--num_samples=1600", "--config.sampling.batch_size=8", "--seed=3")
    assert main(f"--workdir={whole}", *flags).returncode == 0

    stopped, status, out = signal_after(start(f"--workdir={cut}", *flags), cut, 40, signal.SIGTERM)
    assert status == STOPPED and 40 <= stopped < 1600 and not (cut / "samples" / "samples.npz").exists()
    assert f"stopped after {stopped} of 1600 samples: the same command resumes there" in out
    killed, status, _ = signal_after(start(f"--workdir={cut}", *flags), cut, stopped + 40, signal.SIGKILL)
    assert status == -signal.SIGKILL and stopped < killed < 1600
    kept = {p: p.stat().st_mtime_ns for p in (cut / "samples" / "shards").glob("*/*.npz")}
    assert len(kept) == killed / 8
    done = main(f"--workdir={cut}", *flags, "--animate")
    assert done.returncode == 0 and f"{killed} of 1600 samples are there already" in done.stdout, done.stderr
    assert "sample 1600/1600  NFE 8" in done.stderr and "00:00 left" in done.stderr
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items()) and len(shards(cut)[0]) == 200
    with np.load(cut / "samples" / "samples.npz") as found, np.load(whole / "samples" / "samples.npz") as expected:
        assert found["samples"].shape == (1600, 8, 8, 1) and len(np.unique(found["samples"], axis=0)) > 1580
        for name in ("samples", "nfe", "made_with"):
            np.testing.assert_array_equal(found[name], expected[name])
    assert "5 frames of the path of 64 samples" in done.stdout and (cut / "samples" / "animation.gif").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_polite_signal_saves_and_ends_well(tmp_path, number):
    arguments = (CONFIG, f"--workdir={tmp_path / 'run'}", "--config.training.log_every=1",
                 "--config.training.num_steps=100000", "--config.training.checkpoint_every=100000")  # fmt: skip
    process = start(*arguments)
    wait_for_step(tmp_path / "run", 10, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == STOPPED, err
    (step,) = checkpoints(tmp_path / "run")
    assert f"stopped at step {step}: the same command resumes" in out
    assert step == read_metrics(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/none.py", "--workdir=W"], "there is no file configs/none.py"),
        ([CONFIG, "--workdir=W", "--config.sde.beta_mx=3"], "config.sde.beta_mx; nearest: config.sde.beta_max"),
        pytest.param(
            [CONFIG, "--workdir=W", "--config.sde.beta_max=high"], "config.sde.beta_max", marks=pytest.mark.slow
        ),
        pytest.param([CONFIG], "--workdir=DIR is required", marks=pytest.mark.slow),
        pytest.param(["--workdir=W"], "--config=FILE is required for --mode=train", marks=pytest.mark.slow),
        pytest.param([CONFIG, "--workdir=W", "--mode=dream"], "--mode", marks=pytest.mark.slow),
        pytest.param(["--workdir=W", "--mode=sample"], "W is not a work directory", marks=pytest.mark.slow),
        pytest.param([CONFIG, "--workdir=W", "--mode=sample"], "W is not a work directory", marks=pytest.mark.slow),
        pytest.param([CONFIG, "--workdir=W", "--config.seed=-1"], "seed must not be negative", marks=pytest.mark.slow),
        pytest.param([CONFIG, "--workdir=W", "--config.training.keep_newest=0"], "keep_newest", marks=pytest.mark.slow),
        pytest.param(
            [CONFIG, "--workdir=W", "--num_samples=3"],
            "--num_samples is for --mode=sample, eval and restore; --mode=train does",
            marks=pytest.mark.slow,
        ),
        ([CONFIG, "--workdir=FULL"], "is not a work directory: it has no config.json and holds thesis.tex"),
        pytest.param(
            [CONFIG, "--workdir=W", "--config.training.batch_size=0"],
            "config.training.batch_size=0",
            marks=pytest.mark.slow,
        ),
        (["--config=configs/cifar10.py", "--workdir=W", "--config.data.data_dir=FULL"], "cifar10"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    """Before anything is compiled, and nothing that was there is touched."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    arguments = [a.replace("=W", f"={tmp_path / 'W'}").replace("FULL", str(full)) for a in arguments]
    done = main(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (full / "thesis.tex").read_text() == "years of work" and not (tmp_path / "W").exists()


@pytest.mark.slow
def test_another_config_and_too_many_devices_are_refused(tmp_path):
    directory = f"--workdir={tmp_path / 'run'}"
    steps = "--config.training.num_steps=2"
    assert main(CONFIG, directory, steps).returncode == 0
    assert (
        "The run was started with tiny_config.py: one entry differs." in (tmp_path / "run" / "index.html").read_text()
    )
    files = lambda: sorted(  # noqa: E731
        (p.name, p.read_bytes())
        for p in (tmp_path / "run").rglob("*")
        if p.is_file() and p.suffix != ".lock"  # a lock names the last process that held it
    )
    before = files()
    done = main(directory, "--mode=inspect")
    assert done.returncode == 0 and "step 2 of 2; checkpoints of steps 2\n" in done.stdout, done.stderr
    done = main(CONFIG, directory, steps, "--config.sde.beta_max=15")
    assert done.returncode == 2 and "config.sde.beta_max: 20.0 -> 15.0" in done.stderr
    done = main(CONFIG, directory, steps, "--config.training.batch_size=12",
                XLA_FLAGS="--xla_force_host_platform_device_count=8")  # fmt: skip
    assert done.returncode == 2 and "cannot be split over 8 devices" in done.stderr
    assert before == files()


def test_check_and_suggest_need_a_config_alone(tmp_path):
    """A right process passes with a table; a wrong one fails with status 1 and the method's name; suggest prints."""
    done = main(CONFIG, "--mode=check")
    assert done.returncode == 0 and "drift_rate = d log α/dt" in done.stdout, done.stderr
    done = main(CONFIG, "--mode=suggest")
    assert done.returncode == 0 and "sigma_data" in done.stdout and "beta_max" in done.stdout, done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from configs.spec import spec\nfrom sde_lib import VP\nfrom tests.tiny_config import get_config as tiny\n\n\n"
        "class Wrong(VP):\n    def diffusion(self, t):\n        return 0.1 + 19.9 * t\n\n\n"
        "def get_config():\n    config = tiny()\n    config.sde = spec(Wrong)\n    return config\n"
    )
    done = main(f"--config={wrong}", "--mode=check", PYTHONPATH=str(ROOT))
    assert done.returncode == 1 and "look at diffusion" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """No file may grow beyond 16 kB: training stops with status 1 and says why, beside orbax's own complaints; what it
    has written is readable."""
    limited = f"ulimit -f 16; exec {sys.executable} main.py {CONFIG} --workdir={tmp_path / 'run'}"
    environment = {**ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert "\nmain.py: a checkpoint could not be written to" in done.stderr
    assert read_metrics(tmp_path / "run")[-1]["step"] >= 10


def test_a_read_only_work_directory(tmp_path):
    """One line and status 1; root, whom the mode of a directory does not stop, gives up that right for it."""
    config = get_config()
    run = workdir.claim(tmp_path / "run", to_json(config))
    os.chmod(run, 0o555)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("root, without setpriv")
    arguments = [*drop, *command(CONFIG, f"--workdir={run}")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1 and [*run.iterdir()] == [run / "config.json"], done.stderr
    assert done.stderr.startswith("main.py: ") and "Permission denied" in done.stderr and done.stderr.count("\n") == 1
