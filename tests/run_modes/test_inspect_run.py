"""--mode=inspect tells what is there, to the byte, and what is not as it was written; and it writes nothing."""

import re
import shutil

import jax
import pytest

from config_lib.spec import ConfigError, to_json
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from run_modes.card import card_of, data_of, signed
from run_modes.data import load_data
from run_modes.experiment import make_experiment
from run_modes.inspect_run import inspect
from run_modes.state import digest, init_state_on_devices
from tests.crash.workload import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory with two checkpoints, and the state in them."""
    config, directory = get_config(), tmp_path_factory.mktemp("inspect") / "run"
    config.license = "CC BY 4.0"
    experiment = make_experiment(config, jax.devices()[:1])
    workdir.claim(directory, to_json(config))
    with jax.numpy_dtype_promotion("standard"):
        state = init_state_on_devices(experiment)
    card = card_of(config, data_of(config, load_data(config, experiment.devices), given=False))
    with Checkpoints(directory / "checkpoints") as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, state, signed(card, state.replace(step=state.step + step)))
    return directory, state


def test_everything_is_told(made):
    directory, state = made
    before = sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*"))
    text = inspect(directory)
    assert text.startswith(f"{directory}: step 7 of 200; checkpoints of steps 3, 7\n")
    for field in ("params", "ema_params", "opt_state"):
        leaves = jax.tree.leaves(getattr(state, field))
        count, size = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
        assert f"\n  {field}: {count:,} numbers in {len(leaves)} leaves, {size:,} bytes\n" in text
    assert "\n    params.Dense_0.kernel float32(16, 16) 1,024 bytes\n" in text
    assert f'"ema_params": "{digest(state.ema_params)}"' in text and "\n  license: CC BY 4.0\n" in text
    source = r'\n  data: \{"source": \{.*"data_lib:moons".*"train": 270, "test": 30, '
    assert re.search(source + r'"sha256": \{"train": ".{16}", "test": ".{16}"\}\}\n', text)
    assert "\n  ema: rate 0.995; " in text and "sde_lib:EDMPreconditioning" in text and "\n  step: 7\n" in text
    assert "\nintact: every leaf is as it was written (CRC-32)\n" in text and "\n  config.sde.beta_max: 20.0\n" in text
    assert "absent" not in text and inspect(directory, 3).startswith(f"{directory}: step 3 of 200; ")
    assert before == sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*"))


def test_a_damaged_one_is_told_and_stays(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "7" / "default" / "d").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    text = inspect(tmp_path / "run")
    assert "\ndamaged: " in text and "whole" not in text and "\n  config.sde.beta_max: 20.0\n" in text
    assert (tmp_path / "run" / "checkpoints" / "7").is_dir()


def test_what_is_not_there(made, tmp_path):
    with pytest.raises(ConfigError, match=r"has no checkpoint of step 5: \[3, 7\]"):
        inspect(made[0], 5)
    with pytest.raises(ConfigError, match="is not a work directory"):
        inspect(tmp_path)
    (tmp_path / "config.json").write_text(to_json(get_config()))
    with pytest.raises(ConfigError, match=r"has no checkpoint: \[\]"):
        inspect(tmp_path)
