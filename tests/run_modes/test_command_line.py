"""Flags that choose a checkpoint, the steps of a sampler, or a config file with modules next to it."""

import jax
import numpy as np
import pytest

import run_lib
from config_lib.command_line import load_config
from config_lib.spec import ConfigError
from configs.points import get_config
from data_lib import from_arrays
from run_modes.command_line import check_samplers, with_num_steps

pytestmark = pytest.mark.usefixtures("usual_promotion")


def test_steps_of_the_sampler_in_use():
    config = get_config()
    assert with_num_steps(config, None).sampling.ode.num_steps == 32
    found = with_num_steps(config, 7)
    assert found.sampling.ode.num_steps == 7 and found.sampling.fast.num_steps == 20
    config.sampling.adaptive = {"call": "sde_lib:AdaptiveSDE"}
    config.sampling.use = "adaptive"
    with pytest.raises(
        ConfigError, match=r"--num_steps=7: config\.sampling\.adaptive chooses its number of steps itself"
    ):
        with_num_steps(config, 7)


@pytest.mark.parametrize("flag", ["--config.sampling.fast.num_steps=3", "-config.sampling.pc.solver.corrector.snr=0.1"])
def test_a_flag_of_a_sampler_that_is_not_in_use(flag):
    with pytest.raises(ConfigError, match=r"is not in use: config\.sampling\.use is 'ode'"):
        check_samplers(get_config(), [flag])


def test_other_flags_of_sampling():
    check_samplers(get_config(), ["--config.sampling.ode.num_steps=3", "--config.sampling.label=3", "--num_samples=3"])


def test_a_config_file_imports_modules_next_to_it(tmp_path):
    (tmp_path / "quad_sdes.py").write_text("from sde_lib import VP\nclass Quad(VP):\n    pass\n")
    (tmp_path / "mine.py").write_text(
        "from config_lib.spec import spec\nfrom configs import points\n"
        "def get_config():\n    from quad_sdes import Quad\n"
        "    config = points.get_config()\n    config.sde = spec(Quad)\n    return config\n"
    )
    assert load_config(str(tmp_path / "mine.py")).sde.call == "quad_sdes:Quad"


def test_a_checkpoint_that_is_not_the_newest(tmp_path):
    config = get_config()
    config.network.features = 8
    config.training.update(num_steps=4, batch_size=16, checkpoint_every=2, keep_newest=2)
    x = np.random.default_rng(0).normal(size=(40, 2))
    assert run_lib.train(config, tmp_path, from_arrays(x), jax.devices()[:1])
    key = jax.random.key(0)
    for step in (2, 4):
        drawn = run_lib.sample(tmp_path, 3, step=step, devices=jax.devices()[:1])
        again = run_lib.load(tmp_path, step=step).sample(key, 3)
        np.testing.assert_allclose(drawn, again, rtol=1e-5, atol=1e-5)
    assert np.any(run_lib.load(tmp_path, step=2).sample(key, 3) != again)
    with pytest.raises(ConfigError, match=r"no checkpoint of step 3 in .*; it holds steps \[2, 4\]"):
        run_lib.load(tmp_path, step=3)
    assert run_lib.inspect(tmp_path, step=2).startswith(f"{tmp_path}: step 2 of 4; checkpoints of steps 2, 4\n")
