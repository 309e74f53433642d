"""NCSN and NCSNv2 piece by piece: the norm by its formula, noise levels, interpolation, sizes, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from models import NCSN, LinenNetwork, NCSNv2, ncsnv2_levels
from models.ncsn import nearest_level
from models.refinenet import InstanceNormPlus, max_of_5, mean_of_5, ncsn_conv, resized
from tests.helpers import close
from tests.models.common import KEY, batch, jit, random_params, shapes


def by_hand(x, alpha, gamma, beta, ddof=0):
    """Eq. (1) of `refinenet`, image by image and channel by channel."""
    out = np.empty_like(x)
    for b in range(len(x)):
        means = np.array([x[b, ..., c].mean() for c in range(x.shape[-1])])
        for c in range(x.shape[-1]):
            within = (x[b, ..., c] - means[c]) / np.sqrt(x[b, ..., c].var() + 1e-5)
            across = (means[c] - means.mean()) / np.sqrt(means.var(ddof=ddof) + 1e-5)
            out[b, ..., c] = gamma[b][c] * (within + alpha[b][c] * across) + beta[b][c]
    return out


@pytest.mark.parametrize("unbiased", [False, True])
def test_instance_norm_plus(unbiased):
    x, norm = np.asarray(batch(2, 4, 3, 5), float) + np.arange(5), InstanceNormPlus(unbiased=unbiased)
    gains = np.random.default_rng(1).normal(size=(3, 5))
    params = dict(zip(("alpha", "gamma", "beta"), jnp.asarray(gains), strict=True))
    found = norm.apply({"params": params}, jnp.asarray(x))
    close(found, by_hand(x, *gains[:, None].repeat(2, 1), ddof=int(unbiased)), 1e-6)


def test_gains_of_a_level_and_of_a_condition():
    x, norm = np.asarray(batch(3, 4, 5), float), InstanceNormPlus(num_levels=4)
    level, emb = jnp.array([2, 0, 2]), jnp.asarray(batch(3, 6), jnp.float64)
    variables = norm.init(KEY, jnp.asarray(x), level, emb)
    params = jax.tree.map(lambda leaf: jnp.asarray(batch(*leaf.shape, seed=leaf.size), leaf.dtype), variables["params"])
    kernel, bias = (np.asarray(params["Dense_0"][name], float) for name in ("kernel", "bias"))
    active = np.where(emb > 0, emb, np.expm1(np.minimum(emb, 0)))
    shifts = np.split(active @ kernel + bias, 3, axis=1)
    gains = [np.asarray(params[n])[level] + s for n, s in zip(("alpha", "gamma", "beta"), shifts, strict=True)]
    found = norm.apply({"params": params}, jnp.asarray(x), level, emb)
    close(found, by_hand(x, *gains), 1e-5)


def test_gains_start_about_1_and_a_condition_near_nothing():
    variables = InstanceNormPlus(num_levels=50).init(KEY, batch(1, 4, 40), jnp.zeros(1, int), batch(1, 6))["params"]
    for name in ("alpha", "gamma"):
        gains = np.asarray(variables[name])
        assert gains.shape == (50, 40) and abs(gains.mean() - 1) < 4 * 0.02 / np.sqrt(2000)
        np.testing.assert_allclose(gains.std(), 0.02, rtol=4 / np.sqrt(2 * 2000))
    np.testing.assert_array_equal(variables["beta"], 0)
    assert float(jnp.max(jnp.abs(variables["Dense_0"]["kernel"]))) < 1e-4


def test_the_nearest_level():
    """A number is rounded and kept in range; a log σ goes to the nearest log σ, not to the nearest σ."""
    numbers = jnp.array([-3.0, 0.4, 0.6, 2.2, 9.0], jnp.float32)
    np.testing.assert_array_equal(nearest_level(numbers, 4), [0, 0, 1, 2, 3])
    sigmas = (10.0, 1.0, 0.1)
    np.testing.assert_array_equal(nearest_level(jnp.log(jnp.asarray(sigmas, jnp.float32)), 3, sigmas), [0, 1, 2])
    near = jnp.log(jnp.array([100.0, 4.0, 0.4, 0.2, 1e-3], jnp.float32))  # 4 is nearer to 1 than to 10 by σ alone
    np.testing.assert_array_equal(nearest_level(near, 3, sigmas), [0, 0, 1, 2, 2])


def test_the_level_chooses_the_gains_and_nothing_in_between():
    net = NCSN(nf=4, ch_mult=(1,), dilations=(1,), refine_mult=(1,), num_levels=3, sigmas=(0.1, 1.0, 10.0))
    params, x = random_params(net, 4, 4, 1), jnp.broadcast_to(batch(1, 4, 4, 1), (4, 4, 4, 1))
    out = jit(LinenNetwork(net))(params, x, jnp.log(jnp.array([0.1, 0.2, 1.0, 10.0], jnp.float32)))
    np.testing.assert_allclose(out[0], out[1], rtol=1e-5)
    differences = [float(jnp.max(jnp.abs(out[i] - out[j]))) for i, j in ((1, 2), (2, 3), (1, 3))]
    assert min(differences) > 1e-3


def test_pools():
    x = np.asarray(batch(2, 7, 6, 2), float)
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    lowest = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=-np.inf)
    for i, j in np.ndindex(7, 6):
        window = (slice(None), slice(i, i + 5), slice(j, j + 5))
        close(mean_of_5(jnp.asarray(x))[:, i, j], padded[window].mean(axis=(1, 2)), 1e-12)
        np.testing.assert_array_equal(max_of_5(jnp.asarray(x))[:, i, j], lowest[window].max(axis=(1, 2)))


@pytest.mark.parametrize("method", ["linear", "corners", "nearest"])
def test_interpolation_keeps_what_is_linear(method):
    """Between the centers of the pixels, (i + ½) n/N − ½, or between the corners, i (n − 1)/(N − 1); each axis for
    itself, and constant beyond the first and last centers."""
    n, N = (4, 3), (8, 5)
    grid = np.stack(np.meshgrid(*map(np.arange, n), indexing="ij"), axis=-1)[None].astype(float)
    found = np.asarray(resized(jnp.asarray(grid), N, method))[0]
    for axis in (0, 1):
        center = np.clip((np.arange(N[axis]) + 0.5) * n[axis] / N[axis] - 0.5, 0, n[axis] - 1)
        corner = np.arange(N[axis]) * (n[axis] - 1) / (N[axis] - 1)
        place = {"linear": center, "corners": corner, "nearest": np.round(center - 1e-9)}[method]
        expected = np.moveaxis(np.broadcast_to(place[:, None], (N[axis], N[1 - axis])), 0, axis)
        np.testing.assert_allclose(found[..., axis], expected, atol=1e-6)
    np.testing.assert_array_equal(resized(jnp.asarray(grid), n, method), grid)
    np.testing.assert_array_equal(resized(jnp.ones((1, 1, 2)), (3,), method), 1.0)


def test_convolutions_start_within_one_over_the_root_of_the_fan():
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x):
            return ncsn_conv(x, 50)

    made = Body().init(KEY, batch(1, 4, 4, 6))["params"]["Conv_0"]
    bound = 1 / np.sqrt(9 * 6)
    for leaf in (made["kernel"], made["bias"]):
        assert 0.8 * bound < float(jnp.max(jnp.abs(leaf))) <= bound
    np.testing.assert_allclose(made["kernel"].std(), bound / np.sqrt(3), rtol=0.05)


def test_sizes():
    """29.7 million parameters for CIFAR-10 by the paper's own layout; the published JAX network is wider by a block."""
    count = lambda net: sum(leaf.size for leaf in jax.tree.leaves(shapes(net, 32, 32, 3)))  # noqa: E731
    assert count(NCSNv2(refine_mult=(2, 2, 1, 1))) == 29_694_083
    assert count(NCSNv2()) == 33_970_563


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_published_levels(size):
    levels = ncsnv2_levels(size)
    params = shapes(NCSNv2(nf=2, **levels), 32, 32, 3)
    places = {64: 4, 128: 5, 256: 6}[size]
    assert sum("RefineBlock" in name for name in params) == places
    assert sum("DilatedBlock" in name for name in params) == 2 * places


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSNv2(ch_mult=(1, 2)), "levels: expected one number per level in ch_mult, dilations and refine_mult"),
        (lambda: NCSNv2(dilations=(2, 1, 2, 4)), r"dilations: expected 1 on the first level, got \(2, 1, 2, 4\)"),
        (lambda: NCSNv2(ch_mult=(1, 2, 4, 4), refine_mult=(2, 2, 2, 1)), "the last of ch_mult .*, got 4 and 2"),
        (lambda: NCSNv2(resize="cubic"), "resize: expected one of 'linear', 'nearest', 'corners', got 'cubic'"),
        (lambda: NCSN(nonlinearity="gelu"), "nonlinearity: expected one of"),
        (
            lambda: NCSN(sigmas=(1.0, 2.0)),
            "expected no sigmas, or as many as num_levels, .* got 2 sigmas and num_levels=10",
        ),
        (lambda: NCSN(num_levels=2, sigmas=(1.0, 0.0)), r"expected positive sigmas, got \(1.0, 0.0\)"),
    ],
)
def test_options_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
