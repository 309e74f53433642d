"""--mode=plan: bytes counted from the arrays themselves, a peak that what is tried brings down, one line where not."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from config_lib.spec import ConfigError, spec
from models import MLP
from run_modes.experiment import make_experiment
from run_modes.plan import Plan, parse_size, plan, shown, to_try
from run_modes.state import init_state_on_devices
from tests.crash.workload import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


def wide(batch_size=1024):
    config = get_config()
    config.network = spec(MLP, features=64, num_layers=3)
    config.training.batch_size = batch_size
    return config


def test_the_bytes_are_those_of_the_arrays(capsys):
    config, devices = wide(), jax.devices()[:1]
    found = plan(config, devices=devices)
    state = init_state_on_devices(make_experiment(config, devices))
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.ema_params, state.opt_state)
    ]
    assert [found.parameters, found.ema, found.optimizer, found.batch] == [*sizes, 1024 * 2 * 4]
    assert (
        found.state + found.batch + found.temporary <= found.peak <= 1.05 * found.state + found.batch + found.temporary
    )
    assert found.temporary > 1024 * 64 * 4 * 3  # a value for each unit of each layer at least
    printed = capsys.readouterr().out
    assert f"{found.peak:,} bytes" in printed and "on each of 1 devices (cpu)" in printed
    assert found.limit > 2**27  # of a CPU what the system has free


def test_what_does_not_fit_says_what_to_try_and_that_fits():
    config, devices = wide(), jax.devices()[:1]
    whole = plan(config, devices=devices)
    room = whole.state + (whole.peak - whole.state) // 3
    with pytest.raises(
        ConfigError, match=r"MiB do not fit into .* config.training.accumulate=4, the same batch in 4 pa"
    ):
        plan(config, f"{room}", devices)
    config.training.accumulate = 4
    parts = plan(config, f"{room}", devices)
    assert parts.peak < room and parts.parameters == whole.parameters


def numbers(limit, devices=1):
    return Plan(10, 10, 20, 1, 100, 141, devices, "cpu", limit)


def test_what_to_try():
    config = get_config()
    config.training.batch_size = 64
    with config.unlocked():
        config.network.remat = False
    tries = to_try(config, numbers(limit=80))
    assert tries == [
        "config.training.accumulate=4, the same batch in 4 parts",
        "config.network.remat=True, which stores fewer activations and computes them again",
        "config.training.batch_size=25, which changes the training",
    ]
    assert to_try(config, numbers(limit=80, devices=8))[-1].startswith("config.training.batch_size=24, which changes")
    config.training.accumulate = 4
    assert to_try(config, numbers(limit=80))[0] == "config.training.accumulate=16, the same batch in 16 parts"
    assert to_try(config, numbers(limit=40)) == [
        "parameters, EMA and optimizer alone take 40 bytes: a smaller network or a larger device"
    ]


def test_sizes():
    assert [parse_size(text) for text in ("16GiB", "500 MB", "8e9", "1.5kib", "7")] == [
        2**34,
        5 * 10**8,
        8 * 10**9,
        1536,
        7,
    ]
    for text in ("", "many", "3 parsecs", "0", "-1GB", "1e999"):
        with pytest.raises(ConfigError, match="--memory="):
            parse_size(text)
    assert [shown(size) for size in (7, 1536, 3 * 2**29)] == ["7 bytes", "1.5 KiB", "1.5 GiB"]


@pytest.mark.slow
def test_the_plan_is_within_15_percent_of_what_is_measured():
    """Of the digits' network, in a process of its own: see benchmarks/memory.py for what is compared."""
    command = [sys.executable, "-m", "benchmarks.memory", "--batch_size=256"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "planned / measured" in done.stdout, done.stdout + done.stderr
