"""Blocks that no published numbers reach, against their formulae in numpy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from models.adm import ADMBlock, HeadsAttention
from models.dit import DiTBlock
from models.refinenet import CRPBlock, MSFBlock, RCUBlock, RefineBlock
from tests.contracts import NETWORKS
from tests.helpers import close
from tests.models.common import KEY, batch, shapes


def drawn(module, *arguments):
    """Random float64 parameters for these inputs."""
    params = jax.eval_shape(lambda: module.init(KEY, *arguments))["params"]
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape)), params)


def wide(*shape, seed=0):
    return jnp.asarray(batch(*shape, seed=seed), jnp.float64)


def swish(x):
    return x / (1 + np.exp(-x))


def affine(layer, x):
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def conv3(layer, x):
    """Along the one spatial axis of [B, n, C]."""
    kernel, padded = np.asarray(layer["kernel"]), np.pad(x, [(0, 0), (1, 1), (0, 0)])
    return sum(padded[:, j : j + x.shape[1]] @ kernel[j] for j in range(3)) + np.asarray(layer["bias"])


def group_norm(layer, x, size=4):
    grouped = x.reshape(len(x), x.shape[1], -1, min(size, x.shape[-1]))
    normed = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
    return normed.reshape(x.shape) * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def softmax_attention(q, k, v):
    """[B, n, D] each."""
    logits = np.einsum("bqd,bkd->bqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bqk,bkd->bqd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_adm_block(resample):
    x, emb = wide(2, 6, 4), wide(2, 5, seed=1)
    block = ADMBlock(8, resample)
    p = drawn(block, x, emb)
    sized = {
        "none": lambda h: h,
        "up": lambda h: np.repeat(h, 2, axis=1),
        "down": lambda h: h.reshape(2, 3, 2, -1).mean(2),
    }[resample]
    x_ = np.asarray(x)
    h = conv3(p["Conv_0"], sized(swish(group_norm(p["GroupNorm_0"], x_))))
    scale, shift = np.split(affine(p["Dense_0"], np.asarray(emb))[:, None], 2, axis=-1)
    h = conv3(p["Conv_1"], swish(group_norm(p["GroupNorm_1"], h) * (1 + scale) + shift))
    skip = sized(x_) @ np.asarray(p["Conv_2"]["kernel"])[0] + np.asarray(p["Conv_2"]["bias"])
    close(block.apply({"params": p}, x, emb), skip + h, 1e-9)


def test_attention_has_heads():
    x, block = wide(2, 5, 8), HeadsAttention(head_features=4)
    p = drawn(block, x)
    each = affine(p["Dense_0"], group_norm(p["GroupNorm_0"], np.asarray(x))).reshape(2, 5, 2, 12)
    heads = [softmax_attention(*np.split(each[:, :, i], 3, axis=-1)) for i in range(2)]
    expected = np.asarray(x) + affine(p["Dense_1"], np.concatenate(heads, axis=-1))
    close(block.apply({"params": p}, x), expected, 1e-6)


def test_dit_block():
    h, c = wide(2, 5, 8), wide(2, 8, seed=1)
    block = DiTBlock(heads=2)
    p = drawn(block, h, c)
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(affine(p["Dense_0"], swish(np.asarray(c)))[:, None], 6, -1)
    normed = lambda v: (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-6)  # noqa: E731
    gelu = lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))  # noqa: E731
    h_ = np.asarray(h)
    q, k, v = np.split(affine(p["Dense_1"], normed(h_) * (1 + scale1) + shift1), 3, axis=-1)
    heads = [softmax_attention(*(a[:, :, i : i + 4] for a in (q, k, v))) for i in (0, 4)]
    h_ = h_ + gate1 * affine(p["Dense_2"], np.concatenate(heads, axis=-1))
    expected = h_ + gate2 * affine(p["Dense_4"], gelu(affine(p["Dense_3"], normed(h_) * (1 + scale2) + shift2)))
    close(block.apply({"params": p}, h, c), expected, 1e-6)


# RefineNet


def scaled(params, factor=0.7):
    """Kernels that multiply by `factor` and biases of 0, so that every convolution is a number."""

    def one(leaf):
        if leaf.ndim == 1:
            return jnp.zeros(leaf.shape)
        return jnp.zeros(leaf.shape).at[1].set(factor * jnp.eye(*leaf.shape[1:]))

    return jax.tree.map(one, params)


def norm(x):
    return 2 * x - 1


def pool(x):
    return x + 3


@pytest.mark.parametrize("units", [1, 3])
def test_residual_convolution_units(units):
    x, block = wide(2, 5, 2), RCUBlock(units)
    p = scaled(drawn(block, x, norm, nn.relu))
    expected = np.asarray(x)
    for _ in range(units):
        h = 0.7 * np.maximum(2 * expected - 1, 0)
        expected = expected + 0.7 * np.maximum(2 * h - 1, 0)
    close(block.apply({"params": p}, x, norm, nn.relu), expected, 1e-12)


def test_chained_residual_pooling():
    x, block = wide(2, 5, 2), CRPBlock(2)
    p = scaled(drawn(block, x, norm, nn.relu, pool))
    first = np.maximum(np.asarray(x), 0)
    one = 0.7 * (2 * first - 1 + 3)
    two = 0.7 * (2 * one - 1 + 3)
    close(block.apply({"params": p}, x, norm, nn.relu, pool), first + one + two, 1e-12)


def test_fusion_and_refinement():
    """Each input by its own units; convolved, brought to the first one's size, added; pooled; units again."""
    x, below, block = wide(2, 6, 2), wide(2, 3, 2, seed=1), MSFBlock(2)
    resize = lambda h, size: jnp.repeat(h, size[0] // h.shape[1], axis=1)  # noqa: E731
    p = scaled(drawn(block, [x, below], norm, resize))
    expected = 0.7 * (2 * x - 1) + jnp.repeat(0.7 * (2 * below - 1), 2, axis=1)
    close(block.apply({"params": p}, [x, below], norm, resize), expected, 1e-12)
    refine = RefineBlock(2, end=True)
    q = jax.eval_shape(lambda: refine.init(KEY, [x, below], norm, nn.relu, pool, resize))["params"]
    parts = {name: len(leaves) for name, leaves in q.items()}
    assert parts == {"RCUBlock_0": 4, "RCUBlock_1": 4, "MSFBlock_0": 2, "CRPBlock_0": 2, "RCUBlock_2": 6}


def test_ncsn_norms_before_every_convolution_and_ncsnv2_on_the_way_down_alone():
    """Beside the first convolution and those of the shortcuts."""

    def counted(params, kind):
        return sum(name.startswith(kind) for name in params)

    for name, share in (("ncsn", 1), ("ncsnv2", 0)):
        params = shapes(NETWORKS[name](), 8, 8, 1)
        for block, parts in params.items():
            if block.startswith("RefineBlock"):
                for part in parts.values():
                    assert counted(part, "InstanceNormPlus") == share * counted(part, "Conv") > -1
            if block.startswith("DilatedBlock"):
                assert counted(parts, "InstanceNormPlus") == 2
