"""A run changed on purpose: what may change, from which step on, and what is recorded."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import run_lib
from config_lib.command_line import apply_overrides
from config_lib.spec import ConfigError, bind, from_json, spec, to_json
from configs.own_data import with_data
from configs.points import get_config
from data_lib import Dataset, from_arrays
from data_lib.identity import differences, digest, identity
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog, read_metrics
from run_modes import changes, command_line
from run_modes.data import load_data
from run_modes.devices import make_devices
from run_modes.paths import with_absolute_paths
from sde_lib import NonlinearSDE, PredictPathScore, UniformGrid, UniformTime, transition_loss
from tests.io_lib.test_metrics import records
from tests.io_lib.test_metrics import values as wandb_values
from tests.test_run_lib import final_state

pytestmark = pytest.mark.usefixtures("usual_promotion")

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).normal((3, -1), (5, 0.2), (400, 2))
DEVICES = jax.devices()[:1]


def small(num_steps=4, **training):
    config = get_config()
    config.network.features = 16
    config.training.update(
        num_steps=num_steps, batch_size=16, checkpoint_every=2, log_every=2, eval_every=0, keep_newest=9, **training
    )
    return config


def train(config, directory, data=X, **options):
    return run_lib.train(config, directory, from_arrays(data), DEVICES, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four steps, with a constant learning rate after the warm-up."""
    directory = tmp_path_factory.mktemp("changes") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert train(constant(), directory)
    return directory


def constant(**training):
    config = small(**training)
    config.optimizer.decay_steps = None
    config.optimizer.warmup_steps = 0
    return config


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_what_changes_no_parameter_may_change(run, tmp_path):
    """Eight steps in two halves, with other logs and checkpoints in the second, are eight steps at once."""
    config = constant(num_steps=8)
    config.training.update(log_every=3, checkpoint_every=5, keep_newest=2, steps_per_call=2, sample_every=0)
    config.sampling.ode.num_steps = 7
    config.eval.batch_size = 16
    assert train(config, run)
    assert train(constant(num_steps=8), tmp_path / "whole")
    expected = final_state(tmp_path / "whole", constant(num_steps=8))
    for name, value in final_state(run, config).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert workdir.load_config(run).training.log_every == 3
    (line,) = changes.history(run)
    assert line["step"] == 4 and "config.training.num_steps: 4 -> 8" in line["changes"]


def test_a_resume_without_a_change_records_nothing(run):
    before = (run / "config.json").read_bytes()
    assert train(constant(), run) and (run / "config.json").read_bytes() == before
    assert changes.history(run) == []


def test_keys_that_a_later_version_added_or_dropped(run):
    """A run whose config had an empty section in eval and lacked a sampler resumes, and records no change."""
    saved = workdir.load_config(run)
    saved.eval.former = ConfigDict()
    del saved.sampling["fast"], saved["initial"], saved["cond"], saved.network["context_dim"]  # a network's option
    (run / "config.json").write_text(to_json(saved))
    assert train(constant(num_steps=6), run)
    assert changes.history(run)[0]["changes"] == [
        "config.eval.former: {} -> (absent)",
        "config.training.num_steps: 4 -> 6",
    ]
    assert "fast" in workdir.load_config(run).sampling


def test_writers_may_change(run, monkeypatch):
    """A run of an earlier version, whose config names none, has TensorBoard; flags of a resume may set others."""
    saved = workdir.load_config(run)
    del saved.training["writers"], saved.training["wandb_project"]
    (run / "config.json").write_text(to_json(saved))
    assert train(saved, run)  # without the keys it opens
    monkeypatch.setattr(command_line, "F", SimpleNamespace(mode="train", workdir=str(run)))
    config = apply_overrides(command_line.saved_config(), ["--config.training.writers=()"])
    assert config.training.wandb_project == "score-sde" and config.training.writers == ()
    config.training.num_steps = 6
    events = sorted((run / "tensorboard").iterdir())
    assert train(config, run) and sorted((run / "tensorboard").iterdir()) == events
    assert changes.history(run)[0]["changes"] == ["config.training.num_steps: 4 -> 6"]
    assert workdir.load_config(run).training.writers == ()
    config.training.writers = ("tensorboard",)
    assert len(run_lib.sample(run, 2, config=config, devices=DEVICES)) == 2  # no other model
    config.training.update(writers=("wanb",), num_steps=7)
    with pytest.raises(ConfigError, match=r"writers: expected tensorboard, wandb, both or none, got 'wanb'"):
        train(config, run)


def test_a_writer_that_refuses_stops_before_training(run, monkeypatch):
    def refuse(self):
        raise ConfigError("nobody is logged in")

    monkeypatch.setattr(MetricsLog, "open", refuse)
    before = (run / "metrics.jsonl").read_bytes(), (run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="nobody is logged in"):
        train(constant(num_steps=6), run)
    assert ((run / "metrics.jsonl").read_bytes(), (run / "config.json").read_bytes()) == before


def test_a_run_of_weights_and_biases_is_resumed(run, monkeypatch, tmp_path):
    """It has the work directory's name, config and id, and the lines of the log."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb, found = pytest.importorskip("wandb"), []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: found.append((options, init(**options))) or found[-1][1])
    for num_steps in (6, 8):
        config = constant(num_steps=num_steps)
        config.training.update(writers=("wandb",), wandb_project="mine")
        assert train(config, run)
    wandb.teardown()
    (first, run_1), (second, run_2) = found
    assert first["id"] == second["id"] == (run / "wandb_id.txt").read_text()
    assert (first["name"], first["project"], first["resume"], first["dir"]) == ("run", "mine", "allow", str(run))
    assert run_1.config["training"]["num_steps"] == 6 and run_2.config["sde"]["call"] == config.sde.call
    (file,) = Path(run_2.dir).parent.glob("*.wandb")
    lines = [wandb_values(record.history.item) for record in records(file) if record.HasField("history")]
    assert [(line["step"], line["loss"]) for line in lines] == [(8, read_metrics(run)[-1]["loss"])]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("optimizer", "learning_rate", 1e-3),
        ("training", "batch_size", 32),
        pytest.param("training", "ema", 0.9, marks=pytest.mark.slow),
        pytest.param("optimizer", "weight_decay", 0.1, marks=pytest.mark.slow),
    ],
)
def test_what_changes_the_mathematics_must_be_confirmed(run, section, key, value):
    """Refused with the way to insist; with it, recorded at its step in the directory and in the card."""
    config = constant(num_steps=6)
    was = config[section][key]
    config[section][key] = value
    before = (run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=rf"config\.{section}\.{key}: {was} -> {value}.*--continue .* from step 4 on"):
        train(config, run)
    assert (run / "config.json").read_bytes() == before
    assert train(config, run, allow_changes=True)
    line = f"config.{section}.{key}: {was} -> {value}"
    assert [entry["step"] for entry in changes.history(run)] == [4] and line in changes.history(run)[0]["changes"]
    with Checkpoints(run / "checkpoints") as checkpoints:
        assert "history" not in checkpoints.card(4) and line in checkpoints.card(6)["history"][0]["changes"]
    assert train(config, run)  # from now on it is the run's config


def test_a_changed_learning_rate_applies_from_its_step_on(run, tmp_path):
    """With learning rate λ for four steps and λ' after: the steps of Adam (Kingma & Ba, algorithm 1) by hand."""
    config = constant(num_steps=5)
    config.optimizer.update(learning_rate=5e-3)
    assert train(config, run, allow_changes=True)
    old = final_state(run, config)
    # the same gradients, from the same moments, at the first rate: the update is proportional to the rate
    plain = Path(shutil.copytree(run, tmp_path / "plain"))
    for step in (5,):
        shutil.rmtree(plain / "checkpoints" / str(step))
    (plain / "config_history.jsonl").unlink()
    (plain / "config.json").write_bytes((tmp_path / "run" / "config.json").read_bytes())
    slow = config.copy_and_resolve_references()
    slow.optimizer.learning_rate = constant().optimizer.learning_rate
    assert train(slow, plain, allow_changes=True)
    new = final_state(plain, slow)
    start = starting_parameters(run, config)
    for name in start:
        moved, expected = old[name] - start[name], (new[name] - start[name]) * 5e-3 / 2e-3
        np.testing.assert_allclose(moved, expected, atol=4e-7)


def starting_parameters(directory, config):
    """The parameters of step 4."""
    from run_modes.experiment import make_experiment
    from run_modes.state import restore_state

    experiment = make_experiment(config, DEVICES)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restore_state(experiment, checkpoints, 4, only=("params",))
    leaves = jax.tree.leaves_with_path(state.params)
    return {".params" + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_another_run_is_refused(run):
    config = constant()
    config.sde.beta_max = 15.0
    with pytest.raises(
        ConfigError, match=r"beta_max: 20\.0 -> 15\.0\. Choose another --workdir; --config\.initial=.*run"
    ):
        train(config, run, allow_changes=True)


def test_more_steps_with_a_decay(tmp_path, capsys):
    """The decay ends at the new last step, and the run says so. The step is then optax's at that step."""
    assert train(small(), tmp_path / "run")
    assert train(small(num_steps=8), tmp_path / "run")
    said = capsys.readouterr().out
    assert "config.optimizer.decay_steps: 4 -> 8" in said and "along a half cosine to 0 at step 8" in said
    config = small(num_steps=10)
    config.optimizer.decay_steps = 8
    assert train(config, tmp_path / "run")
    assert "the learning rate is 0 from step 8 on, and training ends at step 10" in capsys.readouterr().out


def test_fewer_steps_with_a_decay_must_be_confirmed(tmp_path):
    assert train(small(num_steps=6), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    with pytest.raises(ConfigError, match=r"decay_steps: 6 -> 5.*--continue"):
        train(small(num_steps=5), tmp_path / "run")


def test_initial_parameters_are_another_runs(run, tmp_path):
    config = constant(num_steps=1)
    config.sde.beta_max = 15.0
    config.optimizer.learning_rate = 1e-30  # leaves float32 parameters as they are
    config.initial = str(run)
    assert train(config, tmp_path / "new")
    found, source = final_state(tmp_path / "new", config), final_state(run, constant())
    for name, value in source.items():
        if name.startswith(".ema_params"):
            np.testing.assert_array_equal(found[name.replace("ema_params", "params")], value)
            np.testing.assert_allclose(found[name], value, rtol=1e-6)  # one step of the average rounds
    (line,) = changes.history(tmp_path / "new")
    assert line["step"] == 0 and line["initial"]["directory"] == str(run)
    config.initial = ""  # it no longer matters
    assert train(config, tmp_path / "new")
    assert workdir.load_config(tmp_path / "new").initial == str(run)


def test_initial_parameters_that_do_not_fit(run, tmp_path):
    config = constant()
    config.network.features = 8
    config.initial = str(run)
    with pytest.raises(
        ConfigError, match=r"config\.initial=.*leaf ema_params\.Dense_0\.bias is float32\(16,\), expected"
    ):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    config.initial = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"config\.initial=.*no checkpoint in"):
        train(config, tmp_path / "new")


# Data


def test_other_data_are_refused_and_warned_of(run, caplog):
    """One value of one example differs; and fewer examples of the same values."""
    other = X.copy()
    other[7, 1] += 1e-3
    for data, what in ((other, "other examples"), (X[:300], "270 now")):
        with pytest.raises(ConfigError, match=f"was trained on other data: train.*{what}.*--continue"):
            train(constant(num_steps=6), run, data)
        with caplog.at_level(logging.WARNING):
            run_lib.evaluate(run, 2, dataset=from_arrays(data), devices=DEVICES)
        assert sum("was trained on other data than these: train" in r.getMessage() for r in caplog.records) == 1
        caplog.clear()
    run_lib.evaluate(run, 2, dataset=from_arrays(X), devices=DEVICES)
    assert not [r for r in caplog.records if "other data" in r.getMessage()]
    assert train(constant(num_steps=6), run, other, allow_changes=True)
    assert changes.saved_data(run) == identity(from_arrays(other))
    assert any("data: train" in line for line in changes.history(run)[0]["changes"])


def test_a_path_means_the_same_file_from_every_folder(tmp_path, monkeypatch):
    for name, shift in (("one", 0.0), ("two", 1.0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "pts.npz", x=X + shift)
    monkeypatch.chdir(tmp_path / "one")
    config = with_data(small(), "pts.npz")
    assert run_lib.train(config, "run", devices=DEVICES)
    assert workdir.load_config("run").data.path == str(tmp_path / "one" / "pts.npz")
    monkeypatch.chdir(tmp_path / "two")
    saved = workdir.load_config("../one/run")
    saved.training.num_steps = 6
    assert run_lib.train(saved, "../one/run", devices=DEVICES)
    # the same data in another place
    (tmp_path / "one" / "pts.npz").rename(tmp_path / "two" / "moved.npz")
    saved = workdir.load_config("../one/run")
    saved.data.path, saved.training.num_steps = "moved.npz", 8
    assert run_lib.train(saved, "../one/run", devices=DEVICES)
    assert workdir.load_config("../one/run").data.path == str(tmp_path / "two" / "moved.npz")


def test_a_run_of_an_earlier_version_with_a_relative_path(tmp_path, monkeypatch):
    """It has no data.json: the same command in the same folder resumes it, and records the data from then on."""
    np.savez(tmp_path / "pts.npz", x=X)
    monkeypatch.chdir(tmp_path)
    config = with_data(small(), "pts.npz")
    assert run_lib.train(config, "run", devices=DEVICES)
    saved = workdir.load_config("run")
    saved.data.path = "pts.npz"
    Path("run", "config.json").write_text(to_json(saved))
    Path("run", "data.json").unlink()
    config.training.num_steps = 6
    assert run_lib.train(config, "run", devices=DEVICES)
    assert workdir.load_config("run").data.path == str(tmp_path / "pts.npz")
    assert changes.saved_data("run")["train"]["count"] == 360


def test_paths_that_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\n")
    config = get_config()
    config.initial, config.eval.reference = "a", "~/b.npz"
    config.data.path = "points.npz"
    found = with_absolute_paths(config)
    assert (found.initial, found.data.path) == (str(tmp_path / "a"), str(tmp_path / "points.npz"))
    assert found.eval.reference == os.path.expanduser("~/b.npz") and config.data.path == "points.npz"
    config.data.path = "gs://bucket/points.npz"
    assert with_absolute_paths(config).data.path == "gs://bucket/points.npz"


class Changing:
    """Examples that differ each time they are read."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return {"x": self.rng.normal(size=2)}


class Listed(Changing):
    def __getitem__(self, index):
        return {"x": X[index]}


def test_identity_is_content_not_path():
    data = from_arrays(X)
    assert differences(identity(data), identity(from_arrays(X.copy()))) == []
    assert digest(data.train) != digest(from_arrays(X.astype(np.float32)).train)
    labelled = from_arrays(X, np.arange(400) % 2)
    assert digest(labelled.train) != digest(data.train)
    assert digest(Listed()) == digest(Listed()) != ""
    changing = Dataset(Changing(), Changing())
    assert digest(changing.train) == "" and differences(identity(changing), identity(changing)) == []


# The random generator


SAMPLE = """
import sys, jax, run_lib
from io_lib.workdir import load_config
print(run_lib.load(sys.argv[1]).sample(jax.random.key(0), 2).shape)
config = load_config(sys.argv[1])
config.training.num_steps = 6
try:
    run_lib.train(config, sys.argv[1], devices=jax.devices()[:1])
except run_lib.ConfigError as error:
    print(error)
"""


def test_another_random_generator(tmp_path):
    """Sampling reads no key. A resumed training would draw other noise: refused, with the generator's name."""
    np.savez(tmp_path / "pts.npz", x=X)
    with_data(config := constant(), str(tmp_path / "pts.npz"))
    assert run_lib.train(config, tmp_path / "run", devices=DEVICES)
    environment = {**os.environ, "JAX_DEFAULT_PRNG_IMPL": "rbg", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, str(tmp_path / "run")], capture_output=True, text=True, env=environment
    )
    assert done.stdout.splitlines()[0] == "(2, 2)", done.stderr
    assert "set JAX_DEFAULT_PRNG_IMPL=threefry2x32 to resume it" in done.stdout


def test_three_devices_and_batches_of_64(run):
    """Only the batches of training must be split evenly: those of evaluation are padded, with the same test loss."""
    config = small()
    config.training.batch_size = config.eval.batch_size = 64
    three = jax.devices()[:3]
    load_data(config, make_devices(three), from_arrays(X))
    with pytest.raises(ConfigError, match="batch_size=64 cannot be split over 3 devices"):
        load_data(config, make_devices(three), from_arrays(X), training=True)
    config = workdir.load_config(run)
    config.eval.batch_size = 16  # 18 on three devices: one batch of 40 examples is cut otherwise, as noise is by row
    losses = [run_lib.evaluate(run, 2, config=config, dataset=from_arrays(X), devices=three)["eval_loss"]]
    config.eval.batch_size = 18
    losses.append(run_lib.evaluate(run, 2, config=config, dataset=from_arrays(X), devices=DEVICES)["eval_loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(run_lib.sample(run, 5, devices=three)) == 5


def test_history_is_json_lines(run):
    config = constant(num_steps=6)
    assert train(config, run)
    lines = (run / changes.HISTORY).read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"step", "time", "changes"}]
    assert from_json((run / "config.json").read_text()).training.num_steps == 6


# Refused before training


def test_an_array_is_not_a_dataset(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a Dataset .*, got ndarray; data_lib\.from_arrays\(x\) makes one"):
        run_lib.train(constant(), tmp_path / "run", X, DEVICES)


def test_a_process_without_a_prior(tmp_path):
    """It trained to the end, and failed when samples were drawn."""
    config = constant()
    config.sde = spec(OwnDrift)
    config.parameterization = spec(PredictPathScore)
    config.loss = bind(transition_loss, num_steps=2)
    config.time_distribution = spec(UniformTime)
    config.sampling.ode.grid = spec(UniformGrid)
    with pytest.raises(ConfigError, match=r"config\.sde: OwnDrift has no prior: fit one with fit_prior"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class OwnDrift(NonlinearSDE):
    def drift(self, x, t):
        return -x

    def diffusion(self, t):
        return 1.0 + 0.0 * t
