"""Every config in configs/: it builds, keeps its word in JSON, its network has the published size, and it trains."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.command_line import load_config, shipped_names
from config_lib.spec import ConfigError, diff, from_json, to_json
from configs import score_sde
from data_lib import ArraySource, Dataset
from published_lib.score_sde_names import parameter_shapes
from run_modes.experiment import NO_SAMPLERS, make_experiment
from sde_lib import VE, last_mean
from sde_lib.losses import half_sum, mean
from tests.config_lib.counting import unet

pytestmark = pytest.mark.usefixtures("usual_promotion")

ROOT = Path(__file__).parents[2]
SMALL = (
    "digits",
    "digits_ve",
    "digits_subvp",
    "digits_classifier",
    "digits_inpaint",
    "phantoms",
    "points",
    "strings",
    "text",
)
PUBLISHED = score_sde.NAMES
EXPERIMENTS = (*SMALL, "cifar10", *PUBLISHED)

NCSNPP, HIGH = dict(pyramid_in="residual"), dict(blocks=2, fourier=True, pyramid_in="skip", pyramid_out=True)
HIGH_256 = dict(HIGH, size=256, mults=(1, 1, 2, 2, 2, 2, 2))
HIGH_1024 = dict(HIGH, size=1024, mults=(1, 2, 4, 8, 16, 32, 32, 32), nf=16, blocks=1)
DDPM, DDPM_256 = dict(biggan=False, blocks=2), dict(biggan=False, blocks=2, size=256, mults=(1, 1, 2, 2, 4, 4))
# What the network of an experiment is, in the words of `counting`, and how many parameters that makes.
SIZES = {
    "cifar10_ncsnpp_ve": (dict(NCSNPP, fourier=True), 62_758_915),
    "cifar10_ncsnpp_ve_discrete": (NCSNPP, 62_693_251),
    "cifar10_ncsnpp_vp": (NCSNPP, 62_693_251),
    "cifar10_ncsnpp_vp_discrete": (NCSNPP, 62_693_251),
    "cifar10_ncsnpp_subvp": (NCSNPP, 62_693_251),
    "cifar10_ncsnpp_deep_ve": (dict(NCSNPP, fourier=True, blocks=8), 107_587_075),
    "cifar10_ncsnpp_deep_vp": (dict(NCSNPP, blocks=8), 107_521_411),
    "cifar10_ncsnpp_deep_subvp": (dict(NCSNPP, blocks=8), 107_521_411),
    "cifar10_ddpmpp_vp": ({}, 61_804_419),
    "cifar10_ddpmpp_vp_discrete": ({}, 61_804_419),
    "cifar10_ddpmpp_subvp": ({}, 61_804_419),
    "cifar10_ddpmpp_deep_vp": (dict(blocks=8), 106_632_579),
    "cifar10_ddpmpp_deep_subvp": (dict(blocks=8), 106_632_579),
    "cifar10_ddpm_vp": (DDPM, 35_218_947),
    "cifar10_ddpm_subvp": (DDPM, 35_218_947),
    "cifar10_ddpm_vp_discrete": (DDPM, 35_218_947),
    "cifar10_ddpm_ve_discrete": (DDPM, 35_218_947),
    "cifar10_ddpm_unconditional_vp_discrete": (dict(DDPM, conditional=False), 32_329_347),
    "celeba_ncsnpp_ve_discrete": (dict(NCSNPP, size=64), 62_693_251),
    "bedroom_ncsnpp_ve": (HIGH_256, 65_574_549),
    "church_ncsnpp_ve": (HIGH_256, 65_574_549),
    "celebahq_256_ncsnpp_ve": (HIGH_256, 65_574_549),
    "ffhq_256_ncsnpp_ve": (HIGH_256, 65_574_549),
    "celebahq_1024_ncsnpp_ve": (HIGH_1024, 105_785_896),
    "ffhq_1024_ncsnpp_ve": (HIGH_1024, 105_785_896),
    "bedroom_ddpm_vp_discrete": (DDPM_256, 111_569_923),
    "church_ddpm_vp_discrete": (DDPM_256, 111_569_923),
    "celebahq_256_ddpm_vp_discrete": (DDPM_256, 111_569_923),
    # Not counted by arithmetic: NCSNv2's leaves are those of published files (tests/published_lib/test_names.py), and
    # NCSN differs only in its norms, which have three numbers per channel and level.
    "cifar10_ncsn": (None, 30_117_635),
    "cifar10_ncsn_5": (None, 30_117_635),
    "cifar10_ncsn_124": (None, 39_750_659),
    "cifar10_ncsn_1245": (None, 39_750_659),
    "celeba_ncsn": (None, 30_117_635),
    "celeba_ncsn_5": (None, 30_117_635),
    "celeba_ncsn_124": (None, 51_379_715),
    "celeba_ncsn_1245": (None, 51_379_715),
    "cifar10_ncsnv2": (None, 33_970_563),
    "celeba_ncsnv2": (None, 33_970_563),
    "bedroom_ncsnv2": (None, 83_445_379),
}
COUNTED = {name: (network, size) for name, (network, size) in SIZES.items() if network is not None}
QUICK_SIZES = ("cifar10_ncsnpp_ve", "cifar10_ddpm_unconditional_vp_discrete")
QUICK_RUN = "cifar10_ddpmpp_vp_discrete"


def config_of(name):
    """As the command line finds it."""
    return load_config(f"score_sde:{name}" if name in PUBLISHED else name)


def marked(names, quick):
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


@functools.cache
def count_of(shape, network):
    config = from_json(network)
    built = make_experiment(config).network
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(built, shape)))


def parameter_count(config):
    """Of the network and the shape alone, so that experiments with the same network share the work."""
    same = config_of("cifar10")
    same.shape, same.network = config.shape, config.network
    return count_of(tuple(config.shape), to_json(same))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_and_round_trips(name):
    config = config_of(name)
    for choice in config.sampling:
        if choice not in NO_SAMPLERS:
            config.sampling.use = choice
            parts = make_experiment(config)
            assert parts.sampler.nfe > 0
    assert to_json(from_json(to_json(config))) == to_json(config)


STARTING_POINTS = ("photos", "signals", "volume", "table")  # tests/configs/test_starting_points.py


def test_shipped_experiments_are_found_by_name():
    """Every one of them, from any folder; cifar10 is one of the table; an unknown name lists those there are."""
    assert set(shipped_names()) == {*SMALL, "adm", "cifar10", "score_sde", *STARTING_POINTS}
    assert diff(config_of("cifar10"), config_of("cifar10_ncsnpp_ve")) == []
    for path, message in (
        ("nowhere", r"there is no file nowhere; shipped are .*digits.*score_sde"),
        ("configs/cifar10_ddpmpp_vp.py", r"it is --config=score_sde:cifar10_ddpmpp_vp"),
        ("score_sde:nothing", r"no experiment 'nothing': expected configs/score_sde.py:NAME with one of cifar10_"),
        ("score_sde", r"no experiment ''"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path)
    for name in ("digits", "cifar10"):
        assert f"--config=configs/{name}.py --workdir=runs/" in (ROOT / "configs" / f"{name}.py").read_text()


def test_every_experiment_is_counted_and_listed():
    """docs/experiments.md has a line for each, with its size."""
    assert set(SIZES) == set(PUBLISHED)
    lines = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \|$", (ROOT / "docs" / "experiments.md").read_text(), re.MULTILINE)
    assert {name: int(size.replace(",", "")) for name, size in lines} == {k: size for k, (_, size) in SIZES.items()}


@pytest.mark.parametrize(("network", "size"), COUNTED.values(), ids=COUNTED)
def test_published_sizes_by_arithmetic(network, size):
    assert unet(**network) == size


@pytest.mark.parametrize("name", marked(SIZES, QUICK_SIZES))
def test_parameter_counts(name):
    assert parameter_count(config_of(name)) == SIZES[name][1]


def test_size_of_the_digits():
    assert parameter_count(config_of("digits")) == 748_737


def test_cifar10_is_the_published_experiment():
    """Song et al. 2021, appendix H and their configuration, with noise levels doubled for data in [−1, 1]."""
    config = config_of("cifar10")
    parts = make_experiment(config)
    assert parts.sde == VE(sigma_min=0.02, sigma_max=100.0)
    assert parts.sampler.nfe == 2000 and parts.sampler.solver.corrector.norm == "batch"
    training, optimizer = config.training, config.optimizer
    assert (training.batch_size, training.num_steps, training.ema, training.flip) == (128, 1_300_000, 0.999, True)
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.clip_norm) == (2e-4, 5000, 1.0)


@pytest.mark.parametrize(("name", "first"), [("published", True), ("paper", False)])
def test_both_orders_of_predictor_and_corrector_have_a_name(name, first):
    """As score_sde computes and as algorithm 1 is printed: norms of the batch, the last step without its noise."""
    config = config_of("points")
    config.sampling.use = name
    sampler = make_experiment(config).sampler
    assert sampler.solver.corrector_first is first and sampler.solver.corrector.norm == "batch"
    assert sampler.denoise is last_mean and sampler.nfe == 2000


def keywords(experiment):
    """The options bound to the loss."""
    return getattr(experiment.objective.loss, "keywords", {})


# What the published code computes, in its own units and words: noise levels, labels, evaluations.


@pytest.mark.parametrize(
    ("name", "largest", "scales", "snr"),
    [("cifar10_ncsnpp_ve_discrete", 50, 1000, 0.16), ("celeba_ncsnpp_ve_discrete", 90, 1000, 0.17)],
)
def test_discrete_ve_has_the_published_table(name, largest, scales, snr):
    """σ_i geometric from the largest to 0.01 for data in [0, 1], and label i; ½Σ over pixels; 2 evaluations a level."""
    parts = make_experiment(config_of(name))
    label = np.array([0, 1, scales // 2, scales - 1])
    published = largest * (0.01 / largest) ** (label / (scales - 1))
    t = jnp.asarray(1 - label / (scales - 1))
    np.testing.assert_allclose(parts.sde.sigma(t), 2 * published, rtol=1e-5)
    np.testing.assert_allclose(parts.parameterization(parts.sde, t).c_noise, label, atol=1e-3)
    np.testing.assert_allclose(parts.parameterization(parts.sde, t).c_out, 1 / (2 * published), rtol=1e-5)
    times = parts.objective.times(jax.random.key(0), 4000)
    drawn = np.unique(np.round(np.asarray(times) * (scales - 1), 3))
    np.testing.assert_allclose(drawn, np.round(drawn), atol=0.05)  # float32 has 10⁻⁴ of a step
    assert drawn.min() >= 0 and drawn.max() == scales - 1 and len(drawn) > 900
    assert keywords(parts).get("reduce", half_sum) is half_sum
    assert parts.sampler.nfe == 2 * (scales - 1) + 1 and parts.sampler.solver.corrector.snr == snr


@pytest.mark.parametrize(
    ("name", "largest", "scales", "steps", "snr", "rate", "ema"),
    [
        ("cifar10_ncsn", 1, 10, 100, 0.316, 1e-3, 0.0),
        ("celeba_ncsn_5", 1, 10, 100, 0.316, 1e-3, 0.999),
        ("cifar10_ncsn_124", 50, 232, 5, 0.176, 1e-3, 0.0),
        ("celeba_ncsn_1245", 90, 500, 5, 0.128, 1e-3, 0.999),
        ("cifar10_ncsnv2", 50, 232, 5, 0.176, 1e-4, 0.999),
        ("celeba_ncsnv2", 90, 500, 5, 0.128, 1e-4, 0.999),
        ("bedroom_ncsnv2", 190, 1086, 3, 0.095, 1e-4, 0.9999),
    ],
)
def test_ncsn_has_the_published_values(name, largest, scales, steps, snr, rate, ema):
    """The network of NCSN is the score, that of NCSNv2 σ times the score; both are told the number of the level."""
    config = config_of(name)
    parts = make_experiment(config)
    label = np.array([0, scales // 2, scales - 1])
    t = jnp.asarray(1 - label / (scales - 1))
    sigma = 2 * largest * (0.01 / largest) ** (label / (scales - 1))
    np.testing.assert_allclose(parts.sde.sigma(t), sigma, rtol=1e-5)
    c = parts.parameterization(parts.sde, t)
    np.testing.assert_allclose(c.c_noise, label, atol=1e-3)
    np.testing.assert_allclose(c.c_out, 1 / sigma if "v2" in name else 1.0, rtol=1e-5)
    solver, corrector = parts.sampler.solver, parts.sampler.solver.corrector
    assert (corrector.steps, corrector.snr, solver.corrector_first) == (steps, snr, False)
    assert parts.sampler.nfe == steps * (scales - 1)
    assert config.network.get("num_levels", scales) == scales and config.training.ema == ema
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (rate, 0) and optimizer.clip_norm > 1e9


def test_discrete_vp_has_the_published_table():
    """β linear from 10⁻⁴ to 0.02, label k − 1 = 0 … 999; mean over pixels; the posterior with the large variance."""
    parts = make_experiment(config_of("cifar10_ddpm_vp_discrete"))
    label = np.array([0, 500, 999])
    t = jnp.asarray((label + 1) / 1000)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(np.asarray(parts.sde.alpha(t)) ** 2, alphas[label], rtol=1e-5)
    np.testing.assert_allclose(parts.parameterization(parts.sde, t).c_noise, label, atol=1e-3)
    assert keywords(parts)["reduce"] is mean and parts.sampler.solver.large_variance
    assert parts.sampler.nfe == 1000


@pytest.mark.parametrize("name", [name for name in PUBLISHED if re.search(r"_(sub)?vp$", name)])
def test_continuous_vp_is_told_999_t(name):
    parts = make_experiment(config_of(name))
    t = jnp.asarray([1e-3, 0.5, 1.0])
    np.testing.assert_allclose(parts.parameterization(parts.sde, t).c_noise, 999 * t, rtol=1e-6)
    exponent = np.asarray(0.1 * t + 0.5 * 19.9 * t**2, np.float64)
    variance = -np.expm1(-exponent)
    sigma = variance if name.endswith("subvp") else np.sqrt(variance)
    np.testing.assert_allclose(parts.sde.sigma(t), sigma, rtol=1e-5)
    assert parts.sampler.nfe == 1000 and keywords(parts)["reduce"] is mean
    deep = config_of(name).training.num_steps == 950_000
    assert deep == ("deep" in name) and config_of(name).training.ema == 0.9999


@pytest.mark.parametrize(
    ("name", "largest", "snr", "batch", "ema"),
    [
        ("bedroom_ncsnpp_ve", 378, 0.075, 64, 0.999),
        ("church_ncsnpp_ve", 380, 0.075, 64, 0.999),
        ("celebahq_256_ncsnpp_ve", 348, 0.075, 64, 0.999),
        ("ffhq_256_ncsnpp_ve", 348, 0.075, 64, 0.999),
        ("celebahq_1024_ncsnpp_ve", 1348, 0.15, 8, 0.9999),
        ("ffhq_1024_ncsnpp_ve", 1348, 0.15, 8, 0.9999),
    ],
)
def test_high_resolutions_have_the_published_values(name, largest, snr, batch, ema):
    config = config_of(name)
    parts = make_experiment(config)
    assert parts.sde == VE(sigma_min=0.02, sigma_max=2.0 * largest)
    assert parts.sampler.nfe == 4000 and parts.sampler.solver.corrector.snr == snr
    training = config.training
    assert (training.batch_size, training.num_steps, training.ema) == (batch, 2_400_000, ema)
    assert config.network.dropout == 0 and config.optimizer.learning_rate == 2e-4
    assert (keywords(parts).get("reduce", half_sum) is mean) == (name == "ffhq_1024_ncsnpp_ve")


def shrunk(config, ch_mult=(1, 1)):
    """The experiment with a network and images that train in seconds; all that it chooses stays."""
    network = config.network
    unet = dict(num_res_blocks=1, attn_resolutions=())
    network.update(
        nf=4, ch_mult=ch_mult, **(unet if "num_res_blocks" in network else dict(dilations=(1, 2), refine_mult=(1, 1)))
    )
    config.shape = (4, 4, 3)
    config.training.update(num_steps=2, batch_size=4, sample_every=0, eval_every=0, log_every=1, checkpoint_every=2)
    return config


@pytest.mark.parametrize(
    ("name", "ch_mult"),
    [(QUICK_RUN, (1,)), *(pytest.param(name, (1, 1), marks=pytest.mark.slow) for name in PUBLISHED)],
)
def test_experiment_trains(name, ch_mult, tmp_path, usual_promotion):
    config = shrunk(config_of(name), ch_mult)
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    data = Dataset(ArraySource(x), ArraySource(x[:4]))
    assert run_lib.train(config, tmp_path / "run", data, jax.devices()[:1])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 2 and '"step": 2' in lines[-1]
