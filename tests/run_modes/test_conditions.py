"""Conditions through a run: measured, trained on, recorded, given to samples; refused or reported where they cannot be.

The data are linear-Gaussian: x = b_k + A (c − m)/s + ε with a class k, a vector c in units far from 1, and normal ε.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, bind, spec, to_json
from data_lib import ArraySource, Condition, Conditions, Dataset, Identity
from io_lib.workdir import load_config
from models import MLP
from run_modes.experiment import make_experiment
from run_modes.sample_conditions import from_columns, of_examples, read_cond
from run_modes.trained import open_trained
from sde_lib import EDMPreconditioning, EDMWeight, LogNormalTime, adam, dsm_loss
from sde_lib.losses import mean
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

ONE = jax.devices()[:1]
B = np.array([[-2.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
A = np.array([[1.0, 0.0], [-0.5, 0.5]])
M, S, NOISE = np.array([1000.0, 0.002]), np.array([300.0, 0.001]), 0.3


def expected(label, c):
    return B[label] + (c - M) / S @ A.T


def linear_gaussian(count=4000, seed=0):
    rng = np.random.default_rng(seed)
    label, c = rng.integers(0, 3, count), rng.normal(M, S, (count, 2))
    return expected(label, c) + NOISE * rng.normal(size=(count, 2)), label, c


def source(keys=("label", "cond"), **options):
    x, label, c = linear_gaussian(**options)
    return ArraySource(x, label if "label" in keys else None, cond=c if "cond" in keys else None)


def dataset(keys=("label", "cond")):
    return Dataset(source(keys), source(keys, count=400, seed=1))


def config_for(network=None, **training):
    config = get_config()
    config.shape, config.transform = (2,), spec(Identity)
    config.network = network or spec(
        MLP, features=64, num_layers=2, num_classes=3, cond_dim=2, cond_dropout=0.1, cond_null="learned"
    )
    config.parameterization = spec(EDMPreconditioning, sigma_data=1.7)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=1.7), reduce=mean)
    config.time_distribution = spec(LogNormalTime, mean=-1.2, std=1.2)
    config.optimizer = spec(adam, learning_rate=3e-3, warmup_steps=50, decay_steps=1200, b2=0.99)
    options = {"batch_size": 256, "num_steps": 1200, "log_every": 100, "ema": 0.99, **training}
    config.training.update(eval_every=0, sample_every=0, checkpoint_every=0, keep_every=0, **options)
    config.sampling.use = "fast"
    del config.eval["report"]
    del config.eval["features"]
    return config


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("learned")
    with jax.numpy_dtype_promotion("standard"):
        assert run_lib.train(config_for(), directory, dataset(), devices=ONE)
    return directory


def test_samples_have_the_conditional_moments(learned):
    """Of class and vector together, within 0.15 deviations: means, deviations, and without a condition those of x."""
    model = run_lib.load(learned)
    n = 1000
    for label, c in ((0, M), (1, M + S * [1, -1]), (2, M + S * [-1, 0.5])):
        x = model.sample(jax.random.key(1), n, cond={"label": np.full(n, label), "cond": np.tile(c, (n, 1))})
        np.testing.assert_allclose(x.mean(0), expected(label, c), atol=0.15 * NOISE + 0.03)
        np.testing.assert_allclose(x.std(0), NOISE, atol=0.15 * NOISE)
    free, x = model.sample(jax.random.key(2), n), linear_gaussian()[0]
    np.testing.assert_allclose(free.mean(0), x.mean(0), atol=0.25)
    np.testing.assert_allclose(free.std(0), x.std(0), rtol=0.15)


def test_the_vector_alone_or_the_class_alone_can_be_left_out_only_together(learned):
    """The network was trained with both or neither; a dict with None passes the null of one."""
    model, n = run_lib.load(learned), 4
    c = np.tile(M, (n, 1))
    x = model.score(jnp.zeros((n, 2)), jnp.full(n, 0.5), {"label": None, "cond": c})
    y = model.score(jnp.zeros((n, 2)), jnp.full(n, 0.5), {"label": np.full(n, 3), "cond": c})
    np.testing.assert_allclose(x, y, rtol=1e-5)


def test_log_prob_is_conditional(learned):
    """log N(x; b + A z, NOISE²), in the mean over test examples to 0.1 nats per dimension."""
    x, label, c = linear_gaussian(64, seed=3)
    found = run_lib.load(learned).log_prob(jax.random.key(0), x, {"label": label, "cond": c}).value
    exact = -0.5 * np.sum(((x - expected(label, c)) / NOISE) ** 2, axis=1) - 2 * np.log(NOISE * np.sqrt(2 * np.pi))
    assert abs(np.mean(found - exact)) < 0.2


def test_the_numbers_are_recorded_and_used_again(learned, tmp_path):
    saved = load_config(learned).cond
    assert saved.label.integers and tuple(saved.cond.shape) == (2,)
    c = source().cond
    np.testing.assert_allclose(saved.cond.transform.mean, c.mean(0), rtol=1e-12)
    np.testing.assert_allclose(saved.cond.transform.std, c.std(0), rtol=1e-12)
    assert run_lib.train(config_for(), learned, dataset(), devices=ONE)  # resumes with a config that lacks them
    assert run_lib.load(learned, config_for()).conditions == run_lib.load(learned).conditions
    config = config_for(num_steps=1)
    config.initial = str(learned)
    other = Dataset(*(ArraySource(s.x, s.label, cond=2 * s.cond) for s in dataset()))
    assert run_lib.train(config, tmp_path / "next", other, devices=ONE)
    assert load_config(tmp_path / "next").cond == saved  # what the parameters were trained with


def test_intervals_cover_the_truth_and_the_condition_is_used(learned):
    """Coverage within five standard errors of N · 2 values; residual NOISE/√Var x · √(1 + 1/S)."""
    config = config_for()
    config.eval.intervals.update(examples=150, draws=39)
    data = dataset()
    found = run_lib.evaluate(learned, 8, 0, config, data, ONE)["intervals"]
    np.testing.assert_allclose(found["coverage"], found["level"], atol=5 * max(found["error"]) / np.sqrt(2) + 0.03)
    x = data.test.x[:150]
    exact = NOISE / np.sqrt(np.mean((x - x.mean(0)) ** 2)) * np.sqrt(1 + 1 / 39)
    assert abs(found["residual"] / exact - 1) < 0.25
    config.eval.intervals.draws = 10
    with pytest.raises(ConfigError, match=r"draws=10: the interval of 95 % requires 39 or more"):
        run_lib.evaluate(learned, 8, 0, config, data, ONE)


def test_guidance_of_each_condition(learned, tmp_path):
    config = config_for()
    config.sampling.guidance_each.update(label=1.0, cond=1.0)
    with pytest.raises(ConfigError, match=r"config\.sampling\.guidance_each requires a network trained without each"):
        run_lib.load(learned, config)
    config.network.cond_dropout_each = 0.1
    config.training.num_steps = 1
    run_lib.train(config, tmp_path, dataset(), devices=ONE)
    x, t, cond = jnp.ones((2, 2)), jnp.full(2, 0.5), {"label": np.array([0, 2]), "cond": np.tile(M + S, (2, 1))}
    guided = run_lib.load(tmp_path, config).score_given(cond)(x, t)
    del config.sampling["guidance_each"]
    np.testing.assert_allclose(guided, run_lib.load(tmp_path, config).score(x, t, cond), rtol=1e-4, atol=1e-5)


def test_samples_of_given_rows(learned, tmp_path, capsys):
    """Sample i has row i mod R, from arrays, .npz or .csv, whatever the batch; other rows are other files."""
    _, label, c = linear_gaussian(6, seed=4)
    config = config_for()
    config.sampling.batch_size = 4
    x = np.array(run_lib.sample(learned, config=config, cond={"label": label, "cond": c}, devices=ONE))
    assert x.shape == (6, 2) and "conditions of samples: 6 given rows in turn" in capsys.readouterr().out
    np.testing.assert_allclose(x, expected(label, c), atol=5 * NOISE)
    model = run_lib.load(learned, config)
    np.testing.assert_allclose(x, model.sample(jax.random.key(0), 6, cond={"label": label, "cond": c}), atol=1e-5)
    np.savez(tmp_path / "c.npz", label=label, cond=c)
    twice = np.array(run_lib.sample(learned, 12, config=config, cond=tmp_path / "c.npz", devices=ONE))
    np.testing.assert_allclose(twice[:6], x, atol=1e-5)
    np.testing.assert_allclose(twice[6:], expected(label, c), atol=5 * NOISE)
    lines = [f"{k},{a!r},{b!r}" for k, (a, b) in zip(label.tolist(), c.tolist(), strict=True)]
    (tmp_path / "c.csv").write_text("\n".join(["label,cond.0,cond.1", *lines]))
    np.testing.assert_array_equal(run_lib.sample(learned, 6, config=config, cond=tmp_path / "c.csv", devices=ONE), x)
    c[0] += 3 * S
    moved = np.array(run_lib.sample(learned, 6, config=config, cond={"label": label, "cond": c}, devices=ONE))
    np.testing.assert_allclose(moved[0] - x[0], A @ [3, 3], atol=0.6)


def test_without_rows_samples_have_the_conditions_of_examples(learned):
    """Example ⌊n frac((i + ½) φ)⌋ of the training data: each is near its mean, so all are a sample of x."""
    trained = open_trained(learned, config_for(), ONE)
    data = dataset()
    given = of_examples(trained.experiment, data.train, "train").of(np.arange(400))
    index = ((np.arange(400) + 0.5) * (np.sqrt(5) - 1) / 2 % 1 * 4000).astype(int)
    np.testing.assert_array_equal(given["cond"], data.train.cond[index])
    report = run_lib.evaluate(learned, 8, 0, config_for(), data, ONE)
    _, label, c = linear_gaussian(400, seed=1)
    mixed = np.roll(np.arange(400), 1)
    wrong = Dataset(data.train, ArraySource(data.test.x, label[mixed], cond=c[mixed]))
    assert report["eval_loss"] < 0.5 * run_lib.evaluate(learned, 8, 0, config_for(), wrong, ONE)["eval_loss"]


class Sees(nn.Module):
    """A network of one's own whose call takes cond; `uses` says what of it."""

    uses: tuple[str, ...] = ("label", "cond")

    @nn.compact
    def __call__(self, x, c_noise, cond=None):
        parts = [x, c_noise[:, None]]
        if "label" in self.uses:
            parts.append(jax.nn.one_hot(cond["label"], 3))
        if "cond" in self.uses:
            parts.append(cond["cond"])
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(jnp.concatenate(parts, axis=1))


class Blind(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise):
        return nn.Dense(2)(x)


class OnlyVector(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, cond=None):
        return nn.Dense(2)(jnp.concatenate([x, cond], axis=1))


@pytest.mark.parametrize("uses", [("label", "cond"), ("cond",), ()])
def test_a_network_of_ones_own_gets_what_the_data_have_and_is_reported_if_it_ignores_it(tmp_path, caplog, uses):
    config = config_for(spec(Sees, uses=uses), num_steps=2)
    assert run_lib.train(config, tmp_path, dataset(), devices=ONE)
    reported = [name for name in ("label", "cond") if f"ignores its condition '{name}'" in caplog.text]
    assert reported == [name for name in ("label", "cond") if name not in uses]
    x = run_lib.load(tmp_path).sample(jax.random.key(0), 2, cond={"label": [0, 1], "cond": np.zeros((2, 2))})
    assert x.shape == (2, 2)


def test_a_vector_alone_is_the_cond_of_an_own_network(tmp_path):
    config = config_for(spec(OnlyVector), num_steps=2)
    assert run_lib.train(config, tmp_path, dataset(("cond",)), devices=ONE)
    model = run_lib.load(tmp_path)
    with pytest.raises(ValueError, match=r"cond: expected cond of shape \[3, 2\], got \(3, 1\)"):
        model.sample(jax.random.key(0), 3, cond=np.zeros((3, 1)))


class Unasked(nn.Module):
    """A network whose call takes cond, for data that have none."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None):
        assert cond is None
        return nn.Dense(2)(x)


def test_data_without_conditions_give_an_own_network_none(tmp_path):
    assert run_lib.train(config_for(spec(Unasked), num_steps=2), tmp_path, dataset(()), devices=ONE)
    assert not load_config(tmp_path).cond and run_lib.load(tmp_path).sample(jax.random.key(0), 2).shape == (2, 2)


@pytest.mark.parametrize(
    ("network", "keys", "message"),
    [
        (lambda: spec(Blind), ("cond",), "the data have cond, but the network takes no cond: its __call__ has"),
        (lambda: spec(MLP), ("cond",), r"takes no cond: set --config\.network\.cond_dim=2, or leave it out"),
        (lambda: spec(MLP, cond_dim=2), ("label",), r"config\.network\.cond_dim=2 requires a cond in the data, but"),
        (lambda: spec(MLP, cond_dim=3), ("cond",), r"config\.network cannot be conditioned on cond: cond: expec"),
        (lambda: spec(MLP, num_classes=3, cond_dim=2), ("cond",), r"config\.network\.num_classes=3 requires labels"),
        (lambda: spec(OnlyVector), ("label", "cond"), "config.network cannot be conditioned on cond, label"),
    ],
)
def test_what_cannot_be_conditioned_on_is_refused_before_anything_is_made(tmp_path, network, keys, message):
    with pytest.raises(ConfigError, match=message):
        run_lib.train(config_for(network()), tmp_path / "run", dataset(keys), devices=ONE)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (np.zeros((2, 2)), "cond: expected a dict with cond, label, got ndarray"),
        ({"label": np.zeros(2, int), "cond": np.zeros((2, 3))}, r"cond: expected cond of shape \[2, 2\], got \(2, 3\)"),
        ("none.csv", "--cond=none.csv: "),
        ({"label": np.zeros(0, int)}, "cond: expected one row or more, got none"),
    ],
)
def test_rows_that_do_not_fit(learned, cond, message):
    with pytest.raises(ConfigError, match=message):
        run_lib.sample(learned, cond=cond, devices=ONE)


ONE_VECTOR = Conditions((("cond", Condition((2,))),))
TWO = Conditions((("label", Condition((), True)), ("v", Condition((2,)))))


@pytest.mark.parametrize(
    ("text", "conditions", "found"),
    [
        ("1,2\n3,4\n", ONE_VECTOR, [[1, 2], [3, 4]]),
        ("cond.1,cond.0\n1,2\n3,4.5\n", ONE_VECTOR, {"cond": [[2, 1], [4.5, 3]]}),
        ("T\n1e10\n3\n", Conditions((("cond", Condition((1,))),)), [1e10, 3]),
        ("v.1,v.0,label\n2,1,7\n4,3,8\n", TWO, {"label": [7, 8], "v": [[1, 2], [3, 4]]}),
    ],
)
def test_the_columns_of_a_table(tmp_path, text, conditions, found):
    (tmp_path / "c.csv").write_text(text)
    cond = read_cond(tmp_path / "c.csv")
    cond = from_columns(cond, conditions) if isinstance(cond, dict) else cond
    jax.tree.map(
        np.testing.assert_array_equal, cond, jax.tree.map(np.asarray, found, is_leaf=lambda a: type(a) is list)
    )


def test_what_is_given_by_name_or_as_a_list_or_wrongly(learned, tmp_path):
    """Lists are arrays; names of columns must be those of training; numbers must be finite; data must have the cond."""
    _, label, c = linear_gaussian(3, seed=5)
    given = {"label": label.tolist(), "cond": c.tolist()}
    x = np.array(run_lib.sample(learned, cond=given, devices=ONE))
    np.testing.assert_allclose(x, expected(label, c), atol=5 * NOISE)
    with pytest.raises(ConfigError, match="cond: expected finite numbers"):
        run_lib.sample(learned, cond={"label": label, "cond": c * np.nan}, devices=ONE)
    with pytest.raises(ConfigError, match="network is conditioned on cond, which the data lack"):
        run_lib.evaluate(learned, 3, dataset=dataset(("label",)), devices=ONE)
    (tmp_path / "t.csv").write_text("T,mass\n1,2\n")
    with pytest.raises(ValueError, match=r"expected columns cond\.0, cond\.1 … in the order of training, got T, mass"):
        from_columns(read_cond(tmp_path / "t.csv"), ONE_VECTOR)
    config = config_for()
    config.network.cond_dropout_each = 0.1
    config.sampling.guidance_each.update(label=1.0, T=1.0)
    config.cond = load_config(learned).cond
    with pytest.raises(ConfigError, match=r"guidance_each: expected cond, label, got T, label"):
        make_experiment(config, ONE)


def test_a_run_of_an_earlier_version_stays_as_it_was(tmp_path):
    """Own networks got no labels then; config.json has no `cond`."""
    config = config_for(spec(Unasked), num_steps=2)
    assert run_lib.train(config, tmp_path, dataset(()), devices=ONE)
    saved = load_config(tmp_path)
    del saved["cond"]
    (tmp_path / "config.json").write_text(to_json(saved))
    (tmp_path / "data.json").unlink()
    config.training.num_steps = 3
    assert run_lib.train(config, tmp_path, dataset(("label",)), devices=ONE)
    assert not load_config(tmp_path).get("cond")


def test_bits_of_examples_are_given_their_conditions(learned):
    """Whole numbers under the law given their label and cond: bits as the model's, which are more with others' cond."""
    config = config_for()
    config.eval.metrics = {}
    config.eval.bpd.update(split="test", count=40)
    x, label, c = linear_gaussian(40, seed=5)
    x = np.round(x).astype(np.int32)

    data = Dataset(source(), ArraySource(x, label, cond=c))
    found = run_lib.evaluate(learned, 8, 0, config, data, ONE, folder="bits")["bits"]["flow"]["mean"]
    model = run_lib.load(learned, config)
    bits = lambda c, label: np.mean(model.bits_per_dim(jax.random.key(0), x, cond={"label": label, "cond": c}))  # noqa: E731
    np.testing.assert_allclose(found, bits(c, label), atol=0.02)
    assert bits(np.roll(c, 1, axis=0), np.roll(label, 1)) > found + 1
