"""photos, signals, volume and table: each takes shape, transform and sigma_data from its data, and trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import run_lib
from config_lib.command_line import apply_overrides, shipped
from config_lib.spec import build
from configs.own_data import with_data
from configs.photos import photo_network
from data_lib import gather
from io_lib import workdir
from run_modes.experiment import make_experiment
from run_modes.training_loop import check_shapes

pytestmark = pytest.mark.usefixtures("usual_promotion")

RNG = np.random.default_rng(0)
EVENTS = {
    "table": RNG.normal(size=(200, 3)) * np.asarray([1e-3, 1.0, 1e3]) + np.asarray([0.0, 5.0, 1e4]),
    "signals": RNG.normal(size=(40, 32, 2)) * 7 + 100,
    "volume": RNG.normal(size=(30, 4, 6, 4, 1)).astype(np.float32),
}


def of_data(name, tmp_path):
    config = shipped(name).get_config()
    if name == "photos":
        for k in range(30):
            Image.fromarray(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
        return with_data(config, str(tmp_path))
    np.savez(tmp_path / "x.npz", x=EVENTS[name])
    return with_data(config, str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["photos", "signals", "volume", "table"])
def test_it_takes_shape_and_sigma_data_from_the_data(name, tmp_path, capsys):
    config = of_data(name, tmp_path)
    assert tuple(config.shape) == (EVENTS[name].shape[1:] if name in EVENTS else (64, 64, 3))
    train = build(config.data).train
    x = build(config.transform).forward(gather(train, np.arange(len(train)))["x"])
    sigma = config.parameterization.sigma_data
    assert sigma == config.loss.weight.sigma_data and abs(sigma / np.std(x) - 1) < 0.01
    assert f"config.parameterization.sigma_data={sigma:g}: measured on" in capsys.readouterr().out
    apply_overrides(config, ["--config.parameterization.sigma_data=0.25"])
    assert config.loss.weight.sigma_data == 0.25


@pytest.mark.parametrize("name", ["signals", pytest.param("volume", marks=pytest.mark.slow)])
def test_a_training_step_of_it_can_be_built(name, tmp_path):
    """At full size, by shapes alone."""
    check_shapes(make_experiment(of_data(name, tmp_path), jax.devices()[:1]))


def test_photographs_of_another_resolution(tmp_path):
    config = apply_overrides(of_data("photos", tmp_path), ["--config.shape=(32, 24, 3)"])
    assert tuple(config.network.shape) == tuple(config.data.shape) == (32, 24, 3)
    assert build(config.data).train[0]["x"].shape == (32, 24, 3)
    check_shapes(make_experiment(config, jax.devices()[:1]))


def test_the_table_trains_and_its_samples_have_the_units_of_the_data(tmp_path):
    """Columns whose deviations differ by a million: every mean within six standard errors, every deviation to 20 %."""
    config = of_data("table", tmp_path)
    config.network.update(features=32, num_layers=2)
    config.training.update(num_steps=400, batch_size=64, checkpoint_every=0, eval_every=0, ema=0.98)
    config.optimizer.warmup_steps = 20
    assert run_lib.train(config, tmp_path / "run", devices=jax.devices()[:1])
    x = np.asarray(run_lib.sample(tmp_path / "run", 500, devices=jax.devices()[:1]))
    mean, std = EVENTS["table"].mean(0), EVENTS["table"].std(0)
    assert np.all(np.abs(x.mean(0) - mean) / std < 0.25) and np.all(np.abs(np.log(x.std(0) / std)) < 0.2)
    assert x.dtype == np.float64  # the last column is ten deviations from 0
    # the same command resumes it, and the directory alone takes other data of the same kind for evaluation
    assert workdir.load_config(tmp_path / "run").parameterization.sigma_data == config.parameterization.sigma_data


@pytest.mark.parametrize(
    ("shape", "levels", "attention"), [((32, 32, 3), 3, (1, 2)), ((64, 48, 3), 3, (2,)), ((8, 8, 1), 1, (0,)),
                                       ((256, 256, 3), 6, (4, 5))],
)  # fmt: skip
def test_the_network_follows_the_resolution(shape, levels, attention):
    """It halves the shorter side while at least 8 pixels remain, and attends where at most 16 do."""
    network = photo_network(shape)
    assert len(network.ch_mult) == levels and network.attn_levels == attention
    if shape == (8, 8, 1):
        out = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
        assert out
