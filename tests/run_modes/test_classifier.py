"""A classifier through its life: trained, evaluated, guiding the samples of another run, refused where it cannot."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, bind, spec
from data_lib import ArraySource, Condition, Dataset, Identity, Scale
from io_lib.metrics import read_metrics
from io_lib.workdir import load_config
from models import MLP, WideResNet
from run_modes import command_line
from run_modes.experiment import make_experiment
from run_modes.sample import shards_of
from run_modes.trained import as_classifier, open_classifier, open_trained, require_fitting
from sde_lib import (
    VE,
    ByClassifier,
    ClassifierFree,
    InInterval,
    LogNormalTime,
    NoisyClassification,
    Sampler,
    adam,
    as_is,
    dsm_loss,
)
from sde_lib.solvers import DDIM
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

ONE = jax.devices()[:1]
CENTERS = np.asarray([-1.0, 0.0, 1.0], np.float32)


def signals(num_classes=0):
    """A score network for signals of two positions in three classes, each at its center ± 0.05."""
    config = get_config()
    config.shape, config.transform = (2, 1), spec(Identity)
    config.network = spec(MLP, features=64, num_layers=2, num_classes=num_classes)
    config.loss = bind(dsm_loss)
    config.optimizer = spec(adam, learning_rate=3e-3, warmup_steps=5)
    config.training.update(batch_size=128, num_steps=300, ema=0.95, log_every=50)
    config.training.update(eval_every=0, sample_every=0, checkpoint_every=0, keep_every=0)
    config.sampling.use, config.sampling.classifier_scale = "ddim", 1.0
    config.sampling.ddim = spec(Sampler, solver=DDIM(), num_steps=20, denoise=as_is)
    del config.eval["report"]
    del config.eval["features"]
    return config


def classifier(classes=3):
    config = signals()
    config.network = spec(WideResNet, nf=16, ch_mult=(1,), num_res_blocks=1, num_classes=classes)
    config.objective, config.time_distribution = bind(NoisyClassification), spec(LogNormalTime, mean=-0.5, std=1.5)
    config.training.update(num_steps=200, eval_every=200)
    config.eval.metrics = {}
    return config


def data(labels=3):
    label = np.arange(600) % labels
    x = CENTERS[label % 3] + 0.05 * np.random.default_rng(0).normal(size=600).astype(np.float32)
    x = np.stack([x, x], axis=1)[..., None]
    return Dataset(ArraySource(x=x, label=label), ArraySource(x=x[:90], label=label[:90]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(the work directory of an unconditional score, that of a classifier)."""
    score, guide = tmp_path_factory.mktemp("score"), tmp_path_factory.mktemp("classifier")
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(signals(), score, data(), devices=ONE)
        run_lib.train(classifier(), guide, data(), devices=ONE)
    return score, guide


def guided_by(directory, score, **sampling):
    config = load_config(score)
    config.sampling.update(classifier=str(directory), **sampling)
    return config


def sampled(monkeypatch, score, config, count=30, cond=None):
    """The samples that the command line's function draws."""
    flags = dict(
        workdir=str(score), num_samples=count, seed=0, num_steps=None, animate=False, step=None, cond=cond, out=None
    )
    monkeypatch.setattr(command_line, "F", SimpleNamespace(**flags))
    command_line.MODES["sample"].call(config)
    with np.load(score / "samples" / "samples.npz") as file:
        return file["samples"][:, :, 0]


def right(x, classes):
    """The fraction of signals x [N, 2] whose mean is nearest to the center of their class."""
    return np.mean(np.argmin(np.abs(x.mean(axis=1)[:, None] - CENTERS[None]), axis=1) == classes)


def test_training_logs_loss_and_accuracy(runs):
    last = [line for line in read_metrics(runs[1]) if "eval_accuracy" in line][-1]
    assert last["eval_accuracy"] > 0.6 and last["eval_loss"] < 0.8  # of all noise levels; at random 1/3 and 1.1
    assert not (runs[1] / "samples").exists()


def test_samples_are_of_the_wanted_class(runs, monkeypatch, capsys):
    """All classes in turn, one class, given rows, and without the guide, from the same network."""
    score, guide = runs
    x = sampled(monkeypatch, score, guided_by(guide, score))
    assert right(x, np.arange(30) % 3) >= 0.95
    assert "classes of samples: each of 3 in turn" in capsys.readouterr().out
    x = sampled(monkeypatch, score, guided_by(guide, score, label=2))
    assert right(x, 2) >= 0.95
    np.save(score / "rows.npy", np.asarray([0, 2]))
    config = guided_by(guide, score)
    x = sampled(monkeypatch, score, config, cond=str(score / "rows.npy"))
    assert right(x, [0, 2] * 15) >= 0.95
    free = sampled(monkeypatch, score, load_config(score))
    assert right(free, np.arange(30) % 3) < 0.7
    folders = sorted((score / "samples" / "shards").iterdir())
    made = [json.loads((folder / "made_with.json").read_text()) for folder in folders]
    assert len(made) == 4 and sum("classifier" in one for one in made) == 3


def test_scale_classifier_and_interval_are_in_the_key_of_samples(runs):
    score, guide = runs
    folders = {
        shards_of(open_trained(score, config, ONE), 0).folder
        for config in (
            load_config(score),
            *(guided_by(guide, score, **sampling) for sampling in ({}, {"classifier_scale": 3.0}, {"label": 1})),
            *(guided_by(guide, score, guidance_interval=interval) for interval in ((0.0, 1.0), (0.0, 2.0))),
        )
    }
    assert len(folders) == 6


def test_the_same_model_in_python(runs):
    score, guide = runs
    loaded, plain = run_lib.load(score, guided_by(guide, score, guidance_interval=(0.05, 50.0))), run_lib.load(score)
    classifier = run_lib.load_classifier(guide)
    guidance = InInterval(guidance=ByClassifier(classifier=classifier), sde=plain.sde, low=0.05, high=50.0)
    x, t, labels = jnp.ones((3, 2, 1), jnp.float32), jnp.asarray(0.3, jnp.float32), jnp.asarray([0, 1, 2])
    models = [(loaded, labels), (plain.replace(guidance=guidance), labels), (plain, None)]
    scores = [jax.jit(model.score_given(cond))(x, t) for model, cond in models]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.max(np.abs(scores[0] - scores[2])) > 1e-2
    assert np.all(np.argmax(classifier.probabilities(x, jnp.asarray(0.01, jnp.float32)), axis=1) == 2)
    with pytest.raises(ValueError, match="cond: expected labels from 0 to 2"):
        loaded.sample(jax.random.key(0), 1, [4])


def test_a_network_with_the_same_classes_is_guided_too(runs):
    classifier = open_classifier(runs[1])
    for dropout, scale in ((0.0, 1.0), (0.1, 3.0)):
        config = signals(num_classes=3)
        config.network.cond_dropout, config.sampling.guidance = dropout, scale
        experiment = make_experiment(config, ONE)
        require_fitting(classifier, experiment)
        guidance = experiment._replace(classifier=as_classifier(classifier)).score_model({}).guidance
        assert guidance.score == (None if scale == 1 else ClassifierFree(scale=scale))


def test_a_classifier_has_no_samples(runs):
    guide = runs[1]
    config = load_config(guide)
    for use in (
        lambda: run_lib.sample(guide, 3, devices=ONE),
        lambda: run_lib.load(guide),
        lambda: run_lib.evaluate(guide, 3, config=with_bits(config), dataset=data(), devices=ONE),
    ):
        with pytest.raises(ConfigError, match="its network is a classifier, not a score"):
            use()
    report = run_lib.evaluate(guide, 3, dataset=data(), devices=ONE)
    assert report["accuracy"] > 0.6 and report["accuracy_of_t"]["loss"][0] > 0.95 > report["accuracy_of_t"]["loss"][-1]
    assert "test accuracy" in (guide / "eval" / "report.md").read_text()


def with_bits(config):
    config = config.copy_and_resolve_references()
    config.eval.bpd.split = "test"
    return config


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"label": 3}, r"config\.sampling\.label=3: expected 0 to 2"),
        ({"guidance_interval": (2.0, 1.0)}, r"guidance_interval=\(2\.0, 1\.0\): expected \(\) or \(low, high\)"),
        ({"guidance_interval": (2.0,)}, r"guidance_interval=\(2\.0,\): expected \(\) or \(low, high\)"),
        ({"classifier": "", "guidance_interval": (0.0, 1.0)}, "guidance_interval limits guidance, but there is none"),
        ({"guidance": 2.0}, r"config\.sampling\.guidance=2 requires a network trained with and without"),
        ({"classifier": "nowhere"}, r"config\.sampling\.classifier: .*nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(runs, sampling, message):
    score, guide = runs
    config = load_config(score)
    config.sampling.update({"classifier": str(guide), **sampling})
    with pytest.raises(ConfigError, match=message):
        run_lib.sample(score, 3, config=config, devices=ONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sde": spec(VE)}, "trained with another process: VP and VE differ in alpha, sigma"),
        ({"shape": (3, 1)}, "trained with another shape"),
        ({"transform": spec(Scale, low=0.0, high=1.0)}, "trained with another transform"),
        ({"network": signals(4).network}, "expected a classifier of the network's 4 classes, got 3"),
        (
            {"cond": {"T": spec(Condition)}},
            "guides networks without conditions but classes; got T",
        ),
    ],
)
def test_a_model_that_the_classifier_does_not_fit(runs, change, message):
    config = signals()
    for name, value in change.items():
        del config[name]
        config[name] = value
    with pytest.raises(ConfigError, match=message):
        require_fitting(open_classifier(runs[1]), make_experiment(config, ONE))


def test_a_run_that_is_no_classifier(runs):
    with pytest.raises(ConfigError, match=r"classifier: .*expected a run with config\.objective NoisyClass"):
        run_lib.load(runs[0], guided_by(runs[0], runs[0]))


def test_training_requires_labels(tmp_path):
    x = np.zeros((90, 2, 1), np.float32)
    with pytest.raises(ConfigError, match=r"num_classes=3 requires labels, but the training data have none"):
        run_lib.train(classifier(), tmp_path, Dataset(ArraySource(x), ArraySource(x)), devices=ONE)
