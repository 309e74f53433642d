"""A work directory made from a published checkpoint works; what does not fit is refused and leaves nothing."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import run_lib
from config_lib.spec import ConfigError, bind, spec
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import read_metrics
from published_lib import score_sde
from published_lib.score_sde_names import parameter_shapes
from published_lib.torch_file import read_torch
from run_modes.experiment import make_experiment
from run_modes.import_published import import_checkpoint, read_published
from run_modes.state import restore_state
from sde_lib import ScoreMatching
from tests.published_lib.published import GOLDEN, STEP, config_of
from tests.test_main import checkpoints, main
from tests.test_run_lib import final_state
from tests.tiny_config import get_config as tiny_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

# The work directory


def flax_file(path, step, params, ema_params, moments=None, **others):
    """As the published JAX code writes it."""
    state = {}
    if moments is not None:
        mu, nu = moments
        both = jax.tree.map(lambda m, v: {"grad_ema": m, "grad_sq_ema": v}, mu, nu)
        state = {"state": {"step": np.int32(step), "param_states": both}}
    content = {"step": np.int32(step), "optimizer": {"target": params, **state}, "params_ema": ema_params, **others}
    path.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, content)))
    return path


def random_params(config, seed):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(make_experiment(config).network, tuple(config.shape))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.slow
def test_training_goes_on_as_if_it_had_never_been_elsewhere(tmp_path):
    """A run of ours, written down half-way as a published file, imported and finished: bit for bit the whole run."""
    config, half, devices = tiny_config(), tiny_config(), jax.devices()[:1]
    for each, num_steps in ((config, 40), (half, 20)):
        each.training.update(num_steps=num_steps, eval_every=0, sample_every=0)
    assert run_lib.train(config, tmp_path / "whole", devices=devices)
    assert run_lib.train(half, tmp_path / "half", devices=devices)
    with Checkpoints(tmp_path / "half" / "checkpoints") as checkpoints:
        state = restore_state(make_experiment(half, devices), checkpoints)
    moments = (optax.tree.get(state.opt_state, name) for name in ("mu", "nu"))
    file = flax_file(tmp_path / "checkpoint_2", 20, state.params, state.ema_params, moments)
    assert import_checkpoint(config, file, tmp_path / "run") == 20
    assert run_lib.train(config, tmp_path / "run", devices=devices)
    expected, found = final_state(tmp_path / "whole", config), final_state(tmp_path / "run", config)
    assert expected.keys() == found.keys() and expected[".step"] == 40
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [20, 25, 30, 35, 40]


@pytest.mark.slow
def test_sampling_likelihood_and_evaluation(tmp_path, capsys):
    """From the averages of the file, with nothing but the directory; and no moments are said to be missing."""
    config = tiny_config()
    params, ema_params = random_params(config, 0), jax.tree.map(lambda leaf: 0.1 * leaf, random_params(config, 1))
    file = flax_file(tmp_path / "checkpoint_2", 7, params, ema_params, lr=np.float32(1), ema_rate=np.float32(0.9))
    import_checkpoint(config, file, tmp_path / "run")
    said = capsys.readouterr().out
    assert "step 7, 8,416 parameters" in said and "no moments of Adam: the optimizer state is new" in said
    model = run_lib.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, model.params, ema_params)
    state = final_state(tmp_path / "run", config)
    np.testing.assert_array_equal(state[".params['Dense_0']['kernel']"], params["Dense_0"]["kernel"])
    assert run_lib.sample(tmp_path / "run", 80, seed=1).shape == (80, 8, 8, 1)
    config.eval.bpd.update(split="test", count=4)
    report = run_lib.evaluate(tmp_path / "run", 80, seed=1, config=config)
    assert report["step"] == 7 and np.isfinite(report["eval_loss"])
    assert np.isfinite(json.loads((tmp_path / "run" / "eval" / "report.json").read_text())["bits"]["flow"]["mean"])


class LearnedUncertainty(ScoreMatching):
    """An objective with a parameter of its own."""

    def init(self, key, params):
        return {"network": params, "u": jnp.zeros((), jnp.float32)}

    def network_params(self, params):
        return params["network"]

    def __call__(self, keys, t, network, batch, state):
        return super().__call__(keys, t, network, batch, state) * jnp.exp(-state.params["u"]) + state.params["u"]


@pytest.mark.slow
def test_an_objective_with_parameters_of_its_own(tmp_path):
    """They are added to the file's, trained, restored, and left out of the model that samples."""
    config = tiny_config()
    config.objective = bind(LearnedUncertainty)
    config.training.update(num_steps=9, eval_every=9, sample_every=0)
    params = random_params(config, 0)
    import_checkpoint(config, flax_file(tmp_path / "c", 7, params, params, (params, params)), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, run_lib.load(tmp_path / "run", config).params, params)
    assert run_lib.train(config, tmp_path / "run", devices=jax.devices()[:1])
    state = final_state(tmp_path / "run", config)
    assert state[".params['u']"] != 0 and state[".ema_params['u']"] != 0
    assert run_lib.sample(tmp_path / "run", 2, config=config, devices=jax.devices()[:1]).shape == (2, 8, 8, 1)
    assert np.isfinite(run_lib.evaluate(tmp_path / "run", 80, config=config, devices=jax.devices()[:1])["eval_loss"])


def test_an_optimizer_without_moments_is_new(tmp_path, capsys):
    config = tiny_config()
    config.optimizer = spec(optax.sgd, learning_rate=0.1)
    params = random_params(config, 0)
    import_checkpoint(config, flax_file(tmp_path / "c", 7, params, params, (params, params)), tmp_path / "run")
    assert "config.optimizer does not have the moments of exactly one Adam" in capsys.readouterr().out
    assert run_lib.load(tmp_path / "run")


# What is refused


def refused(config, file, directory):
    before = sorted(str(path) for path in directory.rglob("*"))
    with pytest.raises(ConfigError) as error:
        import_checkpoint(config, file, directory)
    assert "\n" not in str(error.value) and sorted(str(path) for path in directory.rglob("*")) == before
    return str(error.value)


def test_files_that_do_not_fit_leave_nothing(tmp_path):
    config, run = tiny_config(), tmp_path / "run"
    params = random_params(config, 0)
    assert "there is no such file" in refused(config, tmp_path / "none", run)
    assert "Is a directory" in refused(config, tmp_path, run)
    (tmp_path / "text").write_text("hello")
    assert "expected a whole msgpack checkpoint" in refused(config, tmp_path / "text", run)
    torch = GOLDEN / "ddpmpp_vp" / "torch.pth"
    assert "the file is not of this network; 202 not in the network: module.all" in refused(config, torch, run)
    other = {**params, "Dense_9": params["Dense_0"]}
    message = refused(config, flax_file(tmp_path / "a", 1, other, params), run)
    assert message.endswith("of this network; 2 not in the network: Dense_9/bias (32,), Dense_9/kernel (32, 32)")
    wrong = {**params, "Dense_0": {"kernel": params["Dense_0"]["kernel"] * np.nan, "bias": params["Dense_0"]["bias"]}}
    assert "the parameters are not finite" in refused(config, flax_file(tmp_path / "b", 1, params, wrong), run)
    for content, message in (
        ({"model_state": {"mean": np.ones(3)}}, "expected an empty model_state"),
        ({"momentum": np.ones(3)}, "missing: none, unknown: momentum"),
        ({"step": np.float32(1.5)}, "expected a number of steps, got float32 1.5"),
        ({"step": np.ones(2)}, "expected a number of steps"),
        ({"params_ema": np.ones(2)}, "expected parameters as named entries, got ndarray"),
        ({"optimizer": {"target": params, "state": {"step": 1}}}, "in optimizer/state; missing: param_states"),
        ({"optimizer": np.ones(2)}, "expected named entries in optimizer, got ndarray"),
    ):
        file = tmp_path / "c"
        whole = {"step": np.int32(1), "optimizer": {"target": params}, "params_ema": params}
        file.write_bytes(serialization.msgpack_serialize(whole | content))
        assert message in refused(config, file, run)


def test_directories_that_are_taken(tmp_path):
    config = tiny_config()
    params = random_params(config, 0)
    file = flax_file(tmp_path / "c", 7, params, params)
    import_checkpoint(config, file, tmp_path / "run")
    assert "has checkpoints already, of steps [7]" in refused(config, file, tmp_path / "run")
    config.seed = 1
    assert "another config: config.seed: 42 -> 1" in refused(config, file, tmp_path / "run")


@pytest.fixture(scope="module")
def shapes():
    return parameter_shapes(make_experiment(config_of("ddpmpp_vp")).network, (16, 16, 3))


def torch_content():
    return read_torch(GOLDEN / "ddpmpp_vp" / "torch.pth")


def change(content, path, value):
    """The content with one entry replaced, or left out for None."""
    *sections, last = path
    section = functools.reduce(lambda section, key: section[key], sections, content)
    if value is None:
        del section[last]
    else:
        section[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("ema", "shadow_params", 0), None, "expected 208 averages in ema/shadow_params, one for each parameter, got"),
        (("ema", "shadow_params"), 3, "averages in ema/shadow_params, one for each parameter, got int"),
        (("ema",), None, "in the file; missing: ema, unknown: none"),
        (("optimizer", "state", 5), None, "expected moments of 208 parameters"),
        (("optimizer", "state", 5, "exp_avg"), None, "in optimizer/state/5; missing: exp_avg"),
        (("optimizer", "state", 5, "step"), 7, r"expected one number of steps for all moments, got [7, 4321]"),
        (("optimizer", "state", 5, "max_exp_avg_sq"), 7, "unknown: max_exp_avg_sq"),
        (("model",), [1], "expected parameters as named entries, got list"),
        (("step",), -1, "expected a number of steps, got int64 -1"),
        (("model", "module.all_modules.2.bias"), None, "expected 207 averages"),
        (("ema", "shadow_params", 4), np.zeros((4, 3, 3, 2), np.float32),
         "1 of another shape: module.all_modules.2.weight (3, 2, 3, 4) for Conv_0/kernel (3, 3, 3, 4)"),
        (("model", "module.all_modules.2.weight"), 3, "1 of another shape: module.all_modules.2.weight int for Conv_0"),
    ],
)  # fmt: skip
def test_torch_files_that_are_not_as_published(shapes, monkeypatch, path, value, message):
    monkeypatch.setattr(score_sde, "read_torch", lambda _: change(torch_content(), path, value))
    with pytest.raises(ValueError) as error:
        read_published(GOLDEN / "ddpmpp_vp" / "torch.pth", shapes)
    assert message in str(error.value) and str(error.value).startswith(str(GOLDEN))


def test_a_torch_file_without_moments(shapes, monkeypatch):
    monkeypatch.setattr(score_sde, "read_torch", lambda _: change(torch_content(), ("optimizer", "state"), {}))
    found = read_published(GOLDEN / "ddpmpp_vp" / "torch.pth", shapes)
    assert found.moments is None and found.step == STEP


# The command line


def test_the_command(tmp_path):
    config, file = "--config=tests/tiny_config.py", tmp_path / "checkpoint_2"
    params = random_params(tiny_config(), 0)
    flax_file(file, 7, params, params, (params, jax.tree.map(np.abs, params)))
    run, whence = f"--workdir={tmp_path / 'run'}", f"--checkpoint={file}"
    done = main("--mode=import", config, run, whence)
    assert done.returncode == 0 and "Adam resumes with its moments after 7 steps." in done.stdout, done.stderr
    assert checkpoints(tmp_path / "run") == [7]
    for arguments, message in (
        (["--mode=import", config, run], "--checkpoint=FILE is required for --mode=import"),
        (["--mode=import", run, whence], "--config=FILE is required for --mode=import"),
    ):
        done = main(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
