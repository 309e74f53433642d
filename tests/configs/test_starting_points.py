"""photos, signals, volume and table: each takes shape, transform and sigma_data from its data, and trains."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from flax import linen as nn
from PIL import Image

import run_lib
from config_lib.command_line import apply_overrides, define_config_flag, load_config, parse, shipped
from config_lib.names import ConfigError
from config_lib.spec import build, spec
from configs.own_data import with_data
from configs.photos import OnPatches, photo_network
from configs.starting import array_network, levels_of, noise_choices, noise_mean
from data_lib import gather
from io_lib import workdir
from models.network import as_network, takes
from run_modes.experiment import make_experiment
from run_modes.training_loop import check_shapes
from sde_lib import VE, VP, UniformTime, suggest

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
def test_it_takes_shape_and_noise_levels_from_the_data(name, tmp_path, capsys):
    """The numbers of `suggest`, each printed with its reason; the loss has the same sigma_data."""
    config = of_data(name, tmp_path)
    assert tuple(config.shape) == (EVENTS[name].shape[1:] if name in EVENTS else (64, 64, 3))
    train = build(config.data).train
    x = build(config.transform).forward(gather(train, np.arange(len(train)))["x"])
    found = suggest(x)
    sigma = config.parameterization.sigma_data
    assert sigma == config.loss.weight.sigma_data and abs(sigma / np.std(x) - 1) < 0.01
    assert abs(config.sde.t_max / found.sigma_max - 1) < 0.01
    assert abs(config.sde.t_min / max(found.sigma_min, found.sigma_data / 1000) - 1) < 0.01
    printed = capsys.readouterr().out
    for key, value in {
        "parameterization.sigma_data": sigma,
        "sde.t_max": config.sde.t_max,
        "sde.t_min": config.sde.t_min,
        "time_distribution.mean": config.time_distribution.mean,
    }.items():
        assert f"  config.{key}={value:g}: " in printed
    for key in ("shape=", "network", "training.ema=", "eval.features.call=eval_lib:"):
        assert f"  config.{key}" in printed
    apply_overrides(config, ["--config.parameterization.sigma_data=0.25"])
    assert config.loss.weight.sigma_data == 0.25


def test_the_values_for_data_of_known_distribution(tmp_path):
    """8-bit noise, uniform: deviation sqrt((256² − 1)/12) steps of 2/255, distances near deviation · sqrt(2 d)."""
    for k in range(30):
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    config = with_data(shipped("photos").get_config(), str(tmp_path))
    deviation = np.sqrt((256**2 - 1) / 12) * 2 / 255
    assert config.parameterization.sigma_data == 0.58 and abs(0.58 - deviation) < 0.002
    assert abs(config.sde.t_max / (deviation * np.sqrt(2 * 64 * 64 * 3)) - 1) < 0.02
    assert config.sde.t_min == 0.00196 and abs(0.00196 - 2 / 255 / 4) < 5e-6
    assert config.time_distribution.mean == -1.05 and abs(np.log(deviation / 0.5) - 1.2 + 1.05) < 0.003


def test_the_law_of_noise_levels_scales_with_the_data():
    """EDM's for its sigma_data; for data of another scale, the noise levels times that scale."""
    assert noise_mean(0.5) == -1.2
    for scale in (0.1, 1.0, 30.0):
        assert abs(noise_mean(0.5 * scale) - (-1.2 + np.log(scale))) < 0.01
    x = RNG.normal(size=(500, 4))
    config = shipped("table").get_config()
    ours, scaled = ({c.key: c.value or 0.0 for c in noise_choices(config, y)} for y in (x, 8 * x))
    for key in ("parameterization.sigma_data", "sde.t_max", "sde.t_min"):
        assert abs(scaled[key] / ours[key] / 8 - 1) < 0.01
    assert abs(scaled["time_distribution.mean"] - ours["time_distribution.mean"] - np.log(8)) < 0.01


def test_a_process_of_ones_own_keeps_its_times(tmp_path):
    """VE has the noise levels as sigma_min and sigma_max; VP's t_max is no noise level."""
    np.savez(tmp_path / "x.npz", x=EVENTS["table"])
    edm = with_data(shipped("table").get_config(), str(tmp_path / "x.npz"))
    for process in (VE, VP):
        config = shipped("table").get_config()
        config.sde, config.time_distribution = spec(process), spec(UniformTime)
        with_data(config, str(tmp_path / "x.npz"))
        expected = {"sigma_min": edm.sde.t_min, "sigma_max": edm.sde.t_max} if process is VE else {}
        assert config.sde == spec(process, **expected) and config.time_distribution == spec(UniformTime)
        assert config.parameterization == edm.parameterization


@pytest.fixture
def parsed():
    """Arguments of the command line → config, with fresh flags."""
    if "data" not in flags.FLAGS:
        define_config_flag()
    yield lambda *arguments: parse(["main.py", *map(str, arguments)])
    flags.FLAGS.data = None


def test_flags_win(tmp_path, parsed, capsys):
    np.savez(tmp_path / "x.npz", x=EVENTS["table"])
    data, own = f"--data={tmp_path / 'x.npz'}", ("--config.sde.t_max=80", "--config.time_distribution.mean", "-2.0")
    chosen = parsed("--config=table", data)
    found = f"{chosen.sde.t_max:g}"
    for arguments in ((data, *own), (*own, data)):
        capsys.readouterr()
        config = parsed("--config=table", *arguments)
        assert config.sde.t_max == 80 and config.time_distribution.mean == -2
        assert config.parameterization == chosen.parameterization and config.sde.t_min == chosen.sde.t_min
        printed = capsys.readouterr().out
        assert f"config.sde.t_max=80: set by a flag; the data give {found}, sigma_max" in printed
        assert "config.time_distribution.mean=-2: set by a flag; the data give -0.507" in printed
    with pytest.raises(ConfigError, match=r"config\.shape is \(4,\), but the data are \(3,\)"):
        parsed("--config=table", data, "--config.shape=4,")


@pytest.mark.parametrize("shape", ["32,24,3", "(32,24,3)", "32, 24, 3"])
def test_the_shape_counts_before_the_data_are_measured(tmp_path, parsed, shape):
    """In either order, and in two parts: noise of single pixels has a smaller deviation where it is made smaller."""
    at_64 = of_data("photos", tmp_path)
    data = f"--data={tmp_path}"
    for arguments in (
        (data, f"--config.shape={shape}"),
        (f"--config.shape={shape}", data),
        ("--config.shape", shape, data),
    ):
        config = parsed("--config=photos", *arguments)
        assert tuple(config.shape) == tuple(config.data.shape) == tuple(config.network.shape) == (32, 24, 3)
        train = build(config.data).train
        std = np.std(build(config.transform).forward(gather(train, np.arange(len(train)))["x"]))
        assert abs(config.parameterization.sigma_data / std - 1) < 0.01
        assert config.sde.t_max < at_64.sde.t_max / 2


def test_what_is_said_of_classes_gray_images_and_equal_ones(tmp_path, capsys):
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for k in range(12):
            gray = Image.fromarray(RNG.integers(0, 256, (20 + k, 30), dtype=np.uint8))
            gray.save(tmp_path / kind / f"{k}.png")
    with_data(shipped("photos").get_config(), str(tmp_path))
    printed = capsys.readouterr().out
    assert "all images are gray: --config.shape=64,64,1 takes one channel" in printed
    assert "--config.network.num_classes=2 --config.network.cond_dropout=0.1" in printed
    np.save(tmp_path / "same.npy", np.ones((20, 3)))
    config = with_data(shipped("table").get_config(), str(tmp_path / "same.npy"))
    assert "the config stays as it is: suggest: expected data that differ" in capsys.readouterr().out
    assert config.parameterization.sigma_data == 1.0


def test_each_of_many_columns_is_standardized(tmp_path):
    scales = 10.0 ** np.linspace(-3, 3, 40)
    np.save(tmp_path / "x.npy", RNG.normal(size=(300, 40)) * scales + scales)
    config = with_data(shipped("table").get_config(), str(tmp_path / "x.npy"))
    x = build(config.transform).forward(build(config.data).train.x)
    np.testing.assert_allclose([x.mean(0), x.std(0)], [np.zeros(40), np.ones(40)], atol=1e-5)
    assert config.parameterization.sigma_data == 1.0 and config.time_distribution.mean == -0.507


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


@pytest.mark.parametrize(
    ("shape", "coarsest", "levels", "attention"),
    [((256, 2), 32, 4, (2, 3)), ((7, 3), 32, 1, (0,)), ((16_000, 1), 32, 9, (8,)), ((16, 16, 16, 1), 4, 3, (1, 2)),
     ((1, 40, 30, 2), 4, 4, (1, 2, 3)), ((24, 24, 24, 1), 4, 3, (2,))],
)  # fmt: skip
def test_the_levels_follow_the_longest_axis(shape, coarsest, levels, attention):
    limit = 64 if len(shape) == 2 else 512
    assert levels_of(shape, coarsest, limit) == (levels, attention)
    if np.prod(shape) > 500 and shape[0] > 1:  # the odd ones: an axis of one position, fewer than the coarsest
        return
    network = array_network(shape, nf=8, coarsest=coarsest, attention=limit)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    out = jax.eval_shape(network.apply, params, jnp.zeros((2, *shape)), jnp.zeros(2))
    assert out.shape == (2, *shape)


def test_patches_become_channels():
    """The network on patches receives all pixels of a patch; the linear part starts at 0; sizes that do not divide."""

    class Echo(nn.Module):
        @nn.compact
        def __call__(self, x, c_noise, cond=None, train=False):
            return x + c_noise[:, None, None, None]

    x = jnp.asarray(RNG.normal(size=(2, 7, 10, 3)), jnp.float32)
    module, c_noise = OnPatches(Echo(), patch=2), jnp.asarray([1.0, 2.0])
    params = module.init(jax.random.key(0), x, c_noise)
    np.testing.assert_allclose(
        np.asarray(module.apply(params, x, c_noise)), x + c_noise[:, None, None, None], rtol=1e-6
    )
    assert photo_network((64, 64, 3), patch=2).network.ch_mult == (1, 2, 2)  # as for 32x32


def test_the_words_of_photos():
    small, fid = load_config("photos:small"), load_config("photos:small,fid")
    assert small.network.patch == 2 and "InceptionFeatures" not in small.eval.features["call"]
    assert fid.network == small.network and fid.eval.features["call"] == "eval_lib:InceptionFeatures"
    assert set(fid.eval.metrics) == {"fid", "kid"}
    with pytest.raises(ConfigError, match="photos: expected any of small, fid, got tiny"):
        load_config("photos:tiny")


def test_the_crops_of_the_docs_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "starting.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(block, "docs/starting.md", "exec"), {})
    crops = list((tmp_path / "crops").iterdir())
    assert len(crops) == 2000 and np.asarray(Image.open(crops[0])).shape == (64, 64, 3)


def test_patches_take_a_field_of_the_size_of_x():
    """The network receives all pixels of the field's patch; the other conditions pass as they are."""
    received = {}

    class Echo(nn.Module):
        num_classes: int = 3
        cond_dim: int = 0
        cond_channels: int = 8
        context_dim: int = 0

        @nn.compact
        def __call__(self, x, c_noise, cond=None, train=False):
            received.update(cond)
            return x

    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)  # noqa: E731
    x, field, c_noise, labels = draw(2, 8, 8, 3), draw(2, 8, 8, 2), jnp.ones(2), jnp.asarray([0, 2])
    module = OnPatches(Echo(), patch=2)
    params = module.init(jax.random.key(0), x, c_noise, {"label": labels, "mask": field})
    assert module.cond_channels == 2 and received["labels"] is labels
    np.testing.assert_array_equal(received["field"][:, 1, 3], field[:, 2:4, 6:8].reshape(2, 8))
    module.apply(params, x, c_noise, {"label": labels, "mask": field[:, ::2, ::2]})  # of half the size: resized first
    resized = jax.image.resize(field[:, ::2, ::2], field.shape, "linear")
    np.testing.assert_array_equal(received["field"][:, 1, 3], resized[:, 2:4, 6:8].reshape(2, 8))


@pytest.mark.parametrize(
    "network",
    [
        photo_network(patch=2, cond_channels=3, context_dim=4, cond_null="learned"),
        array_network((64, 1), 16, 32, 64, cond_channels=3, context_dim=4),
    ],
)
def test_the_starting_networks_take_every_condition(network):
    assert takes(as_network(network)) == {"num_classes": 0, "cond_dim": 0, "cond_channels": 3, "context_dim": 4}
