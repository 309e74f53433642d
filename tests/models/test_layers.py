"""Resampling against a direct convolution, embeddings and normalization against their formulae."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn

from models import blocks, layers, resampling
from tests.helpers import close

TAPS = [(1, 1), (1, 2, 4, 2), (3, 1), (1, 2, 3, 4, 7)]


def upfirdn(signal, taps, up, down, low, high):
    """Zero-stuff, pad, convolve, decimate: the definition, for one axis (np.convolve flips the taps itself)."""
    stuffed = np.zeros(len(signal) * up)
    stuffed[::up] = signal
    padded = np.pad(stuffed, (low, high))
    return np.convolve(padded, taps, mode="valid")[::down]


def along_spatial(x, one_axis):
    for axis in range(1, x.ndim - 1):
        x = np.apply_along_axis(one_axis, axis, x)
    return x


def unit(taps):
    return np.asarray(taps, float) / sum(taps)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("taps", TAPS)
def test_upsample_is_the_direct_convolution(taps):
    x, p = random(2, 6, 5, 2), len(taps) - 2
    expected = along_spatial(x, lambda s: upfirdn(s, 2 * unit(taps), 2, 1, (p + 1) // 2 + 1, p // 2))
    close(resampling.fir_upsample(jnp.asarray(x), taps), expected, 1e-12)


@pytest.mark.parametrize("taps", TAPS)
def test_downsample_is_the_direct_convolution(taps):
    x, p = random(2, 6, 8, 2), len(taps) - 2
    expected = along_spatial(x, lambda s: upfirdn(s, unit(taps), 1, 2, (p + 1) // 2, p // 2))
    close(resampling.fir_downsample(jnp.asarray(x), taps), expected, 1e-12)


@pytest.mark.parametrize("taps", TAPS)
def test_filter_is_the_direct_convolution(taps):
    x = random(2, 6, 8, 2)
    expected = along_spatial(x, lambda s: upfirdn(s, unit(taps), 1, 1, 3, 2))
    close(resampling.fir_filter(jnp.asarray(x), taps, 3, 2), expected, 1e-12)


def test_taps_of_one_are_nearest_neighbors_and_means():
    x = jnp.asarray(np.random.default_rng(1).integers(-8, 8, (2, 6, 4, 3)), jnp.float32)
    nearest = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    means = np.asarray(x).reshape(2, 3, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(resampling.fir_upsample(x, (1, 1)), nearest)
    np.testing.assert_array_equal(resampling.fir_downsample(x, (1, 1)), means)


def test_odd_sizes_repeat_the_edge():
    x = random(1, 7, 5, 2)
    even = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], mode="edge")
    down = resampling.fir_downsample(jnp.asarray(x), (1, 3, 3, 1))
    np.testing.assert_array_equal(down, resampling.fir_downsample(jnp.asarray(even), (1, 3, 3, 1)))
    back = resampling.crop_like(resampling.fir_upsample(down), jnp.asarray(x))
    assert back.shape == x.shape


@pytest.mark.parametrize("taps", [(1,), (1, -1)])
def test_taps_must_be_two_or_more_with_a_sum(taps):
    with pytest.raises(ValueError, match="taps: expected at least two numbers with a sum other than 0, got"):
        resampling.fir_upsample(jnp.ones((1, 4, 1)), taps)


def test_conv_downsample_filters_then_strides():
    layer = blocks.ConvDownsample(2, (1, 3, 3, 1))
    x = random(2, 8, 6, 3)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"], float)
    filtered = along_spatial(x, lambda s: upfirdn(s, unit((1, 3, 3, 1)), 1, 1, 2, 2))
    expected = np.zeros((2, 4, 3, 2))
    for i, j in np.ndindex(4, 3):
        patch = filtered[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, i, j] = np.einsum("bhwc,hwcd->bd", patch, kernel)
    close(layer.apply(variables, jnp.asarray(x)), expected, 1e-6)


def test_conv_downsample_without_taps_starts_at_the_first_element():
    layer, x = blocks.ConvDownsample(2, ()), random(2, 8, 3)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"], float)
    padded = np.pad(x, [(0, 0), (0, 1), (0, 0)])
    expected = np.stack([np.einsum("bwc,wcd->bd", padded[:, 2 * i : 2 * i + 3], kernel) for i in range(4)], axis=1)
    close(layer.apply(variables, jnp.asarray(x)), expected, 1e-6)


@pytest.mark.parametrize("taps", [*TAPS, ()])
def test_conv_upsample_is_the_transposed_convolution_then_the_filter(taps):
    """The definition: zeros between the elements, the full convolution with w, and then with the taps."""
    layer, x = blocks.ConvUpsample(2, taps), random(2, 6, 3)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"], float)
    taps = taps or (1, 1)
    p = (len(taps) - 2) - (3 - 1)
    low, high = (p + 1) // 2 + 1, p // 2 + 1
    expected = np.zeros((2, 12, 2))
    for b, c, d in np.ndindex(2, 3, 2):
        stuffed = np.zeros(11)
        stuffed[::2] = x[b, :, c]
        wide = np.convolve(stuffed, kernel[::-1, c, d])
        expected[b, :, d] += np.convolve(np.pad(wide, (low, high)), 2 * unit(taps), mode="valid")
    close(layer.apply(variables, jnp.asarray(x)), expected, 1e-6)


def test_positional_features():
    c = np.array([0.0, 0.3, 999.0])
    features = layers.positional_features(jnp.asarray(c), 9)
    frequencies = 10000.0 ** (-np.arange(4) / 3)
    angles = c[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles), np.zeros((3, 1))], axis=1)
    np.testing.assert_allclose(features, expected, atol=1e-10)
    assert layers.positional_features(jnp.asarray(c), 2).shape == (3, 2)


def test_fourier_projection_is_fixed_and_gaussian():
    projection = layers.GaussianFourierProjection(4000, 16.0)
    c = jnp.array([-0.25, 1.5])
    variables = projection.init(jax.random.key(0), c)
    w = np.asarray(variables["params"]["W"], float)
    assert abs(w.std() - 16.0) < 4 * 16.0 / np.sqrt(2 * 4000)
    angles = 2 * np.pi * np.asarray(c)[:, None] * w
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(projection.apply(variables, c), expected, atol=1e-9)
    gradient = jax.grad(lambda v: projection.apply(v, c).sum())(variables)
    np.testing.assert_array_equal(gradient["params"]["W"], 0.0)


class Apply(nn.Module):
    """Gives the functions of layers, which own parameters, a module to live in."""

    body: object

    @nn.compact
    def __call__(self, x):
        return self.body(x)


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (8, 2), (22, 2), (136, 17), (256, 32)])
def test_group_norm_normalises_groups(channels, groups):
    # The groups stand apart in mean, so that another number of groups would give another answer; 22 // 4 = 5 falls
    # to 2, and 136 // 4 = 34 -> 32 falls to 17: the next fewer that divide.
    x = random(2, 5, 4, channels) + np.repeat(10.0 * np.arange(groups), channels // groups)
    grouped = x.reshape(2, 20, groups, -1)
    mean, var = grouped.mean(axis=(1, 3), keepdims=True), grouped.var(axis=(1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    out, _ = layers.GroupNorm().init_with_output(jax.random.key(0), jnp.asarray(x))
    close(out, expected, 1e-8)


def two_passes(x, scale, bias, groups):
    """The definition, in float64."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centered = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    normed = centered / jnp.sqrt((centered**2).mean(axis=(1, 3), keepdims=True) + 1e-6)
    return normed.reshape(x.shape) * scale[None, None, None] + bias[None, None, None]


def test_group_norm_has_the_gradients_of_its_definition():
    """And their derivatives: the moments are taken about a point that is held fixed, on which nothing depends."""
    x, seen = jnp.asarray(random(2, 3, 4, 8) + 3.0), jnp.asarray(random(2, 3, 4, 8)[::-1] ** 2)
    params = {"scale": jnp.linspace(0.5, 2.0, 8), "bias": jnp.linspace(-1.0, 1.0, 8)}

    def ours(x, params):
        return jnp.sum(seen * layers.GroupNorm().apply({"params": params}, x) ** 3)

    def defined(x, params):
        return jnp.sum(seen * two_passes(x, **params, groups=2) ** 3)

    gradients = (jax.tree.leaves(jax.grad(f, (0, 1))(x, params)) for f in (ours, defined))
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.max(np.abs(expected)))
    along = jnp.ones_like(x).at[0, 1].set(-2.0)
    second = [jax.jvp(jax.grad(f), (x, params), (along, params))[1] for f in (ours, defined)]
    np.testing.assert_allclose(*second, rtol=1e-8, atol=1e-8 * np.max(np.abs(second[1])))


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-3), (jnp.bfloat16, 1e-2)])
def test_group_norm_survives_a_large_mean(dtype, error):
    """float32 has 2⁻¹³ of a unit left at 10³, and the mean of the squares no variance at all."""
    exact = jnp.asarray(random(2, 8, 8, 8) + (1000.0 if dtype == jnp.float32 else 4.0))
    x = exact.astype(dtype)
    wide = x.astype(jnp.float64)
    out, _ = layers.GroupNorm().init_with_output(jax.random.key(0), x)
    expected = two_passes(wide, jnp.ones(8), jnp.zeros(8), 2)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float64), expected, rtol=error, atol=error)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0])
def test_initialisation_is_uniform_over_the_average_fan(scale):
    kernel = Apply(lambda x: layers.conv3x3(x, 64, scale)).init(jax.random.key(0), jnp.ones((1, 4, 4, 32)))
    kernel = np.asarray(kernel["params"]["Conv_0"]["kernel"])
    limit = np.sqrt(3 * (scale or 1e-10) / (9 * (32 + 64) / 2))
    assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)


def randomized(module, key, *args):
    variables = jax.eval_shape(lambda k: module.init(k, *args), key)
    leaves, treedef = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [0.3 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def test_attention_is_softmax_of_scaled_products():
    block = blocks.AttentionBlock()
    x = random(2, 3, 5, 8)
    variables = randomized(block, jax.random.key(1), jnp.asarray(x))
    p = jax.tree.map(lambda a: np.asarray(a, float), variables["params"])
    g = x.reshape(2, 15, 2, 4)
    normed = ((g - g.mean(axis=(1, 3), keepdims=True)) / np.sqrt(g.var(axis=(1, 3), keepdims=True) + 1e-6)).reshape(
        2, 15, 8
    )
    normed = normed * p["GroupNorm_0"]["scale"] + p["GroupNorm_0"]["bias"]
    q, k, v = (normed @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"] for i in range(3))
    weights = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(8))
    h = (weights / weights.sum(-1, keepdims=True)) @ v
    h = h @ p["Dense_3"]["kernel"] + p["Dense_3"]["bias"]
    expected = (x + h.reshape(x.shape)) / np.sqrt(2)
    close(block.apply(variables, jnp.asarray(x)), expected, 1e-6)


@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_a_fresh_residual_block_is_its_skip_path(resample):
    # init_scale 0 silences the branch, so what is left is the (resampled, projected) input over sqrt 2.
    x, emb = jnp.asarray(random(2, 8, 6, 4)), jnp.ones((2, 16))
    block = blocks.ResidualBlock(4, resample, (1, 3, 3, 1))
    init = jax.jit(block.init_with_output, compiler_options={"xla_backend_optimization_level": 0})
    out, variables = init(jax.random.key(0), x, emb)
    skip = {
        "none": x,
        "up": resampling.fir_upsample(x, (1, 3, 3, 1)),
        "down": resampling.fir_downsample(x, (1, 3, 3, 1)),
    }
    expected = np.asarray(skip[resample])
    if resample != "none":
        expected = expected @ np.asarray(variables["params"]["Conv_2"]["kernel"])[0, 0]
    close(out, expected / np.sqrt(2), 1e-4)


def test_residual_block_names_its_resamplings():
    with pytest.raises(ValueError, match="resample: expected one of 'none', 'up', 'down', got 'half'"):
        blocks.ResidualBlock(4, "half").init(jax.random.key(0), jnp.ones((1, 4, 4)), jnp.ones((1, 4)))


@pytest.mark.parametrize("channels", [4, 5])
def test_dropout(channels):
    """Entries fall independently with the rate, those of one random word too; what is left keeps the mean."""
    rate, x = 0.3, jnp.ones((20_000, channels), jnp.float32)
    drop = jax.jit(lambda key: layers.Dropout(rate).apply({}, x, True, rngs={"dropout": key}))
    y = np.asarray(drop(jax.random.key(0)))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=2e-5)
    gone = y == 0
    assert np.all(np.abs(gone.mean(axis=0) - rate) < 4.5 * np.sqrt(0.21 / len(y)))
    assert np.abs(np.corrcoef(gone.T) - np.eye(channels)).max() < 4.5 / np.sqrt(len(y))
    assert np.any(y != drop(jax.random.key(1)))
    np.testing.assert_array_equal(layers.Dropout(rate).apply({}, x), x)
    np.testing.assert_array_equal(layers.Dropout(0.0).apply({}, x, True), x)
    assert (
        layers.Dropout(rate).apply({}, x.astype(jnp.bfloat16), True, rngs={"dropout": jax.random.key(0)}).dtype
        == "bfloat16"
    )
    with pytest.raises(ValueError, match=r"dropout: expected 0 or more, below 1, got 1"):
        layers.Dropout(1.0)


class Three(nn.Module):
    """Two layers of dropout, one of which is used twice."""

    @nn.compact
    def __call__(self, x):
        one, two = layers.Dropout(0.5), layers.Dropout(0.5)
        return jnp.stack([one(x, True), two(x, True), one(x, True)])


def test_no_two_uses_of_dropout_share_a_mask():
    """Not layers, nor two uses of one, nor keys; and a mask does not know how many devices there are."""
    x = jnp.ones((40, 50, 50), jnp.float32)
    draw = jax.jit(lambda key, x: Three().apply({}, x, rngs={"dropout": key}))
    gone = np.concatenate([np.asarray(draw(jax.random.key(i), x)) == 0 for i in (0, 1)]).reshape(6, -1)
    assert np.abs(np.corrcoef(gone) - np.eye(6)).max() < 4.5 / np.sqrt(x.size)
    neighbors = np.corrcoef(gone[:, :-1], gone[:, 1:])[:6, 6:]
    assert np.abs(neighbors).max() < 4.5 / np.sqrt(x.size)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    np.testing.assert_array_equal(np.asarray(draw(jax.random.key(0), spread)) == 0, gone[:3].reshape(3, *x.shape))
    with pytest.raises(errors.InvalidRngError, match="dropout"):
        Three().apply({}, x)
