"""The boundary: linen, nnx and plain functions behind one signature, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from models import MLP, FunctionNetwork, LinenNetwork, Network, NnxNetwork, as_network

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
C_NOISE = jnp.array([0.1, 0.2, 0.3], jnp.float32)


class LinenSmall(nn.Module):
    """tanh(W1 (x, c_noise)) W2 + cond."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None):
        h = nn.tanh(nn.Dense(4, name="first")(jnp.concatenate([x, c_noise[:, None]], axis=1)))
        out = nn.Dense(2, name="second")(h)
        return out if cond is None else out + cond


class NnxSmall(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.second = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, c_noise, cond=None):
        out = self.second(nnx.tanh(self.first(jnp.concatenate([x, c_noise[:, None]], axis=1))))
        return out if cond is None else out + cond


def plain_small(params, x, c_noise, cond):
    """The same by hand."""
    p, q = params["first"], params["second"]
    h = jnp.tanh(jnp.concatenate([x, c_noise[:, None]], axis=1) @ p["kernel"] + p["bias"][None])
    out = h @ q["kernel"] + q["bias"][None]
    return out if cond is None else out + cond


class NnxDropout(nnx.Module):
    """Two dropout layers, so that the sharing of masks would show; and a list, whose keys are integers."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)])
        self.one = nnx.Dropout(0.5, rngs=rngs)
        self.two = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, c_noise):
        return self.layers[1](self.layers[0](x)) * 0.0 + self.one(jnp.ones_like(x)) + 10 * self.two(jnp.ones_like(x))


@pytest.mark.parametrize("cond", [None, jnp.full((3, 2), 0.5, jnp.float32)])
def test_three_kinds_agree(cond):
    networks = [as_network(m) for m in (NnxSmall(nnx.Rngs(0)), LinenSmall(), plain_small)]
    assert [type(n) for n in networks] == [NnxNetwork, LinenNetwork, FunctionNetwork]
    params = networks[0].init(KEY, X, C_NOISE)
    assert jax.tree.structure(params) == jax.tree.structure(networks[1].init(KEY, X, C_NOISE))
    outputs = [jax.jit(n.__call__)(params, X, C_NOISE, cond=cond) for n in networks]
    assert float(jnp.max(jnp.abs(outputs[0]))) > 0.1
    for out in outputs[1:]:
        np.testing.assert_allclose(out, outputs[0], rtol=1e-5)
    gradients = [jax.grad(lambda p, n=n: jnp.sum(n(p, X, C_NOISE) ** 2))(params) for n in networks]
    for gradient in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, gradients[0])


def test_parameters_are_plain_nested_dicts():
    for module in (NnxDropout(nnx.Rngs(0)), LinenSmall()):
        params = as_network(module).init(KEY, X, C_NOISE)
        assert type(params) is dict
        for path, leaf in jax.tree.leaves_with_path(params):
            assert isinstance(leaf, jax.Array)
            assert all(isinstance(entry.key, str) for entry in path)


def test_adapters_are_static_arguments():
    apply = jax.jit(lambda network, params: network(params, X, C_NOISE), static_argnums=0)
    for module in (LinenSmall(), NnxSmall(nnx.Rngs(0))):
        network = as_network(module)
        params = network.init(KEY, X, C_NOISE)
        np.testing.assert_allclose(apply(network, params), network(params, X, C_NOISE), rtol=1e-6)
    assert LinenNetwork(LinenSmall()) == LinenNetwork(LinenSmall())
    assert FunctionNetwork(plain_small) == FunctionNetwork(plain_small)


def test_calls_do_not_change_the_nnx_module_that_was_given():
    module = NnxDropout(nnx.Rngs(0))
    network = as_network(module)
    before = jax.tree.map(np.asarray, network.init(KEY, X, C_NOISE))
    network(jax.tree.map(jnp.zeros_like, before), X, C_NOISE)
    jax.tree.map(np.testing.assert_array_equal, network.init(KEY, X, C_NOISE), before)
    assert module.one.deterministic is False


def test_nnx_dropout_follows_the_key_in_train_alone():
    network = as_network(NnxDropout(nnx.Rngs(0)))
    x = jnp.zeros((40, 2), jnp.float32)
    params = network.init(KEY, x, x[:, 0])
    forward = jax.jit(lambda key, train: network(params, x, x[:, 0], key=key, train=train), static_argnums=1)
    one, two = jax.random.split(KEY)
    np.testing.assert_array_equal(forward(one, False), 11.0)
    np.testing.assert_array_equal(forward(one, True), forward(one, True))
    assert bool(jnp.any(forward(one, True) != forward(two, True)))
    # Each layer has its own mask: all four combinations of the two occur.
    np.testing.assert_array_equal(np.unique(forward(one, True)), [0.0, 2.0, 20.0, 22.0])
    with pytest.raises(ValueError, match=r"NnxDropout: train=True draws random numbers .*expected key=, got None"):
        network(params, x, x[:, 0], train=True)


def test_function_networks_have_their_own_init():
    network = FunctionNetwork(lambda params, x, c_noise, cond: params * x, init=lambda key, x, c_noise, cond: 3.0)
    params = network.init(KEY, X, C_NOISE)
    np.testing.assert_allclose(network(params, X, C_NOISE), 3 * X)
    assert as_network(plain_small).init(KEY, X, C_NOISE) == {}


def test_networks_pass_through():
    network = LinenNetwork(LinenSmall())
    assert as_network(network) is network
    assert isinstance(network, Network)


class Own:
    """A Network by its shape alone."""

    def init(self, key, x, c_noise, cond=None):
        return {}

    def __call__(self, params, x, c_noise, *, cond=None, key=None, train=False):
        return x


def test_a_network_of_ones_own_passes_through():
    own = Own()
    assert as_network(own) is own


@pytest.mark.parametrize("thing, got", [(3, "int"), (MLP, "the class MLP, not an instance"), (None, "NoneType")])
def test_what_is_no_network(thing, got):
    with pytest.raises(TypeError, match=f"expected a Network, a linen or nnx module, or a function .*got {got}"):
        as_network(thing)


class NnxWrongShape(nnx.Module):
    def __call__(self, x, c_noise):
        return x[:, :1]


class LinenWrongShape(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise):
        return x[:, :1]


def plain_wrong_shape(params, x, c_noise, cond):
    return x[:, :1]


@pytest.mark.parametrize("module", [NnxWrongShape(), LinenWrongShape(), plain_wrong_shape])
def test_output_shape_is_checked_when_traced(module):
    network = as_network(module)
    with pytest.raises(ValueError, match=r"rong.*: expected an output of x's shape \(3, 2\), got \(3, 1\)"):
        jax.eval_shape(lambda x: network({}, x, C_NOISE), X)


@pytest.mark.parametrize("module", [NnxSmall(nnx.Rngs(0)), LinenSmall(), plain_small])
def test_c_noise_is_one_for_each_sample(module):
    network = as_network(module)
    for c_noise in (jnp.array(0.1), jnp.zeros(2), jnp.zeros((3, 1))):
        with pytest.raises(ValueError, match=r"c_noise: expected shape \(3,\) .*, got"):
            network.init(KEY, X, c_noise)
        with pytest.raises(ValueError, match=r"c_noise: expected shape \(3,\) .*, got"):
            network({}, X, c_noise)


class LinenBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise):
        return nn.BatchNorm(use_running_average=True)(x)


class NnxBatchNorm(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

    def __call__(self, x, c_noise):
        return self.norm(x)


def test_running_statistics_are_refused():
    with pytest.raises(ValueError, match=r"LinenBatchNorm: expected parameters only, got \['batch_stats'\] too"):
        as_network(LinenBatchNorm()).init(KEY, X, C_NOISE)
    with pytest.raises(
        TypeError, match=r"NnxBatchNorm: expected nnx.Param and random streams only, got \['BatchStat'\]"
    ):
        as_network(NnxBatchNorm())


def test_a_condition_the_network_cannot_take():
    for module in (LinenWrongShape(), NnxWrongShape()):
        with pytest.raises(TypeError, match="WrongShape: its __call__ takes no cond, got one"):
            as_network(module)({}, X, C_NOISE, cond=X)


def test_an_adapter_passes_on_the_number_of_classes():
    """None for a module that states none."""

    class WithClasses(NnxSmall):
        num_classes = 7

    assert as_network(MLP(num_classes=5)).num_classes == 5
    assert as_network(LinenSmall()).num_classes is None
    assert as_network(WithClasses(nnx.Rngs(0))).num_classes == 7
    assert as_network(NnxSmall(nnx.Rngs(0))).num_classes is None
