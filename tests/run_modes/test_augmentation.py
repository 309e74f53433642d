"""config.augmentation through a run: trained, resumed exactly, on other devices too, sampled from; what is refused."""

import jax
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, spec
from io_lib.metrics import read_metrics
from models import NCSNpp
from run_modes.experiment import build_augmentation, make_experiment
from tests.test_run_lib import final_state
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

ONE = jax.devices()[:1]


def augmented(num_steps=10, probability=0.5):
    config = get_config()
    config.network.cond_dim = 9
    config.augmentation.probability = probability
    config.training.update(num_steps=num_steps, eval_every=0, sample_every=0, checkpoint_every=5, log_every=1)
    return config


def losses(directory):
    return [line["loss"] for line in read_metrics(directory) if "loss" in line]


@pytest.mark.slow
def test_an_augmented_run_goes_on_exactly_and_is_sampled_from(tmp_path):
    run_lib.train(augmented(), tmp_path / "straight", devices=ONE)
    for directory, devices in (("same", ONE), ("two", jax.devices()[:2])):
        stop_after(5, tmp_path / directory)
        run_lib.train(augmented(), tmp_path / directory, devices=devices)
        exact = 0 if directory == "same" else 1e-4
        np.testing.assert_allclose(losses(tmp_path / directory), losses(tmp_path / "straight"), rtol=exact)
    straight, resumed = (final_state(tmp_path / name, augmented()) for name in ("straight", "same"))
    for name, leaf in straight.items():
        np.testing.assert_array_equal(resumed[name], leaf, err_msg=name)
    run_lib.train(augmented(probability=0.0), tmp_path / "plain", devices=ONE)
    assert abs(losses(tmp_path / "plain")[0] / losses(tmp_path / "straight")[0] - 1) > 1e-3
    assert run_lib.sample(tmp_path / "straight", 4, devices=ONE).shape == (4, 8, 8, 1)


def stop_after(steps, directory):
    """A run that was stopped, by hand of its newest checkpoint."""
    run_lib.train(augmented(), directory, devices=ONE)
    for path in (directory / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > steps:
            path.rename(directory / path.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.network.update(cond_dim=0), r"set config\.network\.cond_dim=9 .*cond: expected None"),
        (
            lambda c: c.network.update(cond_dim=3),
            r"cond_dim=9 \(cond: expected a vector of shape \(1, 3\), got",
        ),
        (lambda c: setattr(c, "network", spec(NCSNpp, nf=4, ch_mult=(1,), num_res_blocks=1)), r"cond_dim=9"),
        (lambda c: c.update(shape=(64,)), r"config\.augmentation is for images \[H, W, C\], config\.shape is \(64,\)"),
    ],
)
def test_what_would_leak_or_cannot_be_told_is_refused(change, message):
    config = augmented()
    with config.unlocked():
        change(config)
    with pytest.raises(ConfigError, match=message):
        make_experiment(config)


def test_a_condition_that_is_kept_back_would_leak():
    config = augmented()
    with config.unlocked():
        config.network.cond_dropout = 0.1
    with pytest.raises(ConfigError, match=r"config\.augmentation would leak: .*cond_dropout"):
        build_augmentation(config, None)
