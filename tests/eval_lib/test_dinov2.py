"""The vision transformer, against its equations written again: in float64, token by token, head by head."""

import hashlib
import math

import jax
import numpy as np
import pytest
import scipy.special
from PIL import Image

from eval_lib import DINOv2Features, dinov2
from tests.helpers import close
from tests.published_lib.test_torch_file import tensor, text, torch_file

WIDTH, DEPTH, GRID = 128, 2, 5


def weights(registers=0, swiglu=False, grid=GRID, seed=0):
    """Of the scale that the published ones have: LayerScale and gains near 1, so that every part counts."""
    draw = np.random.default_rng(seed)
    made = {}
    for name, shape in dinov2.shapes(WIDTH, DEPTH, registers, swiglu, grid).items():
        near_one = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma"))
        scale = 0.3 if len(shape) == 1 or "token" in name or "pos" in name else 1 / math.sqrt(np.prod(shape[1:]))
        made[name] = (near_one + scale * draw.standard_normal(shape)).astype(np.float32)
    return made


def pixels(n, channels=3):
    return np.random.default_rng(1).integers(0, 256, (n, 224, 224, channels), np.uint8)


# The equations, again


def layer_norm(z, w, name):
    out = np.empty_like(z)
    for i, row in enumerate(z):
        out[i] = (row - row.mean()) / np.sqrt(row.var() + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return out


def linear(z, w, name):
    return np.stack([w[f"{name}.weight"] @ row + w[f"{name}.bias"] for row in z])


def attention(z, w, name):
    q, k, v = np.split(linear(z, w, f"{name}.qkv"), 3, axis=1)
    heads = []
    for h in range(0, z.shape[1], 64):
        scores = q[:, h : h + 64] @ k[:, h : h + 64].T / 8
        heads.append(scipy.special.softmax(scores, axis=1) @ v[:, h : h + 64])
    return linear(np.concatenate(heads, axis=1), w, f"{name}.proj")


def perceptron(z, w, name):
    if f"{name}.w12.weight" not in w:
        z = linear(z, w, f"{name}.fc1")
        return linear(z * (1 + scipy.special.erf(z / math.sqrt(2))) / 2, w, f"{name}.fc2")
    half = w[f"{name}.w3.weight"].shape[1]
    z = linear(z, w, f"{name}.w12")
    return linear(z[:, :half] * scipy.special.expit(z[:, :half]) * z[:, half:], w, f"{name}.w3")


def class_token(image, w, places):
    """(1) to (3) of one image [224, 224, 3]."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    x = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel, tokens = w["patch_embed.proj.weight"], [w["cls_token"][0, 0] + places[0]]
    tokens += list(w["register_tokens"][0]) if "register_tokens" in w else []
    for i in range(16):
        for j in range(16):
            patch = x[14 * i : 14 * i + 14, 14 * j : 14 * j + 14]
            tokens.append(np.einsum("dchw,hwc->d", kernel, patch) + w["patch_embed.proj.bias"] + places[1 + 16 * i + j])
    z = np.array(tokens)
    for b in range(DEPTH):
        z = z + w[f"blocks.{b}.ls1.gamma"] * attention(layer_norm(z, w, f"blocks.{b}.norm1"), w, f"blocks.{b}.attn")
        z = z + w[f"blocks.{b}.ls2.gamma"] * perceptron(layer_norm(z, w, f"blocks.{b}.norm2"), w, f"blocks.{b}.mlp")
    return layer_norm(z[:1], w, "norm")[0]


@pytest.mark.parametrize(("registers", "swiglu"), [(0, False), (4, True)])
def test_the_class_token_is_that_of_the_equations(registers, swiglu):
    w, images = weights(registers, swiglu), pixels(2)
    vit = dinov2.from_state_dict(w)
    assert vit.width == WIDTH and vit.registers == registers
    found = jax.jit(lambda params, x: dinov2.forward(vit, params, x))(vit.params, images)
    places = dinov2.positions(w["pos_embed"], antialias=registers > 0)[0].astype(np.float64)
    expected = np.stack([class_token(image, w, places) for image in images])
    assert found.dtype == np.float32 and np.std(expected) > 0.3
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("width", "depth", "swiglu", "millions"),
    [(384, 12, False, 22.06), (768, 12, False, 86.58), (1024, 24, False, 304.37), (1536, 40, True, 1136.48)],
)
def test_the_published_sizes(width, depth, swiglu, millions):
    """Parameters of ViT-S, B, L and g/14, as their authors count them."""
    count = sum(math.prod(shape) for shape in dinov2.shapes(width, depth, 0, swiglu).values())
    assert round(count / 1e6, 2) == millions and (width, depth) in dinov2.PUBLISHED


# Positions


@pytest.mark.parametrize(("m", "n"), [(37, 16), (5, 16), (16, 11)])
def test_antialiased_positions_are_those_of_pillow(m, n):
    values = np.random.default_rng(0).normal(size=(m, m)).astype(np.float32)
    r = dinov2.resampling(m, n, antialias=True)
    expected = np.asarray(Image.fromarray(values, mode=None).resize((n, n), Image.Resampling.BICUBIC))
    close(r @ values @ r.T, expected, 1e-5)


def test_other_positions_are_a_cubic_convolution():
    """Keys 1981, eq. 4 with a = −¾ as its piecewise cubic, at places 37/16.1 apart; the edge repeats."""
    signal = np.random.default_rng(0).normal(size=37)
    expected = []
    for i in range(16):
        u, total = (i + 0.5) * 37 / 16.1 - 0.5, 0.0
        for j in range(math.floor(u) - 1, math.floor(u) + 3):
            s = abs(u - j)
            weight = 1.25 * s**3 - 2.25 * s**2 + 1 if s < 1 else -0.75 * s**3 + 3.75 * s**2 - 6 * s + 3
            total += weight * signal[min(max(j, 0), 36)]
        expected.append(total)
    np.testing.assert_allclose(dinov2.resampling(37, 16, antialias=False) @ signal, expected, rtol=1e-10)


def test_rows_and_columns_are_not_exchanged():
    """Positions that change along rows alone still do; the first of them, and a grid of 16, stay as they are."""
    published = np.zeros((1, 1 + 25, 3), np.float32)
    published[:, 0], published[0, 1:] = 7, np.repeat(np.arange(5), 5)[:, None]
    found = dinov2.positions(published, antialias=False)
    grid = found[0, 1:].reshape(16, 16, 3)
    assert (
        np.all(found[:, 0] == 7)
        and np.ptp(grid, axis=1).max() < 1e-6 * grid.max()
        and np.all(np.diff(grid[:, 0], axis=0) > 0)
    )
    same = np.random.default_rng(0).normal(size=(1, 257, 3)).astype(np.float32)
    np.testing.assert_array_equal(dinov2.positions(same, antialias=True), same)


# The file


def write(path, arrays):
    strides = lambda shape: tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))  # noqa: E731
    items = [
        text(name) + tensor(a.shape, strides(a.shape), key=str(i), count=a.size)
        for i, (name, a) in enumerate(arrays.items())
    ]
    return torch_file(
        path, b"}(" + b"".join(items) + b"u", {str(i): a.tobytes() for i, a in enumerate(arrays.values())}
    )


def test_a_file_is_features(tmp_path):
    """Whatever the size of an image, and gray as three equal channels; the protocol says which network it is."""
    w = weights(grid=16)
    path = write(tmp_path / "w.pth", w)
    features = DINOv2Features(path=str(path), batch_size=2).loaded(jax.devices()[:1])
    images = np.random.default_rng(2).integers(0, 256, (3, 20, 30, 1), np.uint8)
    found = features(images)
    assert found.features.shape == (3, WIDTH) and found.logits is None
    resized = np.stack([np.asarray(Image.fromarray(x[..., 0]).resize((224, 224), Image.Resampling.BICUBIC))
                        for x in images])[..., None].repeat(3, -1)  # fmt: skip
    expected = class_token(resized[2], w, w["pos_embed"][0].astype(np.float64))
    np.testing.assert_allclose(found.features[2], expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(features(images.repeat(3, -1)).features, found.features)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert features.protocol["features"] == "DINOv2 ViT of 2 blocks, class token, 128"
    assert features.protocol["weights"] == f"sha256 {digest}" and "bicubic" in features.protocol["resize"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.ls2.gamma": None}, r"expected blocks.1.ls2.gamma \(128,\), got none"),
        ({"blocks.1.attn.qkv.bias": np.zeros(128)}, r"expected blocks.1.attn.qkv.bias \(384,\), got \(128,\)"),
        ({"head.weight": np.zeros(2)}, r"expected head.weight none, got \(2,\)"),
        ({"pos_embed": np.zeros((1, 27, 128))}, r"expected pos_embed \(1, 26, 128\), got \(1, 27, 128\)"),
        ({"cls_token": None}, r"expected cls_token with 3 axes, got \(\)"),
    ],
)
def test_other_weights_are_refused(change, message):
    w = {name: value for name, value in (weights() | change).items() if value is not None}
    with pytest.raises(ValueError, match=f"^DINOv2 weights: {message}"):
        dinov2.from_state_dict(w)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the DINOv2 weights are not at .*none.pth: download a backbone "):
        dinov2.read(tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"list.pth: expected the arrays of a DINOv2 network, got list"):
        dinov2.read(torch_file(tmp_path / "list.pth", b"]"))
    with pytest.raises(ValueError, match=r"one.pth: DINOv2 weights: expected cls_token with 3 axes"):
        dinov2.read(write(tmp_path / "one.pth", {"a": np.zeros(2, np.float32)}))
