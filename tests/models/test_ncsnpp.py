"""The U-Net: the published size, any spatial shape, conditioning, dropout, independence of the samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LinenNetwork, NCSNpp
from tests.helpers import close
from tests.models.common import KEY, batch, jit, random_params, shapes

TINY = dict(nf=4, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), dropout=0.0)
NCSNPP = dict(embedding="fourier", fir_taps=(1, 3, 3, 1), progressive_input="residual")
ONE_LEVEL = {**TINY, "ch_mult": (1,)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def compiled(net):
    return jit(lambda *args, **keywords: LinenNetwork(net)(*args, **keywords))


C_NOISE = jnp.array([0.3, -1.2], jnp.float32)


def test_published_cifar10_size():
    # The number of the continuous VE NCSN++ on CIFAR-10; it includes the 128 fixed Fourier frequencies.
    params = shapes(NCSNpp(**NCSNPP), 32, 32, 3)
    assert count(params) == 62_758_915
    assert params["GaussianFourierProjection_0"]["W"].shape == (128,)


@pytest.mark.parametrize(
    "event, options",
    [
        ((28, 28, 1), {}),
        ((50, 37, 2), {**NCSNPP, "attn_levels": (1,)}),
        ((7, 7, 3), {"progressive_input": "input_skip", "progressive": "output_skip", "fir_taps": (1, 3, 3, 1)}),
        ((6, 9, 2), {"progressive_input": "input_skip", "progressive_combine": "cat"}),
        ((64, 3), NCSNPP),
        ((5, 1), {"ch_mult": (1, 1, 1, 1)}),
        ((4, 3, 5, 1), NCSNPP),
        ((7, 5, 3), {"block": "ddpm", "progressive": "residual", "fir_taps": (1, 3, 3, 1)}),
        ((5, 2), {"block": "ddpm", "fir_taps": ()}),
        ((9, 4, 1), {"block": "ddpm", "fir_taps": (), "resample_with_conv": False}),
    ],
)
def test_any_spatial_shape(event, options):
    net = NCSNpp(**{**TINY, **options})
    x = jnp.zeros((2, *event))
    out = jax.eval_shape(lambda p: LinenNetwork(net)(p, x, jnp.zeros(2)), shapes(net, *event))
    assert out.shape == x.shape


@pytest.mark.parametrize(
    "options",
    [
        NCSNPP,
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"progressive_input": "input_skip", "progressive": "output_skip", "fir_taps": (1, 3, 3, 1)},
                {"block": "ddpm", "progressive_input": "residual", "progressive": "residual", "fir_taps": (1, 3, 3, 1)},
            )
        ),
    ],
)
def test_every_pixel_and_every_kernel_has_influence(options):
    # So padding and cropping of odd sizes cut nothing off, and no branch is computed in vain.
    net = NCSNpp(**TINY, **options)
    params, x = random_params(net, 7, 5, 2), batch(2, 7, 5, 2)
    forward = LinenNetwork(net)
    gradients = jit(jax.grad(lambda p, x: jnp.sum(forward(p, x, C_NOISE) ** 2), argnums=(0, 1)))(params, x)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradients))
    assert bool(jnp.all(gradients[1] != 0))
    kernels = [(path, g) for path, g in jax.tree.leaves_with_path(gradients[0]) if path[-1].key == "kernel"]
    assert [path for path, g in kernels if float(jnp.max(jnp.abs(g))) == 0] == []


@pytest.mark.parametrize("options", [{}, {"progressive": "output_skip"}])
def test_a_fresh_network_is_almost_zero(options):
    net = LinenNetwork(NCSNpp(**ONE_LEVEL, **options))
    x = batch(2, 4, 4, 2)

    def fresh_output(key):
        return net(net.init(key, x, C_NOISE), x, C_NOISE)

    out = jit(fresh_output)(KEY)
    assert 0 < float(jnp.max(jnp.abs(out))) < 1e-3


def test_attention_by_resolution_and_by_level():
    def blocks(**options):
        return sum("AttentionBlock" in name for name in shapes(NCSNpp(**{**TINY, **options}), 8, 8, 1))

    assert blocks() == 1
    assert blocks(attn_resolutions=(4,)) == 1 + 1 + 1
    assert blocks(attn_resolutions=(8,), num_res_blocks=2) == 1 + 2 + 1
    assert shapes(NCSNpp(**{**TINY, "attn_levels": (1,)}), 8, 8, 1) == shapes(
        NCSNpp(**{**TINY, "attn_resolutions": (4,)}), 8, 8, 1
    )


def test_samples_are_independent_of_their_neighbors():
    net = NCSNpp(**{**TINY, "attn_levels": (0,)}, **NCSNPP)
    params, x = random_params(net, 6, 6, 2), batch(2, 6, 6, 2)
    forward = compiled(net)
    out = forward(params, x, C_NOISE)
    changed = forward(params, x.at[1].set(7.0), C_NOISE.at[1].set(2.0))
    close(changed[0], out[0], 1e-5)
    assert float(jnp.max(jnp.abs(changed[1] - out[1]))) > 1e-2


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_the_noise_level_matters(embedding):
    net = NCSNpp(**ONE_LEVEL, embedding=embedding)
    params, x = random_params(net, 4, 4, 1), batch(1, 4, 4, 1)
    x = jnp.concatenate([x, x])
    out = compiled(net)(params, x, C_NOISE)
    assert float(jnp.max(jnp.abs(out[0] - out[1]))) > 1e-3


def test_dropout_key_matters_only_in_train():
    net = NCSNpp(**{**ONE_LEVEL, "dropout": 0.5})
    params, x = random_params(net, 4, 4, 1), batch(2, 4, 4, 1)
    forward = jit(lambda key, train: LinenNetwork(net)(params, x, C_NOISE, key=key, train=train), static_argnums=1)
    one, two = jax.random.split(KEY)
    np.testing.assert_array_equal(forward(one, False), forward(two, False))
    np.testing.assert_array_equal(forward(one, True), forward(one, True))
    assert float(jnp.max(jnp.abs(forward(one, True) - forward(two, True)))) > 1e-3
    with pytest.raises(ValueError, match=r"NCSNpp: train=True draws random numbers .*expected key=, got None"):
        jax.eval_shape(lambda: LinenNetwork(net)(params, x, C_NOISE, train=True))


def test_class_labels_and_the_null_label():
    net = NCSNpp(**ONE_LEVEL, num_classes=3)
    params, x = random_params(net, 4, 4, 1), batch(1, 4, 4, 1)
    x = jnp.concatenate([x] * 4)
    c_noise = jnp.full(4, 0.3, jnp.float32)
    forward = compiled(net)
    out = forward(params, x, c_noise, cond=jnp.arange(4))
    null = forward(params, x, c_noise)
    close(null[0], out[3], 1e-5)
    for i in range(4):
        for j in range(i):
            assert float(jnp.max(jnp.abs(out[i] - out[j]))) > 1e-3


@pytest.mark.parametrize("cond", [jnp.zeros(3, jnp.int32), jnp.zeros(2, jnp.float32), jnp.zeros((2, 1), jnp.int32)])
def test_labels_must_be_integers_one_for_each_sample(cond):
    with pytest.raises(ValueError, match=r"cond: expected integer labels of shape \(2,\), got .* of shape"):
        jax.eval_shape(LinenNetwork(NCSNpp(**TINY, num_classes=3)).init, KEY, batch(2, 4, 4, 1), C_NOISE, cond)


def test_labels_without_classes():
    with pytest.raises(ValueError, match="cond: expected None, since the network has num_classes=0"):
        jax.eval_shape(LinenNetwork(NCSNpp(**TINY)).init, KEY, batch(2, 4, 4, 1), C_NOISE, jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(
    "option, valid",
    [
        ("embedding", "'positional', 'fourier', 'timestep'"),
        ("progressive_input", "'none', 'input_skip', 'residual'"),
        ("progressive", "'none', 'output_skip', 'residual'"),
        ("progressive_combine", "'sum', 'cat'"),
    ],
)
def test_options_list_what_is_valid(option, valid):
    with pytest.raises(ValueError, match=f"{option}: expected one of {valid}, got 'wrong'"):
        NCSNpp(**{option: "wrong"})


@pytest.mark.parametrize("event", [(3,), (2, 2, 2, 2, 1)])
def test_rank_of_x(event):
    with pytest.raises(ValueError, match=r"expected x of shape \[B, 1 to 3 spatial axes, C\], got"):
        shapes(NCSNpp(**TINY), *event)


def test_computes_in_the_dtype_of_x():
    net = NCSNpp(**TINY, **NCSNPP)
    for dtype in (jnp.bfloat16, jnp.float64):
        x = jnp.zeros((2, 8, 8, 1), dtype)
        out = jax.eval_shape(lambda p, x=x: LinenNetwork(net)(p, x, C_NOISE), shapes(net, 8, 8, 1))
        assert out.dtype == dtype
