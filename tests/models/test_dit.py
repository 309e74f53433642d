"""DiT and ADM: what they are at first, published sizes, patches, and that positions alone tell patches apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ADM, DIT_SIZES, DiT, LinenNetwork, NCSNpp
from models.dit import DiTBlock, from_patches, modulated, positions_of, to_patches
from tests.contracts import NETWORKS
from tests.helpers import close
from tests.models.common import KEY, batch, jit, random_params, shapes

C_NOISE = jnp.array([0.6, 2.3], jnp.float32)


def count(net, *event):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(net, *event)))


# Sizes


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_sizes(size, millions):
    """Table 1 of Peebles & Xie; theirs has 4 more channels in the output, and counts its table of positions."""
    options = DIT_SIZES[size]
    features = options["features"]
    theirs = count(DiT(**options, num_classes=1000), 32, 32, 4) + 2**2 * 4 * (features + 1) + 16**2 * features
    assert abs(theirs / 1e6 - millions) < 0.52


def test_published_sizes_of_edm():
    """Table 7 of Karras et al. 2022."""
    assert round(count(ADM(num_classes=1000), 64, 64, 3) / 1e6, 1) == 295.9
    assert round(count(NCSNpp(nf=128, ch_mult=(2, 2, 2), num_res_blocks=4), 32, 32, 3) / 1e6, 1) == 55.7


# At first


def test_dit_is_zero_at_first_and_its_blocks_are_the_identity():
    net, x = LinenNetwork(NETWORKS["dit"]()), batch(2, 5, 4, 1)
    out = jit(lambda key: net(net.init(key, x, C_NOISE), x, C_NOISE))(KEY)
    np.testing.assert_array_equal(out, 0.0)
    h, c = batch(2, 6, 8), batch(2, 8, seed=1)
    block = DiTBlock(heads=2)
    found, variables = jit(block.init_with_output)(KEY, h, c)
    np.testing.assert_array_equal(found, h)
    changed = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    assert float(jnp.min(jnp.max(jnp.abs(jit(block.apply)(changed, h, c) - h), axis=(1, 2)))) > 1e-2


def test_adm_is_almost_zero_at_first():
    net, x = LinenNetwork(NETWORKS["adm"](ch_mult=(1,))), batch(2, 4, 4, 1)
    out = jit(lambda key: net(net.init(key, x, C_NOISE), x, C_NOISE))(KEY)
    assert 0 < float(jnp.max(jnp.abs(out))) < 1e-3


# Patches


@pytest.mark.parametrize(
    ("event", "size"), [((6, 2), 3), ((4, 6, 1), 2), ((2, 4, 6, 3), 2), ((5, 3, 2), 2), ((3, 1), 1)]
)
def test_patches_and_back(event, size):
    x = batch(2, *event)
    patches = to_patches(x, size)
    counts = [-(-n // size) for n in event[:-1]]
    assert patches.shape == (2, np.prod(counts), size ** len(counts) * event[-1])
    np.testing.assert_array_equal(from_patches(patches, size, event), x)
    wide = np.pad(x, [(0, 0), *((0, -n % size) for n in event[:-1]), (0, 0)], mode="edge")
    for number, place in enumerate(np.ndindex(*counts)):
        cube = tuple(slice(size * i, size * (i + 1)) for i in place)
        np.testing.assert_array_equal(patches[:, number], wide[(slice(None), *cube)].reshape(2, -1))


def test_positions():
    """Along each axis the published features of the place, and zeros where the features do not divide evenly."""
    table = np.asarray(positions_of((3, 2), 11))
    assert table.shape == (6, 11) and np.all(table[:, 8:] == 0)
    for number, (i, j) in enumerate(np.ndindex(3, 2)):
        for part, place in ((table[number, :4], i), (table[number, 4:8], j)):
            angles = place * np.array([1.0, 1e-4])
            np.testing.assert_allclose(part, [*np.sin(angles), *np.cos(angles)], atol=1e-6)
    assert len(np.unique(positions_of((4, 4, 4), 12).round(4), axis=0)) == 64
    with pytest.raises(ValueError, match="features: expected at least 6 for 3 spatial axes, got 4"):
        positions_of((2, 2, 2), 4)


@pytest.mark.parametrize("positions", [False, True])
def test_without_positions_permuted_patches_give_permuted_outputs(positions):
    net = NETWORKS["dit"](positions=positions, patch=2)
    params, x = random_params(net, 6, 4, 1), batch(2, 6, 4, 1)
    order = np.random.default_rng(2).permutation(6)
    forward = jit(LinenNetwork(net))
    permuted = from_patches(to_patches(x, 2)[:, order], 2, (6, 4, 1))
    expected = to_patches(forward(params, x, C_NOISE), 2)[:, order]
    error = float(jnp.max(jnp.abs(to_patches(forward(params, permuted, C_NOISE), 2) - expected)))
    scale = float(jnp.max(jnp.abs(expected)))
    assert error > 1e-2 * scale if positions else error < 1e-5 * scale


def test_modulation():
    h, shift, scale = batch(2, 3, 8) * 3 + 5, batch(2, 8, seed=1), batch(2, 8, seed=2)
    wide = np.asarray(h, float)
    normed = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    expected = normed * (1 + np.asarray(scale)[:, None]) + np.asarray(shift)[:, None]
    close(modulated(h, shift, scale), expected, 1e-5)


# Options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiT(features=10, heads=4), "heads that divide the features, got features=10, heads=4"),
        (lambda: DiT(patch=0), "DiT: expected patch >= 1; got patch=0"),
        (lambda: DiT(embedding="sine"), "embedding: expected one of 'positional', 'fourier', 'timestep', got 'sine'"),
        (lambda: ADM(embedding="sine"), "embedding: expected one of 'positional', 'fourier', 'timestep', got 'sine'"),
        (
            lambda: shapes(ADM(nf=10, head_features=3), 8, 8, 1),
            "head_features: expected to divide the 10 channels, got 3",
        ),
    ],
)
def test_options_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_attention_by_resolution_and_by_level():
    """In every block of a level, on the way down and up, and in the middle."""

    def blocks(**options):
        params = shapes(ADM(nf=4, ch_mult=(1, 2), num_res_blocks=2, head_features=4, **options), 8, 6, 1)
        return sum("HeadsAttention_0" in block for name, block in params.items() if "ADMBlock" in name)

    assert blocks(attn_resolutions=()) == 1
    assert blocks(attn_resolutions=(8,)) == blocks(attn_resolutions=(), attn_levels=(0,)) == 1 + 2 + 3
    assert blocks(attn_resolutions=(6,)) == 1  # the first spatial size counts
