import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import TokenTransformer, as_network
from models.token_transformer import rotated


class Small:
    """A small network, whose calls are compiled."""

    def __init__(self, **options):
        network = as_network(TokenTransformer(num_states=7, features=8, depth=1, heads=2, **options))
        self.init, self.call = jax.jit(network.init), jax.jit(network.__call__, static_argnames="train")

    def __call__(self, *args, **options):
        return self.call(*args, **options)


small = Small


def awake(params, seed=1):
    """Parameters of which none is zero, as after training."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.3 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def test_rotations_keep_norms_and_products_depend_on_distances_only():
    q, k = (jax.random.normal(key, (1, 1, 1, 6)) for key in jax.random.split(jax.random.key(0)))
    q, k = (rotated(jnp.tile(a, (1, 9, 1, 1)))[0, :, 0] for a in (q, k))
    products = q @ k.T
    for distance in (-3, 0, 2):
        one = jnp.diagonal(products, distance)
        np.testing.assert_allclose(one, one[0], rtol=1e-5)
    assert abs(products[0, 3] - products[3, 0]) > 1e-3
    np.testing.assert_allclose(jnp.sum(q**2, axis=1), jnp.sum(q[0] ** 2), rtol=1e-5)


@pytest.mark.parametrize("time", [False, True])
def test_logits_are_zero_at_first_and_every_token_receives_all_others(time):
    network, x = small(time=time), jnp.asarray([[0, 3, 6, 2, 1]])
    params = network.init(jax.random.key(0), x.astype(jnp.float32), jnp.ones(1, jnp.float32))
    assert not np.any(network(params, x, jnp.ones(1, jnp.float32)))
    params, c = awake(params), jnp.full(1, 0.3, jnp.float32)
    out = network(params, x, c)
    assert out.shape == (1, 5, 6) and out.dtype == jnp.float32
    np.testing.assert_array_equal(network(params, x.astype(jnp.float32), c), out)
    for place in (0, 4):
        moved = network(params, x.at[0, place].set(5), c)
        assert np.all(np.abs(np.asarray(moved - out)).max(axis=2) > 1e-5)
    assert time == bool(np.abs(np.asarray(network(params, x, 2 * c) - out)).max() > 1e-5)


def test_the_same_parameters_serve_every_length_and_shifted_texts_have_shifted_logits_inside():
    network, c = small(), jnp.ones(1, jnp.float32)
    params = awake(network.init(jax.random.key(0), jnp.zeros((1, 4)), c))
    assert network(params, jnp.zeros((1, 9), int), c).shape == (1, 9, 6)
    row = jnp.asarray([[1, 2, 3, 1, 2, 3, 1, 2, 3]])
    found = network(params, row, c)[0]
    reversed_row = network(params, row[:, ::-1], c)[0][::-1]
    assert np.abs(np.asarray(found - reversed_row)).max() > 1e-3  # left and right differ


def test_dropout_and_bfloat16():
    network, x, c = small(dropout=0.5, dtype="bfloat16"), jnp.asarray([[0, 3, 6]]), jnp.ones(1, jnp.float32)
    params = awake(network.init(jax.random.key(0), x, c))
    assert network(params, x, c).dtype == jnp.float32
    a, b = (network(params, x, c, key=jax.random.key(k), train=True) for k in (0, 1))
    assert np.abs(np.asarray(a - b)).max() > 1e-3


def test_invalid_options_and_inputs():
    with pytest.raises(ValueError, match="an even number of features per head, got features=15, heads=3"):
        TokenTransformer(num_states=3, features=15, heads=3)
    with pytest.raises(ValueError, match=r"expected tokens of shape \[B, L\], got \(2, 3, 1\)"):
        small().init(jax.random.key(0), jnp.zeros((2, 3, 1)), jnp.ones(2))
    assert TokenTransformer(num_states=7, num_outputs=7).output_shape((2, 3)) == (2, 3, 7)
