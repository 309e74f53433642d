"""The README's Python runs as it stands, one block after another, with fewer steps."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import points

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_every_block_runs(tmp_path, monkeypatch):
    real = points.get_config

    def short():
        config = real()
        config.training.update(num_steps=20, checkpoint_every=20, log_every=10, batch_size=64)
        return config

    monkeypatch.setattr(points, "get_config", short)
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 2
    names = {"__name__": "readme"}
    with jax.numpy_dtype_promotion("standard"):
        for block in BLOCKS:
            exec(compile(block, "README.md", "exec"), names)
    assert names["samples"].shape == (1000, 2) and np.all(np.isfinite(names["samples"]))
    assert (tmp_path / "runs" / "moons_cosine" / "checkpoints" / "20").is_dir()


@pytest.mark.parametrize("line", re.findall(r"^python main.py (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE))
def test_every_command_has_flags_that_exist(line):
    """What is run in full elsewhere is at least spelt right here."""
    from configs.command_line import apply_overrides, load_config

    flags = dict(part.lstrip("-").split("=", 1) for part in line.split())
    config = load_config(str(Path(__file__).parents[1] / flags.pop("config", "configs/digits.py")))
    overrides = [f"--{key}={flags.pop(key)}" for key in list(flags) if key.startswith("config.")]
    apply_overrides(config, overrides)
    assert set(flags) <= {"workdir", "mode", "num_samples", "seed"}
