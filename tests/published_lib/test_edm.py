"""EDM's pickles: the networks, denoisers and the sampler of their own code; what is refused leaves no trace."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, build
from data_lib import from_arrays
from io_lib.metrics import read_metrics
from models.adm import ADMBlock
from published_lib import edm
from published_lib.description import Module, leaves_of
from published_lib.formats import describe
from published_lib.nvidia_pickle import Persistent, read_nvidia
from published_lib.score_sde_names import filled
from run_modes.experiment import make_experiment
from run_modes.import_published import config_of, import_checkpoint, section_of
from sde_lib import expand, make_score_fn, tweedie
from tests.helpers import close
from tests.published_lib.nvidia import write

pytestmark = pytest.mark.usefixtures("usual_promotion")

GOLDEN = Path(__file__).parents[1] / "golden" / "published"
FILE = "network-snapshot-004000.pkl"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """name → the model of the work directory that its file was imported into."""

    @functools.cache
    def loaded(name, file=FILE):
        directory = tmp_path_factory.mktemp(name)
        with jax.numpy_dtype_promotion("standard"):
            import_checkpoint(None, GOLDEN / name / file, directory / "run")
        return run_lib.load(directory / "run")

    return loaded


@functools.cache
def golden(name, file="golden.npz"):
    with np.load(GOLDEN / name / file) as arrays:
        return {key: jnp.asarray(value) for key, value in arrays.items()}


def each_close(found, expected, tolerance):
    """Each example within `tolerance` of its own largest value."""
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance)


@jax.jit
def evaluated(model, x, sigma, c_noise, cond):
    """D and F, each row at its own noise level."""
    scale = expand(jax.lax.rsqrt(sigma**2 + 0.25), x)
    return model.denoise(x, sigma, cond), model.network(model.params, scale * x, c_noise, cond=cond)


@pytest.mark.parametrize("name", ["edm_cond", "edm_augment", pytest.param("edm_ncsnpp", marks=pytest.mark.slow)])
def test_the_denoiser_and_the_network_of_their_code(model, name):
    """At several noise levels; also without a class, which is the label after the last, and with a vector."""
    m, g = model(name), golden(name)
    levels, rows = g["x"].shape[:2]
    x, sigma, c_noise = (each.reshape(levels * rows, *each.shape[2:]) for each in
                         (g["x"], *(jnp.repeat(g[key], rows) for key in ("sigma", "c_noise"))))  # fmt: skip
    cases = {
        "edm_cond": [("D", jnp.tile(g.get("class_labels", 0), levels)), ("D_uncond", jnp.full(len(x), 10, jnp.int32))],
        "edm_augment": [
            ("D", jnp.zeros((len(x), 9))),
            ("D_augment", jnp.tile(g.get("augment_labels", 0), (levels, 1))),
        ],
        "edm_ncsnpp": [("D", None)],
    }
    for key, cond in cases[name]:
        D, F = evaluated(m, x, sigma, c_noise, cond)
        each_close(D, g[key].reshape(x.shape), 1e-5)
        if key == "D":
            each_close(F, g["F"].reshape(x.shape), 2e-4 if name == "edm_ncsnpp" else 1e-5)


@pytest.mark.slow
def test_the_sampler_of_their_code_in_float64(model):
    """generate.py's 18 steps from the same latents: the noise levels, states of the trajectory, and the sample."""
    m, g = model("edm_cond").astype(jnp.float64), golden("edm_cond", "sampler.npz")
    keys, steps = jax.random.split(jax.random.key(0), 2), np.array([1, 9, 17])

    @jax.jit
    def sampled(m, start, labels):
        times, path = m.sampler.path(keys, m.sde, m.score_given(labels), m.shape, steps, start)
        return times, [*path, m.denoise(path[-1], times[-1], labels)]

    times, states = sampled(m, g["latents"].astype(jnp.float64) * 80.0, g["class_labels"])
    np.testing.assert_allclose(times, g["t_steps"][steps], rtol=1e-13)
    assert m.sampler.nfe == 35 and m.sampler.denoise is tweedie
    for state, expected in zip(states, g["trajectory"], strict=True):
        close(state, expected, 1e-6)


def test_a_block_with_several_heads():
    """DhariwalUNet's, from a file of one block alone: interleaved q, k, v, and scale and shift."""
    with np.load(GOLDEN / "block_heads.npz") as file:
        arrays = {name.removeprefix("param:"): file[name] for name in file if name.startswith("param:")}
        x, emb, out = (jnp.asarray(file[name]) for name in ("x", "emb", "out"))
    block = ADMBlock(16, "none", True, 8, 0.0, 2, True, (4, 32, 1e-5))
    shapes = {"ADMBlock_0": jax.eval_shape(block.init, jax.random.key(0), x, emb)["params"]}
    arrays = {f"b.{name}": edm.by_kind_in_heads(value, 2) if "qkv" in name else value for name, value in arrays.items()}
    params = filled(leaves_of(arrays, [Module("b", "ADMBlock", edm.DHARIWAL_BLOCK)]), shapes)["ADMBlock_0"]
    each_close(jax.jit(block.apply)({"params": params}, x, emb), out, 1e-5)


# Further training


def test_the_loss_is_theirs(tmp_path):
    """½ λ(σ) ‖D(y + n; σ) − y‖², λ = (σ² + σ_d²)/(σ σ_d)² (Karras et al. 2022, eq. 2 and table 1), ln σ normal."""
    config = config_of(GOLDEN / "edm_augment" / FILE)
    assert config.augmentation.probability == 0.12 and config.network.cond_dim == 9
    experiment = make_experiment(config, jax.devices()[:1])
    objective = experiment.objective
    n, key = 4, jax.random.key(3)
    sigma = jnp.array([0.1, 0.5, 2.0, 20.0], jnp.float32)
    y = jax.random.normal(key, (n, 16, 16, 1), jnp.float32) / 2

    def network(x, c_noise, cond=None):
        return jnp.tanh(x) * (1 + 0 * c_noise.reshape(-1, 1, 1, 1))

    score_fn = make_score_fn(network, objective.sde, objective.parameterization)
    found = objective.loss(jax.random.split(key, n), score_fn, objective.sde, y, sigma)
    x, _ = experiment.sde.perturb(jax.random.split(key, n), y, sigma)
    s = sigma[:, None, None, None]
    total = s**2 + 0.25
    D = 0.25 / total * x + s * 0.5 / jnp.sqrt(total) * jnp.tanh(x / jnp.sqrt(total))
    expected = 0.5 * jnp.sum(total / (0.5 * s) ** 2 * (D - y) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    levels = np.log(objective.times(key, 4000))
    assert abs(levels.mean() + 1.2) < 0.01 and abs(levels.std() - 1.2) < 0.02


@pytest.mark.slow
def test_training_starts_from_the_averages(tmp_path):
    """20 steps of the network with augmentation, at a learning rate that shows: the loss falls, the EMA moves."""
    config = config_of(GOLDEN / "edm_augment" / FILE)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0)
    config.training.update(batch_size=32, num_steps=20, log_every=5, eval_every=0, sample_every=0, ema=0.9)
    import_checkpoint(config, GOLDEN / "edm_augment" / FILE, tmp_path / "run")
    before = run_lib.load(tmp_path / "run")
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    x = np.broadcast_to(ramp[None, :, None, None], (64, 16, 16, 1))
    assert run_lib.train(config, tmp_path / "run", from_arrays(x), devices=jax.devices()[:1], allow_changes=True)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    after = run_lib.load(tmp_path / "run")
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), before.params, after.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


# What the files say


def content(name="edm_cond"):
    return read_nvidia(GOLDEN / name / FILE)


def changed(path, precond="EDMPrecond", model="SongUNet", state=(), **options):
    """The conditional file with another preconditioner, network class, attributes or options."""
    value = content()
    old = value["ema"].modules["model"]
    kwargs = {**old.state["_init_kwargs"], **options}
    network = Persistent(model, {**old.state, "_init_kwargs": kwargs})
    attributes = {**value["ema"].state, **dict(state), "_modules": {"model": network}}
    return write(path, {"ema": Persistent(precond, attributes)})


def test_the_config_that_a_file_states():
    config = config_of(GOLDEN / "edm_augment" / FILE)
    assert config.shape == (16, 16, 1) and config.network.cond_dim == 9 and config.augmentation.probability == 0.12
    assert (config.sde.t_min, config.sde.t_max, config.time_distribution.mean) == (0.002, 80.0, -1.2)
    assert "not for commercial use" in config.license


@pytest.mark.parametrize(
    ("precond", "state", "sigma", "expected"),
    [
        pytest.param(
            "VEPrecond",
            {"sigma_min": 0.02, "sigma_max": 100.0},
            3.0,
            dict(c_in=1.0, c_noise=np.log(1.5)),
            marks=pytest.mark.slow,
        ),
        (
            "VPPrecond",
            {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
            np.sqrt(np.exp(0.5 * 19.9 * 0.25 + 0.05) - 1),
            dict(c_in=None, c_noise=999 * 0.5),
        ),
    ],
)
def test_the_other_preconditioners(tmp_path, precond, state, sigma, expected):
    """D = x ± σ F(c_in x, c_noise) (Karras et al. 2022, table 1), by the network itself."""
    import_checkpoint(None, changed(tmp_path / "a.pkl", precond, state=state), tmp_path / "run")
    m, g = run_lib.load(tmp_path / "run"), golden("edm_cond")
    x, labels = g["x"][1], g["class_labels"]
    sign, scale = (1, 1.0) if precond == "VEPrecond" else (-1, float(1 / np.sqrt(1 + sigma**2)))
    c_noise = jnp.full(len(x), float(expected["c_noise"]), x.dtype)
    F = jax.jit(m.network)(m.params, scale * x, c_noise, cond=labels)
    t = m.sde.time_of_log_snr(jnp.float32(-2 * np.log(sigma)))
    assert abs(m.sde.sigma(t) / m.sde.alpha(t) / sigma - 1) < 1e-5
    D = jax.jit(lambda m, x: m.denoise(x, t, labels))(m, m.sde.alpha(t) * x)
    close(D, x + sign * sigma * F, 2e-5)


def test_the_preconditioner_of_improved_ddpm(tmp_path):
    """Its noise levels u_j by their recursion, and the label M − 1 − j (Karras et al. 2022, table 1)."""
    M, levels = 100, [0.0]
    alpha_bar = lambda j: np.sin(0.5 * np.pi * j / M / 1.008) ** 2  # noqa: E731
    for j in range(M, 0, -1):
        levels.append(np.sqrt((levels[-1] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), 0.001) - 1))
    sections = edm.PROCESSES["iDDPMPrecond"]({"C_1": 0.001, "C_2": 0.008, "M": M}, None)
    sde, parameterization = (build(section_of(sections[key])) for key in ("sde", "parameterization"))
    for k in (1, 2, 40, 99):  # at t = k/M, the level of j = M − k
        t = jnp.float64(k / M)
        np.testing.assert_allclose(sde.sigma(t) / sde.alpha(t), levels[k], rtol=1e-6)
        np.testing.assert_allclose(parameterization(sde, t).c_noise, k - 1, atol=1e-9)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model="OtherUNet"), "expected a network of class SongUNet or DhariwalUNet, got OtherUNet"),
        (dict(precond="OtherPrecond"), "EDMPrecond, VEPrecond, VPPrecond, iDDPMPrecond"),
        (dict(encoder_type="other"), "the option encoder_type must be standard or skip or residual, got other"),
        (dict(extra_option=3), "SongUNet: the option extra_option=3 is not supported"),
        (dict(model_channels=8), "the file is not of this network"),
    ],
)
def test_options_that_cannot_be_read(tmp_path, options, message):
    file = changed(tmp_path / "a.pkl", **options)
    with pytest.raises(ConfigError) as error:
        import_checkpoint(None, file, tmp_path / "run")
    assert message in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_a_file_names_is_not_run(tmp_path, monkeypatch):
    """A global that is called, in the outer stream and in that of a storage; the source of a class has no effect."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "source.pkl", content())  # its sources end the process
    assert describe(tmp_path / "source.pkl") is not None
    calls = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch TRACE\x85R."
    (tmp_path / "outer.pkl").write_bytes(calls)
    inner = b"cposix\nsystem\nX\x0b\x00\x00\x00touch TRACE\x85R0"
    write(tmp_path / "inner.pkl", content(), extra=inner)
    for file, name in (("outer.pkl", "os.system"), ("inner.pkl", "posix.system")):
        with pytest.raises(ValueError) as error:
            describe(tmp_path / file)
        assert f"names '{name}', which is not allowed" in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner.pkl", "outer.pkl", "source.pkl"]
