"""What the code before its present layout wrote: a work directory, names in configs, experiments, names to import.

tests/golden/before_layout was made by version 0.1: 20 training steps of a small network on digits, its samples and
log-probabilities, the configs of all its experiments, and the names that its packages exported.
"""

import gzip
import importlib
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import run_lib
from config_lib.names import name_of, resolve
from config_lib.old_names import MOVED, current_name
from config_lib.spec import build, from_json, to_json
from configs import cifar10, digits, digits_subvp, digits_ve, points, score_sde
from io_lib import workdir
from run_modes.changes import changes_between
from run_modes.experiment import make_experiment
from sde_lib.solvers import EDMHeun

GOLDEN = Path(__file__).parent / "golden" / "before_layout"
ONE = jax.devices()[:1]
SMALL = {"cifar10": cifar10, "digits": digits, "digits_ve": digits_ve, "digits_subvp": digits_subvp, "points": points}


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the strict settings of other tests: float64 would draw other numbers."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def run(tmp_path):
    """The old work directory, to be written to."""
    shutil.copytree(GOLDEN / "workdir", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


def test_same_samples_and_log_probabilities(run, expected):
    samples = run_lib.sample(run, 8, seed=3, devices=ONE)
    difference = np.abs(samples.astype(float) - expected["samples"])
    assert np.max(difference) <= 1 and np.mean(difference) < 0.02  # uint8: rounding may fall on the other side
    model = run_lib.load(run)
    found = model.log_prob(jax.random.key(0), expected["test"])
    np.testing.assert_allclose(found.value, expected["log_prob"], rtol=1e-4)


def test_training_resumes(run, expected):
    """From step 10, to the same parameters at step 20 as the old code's, by the config that it saved."""
    shutil.rmtree(run / "checkpoints" / "20")
    assert run_lib.train(workdir.load_config(run), run, devices=ONE)
    params = run_lib.load(run).params
    for path, leaf in jax.tree.leaves_with_path(params):
        old = expected["ema" + jax.tree_util.keystr(path)]
        np.testing.assert_allclose(leaf, old, rtol=0, atol=1e-5 * np.max(np.abs(old)))


def test_the_old_directory_belongs_to_the_same_config_of_today(run):
    """What a fresh config file says is no other config; what differs is refused by its new name."""
    config = workdir.load_config(run)
    assert config.sde["call"] == "sde_lib:VP" and config.objective["bind"] == "sde_lib:ScoreMatching"
    assert workdir.require_claimed(run, to_json(config)) == run
    config.time_distribution.mean = -0.5
    with pytest.raises(ValueError, match=r"config.time_distribution.mean: -0.7 -> -0.5"):
        workdir.require_claimed(run, to_json(config))


# Keys that later versions added, with the values that change nothing.
LATER = (
    *("config.initial: (absent) -> ''", "config.sampling.classes: (absent) -> 'uniform'"),
    *("config.sampling.guidance_interval: (absent) -> ()", "config.sampling.classifier: (absent) -> ''"),
    *("config.sampling.classifier_scale: (absent) -> 1.0", "config.sampling.classifier_scale: (absent) -> 2.0"),
    "config.eval.report.noun: 'image' -> 'digit'",
    *("config.eval.intervals.examples: (absent) -> 0", "config.eval.intervals.draws: (absent) -> 39"),
    *(
        "config.training.writers: (absent) -> ('tensorboard',)",
        "config.training.wandb_project: (absent) -> 'score-sde'",
    ),
)


# Values that measurements have changed since (benchmarks/RESULTS.md), and sections added; saved runs have their own.
MEASURED = r"config\.(restore\.|sampling\.fast\.|sampling\.ode\.grid|eval\.likelihood\.solver\.method)"
MEASURED_ON_DIGITS = r"config\.(sampling\.(use|sde)\b|training\.num_steps|optimizer\.decay_steps|eval\.expected\.)"


@pytest.mark.parametrize("name", json.loads(gzip.decompress((GOLDEN / "configs.json.gz").read_bytes())))
def test_experiments_are_unchanged(name):
    old = json.loads(gzip.decompress((GOLDEN / "configs.json.gz").read_bytes()))[name]
    now = SMALL[name].get_config() if name in SMALL else score_sde.get_config(name)
    changes = [line for line in changes_between(from_json(json.dumps(old)), now) if line not in LATER]
    chosen = f"{MEASURED}|{MEASURED_ON_DIGITS}" if name.startswith("digits") else MEASURED
    changes = [line for line in changes if not re.match(chosen, line)]
    if name == "points":  # whose samples were not compared with data
        added = r"config.eval.(features|metrics)\..*: \(absent\) -> |config.eval.metrics: \{\} -> \(absent\)$"
        changes = [line for line in changes if not re.match(added, line)]
    assert changes == []


def test_old_names_resolve():
    """Every name of an exported class or function, under the module that defined it, finds today's object; and today's
    name is the shortest package that exports it."""
    names = json.loads((GOLDEN / "saved_names.json").read_text())
    known = [name for name in names if name.split(":")[1] in MOVED.get(name.split(":")[0], ("", ""))[1].split()]
    assert len(known) > 150
    for name in known:
        found = resolve(name, "config.x")
        package, path = current_name(name).split(":")
        assert getattr(importlib.import_module(package), path) is found
        if package.count(".") == 0:
            assert name_of(found).split(":")[0] == package
    assert name_of(build(from_json('{"sde": {"call": "sde_lib.processes:VP"}}').sde).__class__) == "sde_lib:VP"


@pytest.mark.parametrize("package", json.loads((GOLDEN / "public_names.json").read_text()))
def test_what_was_importable_still_is(package):
    module = importlib.import_module(package)
    internal = {  # imported there for its own use
        "Any", "Callable", "ConfigDict", "Mapping", "Path",
        "accepted", "as_config_value", "coerce", "name_of", "nearest", "resolve", "trusted",
    }  # fmt: skip
    names = json.loads((GOLDEN / "public_names.json").read_text())[package]
    assert [name for name in names if name not in internal and not hasattr(module, name)] == []


def test_an_old_loss_with_its_own_times():
    """Its distribution of t, its bins, and the split that was called "heldout"."""
    old = {
        "loss": {
            "bind": "sde_lib.losses:dsm_loss",
            "sample_time": {"call": "sde_lib.losses:PowerTime", "power": 2.0},
            "bin_width": 0.125,
        },
        "data": {"call": "data_lib.digits:digits", "heldout": 400},
        "eval": {"reference_split": "heldout", "bpd": {"split": "heldout"}},
    }
    config = from_json(json.dumps(old))
    assert dict(config.loss) == {"bind": "sde_lib:dsm_loss"} and config.objective.bin_width == 0.125
    assert build(config.time_distribution).power == 2.0
    assert len(build(config.data).test) == 400
    assert config.eval.reference_split == config.eval.bpd.split == "test"


@pytest.mark.parametrize("name", ["sde_lib.solvers.churn:EDMHeun", "sde_lib.solvers:EDMHeun"])
def test_old_parameters(name):
    """Those of `EDMHeun`, which has the names of Karras et al. (2022) now."""
    old = {"solver": {"call": name, "churn": 0.1, "s_min": 0.01, "s_max": 50.0, "s_noise": 1.003}}
    solver = build(from_json(json.dumps(old)).solver)
    assert solver == EDMHeun(gamma=0.1, S_tmin=0.01, S_tmax=50.0, S_noise=1.003)


def test_config_sections_reach_the_objective():
    config = digits.get_config()
    config.time_distribution.std = 0.3
    config.objective.bin_width = 0.125
    objective = make_experiment(config, ONE).objective
    assert objective.time_distribution.std == 0.3 and objective.bin_width == 0.125
    assert objective.loss.keywords["weight"].sigma_data == 0.75
