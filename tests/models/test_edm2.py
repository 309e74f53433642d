"""EDM2 preserves magnitudes: variance 1 in, variance 1 out, at each block and at every width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import EDM2
from models.edm2 import EDM2Block, NormalizedConv, balanced_cat, balanced_sum, normalize
from tests.models.common import KEY, batch, jit


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.asarray(x, jnp.float64) ** 2)))


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_sums_and_concatenations_of_independent_parts(t):
    """Also the shares: t of the variance of a concatenation comes from b as (t² : (1 − t)²), whatever the widths."""
    a, b = batch(200, 8, 8, 4), batch(200, 8, 8, 12, seed=1)
    assert abs(rms(balanced_sum(a, b[..., :4], t)) - 1) < 0.02
    joined = balanced_cat(a, b, t)
    assert abs(rms(joined) - 1) < 0.02
    shares = [float(jnp.sum(part**2)) for part in (joined[..., 4:], joined[..., :4])]
    np.testing.assert_allclose(shares[0] / shares[1], (t / (1 - t)) ** 2, rtol=0.05)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_map_does_not_depend_on_the_scale_of_its_weights(scale):
    """Eq. (2), up to the 10⁻⁴ that is added to the norm."""
    x, layer = batch(100, 6, 6, 8), NormalizedConv(16, 3)
    params = layer.init(KEY, x)
    scaled = jax.tree.map(lambda leaf: scale * leaf, params)
    out = jit(layer.apply)(scaled, x)
    assert abs(rms(out[:, 1:-1, 1:-1]) - (1 if scale > 1e-2 else 10 / 11)) < 0.03
    np.testing.assert_allclose(rms(normalize(scale * x, (-1,))), 1, rtol=0.2 if scale < 1e-2 else 1e-3)


@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("heads", [0, 2])
def test_a_block_at_first_preserves_the_magnitude(encoder, heads):
    x, emb = batch(100, 6, 6, 16), batch(100, 8, seed=1)
    block = EDM2Block(24, encoder, heads=heads)
    out, _ = jit(block.init_with_output)(KEY, x, emb)
    assert abs(rms(out) - 1) < 0.1


def test_activations_are_clipped_and_null_labels_are_zeros():
    net = EDM2(nf=4, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), head_features=2, num_classes=3,
               log_variance_features=4)  # fmt: skip
    x, c = batch(2, 4, 4, 1), jnp.array([0.1, 0.2], jnp.float32)
    params = jit(lambda key: net.init(key, x, c)["params"])(KEY)
    params = jax.tree.map(lambda leaf: leaf if leaf.ndim else jnp.ones_like(leaf), params)  # the gains, at first 0
    apply = jit(lambda cond: net.apply({"params": params}, x, c, cond))
    np.testing.assert_array_equal(apply(None), apply(jnp.array([3, 3])))
    assert float(jnp.max(jnp.abs(apply(None) - apply(jnp.array([0, 1]))))) > 1e-3
    clipped, _ = EDM2Block(4, False, clip=0.5).init_with_output(KEY, x[..., :1].repeat(4, -1), batch(2, 8))
    assert float(jnp.max(jnp.abs(clipped))) == 0.5
    with pytest.raises(ValueError, match="expected None, since the network has num_classes=0"):
        EDM2(nf=4, log_variance_features=4).init(KEY, x, c, jnp.array([0, 1]))
