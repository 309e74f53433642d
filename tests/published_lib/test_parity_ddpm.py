"""DDPM (Ho et al. 2020) as an option set of NCSN++: the published leaves; and with its weights, outputs and losses."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LinenNetwork, NCSNpp
from published_lib.score_sde_names import from_flax, from_torch, parameter_shapes
from sde_lib import VP, LikelihoodWeight, PredictNoise, ScaledTime, SigmaSquared, discrete_vp, dsm_loss, make_score_fn
from sde_lib.losses import half_sum, mean
from tests.published_lib.published import GOLDEN, golden
from tests.published_lib.test_parity import given, relative

DDPM = dict(block="ddpm", fir_taps=(), skip_rescale=False)
SMALL = dict(DDPM, nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(8,), min_group=1)
STEPS = 1000


def test_published_leaves():
    """Each goes to a leaf of its shape, and none is left."""
    network = LinenNetwork(NCSNpp(**SMALL))
    names = json.loads((GOLDEN / "ddpm_params.json").read_text())
    tree = {}
    for i, (name, shape) in enumerate(names.items()):
        *modules, leaf = name.split("/")
        parent = tree
        for module in modules:
            parent = parent.setdefault(module, {})
        parent[leaf] = np.full(shape, i, np.float32)
    ours = from_flax(tree, parameter_shapes(network, (16, 16, 3)))
    number = list(names).index
    shortcut = ours["ResidualBlock_4"]["Conv_2"]["kernel"]
    assert shortcut.shape == (1, 1, 64, 32) and np.all(shortcut == number("ResnetBlockDDPM_4/NIN_0/W"))
    assert np.all(ours["ConvUpsample_0"]["Conv_0"]["bias"] == number("Upsample_0/Conv_0/bias"))
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == sum(int(np.prod(shape)) for shape in names.values())


def test_size_on_cifar10():
    """Two attention blocks short of the 35.7 million of Ho et al. 2020, appendix B: on the way up theirs follows every
    block of a level, the published score networks' the last one."""
    network = LinenNetwork(NCSNpp(**DDPM, ch_mult=(1, 2, 2, 2), num_res_blocks=2))
    shapes = parameter_shapes(network, (32, 32, 3))
    attention = 4 * (256 * 256 + 256) + 2 * 256
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round((count + 2 * attention) / 1e6, 1) == 35.7


@pytest.fixture(scope="module")
def published():
    network = LinenNetwork(NCSNpp(**SMALL))
    with np.load(GOLDEN / "ddpm" / "ema.npz") as file:
        params = from_torch(dict(file), parameter_shapes(network, (16, 16, 3)))
    return partial(jax.jit(network), params), golden("ddpm")


def process():
    return discrete_vp(betas=tuple(np.linspace(0.1 / STEPS, 20 / STEPS, STEPS)))


def test_outputs_and_scores(published):
    """At whole labels k - 1 our score is the published one. Between them its sigma is that of the label below, and the
    published float32 product of the first is off by 6e-5."""
    network, numbers = published
    for at, c_noise in (("", "time_cond"), ("_labels", "labels")):
        out = network(numbers["x_noisy"], jnp.asarray(numbers[c_noise], jnp.float32))
        assert relative(out, numbers[f"net_out_ema_noisy{at}"]) < 2e-5
    sde, t = process(), jnp.asarray((np.floor(numbers["time_cond"]) + 1) / STEPS)
    for x in ("noisy", "clean"):
        out = network(numbers[f"x_{x}"], jnp.asarray(numbers["time_cond"]))
        score = -out / np.asarray(sde.sigma(t), np.float32).reshape(-1, 1, 1, 1)
        assert relative(score, numbers[f"score_ema_{x}"]) < 1e-4


def test_discrete_losses(published, monkeypatch):
    """Algorithm 1 of Ho et al. by dsm_loss, on the discrete process at t_k = k/N with the label k - 1."""
    network, numbers = published
    sde, t = process(), jnp.asarray((numbers["dloss_labels"] + 1) / STEPS)
    x0, eps = (jnp.asarray(numbers[f"loss_{name}"]) for name in ("data", "z"))
    draws = given(monkeypatch, sde, t, eps)
    assert relative(sde.perturb(None, x0, t)[0], numbers["dloss_perturbed"]) < 1e-5
    parameterization = PredictNoise(c_noise=ScaledTime(scale=float(STEPS), offset=-1.0))
    score_fn = make_score_fn(network, sde, parameterization)
    for rm, reduce in enumerate((half_sum, mean)):
        loss = dsm_loss(score_fn=score_fn, sde=sde, x0=x0, reduce=reduce, **draws)
        np.testing.assert_allclose(loss, numbers[f"dloss_ema_rm{rm}"], rtol=1e-5)


def test_continuous_losses(published, monkeypatch):
    """The published score of the discrete network under the continuous process, which has its sigma from the table."""
    network, numbers = published
    sde, t = VP(), jnp.asarray(numbers["loss_t"])
    x0, eps = (jnp.asarray(numbers[f"loss_{name}"]) for name in ("data", "z"))
    draws = given(monkeypatch, sde, t, eps)
    x, _ = sde.perturb(None, x0, t)
    label = (STEPS - 1) * t
    sigma = np.asarray(process().sigma((jnp.floor(label) + 1) / STEPS), np.float32).reshape(-1, 1, 1, 1)
    score = -network(x, label) / sigma
    for lw, weight in enumerate((SigmaSquared(), LikelihoodWeight())):
        for rm, reduce in enumerate((half_sum, mean)):
            loss = dsm_loss(score_fn=lambda *_: score, sde=sde, x0=x0, weight=weight, reduce=reduce, **draws)
            np.testing.assert_allclose(loss, numbers[f"loss_ema_lw{lw}_rm{rm}"], rtol=5e-5)
