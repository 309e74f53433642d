"""The vision transformer of DINOv2 as a function of its published weights: Oquab et al. 2023, arXiv:2304.07193.

Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1 to 4, with LayerScale (Touvron et al. 2021, arXiv:2103.17239, eq. 4):

    z⁰ = [x_cls + p_cls;  x_¹E + b + p₁;  …;  x_ⁿE + b + p_n],     patches x_ⁱ of 14 × 14 pixels                     (1)
    z′ = z + γ₁ ⊙ MSA(LN(z)),     z ← z′ + γ₂ ⊙ MLP(LN(z′))                                                         (2)
    y  = LN(z_cls)                                                                                                  (3)

with heads of width 64, ε = 10⁻⁶ and the exact GELU. The largest network has SwiGLU in place of the MLP (Shazeer 2020,
arXiv:2002.05202, eq. 6): W₃(silu(W₁z) ⊙ W₂z). Networks with registers (Darcet et al. 2023, arXiv:2309.16588) have four
more tokens after the class token, without position embeddings.

Position embeddings are published for images of 518 pixels, that is 37 × 37 patches. Images of 224 pixels have 16 × 16.
The embeddings P are resampled by cubic convolution (Keys 1981) along each axis, P ↦ R P Rᵀ. Row i of R has the weights

    u = (i + ½) · 37/(16 + δ),   w_j ∝ k_a((u − j − ½)/s),   Σ_j w_j = 1                                             (4)
    networks without registers: δ = 0.1, a = −¾, s = 1 (not antialiased; the edge repeats)
    networks with registers:    δ = 0,   a = −½, s = 37/16 (antialiased; positions outside the grid are left out)
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from published_lib.torch_file import read_torch

PATCH, SIZE, HEAD, EPSILON = 14, 224, 64, 1e-6
GRID = SIZE // PATCH
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
PUBLISHED = {(384, 12): "ViT-S/14", (768, 12): "ViT-B/14", (1024, 24): "ViT-L/14", (1536, 40): "ViT-g/14"}


class ViT(NamedTuple):
    """A network: its name, width, number of registers and parameters.

    The parameters of all blocks are stacked along a first axis, in `params["blocks"]`.
    """

    name: str
    width: int
    registers: int
    params: dict[str, Any]


def read(path: str | Path) -> tuple[ViT, str]:
    """The network of a published file, and the file's SHA-256.

    FileNotFoundError if there is no such file, ValueError if it holds no DINOv2 network; both in one line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the DINOv2 weights are not at {path or '(no path)'}: download a backbone (dinov2_vitl14_pretrain.pth, "
            f"for example) from https://github.com/facebookresearch/dinov2 and set `path` to it"
        )
    weights = read_torch(path)
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path}: expected the arrays of a DINOv2 network, got {type(weights).__name__}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return from_state_dict(weights), digest
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_state_dict(weights: Mapping[str, np.ndarray]) -> ViT:
    """The network, whose sizes follow from the arrays' shapes.

    ValueError naming the first array that is missing, superfluous or of another shape.
    """
    for name, axes in {"cls_token": 3, "pos_embed": 3, "blocks.0.norm1.weight": 1}.items():
        shape = np.shape(weights[name]) if name in weights else ()
        if len(shape) != axes:
            raise ValueError(f"DINOv2 weights: expected {name} with {axes} axes, got {shape}")
    width, places = np.shape(weights["cls_token"])[-1], np.shape(weights["pos_embed"])[1] - 1
    depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in weights)
    registers = np.shape(weights["register_tokens"])[1] if "register_tokens" in weights else 0
    expected = shapes(width, depth, registers, "blocks.0.mlp.w12.weight" in weights, math.isqrt(max(places, 0)))
    for name in [*expected, *(name for name in weights if name not in expected)]:
        found, wanted = np.shape(weights[name]) if name in weights else "none", expected.get(name, "none")
        if found != wanted:
            raise ValueError(f"DINOv2 weights: expected {name} {wanted}, got {found}")
    array = {name: np.asarray(value, np.float32) for name, value in weights.items() if name != "mask_token"}
    blocks = {name.removeprefix("blocks.0."): None for name in array if name.startswith("blocks.0.")}
    params: dict[str, Any] = {name: value for name, value in array.items() if not name.startswith("blocks.")}
    params["blocks"] = {name: np.stack([array[f"blocks.{i}.{name}"] for i in range(depth)]) for name in blocks}
    params["pos_embed"] = positions(array["pos_embed"], antialias=registers > 0)
    name = PUBLISHED.get((width, depth), f"ViT of {depth} blocks") + (
        f" with {registers} registers" if registers else ""
    )
    return ViT(name, width, registers, params)


def shapes(width: int, depth: int, registers: int, swiglu: bool, grid: int = 37) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the published file."""
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8 if swiglu else 4 * width
    first, second = ("mlp.w12", "mlp.w3") if swiglu else ("mlp.fc1", "mlp.fc2")
    block = {
        "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "ls1.gamma": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        f"{first}.weight": ((1 + swiglu) * hidden, width), f"{first}.bias": ((1 + swiglu) * hidden,),
        f"{second}.weight": (width, hidden), f"{second}.bias": (width,), "ls2.gamma": (width,),
    }  # fmt: skip
    return {
        "cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width), "mask_token": (1, width),
        **({"register_tokens": (1, registers, width)} if registers else {}),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,),
        **{f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip


def prepare(images: np.ndarray) -> np.ndarray:
    """uint8 images [N, H, W, 1 or 3] → uint8 [N, 224, 224, 3], resized by Pillow's antialiased bicubic filter."""
    rgb = np.broadcast_to(images, (*images.shape[:3], 3))
    resized = (Image.fromarray(x).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for x in np.ascontiguousarray(rgb))
    return np.stack([np.asarray(x) for x in resized])


def forward(vit: ViT, params: dict[str, Any], images: jax.Array) -> jax.Array:
    """(1) to (3): y [N, width], float32, of uint8 images [N, 224, 224, 3]."""
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    with jax.default_matmul_precision("highest"):
        z = embed(params, (images.astype(jnp.float32) / 255 - mean) / std)
        z, _ = jax.lax.scan(lambda z, block: (_block(block, z), None), z, params["blocks"])
        return _norm(params, "norm", z[:, :1])[:, 0]


def embed(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """(1): tokens [N, 1 + registers + 256, width] of normalized images."""
    kernel = params["patch_embed.proj.weight"]
    width = kernel.shape[0]
    patches = x.reshape(len(x), GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
    patches = patches.reshape(len(x), GRID**2, 3 * PATCH**2) @ kernel.reshape(width, -1).T
    patches += params["patch_embed.proj.bias"][None, None] + params["pos_embed"][:, 1:]
    first = params["cls_token"] + params["pos_embed"][:, :1]
    first = jnp.concatenate([first, params["register_tokens"]], axis=1) if "register_tokens" in params else first
    return jnp.concatenate([jnp.broadcast_to(first, (len(x), *first.shape[1:])), patches], axis=1)


def _block(p: dict[str, jax.Array], z: jax.Array) -> jax.Array:
    """(2)."""
    z = z + p["ls1.gamma"][None, None] * _attention(p, _norm(p, "norm1", z))
    y = _norm(p, "norm2", z)
    if "mlp.w12.weight" in p:
        gate, value = jnp.split(_linear(p, "mlp.w12", y), 2, axis=-1)
        y = _linear(p, "mlp.w3", jax.nn.silu(gate) * value)
    else:
        y = _linear(p, "mlp.fc2", jax.nn.gelu(_linear(p, "mlp.fc1", y), approximate=False))
    return z + p["ls2.gamma"][None, None] * y


def _attention(p: dict[str, jax.Array], z: jax.Array) -> jax.Array:
    n, tokens, width = z.shape
    heads = max(1, width // HEAD)
    q, k, v = jnp.moveaxis(_linear(p, "attn.qkv", z).reshape(n, tokens, 3, heads, width // heads), 2, 0)
    weight = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(width // heads), axis=-1)
    return _linear(p, "attn.proj", jnp.einsum("nhqk,nkhd->nqhd", weight, v).reshape(n, tokens, width))


def _linear(p: dict[str, jax.Array], name: str, z: jax.Array) -> jax.Array:
    return z @ p[f"{name}.weight"].T + p[f"{name}.bias"][None, None]


def _norm(p: dict[str, jax.Array], name: str, z: jax.Array) -> jax.Array:
    centered = z - z.mean(-1, keepdims=True)
    scaled = centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + EPSILON)
    return scaled * p[f"{name}.weight"][None, None] + p[f"{name}.bias"][None, None]


# Positions


def positions(published: np.ndarray, antialias: bool, grid: int = GRID) -> np.ndarray:
    """(4): [1, 1 + M², width] → [1, 1 + grid², width]; the class token's embedding is unchanged."""
    first, rest = published[:, :1], published[:, 1:]
    m, width = math.isqrt(rest.shape[1]), rest.shape[2]
    if m == grid:
        return published
    r = resampling(m, grid, antialias)
    rest = np.einsum("im,jn,mnd->ijd", r, r, rest.reshape(m, m, width).astype(np.float64), optimize=True)
    return np.concatenate([first, rest.reshape(1, grid**2, width).astype(np.float32)], axis=1)


def resampling(m: int, n: int, antialias: bool) -> np.ndarray:
    """R of (4) [n, m]."""
    step = m / n if antialias else m / (n + 0.1)
    stretch, a = (max(step, 1.0), -0.5) if antialias else (1.0, -0.75)
    rows = np.zeros((n, m))
    for i in range(n):
        u = (i + 0.5) * step
        reach = math.ceil(2 * stretch) + 1
        j = np.arange(math.floor(u) - reach, math.floor(u) + reach + 1)
        j = j[(j >= 0) & (j < m)] if antialias else j
        np.add.at(rows[i], np.clip(j, 0, m - 1), cubic((u - j - 0.5) / stretch, a))
    return rows / rows.sum(1, keepdims=True)


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys's kernel k_a: 1 at 0, and 0 at all other integers and beyond ±2."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
