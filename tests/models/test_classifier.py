"""The classifiers: what holds for every network where it applies to logits, and what is theirs alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LinenNetwork, WideResNet
from tests.contracts import CLASSIFIERS
from tests.models.common import KEY, batch, jit, random_params, shapes

EVENT = (6, 5, 2)
each_classifier = pytest.mark.parametrize("name", CLASSIFIERS)
NOISE = jnp.array([0.6, 0.6, 2.3], jnp.float32)


@each_classifier
@pytest.mark.parametrize("event", [(28, 28, 1), (50, 37, 2), (64, 3), (5, 1), (4, 3, 5, 1)])
def test_logits_for_any_spatial_shape(name, event):
    net = CLASSIFIERS[name]()
    out = jax.eval_shape(lambda p, x: LinenNetwork(net)(p, x, jnp.zeros(2)), shapes(net, *event), batch(2, *event))
    assert out.shape == (2, 3) and out.dtype == jnp.float32


@each_classifier
def test_everything_has_influence_and_rows_are_independent(name):
    """x and noise level change the logits; permuted rows have permuted logits; all gradients are finite and used."""
    net = CLASSIFIERS[name]()
    params, x = random_params(net, *EVENT), jnp.broadcast_to(batch(1, *EVENT), (3, *EVENT)).at[1, 2, 2, 0].add(1.0)
    forward, order = jit(LinenNetwork(net)), jnp.array([2, 0, 1])
    out = np.asarray(forward(params, x, NOISE))
    assert np.all(np.max(np.abs(out[1:] - out[:1]), axis=1) > 1e-3)
    np.testing.assert_allclose(forward(params, x[order], NOISE[order]), out[order], atol=1e-4 * np.max(np.abs(out)))
    loss = lambda p, x: jnp.sum(LinenNetwork(net)(p, x, NOISE) ** 2)  # noqa: E731
    of_params, of_x = jit(jax.grad(loss, argnums=(0, 1)))(params, batch(3, *EVENT))
    assert bool(jnp.all(jnp.isfinite(of_x))) and bool(jnp.all(of_x != 0))
    unused = [jax.tree_util.keystr(k) for k, g in jax.tree.leaves_with_path(of_params) if not np.any(np.asarray(g))]
    constant = "GaussianFourierProjection"  # fixed frequencies
    assert [name for name in unused if constant not in name and not is_key_bias(name)] == []


def is_key_bias(name):
    """A bias of the keys of attention adds the same to all weights of a query, so the softmax removes it."""
    return "AttentionPooling" in name and "Dense_1" in name and "bias" in name


@each_classifier
def test_all_classes_are_equally_probable_at_first(name):
    net = CLASSIFIERS[name]()
    params = jit(LinenNetwork(net).init)(KEY, batch(3, *EVENT), NOISE)
    out = np.asarray(jit(LinenNetwork(net))(params, batch(3, *EVENT), NOISE))
    assert np.max(np.abs(out)) < 1e-3


@each_classifier
def test_bfloat16_inside_and_float32_outside(name):
    net = CLASSIFIERS[name](dtype="bfloat16")
    params = shapes(net, *EVENT)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(LinenNetwork(net))(params, batch(3, *EVENT), NOISE)
    assert jaxpr.out_avals[0].dtype == jnp.float32 and "bf16" in str(jaxpr)


@each_classifier
def test_dropout_and_rematerialization(name):
    plain, again = CLASSIFIERS[name](dropout=0.3), CLASSIFIERS[name](dropout=0.3, remat=True)
    arguments = (shapes(plain, *EVENT), batch(3, *EVENT), NOISE)
    assert jax.tree.structure(arguments[0]) == jax.tree.structure(shapes(again, *EVENT))
    jax.eval_shape(partial(LinenNetwork(again), key=KEY, train=True), *arguments)
    with pytest.raises(ValueError, match=r"train=True draws random numbers .*expected key=, got None"):
        jax.eval_shape(partial(LinenNetwork(plain), train=True), *arguments)


@each_classifier
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nf": 0}, "expected nf >= 1; got nf=0"),
        ({"num_classes": 1}, "expected num_classes >= 2; got num_classes=1"),
        ({"dtype": "float16"}, "dtype: expected one of"),
        ({"embedding": "none"}, "embedding: expected one of"),
    ],
)
def test_invalid_options(name, change, message):
    with pytest.raises(ValueError, match=message):
        CLASSIFIERS[name](**change)


@each_classifier
def test_a_cond_and_a_rank_that_do_not_fit(name):
    network = LinenNetwork(CLASSIFIERS[name]())
    with pytest.raises(TypeError, match="takes no cond"):
        jax.eval_shape(network.init, KEY, batch(2, *EVENT), jnp.zeros(2), jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match=r"expected x of shape \[B, 1 to 3 spatial axes, C\]"):
        jax.eval_shape(network.init, KEY, batch(2, 3), jnp.zeros(2))


def test_a_module_that_does_not_keep_its_stated_shape_is_refused():
    class Wrong(WideResNet):
        def output_shape(self, shape):
            return (shape[0], 7)

    net = Wrong(nf=4, ch_mult=(1,), num_res_blocks=1)
    with pytest.raises(ValueError, match=r"Wrong: expected an output of shape \(1, 7\), got \(1, 10\)"):
        jax.eval_shape(LinenNetwork(net), shapes(net, *EVENT), batch(1, *EVENT), jnp.zeros(1))


def test_the_published_size():
    """The convolutions of WRN-28-10 have 36.5 million weights; ours differ by the stem's width."""
    leaves = jax.tree.leaves_with_path(shapes(WideResNet(num_classes=10), 32, 32, 3))
    weights = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel" and leaf.ndim == 4)
    assert abs(weights / 36.5e6 - 1) < 0.01
