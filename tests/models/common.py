"""What the tests of networks share: their shapes, random parameters and batches, and a quick compilation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from models import LinenNetwork
from tests.contracts import QUICK

KEY = jax.random.key(0)
jit = partial(jax.jit, compiler_options=QUICK)


def shapes(net, *event):
    """The parameters of a network for events of this shape, without their values."""
    x, c_noise = jnp.zeros((1, *event), jnp.float32), jnp.zeros(1)
    return jax.eval_shape(lambda key: LinenNetwork(net).init(key, x, c_noise), KEY)


def random_params(net, *event, seed=3):
    """Random in every leaf, the zero-initialized ones too, so that nothing is silent."""
    leaves, treedef = jax.tree.flatten(shapes(net, *event))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(treedef, [jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype) for a in leaves])


def batch(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
