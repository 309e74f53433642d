"""A process of one's own in a run: found again after a restart, and compared with what it was in training."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from config_lib.spec import ConfigError
from run_modes.card import fingerprint
from run_modes.trained import require_same_process
from sde_lib import VE, VP
from tests.contracts import DoubleWell

ROOT = Path(__file__).parents[2]
CLASS = """
import jax, jax.numpy as jnp, numpy as np
import run_lib
from config_lib.spec import spec
from configs.points import get_config
from data_lib import from_arrays
from sde_lib import GaussianSDE

class Quad(GaussianSDE):
    t_max: float = 0.999

    def alpha(self, t):
        return 1 - t**POWER

    def sigma(self, t):
        return jnp.sqrt(1 - self.alpha(t) ** 2 + 1e-6)
"""
TRAIN = """
config = get_config()
config.sde = spec(Quad)
config.network.features = 8
config.training.update(num_steps=2, batch_size=8)
run_lib.train(config, "run", from_arrays(np.random.default_rng(0).normal(size=(40, 2))), jax.devices()[:1])
"""
LOAD = """
print(run_lib.load("run").sample(jax.random.key(0), 2).shape)
"""
LOST = """
import run_lib
try:
    run_lib.load("run")
except ValueError as error:
    print(error)
"""
OFFER = """
from quad_elsewhere import Quad as Mine
import run_lib, jax
print(run_lib.load("run", classes=[Mine]).sample(jax.random.key(0), 2).shape)
"""


def python(folder, code):
    """stdout of a notebook's kernel, whose __main__ has no file; or the last line of the error."""
    run = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
    done = subprocess.run([sys.executable, "-c", run + code], cwd=folder, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_a_class_of_a_notebook_after_a_restart(tmp_path):
    square, cubic = (CLASS.replace("POWER", power) for power in "23")
    python(tmp_path, square + TRAIN)
    assert "(2, 2)" in python(tmp_path, square + LOAD)
    changed = python(tmp_path, cubic + LOAD)
    assert "was trained with another process: alpha of Quad is" in changed and "Has the class been changed?" in changed
    (tmp_path / "quad_elsewhere.py").write_text(square)
    lost, offered = python(tmp_path, LOST + OFFER).splitlines()[-2:]
    assert "`__main__:Quad`, defined in another script or notebook: define Quad here" in lost
    assert offered == "(2, 2)"


def test_the_fingerprint_is_alpha_and_sigma():
    found = fingerprint(VP())
    assert found["t"][0] == pytest.approx(1e-5) and found["t"][-1] == 1.0 and len(found["t"]) == 8
    beta = 0.1 * np.asarray(found["t"]) + 0.5 * 19.9 * np.asarray(found["t"]) ** 2
    np.testing.assert_allclose(found["alpha"], np.exp(-beta / 2), rtol=1e-5)
    np.testing.assert_allclose(found["sigma"], np.sqrt(-np.expm1(-beta)), rtol=1e-5)
    assert set(fingerprint(DoubleWell())) == {"t", "diffusion"}


@pytest.mark.parametrize(
    ("then", "now", "what"),
    [(VP(), VP(beta_max=19.9), "alpha"), (VE(), VE(sigma_min=0.0102), "sigma"), (VP(), VP(t_max=0.99), "t of VP")],
)
def test_a_small_change_is_seen(then, now, what):
    card = {"process": fingerprint(then)}
    require_same_process(card, then, ROOT)
    require_same_process({}, now, ROOT)
    with pytest.raises(ConfigError, match=f"another process: {what}"):
        require_same_process(card, now, ROOT)


def test_float32_and_float64_agree():
    card = {"process": fingerprint(VP())}
    with jax.enable_x64(False):
        require_same_process(card, VP(), ROOT)
