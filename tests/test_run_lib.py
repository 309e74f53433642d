import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import run_lib
from config_lib.spec import ConfigError, spec
from data_lib import Batches, Identity, from_arrays
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import read_metrics
from models import NCSNpp
from run_modes.experiment import make_experiment
from run_modes.state import TRAIN, digest, key_for, restore_state
from sde_lib import VE, EDMPreconditioning, Sampler, adam
from sde_lib.solvers import EulerMaruyama, PredictorCorrector
from sde_lib.training.objective import draws
from tests.contracts import DoubleWell
from tests.crash.workload import get_config as points_config
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


def final_state(directory, config):
    """Every array of the newest checkpoint, by name."""
    experiment = make_experiment(config, jax.devices()[:1])
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restore_state(experiment, checkpoints)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Forty steps of the small config."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert run_lib.train(get_config(), directory, devices=jax.devices()[:1])
    return directory


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_leaves_what_it_promises(run):
    directory = run
    found = {path.name for path in directory.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "tensorboard", "samples"} <= found
    assert {p.name for p in (directory / "checkpoints").iterdir() if p.name.isdigit()} == {"20", "30", "40"}
    metrics = read_metrics(directory)
    assert [line["step"] for line in metrics if "loss" in line] == list(range(5, 41, 5))
    assert [line["step"] for line in metrics if "eval_loss" in line] == [20, 40]
    assert (directory / "samples" / "step_0000040.png").is_file()

    with Checkpoints(directory / "checkpoints") as checkpoints:
        cards = {step: checkpoints.card(step) for step in checkpoints.steps()}
    assert [(card["step"], card["data"]["train"]) for card in cards.values()] == [(20, 1297), (30, 1297), (40, 1297)]
    assert cards[40]["hash"]["ema_params"] == digest(run_lib.load(directory).params) != cards[30]["hash"]["ema_params"]

    x = run_lib.sample(directory, num_samples=80, seed=7)
    with np.load(directory / "samples" / "samples.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["samples"], x)
    assert x.shape == (80, 8, 8, 1) and x.dtype == np.uint8
    with Image.open(directory / "samples" / "samples.png") as picture:
        assert picture.size[0] > 100
    other = run_lib.load(directory).sample(jax.random.key(7), 3)  # in the units of the data, 0 … 16
    np.testing.assert_allclose(np.rint(np.clip(other / 16 * 255, 0, 255)), x[:3], atol=1)

    report = run_lib.evaluate(directory, num_samples=80, seed=7)
    assert report == json.loads((directory / "eval" / "report.json").read_text())
    assert report["step"] == 40 and report["nfe"] == 8 and 0 < report["eval_loss"] < 100
    assert report["frechet"]["ratio"] > 2  # forty steps: not digits yet, and the report says so
    assert all((directory / "eval" / name).is_file() for name in ("report.md", "samples.png", "loss.png"))


def test_pictures_of_training_are_passed_to_the_log(tmp_path, monkeypatch):
    config, pictures = get_config(), []
    config.training.update(num_steps=2, sample_every=1, log_every=1, eval_every=0, writers=())
    monkeypatch.setattr(run_lib.MetricsLog, "show", lambda self, step, path: pictures.append((step, path)))
    assert run_lib.train(config, tmp_path / "run", devices=jax.devices()[:1])
    folder = tmp_path / "run" / "samples"
    assert pictures == [(1, folder / "step_0000001.png"), (2, folder / "step_0000002.png")]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(run):
    """Training goes on from there to the state and the metrics that it had."""
    config, directory = get_config(), run
    expected, metrics = final_state(directory, config), read_metrics(directory)
    shutil.rmtree(directory / "checkpoints" / "40")
    for file in (directory / "checkpoints" / "30").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"30 cannot be read .* it is now .*\.damaged/30"):
        assert run_lib.train(config, directory, devices=jax.devices()[:1])
    found = final_state(directory, config)
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())
    assert read_metrics(directory) == metrics


def test_sampling_choices_go_through_the_config(run, tmp_path):
    config = get_config()
    first = run_lib.sample(tmp_path / "run", 16, 0)
    config.sampling.use = "ode"
    second = run_lib.sample(tmp_path / "run", 16, 0, config)
    assert not np.array_equal(first, second)
    config.sampling.use = "odd"
    with pytest.raises(
        ConfigError, match=r"config.sampling.use is 'odd': expected one of fast, ode, paper, pc, published"
    ):
        run_lib.sample(tmp_path / "run", 16, 0, config)
    config.sampling.use, config.sde.beta_max = "pc", 15.0
    with pytest.raises(ConfigError, match=r"trained with another config: config.sde.beta_max: 20.0 -> 15.0"):
        run_lib.sample(tmp_path / "run", 16, 0, config)


@pytest.mark.parametrize(
    ("network", "steps", "counts"), [("mlp", 12, (1, 8)), pytest.param("unet", 8, (1, 2, 8), marks=pytest.mark.slow)]
)
def test_any_number_of_devices_gives_the_same_curve(tmp_path, network, steps, counts):
    """One and eight devices, or two: the loss of every step to 1e-4, of the U-Net with dropout."""
    config = get_config()
    if network == "unet":
        config.network = spec(NCSNpp, nf=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), dropout=0.1)
    config.training.update(num_steps=steps, log_every=1, eval_every=steps, sample_every=0, checkpoint_every=0)
    curves = []
    for count in counts:
        run_lib.train(config, tmp_path / str(count), devices=jax.devices()[:count])
        curves.append([line.get("loss", line.get("eval_loss")) for line in read_metrics(tmp_path / str(count))])
        assert len(curves[-1]) == steps + 1
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-4)


def test_several_steps_a_call_need_no_divisibility(tmp_path):
    config = get_config()
    config.training.update(num_steps=23, log_every=5, eval_every=0, sample_every=0, checkpoint_every=7)
    run_lib.train(config, tmp_path / "one", devices=jax.devices()[:1])
    config.training.steps_per_call = 4
    run_lib.train(config, tmp_path / "four", devices=jax.devices()[:1])
    one, four = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "four")
    assert [line["step"] for line in one] == [line["step"] for line in four] == [5, 7, 10, 14, 15, 20, 21, 23]
    np.testing.assert_allclose([line["loss"] for line in one], [line["loss"] for line in four], rtol=1e-5)


def test_each_stream_follows_the_seed(tmp_path):
    """Two runs of one seed agree bit for bit; another seed changes initialization, data order and noise."""
    config = get_config()
    config.training.update(num_steps=3, log_every=1, eval_every=0, sample_every=0)
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        config.seed = seed
        run_lib.train(config, tmp_path / name, devices=jax.devices()[:1])
    a, b, c = (final_state(tmp_path / name, config) for name in "abc")
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name])
    assert not np.allclose(a[".params['Dense_0']['kernel']"], c[".params['Dense_0']['kernel']"])


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """With the step and the window; what was good before stays, and nothing bad is saved."""
    config = get_config()
    config.training.update(num_steps=40, log_every=4, eval_every=0, sample_every=0, checkpoint_every=2)
    config.optimizer = spec(adam, learning_rate=1e38, warmup_steps=30, clip_norm=1e30)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+"):
        run_lib.train(config, tmp_path / "run", devices=jax.devices()[:1])
    state = final_state(tmp_path / "run", config)
    assert all(np.all(np.isfinite(value)) for name, value in state.items() if value.dtype.kind == "f")


def test_what_is_not_finite_is_told_or_left_out(tmp_path):
    """One example overflows: step, window and t are those of the first batch with it; or such batches are counted."""
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    x[80] = 1e30
    data, config = from_arrays(x, test=30), points_config()
    config.training.update(num_steps=30, log_every=5, eval_every=0, checkpoint_every=5)
    batches = Batches(data.train, Identity(), 16, config.seed)
    hit = [step for step in range(30) if np.any(batches.batch(step)["x"] > 1e20)]
    assert len(hit) == 2 and hit[0] >= 5
    key = jax.random.fold_in(key_for(config, TRAIN), hit[0])
    _, t, _ = draws(make_experiment(config).objective, key, 16)
    t = float(t[np.argmax(batches.batch(hit[0])["x"][:, 0] > 1e20)])
    first, good = hit[0] // 5 * 5 + 1, hit[0] // 5 * 5
    message = (f"loss is not finite at step {hit[0] + 1}, of 1 examples at t from {t:.4g} to {t:.4g}, in the window of "
               f"steps {first} to {first + 4}; the last good checkpoint is of step {good}")  # fmt: skip
    with pytest.raises(FloatingPointError, match=f"^{re.escape(message)}$"):
        run_lib.train(config, tmp_path / "stopped", data, devices=jax.devices()[:1])
    assert read_metrics(tmp_path / "stopped")[-1]["step"] == good
    config.training.skip_nonfinite = True
    assert run_lib.train(config, tmp_path / "skipped", data, devices=jax.devices()[:1])
    skipped = {line["step"]: line["skipped"] for line in read_metrics(tmp_path / "skipped")}
    assert skipped == {end: sum(end - 5 <= step < end for step in hit) for end in range(5, 31, 5)}


def test_own_arrays_of_any_shape(tmp_path):
    """1-D signals, with a user's choice of process and parameterization, and no pictures."""
    t = np.linspace(0, 1, 32, dtype=np.float32)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (200, 1, 1)).astype(np.float32)
    x = np.sin(2 * np.pi * t[None, :, None] + phases)
    config = get_config()
    config.shape, config.transform = (32, 1), spec(Identity)
    config.sde, config.parameterization = spec(VE, sigma_max=20.0), spec(EDMPreconditioning, sigma_data=0.7)
    del config.eval["report"], config.eval["features"]
    run_lib.train(config, tmp_path / "run", from_arrays(x), devices=jax.devices()[:1])
    samples = run_lib.sample(tmp_path / "run", 5)
    assert samples.shape == (5, 32, 1) and samples.dtype == np.float32 and np.all(np.isfinite(samples))
    report = run_lib.evaluate(tmp_path / "run", 5, dataset=from_arrays(x))
    assert set(report) == {"step", "seed", "nfe", "code", "eval_loss", "loss_of_t"}


def test_what_does_not_fit_is_refused_before_compiling(tmp_path):
    config, devices = get_config(), jax.devices()
    config.training.batch_size = 12
    with pytest.raises(ConfigError, match=r"config.training.batch_size=12 cannot be split over 8 devices"):
        run_lib.train(config, tmp_path / "run", devices=devices)
    config = get_config()
    config.shape = (8, 8, 3)
    with pytest.raises(ConfigError, match=r"config.shape is \(8, 8, 3\), but the data are \(8, 8, 1\)"):
        run_lib.train(config, tmp_path / "run", devices=devices)
    config = get_config()
    config.sde = spec(DoubleWell)
    config.sampling.pc = spec(Sampler, solver=PredictorCorrector())
    with pytest.raises(ConfigError, match=r"config.sampling.pc: PredictorCorrector needs alpha and sigma of the SDE"):
        run_lib.train(config, tmp_path / "run", devices=devices)
    assert not (tmp_path / "run").exists()


def test_a_process_without_a_kernel_needs_another_loss():
    config = get_config()
    config.sde = spec(DoubleWell)
    config.sampling[config.sampling.use].solver = spec(EulerMaruyama)
    with pytest.raises(ConfigError, match=r"config.loss requires alpha and sigma of the SDE, which DoubleWell lacks"):
        make_experiment(config)
