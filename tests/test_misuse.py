"""What new users write by mistake: one line that says what to write instead."""

import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, bind, build, spec
from configs import digits, points
from data_lib import ArraySource, Dataset, from_arrays
from models import MLP
from sde_lib import VP, GaussianSDE, LinearSDE, NonlinearSDE, PredictNoise, Sampler, ScoreModel, check_sde, gaussian
from sde_lib.check import SDECheckError
from sde_lib.solvers import Corrector, EulerMaruyama, PredictorCorrector, Solver, SolverState
from tests.helpers import keys
from tests.tiny_config import get_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the checks of annotations that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


DATA = gaussian(jnp.zeros(2), jnp.ones(2))


# Python's and NumPy's functions in a process


class Cosine(GaussianSDE):
    t_max: float = 0.99

    def alpha(self, t):
        return jnp.cos(1.5 * t)

    def sigma(self, t):
        return jnp.sin(1.5 * t)


class MathAlpha(Cosine):
    def alpha(self, t):
        return math.cos(1.5 * t)


class NumpySigma(Cosine):
    def sigma(self, t):
        return np.sin(1.5 * t)


class IfAlpha(Cosine):
    def alpha(self, t):
        if t < 0.5:
            return 1 - t
        return 0.5 * jnp.exp(-t)


class FloatDrift(NonlinearSDE):
    def drift(self, x, t):
        return -x * float(t)

    def diffusion(self, t):
        return 1.0


class NumpyDiffusion(FloatDrift):
    def drift(self, x, t):
        return -x

    def diffusion(self, t):
        return np.sqrt(t)


class MathRate(LinearSDE):
    def drift_rate(self, t):
        return -math.exp(t)

    def diffusion(self, t):
        return jnp.sqrt(t)


def use(sde):
    """What a sampler does with a process."""
    t = jnp.asarray(0.3)
    return jax.jit(lambda x, t: (sde.drift(x, t), sde.diffusion(t)))(jnp.ones((2, 2)), t)


@pytest.mark.parametrize(
    ("sde", "message"),
    [
        (MathAlpha, r"^MathAlpha\.alpha \(line \d+ of \S*test_misuse\.py\): math\.cos .*: write jnp\.cos(\n|$)"),
        (NumpySigma, r"^NumpySigma\.sigma \(line \d+ of .*\): np\.sin .*: write jnp\.sin(\n|$)"),
        (IfAlpha, r"^IfAlpha\.alpha \(line \d+ of .*\): `if` .*: write jnp\.where\(condition, a, b\)(\n|$)"),
        (
            FloatDrift,
            r"^FloatDrift\.drift \(line \d+ of .*\): Python and NumPy cannot take JAX's values: write jnp\.cos",
        ),
        (NumpyDiffusion, r"^NumpyDiffusion\.diffusion .*: write jnp\.sqrt(\n|$)"),
        (MathRate, r"^MathRate\.drift_rate .*: write jnp\.exp(\n|$)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_of_python_in_a_process(sde, message):
    with pytest.raises(TypeError, match=message):
        use(sde())


@pytest.mark.usefixtures("usual_promotion")
def test_the_line_reaches_training_and_the_check(tmp_path):
    config = points.get_config()
    config.sde = spec(MathAlpha)
    data = from_arrays(np.random.default_rng(0).normal(size=(64, 2)))
    with pytest.raises(ConfigError, match=r"MathAlpha\.alpha \(line .*: write jnp\.cos"):
        run_lib.train(config, tmp_path, data)
    with pytest.raises(SDECheckError, match=r"NumpySigma\.sigma \(line .*: write jnp\.sin"):
        check_sde(NumpySigma(), verbose=False)


def test_other_errors_of_a_process_are_left_as_they_are():
    class Broken(Cosine):
        def alpha(self, t):
            return jnp.cos(self.missing * t)

    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'missing'"):
        use(Broken())
    assert "defines" not in (Cosine.alpha.__doc__ or "") and Cosine.alpha.__qualname__ == "Cosine.alpha"


# A solver that returns no state


class Returns(Solver):
    """A solver whose step returns what the class's `result` makes of x."""

    nfe = 1

    def step(self, keys, state, t, s, sde, score_fn):
        return type(self).result(state.x)


def returning(function):
    return type("Mine", (Returns,), {"result": staticmethod(function)})()


class ForgetsMemory(Solver):
    nfe = 1

    def init(self, x):
        return SolverState(x, x, (x, x))

    def step(self, keys, state, t, s, sde, score_fn):
        return SolverState(state.x, state.x)


class StartsWrong(Returns):
    def init(self, x):
        return x


class MovesWrong(Corrector):
    nfe = 1

    def correct(self, keys, state, time, t, s, sde, score_fn):
        return state.x


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (
            returning(lambda x: x),
            r"^Mine\.step returned an array of shape \(3, 2\): expected SolverState\(x, mean, memory\); write",
        ),
        (returning(lambda x: None), r"^Mine\.step returned NoneType: expected SolverState"),
        (returning(lambda x: (x, x)), r"^Mine\.step returned tuple: expected SolverState"),
        (
            returning(lambda x: SolverState(x[:, :1], x)),
            r"^Mine\.step returned x of type float64 of shape \(3, 1\): exp",
        ),
        (returning(lambda x: SolverState(x, x.astype(jnp.float32))), r"^Mine\.step returned mean of type float32 of"),
        (ForgetsMemory(), r"^ForgetsMemory\.step returned a memory of shapes None: expected those of `init`"),
        (StartsWrong(), r"^StartsWrong\.init returned an array of shape \(3, 2\): expected SolverState"),
        (PredictorCorrector(predictor=returning(lambda x: x)), r"^Mine\.step returned an array"),
        (PredictorCorrector(predictor=EulerMaruyama(), corrector=MovesWrong()), r"^MovesWrong\.correct returned an ar"),
    ],
)
def test_a_solver_that_returns_no_state(solver, message):
    sde = VP()
    with pytest.raises(TypeError, match=message):
        Sampler(solver=solver, num_steps=3)(keys(3), sde, DATA.score_fn(sde), (2,))


# Keys, and arguments in another order


@pytest.fixture(scope="module")
def model():
    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        return params * x

    return ScoreModel(
        sde=VP(), parameterization=PredictNoise(), params=jnp.ones(()), network=network, shape=(2,), sampler=Sampler()
    )


X = np.zeros((3, 2), np.float32)
KEY, NO_KEY = jax.random.key(0), r"^key: expected one key, jax\.random\.key\(0\) for instance; got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(0, 10), NO_KEY + "int 0$"),
        (lambda m: m.sample(10, KEY), NO_KEY + "int 10$"),
        (lambda m: m.sample(KEY, KEY), "expected a whole number n >= 0"),
        (lambda m: m.sample_indices(0, jnp.arange(3)), NO_KEY + "int 0$"),
        (
            lambda m: m.sample_indices(KEY, 5),
            r"^indices: expected whole numbers \[B\], jnp\.arange\(5\) .*; got int 5$",
        ),
        (lambda m: m.with_nfe(jnp.arange(3), KEY), r"^indices: .*; got one key$"),
        (lambda m: m.log_prob(0, X), NO_KEY + "int 0$"),
        (lambda m: m.log_prob(X, KEY), NO_KEY + r"float32 of shape \(3, 2\)$"),
        (lambda m: m.log_prob(keys(3), X), NO_KEY + r"keys of shape \(3,\)$"),
        (lambda m: m.bits_per_dim(0, X.astype(int)), NO_KEY + "int 0$"),
        (lambda m: m.bits_per_dim(X.astype(int), KEY), NO_KEY),
        (lambda m: m.elbo(None, X), NO_KEY + "NoneType$"),
        (lambda m: m.elbo(X, KEY), NO_KEY),
        (lambda m: m.encode(KEY, X), r"^expected data of shape \[B, 2\], got one key$"),
        (lambda m: m.decode(KEY), r"^expected data of shape \[B, 2\], got one key$"),
        (lambda m: m.decode(X[:, :1]), r"^expected data of shape \[B, 2\], got \(3, 1\)$"),
        (
            lambda m: m.sampler(KEY, m.sde, m.score, (2,)),
            r"^keys: expected one key for each sample, sample_keys\(.*; got one",
        ),
        (lambda m: m.sampler(0, m.sde, m.score, (2,)), r"^keys: expected one key for each sample, .*; got int 0$"),
        (lambda m: DATA.sample(KEY), r"^keys: expected one key for each sample, .*; got one key$"),
    ],
)
def test_keys(model, call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_raw_keys_are_keys(model):
    raw = jax.random.PRNGKey(0)
    np.testing.assert_array_equal(model.sample(raw, 2), model.sample(jax.random.wrap_key_data(raw), 2))


def test_arguments_of_the_modes_in_another_order(tmp_path):
    config, data = points.get_config(), from_arrays(np.arange(60.0).reshape(30, 2))
    for call, message in (
        (lambda: run_lib.train(tmp_path, config), "^config: expected a config, .*; got PosixPath$"),
        (
            lambda: run_lib.train(config, data, tmp_path),
            r"dataset: .* got PosixPath; the order is train\(config, directory, d",
        ),
        (lambda: run_lib.train(config, tmp_path, X), r"dataset: .* got ndarray; data_lib\.from_arrays\(x\) makes one"),
        (lambda: run_lib.stats("stats.npz", config), "^config: expected a config, .*; got str$"),
        (lambda: run_lib.plan("digits"), "^config: expected a config, .*; got str$"),
        (lambda: run_lib.check(VP()), "^config: expected a config, .*; got VP$"),
        (lambda: run_lib.suggest(X), "^config: expected a config, .*; got ndarray$"),
        (lambda: run_lib.describe_data("photos"), "^config: expected a config, .*; got str$"),
        (lambda: run_lib.reproduce("runs/digits", config), "^config: expected a config, .*; got str$"),
        (lambda: run_lib.import_checkpoint("file.pth", config, "run"), "^config: expected a config, .*; got str$"),
        (lambda: run_lib.sample(config, 10), "^directory: expected a path, 'runs/digits' for instance; got Config$"),
        (lambda: run_lib.sample(10, "runs/digits"), "^directory: expected a path, .*; got int$"),
        (lambda: run_lib.load(config), "^directory: expected a path, .*; got Config$"),
        (lambda: run_lib.evaluate(config), "^directory: expected a path, .*; got Config$"),
        (lambda: run_lib.inspect(config), "^directory: expected a path, .*; got Config$"),
        (lambda: run_lib.compare("runs/digits"), "^directories: expected a list of paths, got str 'runs/digits'$"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


# Objects in a config


def test_an_object_in_the_place_of_its_section():
    config = digits.get_config()
    for key, value, message in (
        ("sde", Cosine(), r"^sde: .*: write sde = spec\(Cosine\)$"),
        ("sde", VP(beta_max=15.0), r"^sde: .*: write sde = spec\(VP, beta_max=15\.0\)$"),
        ("sde", VP, r"^sde: .*: write sde = spec\(VP\)$"),
        ("network", MLP(features=8), r"^network: .*: write network = spec\(MLP, features=8\)$"),
        ("loss", use, r"^loss: .*: write loss = bind\(use\)$"),
    ):
        with pytest.raises(ConfigError, match=message):
            config[key] = value
    with pytest.raises(ConfigError, match=r"^mine: .*: write mine = spec\(Sampler\)$"):
        config.sampling.mine = Sampler()
    with pytest.raises(ConfigError, match=r"^solver: .*: write solver = spec\(EulerMaruyama\)$"):
        config.sampling.ode.solver = EulerMaruyama()


def test_sections_of_any_origin_replace_one():
    """Of spec, of bind, plain dicts, sections that were read from a file."""
    config = digits.get_config()
    from config_lib.saved import from_json, to_json

    saved = from_json(to_json(config))
    saved.sde.beta_max = 7.0
    config.sde = saved.sde
    assert build(config.sde) == VP(beta_max=7.0)
    config.sde = spec(VP, beta_max=8.0)
    assert build(config.sde).beta_max == 8.0
    config.sde = {"call": "sde_lib:VP", "beta_max": 9.0}
    assert build(config.sde).beta_max == 9.0
    saved.sde = spec(VP, beta_max=6.0)
    config.loss = bind(use)
    assert build(saved.sde).beta_max == 6.0 and config.copy_and_resolve_references().sde.beta_max == 9.0


# A class by its name on the command line


@pytest.mark.usefixtures("usual_promotion")
def test_a_class_by_its_name(tmp_path):
    """The error lists the numbers of the names, from the card of the run."""
    config = get_config()
    config.network.num_classes = 2
    config.training.update(num_steps=2, batch_size=8, log_every=0, eval_every=0, sample_every=0)
    del config.eval["report"]
    x, label = np.zeros((16, 8, 8, 1), np.uint8), np.arange(16) % 2
    train = ArraySource(x, label, classes=("bird", "flower"))
    run_lib.train(config, tmp_path / "run", Dataset(train, train), devices=jax.devices()[:1])
    line = [sys.executable, "main.py", f"--workdir={tmp_path / 'run'}", "--mode=sample"]
    for flag, expected in (
        ("label=flower", "config.sampling.label=flower: expected a whole number, the class to draw, or -1 for all; "
                         "0: bird, 1: flower"),
        ("guidance=much", "config.sampling.guidance=much: expected a number"),
    ):  # fmt: skip
        done = subprocess.run([*line, f"--config.sampling.{flag}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.strip().splitlines()[-1] == f"main.py: {expected}", done.stderr
    line[2:4] = ["--config=configs/digits.py", f"--workdir={tmp_path / 'new'}"]
    done = subprocess.run([*line, "--config.sampling.label=flower"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].endswith("expected a whole number, the class to draw, or -1 for all")
