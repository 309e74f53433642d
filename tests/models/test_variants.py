"""Options of NCSN++ that no published checkpoint has, against the outputs of the published implementation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import LinenNetwork, NCSNpp
from models.layers import activation
from published_lib.score_sde_names import from_flax, parameter_shapes

GOLDEN = Path(__file__).parents[1] / "golden" / "variants"
SMALL = dict(nf=4, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), block="ddpm")
VARIANTS = {
    "residual_firconv": dict(
        SMALL,
        embedding="fourier",
        fir_taps=(1.0, 3.0, 3.0, 1.0),
        skip_rescale=False,
        progressive_input="residual",
        progressive="residual",
    ),
    "cat_nofir_uncond": dict(
        SMALL,
        embedding="fourier",
        fir_taps=(),
        resample_with_conv=False,
        progressive_input="input_skip",
        progressive="output_skip",
        progressive_combine="cat",
        noise_conditional=False,
    ),
    "sigma_scaled_positional": dict(SMALL, fir_taps=(1.0, 2.0, 4.0, 2.0), nonlinearity="elu"),
}


def output_error(name, **options):
    """The largest error over the largest value, in the worst example.

    The published network takes data in [0, 1] in the first two, and divides its output by sigma: with the positional
    embedding, the one of 1000 from 50 down to 0.01 that floor(c_noise) numbers."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    network = LinenNetwork(NCSNpp(**VARIANTS[name] | options))
    theirs = {tuple(key[6:].split("/")): value for key, value in golden.items() if key.startswith("param:")}
    params = from_flax(unflatten_dict(theirs), parameter_shapes(network, (16, 16, 3)))
    x, c_noise, expected = golden["x"], golden["time_cond"], golden["net_out"]
    if name == "sigma_scaled_positional":
        sigma = 50.0 * (0.01 / 50.0) ** (c_noise.astype(int) / 999)
    else:
        x, c_noise, sigma = 2 * x - 1, np.log(c_noise), c_noise
    out = jax.jit(network)(params, jnp.asarray(x), jnp.asarray(c_noise)) / sigma.astype(np.float32).reshape(-1, 1, 1, 1)
    largest = np.max(np.abs(expected), axis=(1, 2, 3))
    return np.max(np.max(np.abs(out - expected), axis=(1, 2, 3)) / largest)


@pytest.mark.parametrize("name", VARIANTS)
def test_output_is_the_published_one(name):
    assert output_error(name) < 5e-6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual_firconv", {"skip_rescale": True}),
        pytest.param("residual_firconv", {"fir_taps": ()}, marks=pytest.mark.slow),
        ("cat_nofir_uncond", {"fir_taps": (1.0, 3.0, 3.0, 1.0)}),
        pytest.param("sigma_scaled_positional", {"fir_taps": (2.0, 4.0, 2.0, 1.0)}, marks=pytest.mark.slow),
        ("sigma_scaled_positional", {"nonlinearity": "swish"}),
        pytest.param("sigma_scaled_positional", {"min_group": 2}, marks=pytest.mark.slow),
    ],
)
def test_another_option_with_the_same_parameters_gives_another_output(name, options):
    assert output_error(name, **options) > 1e-2


def test_without_noise_conditioning_there_is_no_noise_and_no_class():
    network = LinenNetwork(NCSNpp(nf=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), noise_conditional=False))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)

    def both(key):
        params = network.init(key, x, jnp.zeros(1))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        return network(params, jnp.concatenate([x, x]), jnp.array([-1.0, 3.0]))

    first, second = jax.jit(both)(jax.random.key(0))
    np.testing.assert_array_equal(first, second)
    assert float(jnp.std(first)) > 0.01
    with pytest.raises(ValueError, match="cond: expected None, since the network has num_classes=0"):
        jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match="num_classes: expected 0 with noise_conditional=False, got 3"):
        NCSNpp(noise_conditional=False, num_classes=3)


@pytest.mark.parametrize(
    ("name", "below"), [("swish", -2 / (1 + np.e**2)), ("elu", np.exp(-2) - 1), ("relu", 0.0), ("lrelu", -0.4)]
)
def test_nonlinearities(name, below):
    above = 2 / (1 + np.exp(-2)) if name == "swish" else 2.0
    np.testing.assert_allclose(activation(name)(jnp.array([-2.0, 2.0])), [below, above], rtol=1e-6)


def test_nonlinearities_are_listed():
    with pytest.raises(ValueError, match="nonlinearity: expected one of 'swish', 'elu', 'relu', 'lrelu', got 'gelu'"):
        NCSNpp(nonlinearity="gelu")
    with pytest.raises(ValueError, match="block: expected one of 'biggan', 'ddpm', got 'vit'"):
        NCSNpp(block="vit")
