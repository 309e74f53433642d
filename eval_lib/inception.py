"""The Inception-v3 network of the FID: TensorFlow's graph of December 2015, as a function of its weights and of images.

Szegedy et al. 2016, arXiv:1512.00567. All published FIDs use this graph (Heusel et al. 2017, arXiv:1706.08500). It
differs from the paper:

    the average pools of the blocks A, C and E₁ exclude padding from their mean
    the second E block uses max pooling
    images are resized bilinearly from the source coordinate  i · in/out  (no half pixel, no antialiasing)
    pixels are (v − 128)/128, and there are 1008 classes

    image ─resize 299─► 1a 2a 2b ─max─► 3b 4a ─max─► A A A ─► B ─► C C C C ─► D ─► E₁ E₂ ─mean─► fc
                                   └ 64         └ 192                     └ 768              └ 2048 └ logits

Each convolution is followed by batch normalization with ε = 10⁻³ and ReLU. The normalization is folded into the kernel
when weights are read.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

SIZE = 299
EPSILON = 1e-3
Params = dict[str, tuple[jax.Array, jax.Array]]


class Taps(NamedTuple):
    """Outputs of the network for N images, float32: spatial means [N, 64] … [N, 2048], and logits [N, 1008].

    `logits_unbiased` omit the last layer's bias, as the Inception score of the original graph does.
    """

    pool1: jax.Array
    pool2: jax.Array
    mixed6: jax.Array
    pool3: jax.Array
    logits_unbiased: jax.Array
    logits: jax.Array


def inception(params: Params, images: jax.Array) -> Taps:
    """All outputs for images [N, H, W, 1 or 3] with values 0 … 255, of any size and real dtype.

    ValueError for another shape.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"inception: expected images [N, H, W, 1 or 3] of 0 to 255, got shape {images.shape}")
    x = (resize(jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)) - 128) / 128
    x = _conv(params, "Conv2d_1a_3x3", x, stride=2)
    x = _conv(params, "Conv2d_2a_3x3", x, padding="VALID")
    x = _max_pool(_conv(params, "Conv2d_2b_3x3", x))
    pool1 = x
    x = _conv(params, "Conv2d_3b_1x1", x)
    x = _max_pool(_conv(params, "Conv2d_4a_3x3", x, padding="VALID"))
    pool2 = x
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_a(params, name, x)
    x = _block_b(params, "Mixed_6a", x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_c(params, name, x)
    mixed6 = x
    x = _block_d(params, "Mixed_7a", x)
    x = _block_e(params, "Mixed_7b", x, _mean_pool)
    x = _block_e(params, "Mixed_7c", x, lambda y: nn.max_pool(y, (3, 3), (1, 1), "SAME"))
    pool1, pool2, mixed6, pool3 = (y.mean((1, 2)) for y in (pool1, pool2, mixed6, x))
    weight, bias = params["fc"]
    logits = jnp.matmul(pool3, weight, precision=lax.Precision.HIGHEST)
    return Taps(pool1, pool2, mixed6, pool3, logits, logits + bias[None])


def resize(images: jax.Array, size: int = SIZE) -> jax.Array:
    """Bilinear to [N, size, size, C] from source coordinates i · in/size: TensorFlow 1's `resize_bilinear`.

    in/size and the coordinate are float32. Beyond the edge, the edge repeats. The width is resized before the height.
    """
    for axis in (2, 1):
        length = images.shape[axis]
        at = np.arange(size, dtype=np.float32) * (np.float32(length) / np.float32(size))
        low = np.floor(at).astype(np.int32)
        high = np.minimum(low + 1, length - 1)
        weight = (at - low).astype(np.float32).reshape((1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1))
        first, second = (jnp.take(images, index, axis=axis) for index in (low, high))
        images = first + (second - first) * weight
    return images


def from_state_dict(weights: Mapping[str, np.ndarray]) -> Params:
    """The arrays of the published PyTorch file → parameters: kernels [h, w, in, out], with normalization folded in.

    y = γ (k ∗ x − μ)/√(v + ε) + β  =  (γ/√(v + ε) k) ∗ x + (β − γ μ/√(v + ε)),  in float64, then rounded.

    ValueError naming the first array that is missing or of another shape.
    """
    params: Params = {}
    for name, shape in _expected():
        kernel = _array(weights, f"{name}.conv.weight", shape)
        gamma, beta, mean, variance = (
            _array(weights, f"{name}.bn.{part}", shape[:1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        slope = gamma / np.sqrt(variance + EPSILON)
        params[name] = _float32(kernel.transpose(2, 3, 1, 0) * slope, beta - mean * slope)
    weight, bias = _array(weights, "fc.weight", (1008, 2048)), _array(weights, "fc.bias", (1008,))
    return params | {"fc": _float32(weight.T, bias)}


def _float32(weight: np.ndarray, bias: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(weight.astype(np.float32)), jnp.asarray(bias.astype(np.float32))


def _array(weights: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = np.shape(weights[name]) if name in weights else "none of that name"
    if found != shape:
        raise ValueError(f"Inception weights: expected {name} {shape}, got {found}")
    return np.asarray(weights[name], np.float64)


def _conv(params: Params, name: str, x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """Convolution, bias and ReLU; a convolution with a stride has no padding."""
    kernel, bias = params[name]
    y = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding if stride == 1 else "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(y + bias[None, None, None])


def _chain(params: Params, block: str, x: jax.Array, *names: str, last_stride: int = 1) -> jax.Array:
    """Convolutions of a block in sequence."""
    for i, name in enumerate(names):
        x = _conv(params, f"{block}.branch{name}", x, last_stride if i == len(names) - 1 else 1)
    return x


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _mean_pool(x: jax.Array) -> jax.Array:
    """The mean over the part of a 3 × 3 neighborhood that is inside the image."""
    rows, columns = (np.convolve(np.ones(n), np.ones(3), "same").astype(np.float32) for n in x.shape[1:3])
    total = lax.reduce_window(x, np.float32(0), lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return total / np.outer(rows, columns)[None, :, :, None]


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _block_a(params: Params, block: str, x: jax.Array) -> jax.Array:
    return _join(
        _chain(params, block, x, "1x1"),
        _chain(params, block, x, "5x5_1", "5x5_2"),
        _chain(params, block, x, "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"),
        _chain(params, block, _mean_pool(x), "_pool"),
    )


def _block_b(params: Params, block: str, x: jax.Array) -> jax.Array:
    return _join(
        _chain(params, block, x, "3x3", last_stride=2),
        _chain(params, block, x, "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", last_stride=2),
        _max_pool(x),
    )


def _block_c(params: Params, block: str, x: jax.Array) -> jax.Array:
    return _join(
        _chain(params, block, x, "1x1"),
        _chain(params, block, x, "7x7_1", "7x7_2", "7x7_3"),
        _chain(params, block, x, *(f"7x7dbl_{i}" for i in range(1, 6))),
        _chain(params, block, _mean_pool(x), "_pool"),
    )


def _block_d(params: Params, block: str, x: jax.Array) -> jax.Array:
    return _join(
        _chain(params, block, x, "3x3_1", "3x3_2", last_stride=2),
        _chain(params, block, x, *(f"7x7x3_{i}" for i in range(1, 5)), last_stride=2),
        _max_pool(x),
    )


def _block_e(params: Params, block: str, x: jax.Array, pool) -> jax.Array:
    three, double = _chain(params, block, x, "3x3_1"), _chain(params, block, x, "3x3dbl_1", "3x3dbl_2")
    return _join(
        _chain(params, block, x, "1x1"),
        *(_chain(params, block, three, name) for name in ("3x3_2a", "3x3_2b")),
        *(_chain(params, block, double, name) for name in ("3x3dbl_3a", "3x3dbl_3b")),
        _chain(params, block, pool(x), "_pool"),
    )


# The shapes [out, in, h, w] of all kernels in the file


def _expected():
    """Name and kernel shape of each convolution."""
    stem = {"1a_3x3": (32, 3, 3, 3), "2a_3x3": (32, 32, 3, 3), "2b_3x3": (64, 32, 3, 3), "3b_1x1": (80, 64, 1, 1)}
    for name, shape in (stem | {"4a_3x3": (192, 80, 3, 3)}).items():
        yield f"Conv2d_{name}", shape
    for block, n, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        yield from _branches(block, {
            "1x1": (64, n, 1, 1), "5x5_1": (48, n, 1, 1), "5x5_2": (64, 48, 5, 5), "3x3dbl_1": (64, n, 1, 1),
            "3x3dbl_2": (96, 64, 3, 3), "3x3dbl_3": (96, 96, 3, 3), "_pool": (pool, n, 1, 1),
        })  # fmt: skip
    yield from _branches("6a", {
        "3x3": (384, 288, 3, 3), "3x3dbl_1": (64, 288, 1, 1), "3x3dbl_2": (96, 64, 3, 3), "3x3dbl_3": (96, 96, 3, 3),
    })  # fmt: skip
    for block, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        yield from _branches(block, {
            "1x1": (192, 768, 1, 1), "7x7_1": (c, 768, 1, 1), "7x7_2": (c, c, 1, 7), "7x7_3": (192, c, 7, 1),
            "7x7dbl_1": (c, 768, 1, 1), "7x7dbl_2": (c, c, 7, 1), "7x7dbl_3": (c, c, 1, 7), "7x7dbl_4": (c, c, 7, 1),
            "7x7dbl_5": (192, c, 1, 7), "_pool": (192, 768, 1, 1),
        })  # fmt: skip
    yield from _branches("7a", {
        "3x3_1": (192, 768, 1, 1), "3x3_2": (320, 192, 3, 3), "7x7x3_1": (192, 768, 1, 1),
        "7x7x3_2": (192, 192, 1, 7), "7x7x3_3": (192, 192, 7, 1), "7x7x3_4": (192, 192, 3, 3),
    })  # fmt: skip
    for block, n in (("7b", 1280), ("7c", 2048)):
        yield from _branches(block, {
            "1x1": (320, n, 1, 1), "3x3_1": (384, n, 1, 1), "3x3_2a": (384, 384, 1, 3), "3x3_2b": (384, 384, 3, 1),
            "3x3dbl_1": (448, n, 1, 1), "3x3dbl_2": (384, 448, 3, 3), "3x3dbl_3a": (384, 384, 1, 3),
            "3x3dbl_3b": (384, 384, 3, 1), "_pool": (192, n, 1, 1),
        })  # fmt: skip


def _branches(block: str, shapes: dict[str, tuple[int, ...]]):
    for name, shape in shapes.items():
        yield f"Mixed_{block}.branch{name}", shape
