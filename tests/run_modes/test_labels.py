"""Classes through a run: told in training, evaluation and sampling, refused where they are not there."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import run_lib
from config_lib.spec import ConfigError, bind, spec
from data_lib import ArraySource, Dataset, Identity, from_arrays
from eval_lib import RawFeatures, fid
from models import MLP
from run_modes.data import check_data
from run_modes.devices import make_devices
from run_modes.labels import class_counts, classes_of, law_of_classes
from sde_lib import Sampler, adam, as_is, dsm_loss
from sde_lib.solvers import DDIM
from tests.helpers import close
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

ONE = jax.devices()[:1]
CENTRES = np.asarray([-1.0, 0.0, 1.0], np.float32)


def classes(**network):
    """Points of three classes, each at its center ± 0.05."""
    config = get_config()
    config.shape, config.transform = (1,), spec(Identity)
    config.network = spec(MLP, features=64, num_layers=2, **{"num_classes": 3, **network})
    config.loss = bind(dsm_loss)
    config.optimizer = spec(adam, learning_rate=3e-3, warmup_steps=5)
    config.training.update(
        batch_size=128, num_steps=300, log_every=50, eval_every=0, sample_every=0, checkpoint_every=0, keep_every=0
    )
    config.sampling.use = "ddim"
    config.sampling.ddim = spec(Sampler, solver=DDIM(), num_steps=20, denoise=as_is)
    del config.eval["report"]
    del config.eval["features"]
    return config


def data(count=600, labels=3):
    label = np.arange(count) % labels
    x = CENTRES[label % 3] + 0.05 * np.random.default_rng(0).normal(size=count).astype(np.float32)
    return Dataset(ArraySource(x=x[:, None], label=label), ArraySource(x=x[:90, None], label=label[:90]))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The work directory of a network that has learned the three classes."""
    directory = tmp_path_factory.mktemp("learned")
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(classes(), directory, data(), devices=ONE)
    return directory


def test_a_class_is_learnt_and_drawn(learned):
    """Each in turn, or the one that is asked for; samples of the one are not those of the other, nor their files."""
    config = classes()
    x = np.asarray(run_lib.sample(learned, 30, devices=ONE, config=config))[:, 0]
    np.testing.assert_allclose(x, CENTRES[np.arange(30) % 3], atol=0.4)
    config.sampling.label = 2
    x = np.asarray(run_lib.sample(learned, 30, devices=ONE, config=config))[:, 0]
    np.testing.assert_allclose(x, 1.0, atol=0.4)
    drawn = run_lib.load(learned).sample(jax.random.key(0), 30, cond=np.zeros(30, np.int32))[:, 0]
    np.testing.assert_allclose(drawn, -1.0, atol=0.4)
    right = run_lib.evaluate(learned, 30, 0, config, data(), ONE)
    train, test = data()
    wrong = Dataset(train, ArraySource(x=test.x, label=(test.label + 1) % 3))
    false = run_lib.evaluate(learned, 30, 0, config, wrong, ONE)
    assert right["eval_loss"] < 0.8 * false["eval_loss"]
    assert np.mean(right["loss_of_t"]["loss"]) < 0.8 * np.mean(false["loss_of_t"]["loss"])


@pytest.mark.parametrize(
    ("change", "dataset", "message"),
    [
        (
            {},
            Dataset(*[ArraySource(x=np.zeros((90, 1), np.float32))] * 2),
            r"config\.network\.num_classes=3 requires labels, but the training data have none",
        ),
        ({}, data(labels=5), r"labels from 0 to 4: config\.network\.num_classes=3 allows 0 to 2"),
        (
            {},
            Dataset(*[ArraySource(x=np.zeros((90, 1), np.float32), label=np.zeros((90, 3), np.int32))] * 2),
            r"expected an integer label for each of the training data, got int32 of shape \(3,\)",
        ),
        ({"label": 3}, data(), r"config\.sampling\.label=3: expected 0 to 2, or −1 for each class in turn"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, change, dataset, message):
    config = classes()
    config.sampling.update(change)
    with pytest.raises(ConfigError, match=message):
        run_lib.train(config, tmp_path, dataset, devices=ONE)


# Which classes are drawn


def drawing(law="uniform", label=-1, num_classes=3):
    config = classes(num_classes=num_classes)
    config.sampling.update(classes=law, label=label)
    return config


def test_classes_with_examples_are_drawn_in_turn():
    indices = jax.numpy.arange(7)
    np.testing.assert_array_equal(classes_of(drawing(), indices), [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(classes_of(drawing(), indices, (0, 5, 2)), [1, 2, 1, 2, 1, 2, 1])
    np.testing.assert_array_equal(classes_of(drawing(), indices, (0, 0, 9)), [2] * 7)
    np.testing.assert_array_equal(classes_of(drawing(label=2), indices, (0, 5, 2)), [2] * 7)
    old = drawing()
    del old.sampling["classes"]  # a config of an earlier version
    np.testing.assert_array_equal(classes_of(old, indices, (1, 0, 1)), [0, 2, 0, 2, 0, 2, 0])
    assert classes_of(drawing(num_classes=0), indices, None) is None


@pytest.mark.parametrize("counts", [(1, 1), (7, 2, 1), (0, 90, 0, 9, 1, 0), (0, 4, 0), (1,) * 10, (1000, 1)])
@pytest.mark.parametrize("first", [0, 10**6, 2**31 - 5001])
def test_classes_in_the_shares_of_the_data(counts, first):
    """Shares to O(log m / m), at any index, and as the fractions of exact arithmetic."""
    m, config = 5000, drawing("data", num_classes=len(counts))
    indices = np.arange(first, first + m)
    found = np.asarray(classes_of(config, jax.numpy.asarray(indices, jax.numpy.int32), counts))
    shares = np.bincount(found, minlength=len(counts)) / m
    np.testing.assert_allclose(shares, np.asarray(counts) / sum(counts), atol=4 * np.log(m) / m)
    assert not set(found) & {k for k, n in enumerate(counts) if not n}
    if first == 0:
        u = (indices + 0.5) * (np.sqrt(5) - 1) / 2 % 1
        expected = np.searchsorted(np.cumsum(counts) / sum(counts), u, side="right")
        assert np.mean(found == expected) > 0.999  # φ is rounded to 32 bits
    np.testing.assert_array_equal(
        found[:7], classes_of(config, jax.numpy.asarray(indices[:7], jax.numpy.int32), counts)
    )


def test_counts_of_classes_and_the_line_of_a_report():
    dataset = data(count=90)
    assert class_counts(drawing(num_classes=4), dataset) == (30, 30, 30, 0)
    assert class_counts(drawing(num_classes=0), dataset) is None
    rows = [{"x": x, "label": k} for x, k in zip(dataset.train.x, dataset.train.label, strict=True)]
    assert class_counts(drawing(), Dataset(rows, rows)) is None
    assert class_counts(drawing(), Dataset(ArraySource(np.zeros((3, 1))), dataset.test)) is None
    for config, counts, line in (
        (drawing(), (3, 4, 5), "classes of samples: each of 3 in turn"),
        (
            drawing("data"),
            (0, 4, 5),
            "classes of samples: 2, in the shares of the training data; not drawn, as no training",
        ),
        (drawing(), (3, 0, 5), "each of 2 in turn; not drawn, as no training example has them: 1"),
        (drawing(), None, "each of 3 in turn; their numbers of training examples are unknown"),
        (drawing("data", label=1), None, "classes of samples: 1 only"),
    ):
        assert line in law_of_classes(config, counts)
    assert law_of_classes(drawing(num_classes=0), None) == ""


def test_classes_that_were_not_trained_on_and_unknown_laws_are_refused(learned):
    with pytest.raises(ConfigError, match=r"config\.sampling\.label=1: no training example has this class"):
        classes_of(drawing(label=1), jax.numpy.arange(3), (3, 0, 5))
    with pytest.raises(ConfigError, match=r"config\.sampling\.classes='data' requires the number of training examples"):
        classes_of(drawing("data"), jax.numpy.arange(3))
    with pytest.raises(ConfigError, match=r"config\.sampling\.classes='shares': expected one of uniform, data"):
        run_lib.sample(learned, 3, config=drawing("shares"), devices=ONE)


def test_a_doubtful_layout_is_said_once_where_training_checks_its_data(caplog):
    config = classes(num_classes=0)
    config.shape = (3, 16, 16)
    x = np.zeros((60, 3, 16, 16), np.float32)
    config.eval.batch_size = 16
    check_data(config, from_arrays(x), make_devices(ONE))
    assert caplog.text.count("np.transpose(x, (0, 2, 3, 1))") == 1
    caplog.clear()
    config = classes()
    column = Dataset(*[ArraySource(np.zeros((90, 1), np.float32), np.arange(90)[:, None] % 3)] * 2)
    with pytest.raises(ConfigError, match=r"got int32 of shape \(1,\); .*as label = label\[:, 0\] makes it"):
        check_data(config, column, make_devices(ONE))


def test_guidance_towards_a_class(tmp_path):
    """Classes that overlap, at ±1 with standard deviation 1: what is guided lies beyond; 1 is what was learned."""
    label = np.arange(600) % 2
    x = (2.0 * label - 1 + np.random.default_rng(0).normal(size=600)).astype(np.float32)[:, None]
    source = ArraySource(x=x, label=label)
    config = classes(num_classes=2, cond_dropout=0.2)
    config.sampling.label = 1
    run_lib.train(config, tmp_path, Dataset(source, source), devices=ONE)

    def drawn(weight):
        config.sampling.guidance = weight
        return np.asarray(run_lib.sample(tmp_path, 200, devices=ONE, config=config))

    none, learned, guided = drawn(0.0), drawn(1.0), drawn(3.0)
    assert np.mean(none) < np.mean(learned) - 0.5 < np.mean(guided) - 1
    model = run_lib.load(tmp_path)
    assert model.guidance is None
    plain = model.sample(jax.random.key(0), 200, cond=np.ones(200, np.int32))
    close(plain, learned, 1e-5)
    close(model.sample(jax.random.key(0), 200), none, 1e-5)
    config.sampling.guidance = 1.0
    no_class = run_lib.sample(tmp_path, 200, devices=ONE, config=config, cond=np.full(200, 2))  # num_classes: no class
    close(np.asarray(no_class), none, 1e-5)
    with pytest.raises(ConfigError, match="labels from 3 to 3"):
        run_lib.sample(tmp_path, 2, devices=ONE, config=config, cond=np.full(2, 3))


@pytest.mark.parametrize("network", [{}, {"num_classes": 0, "cond_dropout": 0.1}])
def test_guidance_without_an_unconditional_score_is_refused(tmp_path, network):
    config = classes(**network)
    config.sampling.guidance = 2.0
    with pytest.raises(ConfigError, match=r"config\.sampling\.guidance=2 requires a network trained with and without"):
        run_lib.train(config, tmp_path, data(), devices=ONE)


def test_a_class_that_there_is_not_is_never_drawn(learned):
    config = classes()
    config.sampling.label = 3
    with pytest.raises(ConfigError, match=r"config\.sampling\.label=3: expected 0 to 2"):
        run_lib.sample(learned, 3, config=config, devices=ONE)


def test_a_vector_that_nothing_tells_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"config\.network\.cond_dim=3 requires a cond in the data, but they have lab"
    ):
        run_lib.train(classes(num_classes=0, cond_dim=3), tmp_path, data(), devices=ONE)


def test_a_class_without_training_examples_is_not_drawn_from_a_run(tmp_path, capsys):
    """Of 3 classes, 20 examples have the first and 80 the last: drawn in turn, or four of five times the last."""
    label = np.asarray([0, 2, 2, 2, 2] * 20)
    dataset = Dataset(ArraySource(x=CENTRES[label][:, None], label=label), ArraySource(x=CENTRES[:1, None], label=[0]))
    config = classes()
    config.network.update(features=8, num_layers=1)
    config.training.update(num_steps=2, batch_size=10)
    config.eval.features, config.eval.metrics = spec(RawFeatures), ConfigDict({"fid": bind(fid)})
    assert run_lib.train(config, tmp_path, dataset, devices=ONE)
    trained = run_lib.open_trained(tmp_path, config, ONE)
    assert trained.class_counts == (20, 0, 80)
    key, expected = jax.random.key(0), {"uniform": [0, 2] * 10, "data": None}
    for law in ("uniform", "data"):
        config.sampling.classes = law
        drawn = run_lib.sample(tmp_path, 20, config=config, devices=ONE)
        cond = expected[law] or np.asarray(classes_of(config, np.arange(20), (20, 0, 80)))
        np.testing.assert_allclose(drawn, trained.model.sample(key, 20, cond=np.asarray(cond)), rtol=1e-5, atol=1e-6)
    assert sorted(set(map(int, cond))) == [0, 2] and abs(np.mean(cond) / 2 - 0.8) <= 0.1
    report = run_lib.evaluate(tmp_path, 20, config=config, dataset=dataset, devices=ONE)
    assert report["classes"].startswith("classes of samples: 2, in the shares of the training data; not drawn")
    config.sampling.label = 1
    with pytest.raises(ConfigError, match="no training example has this class"):
        run_lib.sample(tmp_path, 20, config=config, devices=ONE)
