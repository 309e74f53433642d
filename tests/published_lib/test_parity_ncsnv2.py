"""NCSNv2 with the published weights, of both implementations: outputs, scores, losses, import, and further training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.spec import bind, spec
from configs.base import base
from models import LinenNetwork, NCSNv2
from published_lib.score_sde_names import from_torch, parameter_shapes
from run_modes.import_published import import_checkpoint, read_published
from sde_lib import VE, LikelihoodWeight, PredictScore, SigmaSquared, discrete_ve, dsm_loss, make_score_fn
from sde_lib.losses import half_sum, mean
from tests.published_lib.published import GOLDEN, STEP, golden
from tests.published_lib.test_parity import given, relative

pytestmark = pytest.mark.usefixtures("usual_promotion")

LEVELS = 232
TORCH = dict(refine_mult=(2, 2, 1, 1), resize="corners", unbiased=True)


def process():
    """In [−1, 1], where noise levels are twice those of data in [0, 1]; label 0 is the last time."""
    return discrete_ve(num_scales=LEVELS, sigma_min=0.02, sigma_max=100.0)


def time_of(labels):
    return jnp.asarray(1 - np.asarray(labels) / (LEVELS - 1), jnp.float32)


def opened(name, **options):
    network = LinenNetwork(NCSNv2(nf=4, **options))
    file = read_published(GOLDEN / "ncsnv2" / name, parameter_shapes(network, (16, 16, 3)))
    assert file.step == STEP

    @jax.jit
    def score(params, x, t):
        """In the published units, of x there."""
        return 2 * make_score_fn(partial(network, params), process(), PredictScore())(2 * x - 1, t)

    return file, score


@pytest.fixture(scope="module")
def published():
    return *opened("flax.msgpack"), golden("ncsnv2")


def test_outputs_and_scores(published):
    """The published network divides its output by σ, which makes it the score."""
    file, score, numbers = published
    assert file.moments.count == STEP
    for weights, params in (("ema", file.ema_params), ("params", file.params)):
        for at, labels in (("", "time_cond"), ("_labels", "labels")):
            found = score(params, jnp.asarray(numbers["x_noisy"]), time_of(numbers[labels]))
            assert relative(found, numbers[f"net_out_{weights}_noisy{at}"]) < 1e-5
    for x in ("noisy", "clean"):
        found = score(file.ema_params, jnp.asarray(numbers[f"x_{x}"]), time_of(numbers["time_cond"]))
        assert relative(found, numbers[f"score_ema_{x}"]) < 1e-5


def test_the_torch_network():
    file, score = opened("torch.pth", **TORCH)
    assert file.moments is None
    numbers = golden("ncsnv2")
    with np.load(GOLDEN / "ncsnv2" / "golden_torch.npz") as theirs:
        for weights, params in (("ema", file.ema_params), ("params", file.params)):
            found = score(params, jnp.asarray(numbers["x_noisy"]), time_of(numbers["time_cond"]))
            assert relative(found, theirs[f"net_out_{weights}_noisy"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"resize": "linear"}, {"unbiased": False}, {"nonlinearity": "swish"}])
def test_another_option_with_the_same_parameters_gives_another_output(options):
    file, score = opened("torch.pth", **TORCH | options)
    numbers = golden("ncsnv2")
    found = score(file.ema_params, jnp.asarray(numbers["x_noisy"]), time_of(numbers["time_cond"]))
    with np.load(GOLDEN / "ncsnv2" / "golden_torch.npz") as theirs:
        assert relative(found, theirs["net_out_ema_noisy"]) > 1e-3


def test_the_torch_file_is_not_of_the_jax_network():
    with pytest.raises(ValueError, match=r"module.refine3.output_convs.* for RefineBlock_2/"):
        opened("torch.pth")
    entries = {"module.res1.0.conv3.weight": np.zeros(3), "module.refine9.crp.convs.0.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"2 not in the network: module.res1.0.conv3.weight .3,., module.refine9"):
        from_torch(entries, parameter_shapes(LinenNetwork(NCSNv2(nf=4)), (16, 16, 3)))


def test_discrete_losses(published, monkeypatch):
    """Eq. 5 and 6 of Song & Ermon 2019 at given levels: dsm_loss on the discrete process."""
    file, score, numbers = published
    sde, t = process(), time_of(numbers["dloss_labels"])
    x0, eps = jnp.asarray(2 * numbers["loss_data"] - 1), jnp.asarray(numbers["loss_z"])
    draws = given(monkeypatch, sde, t, eps)
    for weights, params in (("ema", file.ema_params), ("params", file.params)):
        score_fn = lambda x, t, params=params: score(params, (x + 1) / 2, t) / 2  # noqa: E731
        for rm, reduce in enumerate((half_sum, mean)):
            loss = dsm_loss(score_fn=score_fn, sde=sde, x0=x0, reduce=reduce, **draws)
            np.testing.assert_allclose(loss, numbers[f"dloss_{weights}_rm{rm}"], rtol=1e-4)


def test_continuous_losses(published, monkeypatch):
    """The published score of the discrete network, at the nearest level, under the continuous process."""
    file, score, numbers = published
    sde, t = VE(sigma_min=0.02, sigma_max=100.0), jnp.asarray(numbers["loss_t"])
    x0, eps = jnp.asarray(2 * numbers["loss_data"] - 1), jnp.asarray(numbers["loss_z"])
    draws = given(monkeypatch, sde, t, eps)
    x, _ = sde.perturb(None, x0, t)
    level = time_of(jnp.round((1 - t) * (LEVELS - 1)))
    for weights, params in (("ema", file.ema_params), ("params", file.params)):
        found = score(params, (x + 1) / 2, level) / 2
        for lw, weight in enumerate((SigmaSquared(), LikelihoodWeight())):
            for rm, reduce in enumerate((half_sum, mean)):
                loss = dsm_loss(score_fn=lambda *_, s=found: s, sde=sde, x0=x0, weight=weight, reduce=reduce, **draws)
                np.testing.assert_allclose(loss, numbers[f"loss_{weights}_lw{lw}_rm{rm}"], rtol=1e-4)


@pytest.mark.slow
def test_a_work_directory(tmp_path, capsys):
    config = base()
    config.shape = (16, 16, 3)
    config.sde = spec(VE, sigma_min=0.02, sigma_max=100.0)
    config.network = spec(NCSNv2, nf=4)
    config.parameterization = spec(PredictScore)
    config.loss = bind(dsm_loss)
    assert import_checkpoint(config, GOLDEN / "ncsnv2" / "flax.msgpack", tmp_path / "run") == STEP
    assert "Adam resumes with its moments after 4321 steps." in capsys.readouterr().out
    model = run_lib.load(tmp_path / "run")
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)), jnp.float32)
    assert bool(jnp.all(jnp.isfinite(model.score(x / 127.5 - 1, 0.5))))
