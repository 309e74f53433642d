"""The multilayer perceptron: any event shape, zero at first, conditions, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import MLP, LinenNetwork
from tests.models.common import KEY, batch

C_NOISE = jnp.array([0.3, -1.2, 0.3], jnp.float32)


def shaken(params):
    """The last layer starts at zero: random parameters make every input visible in the output."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(5)
    return jax.tree.unflatten(treedef, [jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype) for a in leaves])


@pytest.mark.parametrize("shape", [(3, 2), (3,), (3, 2, 2, 1)])
@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_zero_at_initialisation_for_any_event_shape(shape, embedding):
    net = LinenNetwork(MLP(features=8, num_layers=1, embedding=embedding))
    x = batch(*shape)
    params = net.init(KEY, x, C_NOISE)
    out = net(params, x, C_NOISE)
    assert out.shape == x.shape
    assert 0 < float(jnp.max(jnp.abs(out))) < 1e-3


def test_depends_on_its_own_sample_and_noise_level_only():
    net = LinenNetwork(MLP(features=8, num_layers=2))
    x = batch(3, 2).at[1:].set(0.5)
    params = shaken(net.init(KEY, x, C_NOISE))
    out = net(params, x, C_NOISE)
    assert float(jnp.max(jnp.abs(out[1] - out[2]))) > 1e-3  # same x, another level
    changed = net(params, x.at[0].set(9.0), C_NOISE)
    np.testing.assert_allclose(changed[1:], out[1:], rtol=1e-6)
    assert float(jnp.max(jnp.abs(changed[0] - out[0]))) > 1e-3


def test_conditions():
    x, c_noise = jnp.ones((3, 2), jnp.float32), jnp.zeros(3, jnp.float32)
    for options, cond, null in [
        ({"num_classes": 2}, jnp.arange(3), jnp.full(3, 2)),
        ({"cond_dim": 4}, batch(3, 4), jnp.zeros((3, 4), jnp.float32)),
    ]:
        net = LinenNetwork(MLP(features=8, num_layers=1, **options))
        params = shaken(net.init(KEY, x, c_noise))
        out = net(params, x, c_noise, cond=cond)
        assert float(jnp.max(jnp.abs(out[0] - out[1]))) > 1e-3
        np.testing.assert_allclose(net(params, x, c_noise), net(params, x, c_noise, cond=null))


def test_errors():
    x = batch(3, 2)
    with pytest.raises(ValueError, match=r"cond: expected a vector of shape \(3, 4\), got \(3, 5\)"):
        LinenNetwork(MLP(cond_dim=4)).init(KEY, x, C_NOISE, batch(3, 5))
    with pytest.raises(ValueError, match="cond: expected None"):
        LinenNetwork(MLP()).init(KEY, x, C_NOISE, jnp.arange(3))
    with pytest.raises(ValueError, match="embedding: expected one of 'positional', 'fourier', 'timestep', got 'sine'"):
        MLP(embedding="sine")


def test_learns_a_function_of_x_and_the_noise_level():
    net = LinenNetwork(MLP(features=32, num_layers=2))
    rng = np.random.default_rng(0)
    x, c_noise = (jnp.asarray(rng.uniform(-2, 2, size=s), jnp.float32) for s in [(256, 1), (256,)])
    target = jnp.sin(2 * x) * c_noise[:, None]
    params = net.init(KEY, x, c_noise)
    optimizer = optax.adam(1e-2)

    def loss(params):
        return jnp.mean((net(params, x, c_noise) - target) ** 2)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, 300))((params, optimizer.init(params)))
    assert float(loss(params)) < 0.02 * float(jnp.mean(target**2))
