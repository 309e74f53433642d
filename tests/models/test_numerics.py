"""What is computed in which dtype, and that computing a block again changes nothing."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LinenNetwork, NCSNpp
from models.layers import rematerialized
from tests.models.common import KEY, batch, jit, random_params, shapes
from tests.models.test_ncsnpp import C_NOISE, NCSNPP, ONE_LEVEL, TINY

SKIPS = dict(progressive_input="input_skip", progressive="output_skip", fir_taps=(1, 3, 3, 1))
EVENT = (8, 8, 3)
NETWORKS = {"residual": dict(TINY, **NCSNPP), "skips": dict(TINY, **SKIPS), "ddpm": dict(TINY, block="ddpm")}
each_network = pytest.mark.parametrize(
    "options",
    [pytest.param(v, id=k, marks=[] if k == "residual" else pytest.mark.slow) for k, v in NETWORKS.items()],
)


def equations(jaxpr):
    """All of them, also those inside of others."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def traced(net, train=False, x=EVENT):
    call = partial(LinenNetwork(net), train=train, key=KEY if train else None)
    return list(equations(jax.make_jaxpr(call)(shapes(net, *x), batch(2, *x), C_NOISE).jaxpr))


def dtypes(found, name):
    """How often operands have which dtype, in the operations of that name."""
    return Counter(str(equation.invars[0].aval.dtype) for equation in found if equation.primitive.name == name)


@each_network
def test_bfloat16_is_the_dtype_of_convolutions_and_of_nothing_delicate(options):
    """Embeddings are two maps, and one for each of the (1 + 1) + 1 + (2 + 2) blocks and resampling blocks."""
    net = NCSNpp(**options, dtype="bfloat16")
    params = shapes(net, *EVENT)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(LinenNetwork(net), params, batch(2, *EVENT), C_NOISE).dtype == jnp.float32

    found = traced(net)
    heads = 2 if net.progressive == "output_skip" else 1
    convolutions = dtypes(found, "conv_general_dilated")
    assert convolutions == {"bfloat16": dtypes(traced(NCSNpp(**options)), "conv_general_dilated")["float32"] - heads,
                            "float32": heads}  # fmt: skip
    last = [e for e in found if e.primitive.name == "conv_general_dilated" and e.outvars[0].aval.dtype == jnp.float32]
    assert {e.outvars[0].aval.shape[-1] for e in last} == {3}
    blocks = sum("ResidualBlock" in name for name in params)
    assert dtypes(found, "dot_general")["float32"] == 2 + blocks
    assert set(dtypes(found, "rsqrt")) == set(dtypes(found, "reduce_sum")) == {"float32"}
    assert set(dtypes(found, "exp")) == {"float32"}  # of the softmax
    assert set(dtypes(found, "sin")) == {"float32"}


def test_bfloat16_rounds_and_no_more():
    """Each of some thirty operations in a row rounds by 2⁻⁹ of a value: the root of the sum of squares is 0.01."""
    options = dict(NETWORKS["residual"], attn_levels=(1,))
    x, params = batch(2, *EVENT), random_params(NCSNpp(**options), *EVENT)
    exact, rounded = (
        jit(LinenNetwork(NCSNpp(**options, dtype=dtype)))(params, x, C_NOISE) for dtype in (None, "bfloat16")
    )
    error = float(jnp.std(rounded - exact) / jnp.std(exact))
    assert 1e-4 < error < 0.02


def test_dtypes_are_listed():
    with pytest.raises(ValueError, match="dtype: expected one of 'bfloat16', 'float32', got 'float16'"):
        NCSNpp(dtype="float16")


@pytest.mark.parametrize(
    "options",
    [pytest.param(ONE_LEVEL, id="one level")]
    + [pytest.param(v, id=k, marks=pytest.mark.slow) for k, v in NETWORKS.items()],
)
def test_rematerialization_changes_neither_names_nor_loss_nor_gradients(options):
    """With dropout: the block that is computed again has the mask that it had."""
    options = dict(options, dropout=0.3)
    x, plain = batch(2, *EVENT), NCSNpp(**options)
    params = random_params(plain, *EVENT)
    assert jax.tree.structure(params) == jax.tree.structure(shapes(NCSNpp(**options, remat=True), *EVENT))

    def loss(params, net):
        return jnp.mean((LinenNetwork(net)(params, x, C_NOISE, key=KEY, train=True) - x) ** 2)

    expected, again = (
        jit(jax.value_and_grad(partial(loss, net=net)))(params) for net in (plain, NCSNpp(**options, remat=True))
    )
    np.testing.assert_allclose(again[0], expected[0], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(again[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(other))) + 1e-8)


@each_network
def test_each_block_is_computed_again(options):
    net = NCSNpp(**options, remat=True)
    blocks = sum(name.startswith(("ResidualBlock", "AttentionBlock")) for name in shapes(net, *EVENT))
    counted = Counter(equation.primitive.name for equation in traced(net, train=True))
    assert blocks >= 6 and counted["remat2"] + counted["checkpoint"] + counted["remat"] == blocks
    plain = Counter(equation.primitive.name for equation in traced(NCSNpp(**options), train=True))
    assert not {"remat2", "checkpoint", "remat"} & set(plain)


def test_a_block_that_is_not_wanted_again_is_the_block():
    assert rematerialized(False, test_dtypes_are_listed) is test_dtypes_are_listed
