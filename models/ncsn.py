"""NCSN (Song & Ermon 2019, arXiv 1907.05600, appendix A) and NCSNv2 (Song & Ermon 2020, arXiv 2006.09011, appendix B).

Both are a residual network of few levels, in which the lower levels are dilated instead of halved, with a RefineNet on
top (`refinenet`). The levels of the default network on 32 x 32, with nf = 128:

    x ── conv ─► 128, 32^2 ─► 256, 16^2 ─► 256, 16^2, dilation 2 ─► 256, 16^2, dilation 4
                    │             │                 │                        │
    F ◄─ conv ── refine ◄────── refine ◄───────── refine ◄──────────────── refine
          norm, act

    NCSN      conditioned on a discrete noise level: every norm has a row of gains per level; norms everywhere; mean
              pools
    NCSNv2    not conditioned on the noise level: for the same x, the output is the same at every c_noise, and the score
              is the output over sigma (technique 3: PredictScore); norms on the down path only; maximum pools

In its paper NCSN returns the score itself; under PredictScore it returns sigma times the score. Both expect x centered
about 0. Neither divides its output by sigma: that is the parameterization's part.

Published sizes of NCSNv2 (`ncsnv2_levels`): four levels below 96^2, five up to 128^2, six at 256^2.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from models.conditioning import Conditioning
from models.layers import (
    NONLINEARITIES,
    Number,
    activation,
    at_least_float32,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    rematerialized,
)
from models.refinenet import (
    DilatedBlock,
    InstanceNormPlus,
    Map,
    RefineBlock,
    max_of_5,
    mean_of_5,
    ncsn_conv,
    resized,
)

RESIZES = ("linear", "nearest", "corners")


class Parts(NamedTuple):
    """The differences of NCSN and NCSNv2: norms on the down path and in the refine blocks, pool and interpolation."""

    norm: Map
    refine_norm: Map
    pool: Map
    resize: Callable[..., Array]


def _check(module: nn.Module) -> None:
    check_option("nonlinearity", module.nonlinearity, NONLINEARITIES)
    check_dtype(module.dtype)
    check_numbers(module)
    sizes = {name: len(getattr(module, name)) for name in ("ch_mult", "dilations", "refine_mult")}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"levels: expected one number per level in ch_mult, dilations and refine_mult, got {sizes}")
    if not module.dilations or module.dilations[0] != 1:
        raise ValueError(f"dilations: expected 1 on the first level, got {module.dilations}")
    if module.ch_mult[-1] != module.refine_mult[0]:
        got = f"{module.ch_mult[-1]} and {module.refine_mult[0]}"
        raise ValueError(f"levels: expected the last of ch_mult to equal the first of refine_mult, got {got}")


def _refine_net(module: nn.Module, x: Array, parts: Parts) -> Array:
    """The network that NCSN and NCSNv2 share. It makes its layers in `module`, whose fields give the sizes."""
    if not 3 <= x.ndim <= 5:
        name = type(module).__name__
        raise ValueError(f"{name}: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
    act = activation(module.nonlinearity)
    h = ncsn_conv(x.astype(compute_dtype(module.dtype, x)), module.nf)
    levels = []
    for level, (mult, dilation) in enumerate(zip(module.ch_mult, module.dilations, strict=True)):
        for down in (level > 0, False):
            block = partial(_down, module.nf * mult, down, dilation, parts.norm, act)
            h = rematerialized(module.remat, block)(module, h)
        levels.append(h)
    below = []
    for level, mult in zip(reversed(levels), module.refine_mult, strict=True):
        block = partial(_refine, module.nf * mult, level is levels[0], parts, act)
        below = [rematerialized(module.remat, block)(module, level, *below)]
    h = at_least_float32(below[0])
    return ncsn_conv(act(parts.norm(h)), x.shape[-1]).astype(x.dtype)


def _down(features: int, down: bool, dilation: int, norm: Map, act: Map, _: nn.Module, h: Array) -> Array:
    return DilatedBlock(features, down, dilation)(h, norm, act)


def _refine(features: int, end: bool, parts: Parts, act: Map, _: nn.Module, *inputs: Array) -> Array:
    return RefineBlock(features, end)(list(inputs), parts.refine_norm, act, parts.pool, parts.resize)


def _unchanged(x: Array) -> Array:
    return x


class NCSNv2(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    c_noise has no influence. Each level of dilation 1 after the first halves the size. `refine_mult` counts from the
    lowest level. cond (see `Conditioning`) shifts the gains of the norms. The defaults are the published JAX network;
    resize="corners", unbiased=True and refine_mult=(2, 2, 1, 1) are the paper's own code. dtype and remat are as in
    NCSNpp. Errors: ValueError for an invalid option, rank of x, or cond."""

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    refine_mult: tuple[int, ...] = (2, 2, 2, 1)
    nonlinearity: str = "elu"
    resize: str = "linear"
    unbiased: bool = False
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        _check(self)
        check_option("resize", self.resize, RESIZES)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        emb = _embedded(self, c_noise, cond, train)
        norm = partial(_normed, partial(InstanceNormPlus, unbiased=self.unbiased), None, emb)
        return _refine_net(self, x, Parts(norm, _unchanged, max_of_5, partial(resized, method=self.resize)))


class NCSN(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    The gains are those of the noise level nearest to c_noise. Without `sigmas`, c_noise is the number of the level,
    from 0 to num_levels − 1. With `sigmas`, num_levels of them in any order, c_noise is log σ, and the nearest log σ is
    used. Levels, cond, dtype and remat are as in NCSNv2. Errors: ValueError for an invalid option, rank of x, or cond,
    and for another number of sigmas than num_levels."""

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    refine_mult: tuple[int, ...] = (2, 2, 1, 1)
    num_levels: int = 10
    sigmas: tuple[Number, ...] = ()
    nonlinearity: str = "elu"
    num_classes: int = 0
    cond_dim: int = 0
    cond_dropout: Number = 0.0
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        _check(self)
        if self.num_levels < 1 or (self.sigmas and len(self.sigmas) != self.num_levels):
            got = f"{len(self.sigmas)} sigmas and num_levels={self.num_levels}"
            raise ValueError(f"NCSN: expected no sigmas, or as many as num_levels, at least 1; got {got}")
        if any(sigma <= 0 for sigma in self.sigmas):
            raise ValueError(f"NCSN: expected positive sigmas, got {self.sigmas}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        level = nearest_level(c_noise, self.num_levels, self.sigmas)
        emb = _embedded(self, c_noise, cond, train)
        norm = partial(_normed, partial(InstanceNormPlus, self.num_levels), level, emb)
        return _refine_net(self, x, Parts(norm, norm, mean_of_5, partial(resized, method="linear")))


def nearest_level(
    c_noise: Float[Array, " B"], num_levels: int, sigmas: tuple[Number, ...] = ()
) -> Integer[Array, " B"]:
    """The number of the level: c_noise rounded, or that of the nearest log sigma; [B] -> [B]."""
    if not sigmas:
        return jnp.clip(jnp.round(c_noise), 0, num_levels - 1).astype(jnp.int32)
    distances = jnp.abs(c_noise[:, None] - jnp.log(jnp.asarray(sigmas, c_noise.dtype))[None])
    return jnp.argmin(distances, axis=1).astype(jnp.int32)


def _embedded(module: nn.Module, c_noise: Array, cond: object, train: bool) -> Array | None:
    """The embedding of cond [B, 4 nf], or None for a network without cond."""
    emb = jnp.zeros((c_noise.shape[0], 4 * module.nf), jnp.float32)
    emb = Conditioning(module.num_classes, module.cond_dim, module.cond_dropout)(emb, cond, train).emb
    return emb if module.num_classes or module.cond_dim else None


def _normed(make: Callable[[], nn.Module], level: Array | None, emb: Array | None, x: Array) -> Array:
    return make()(x, level, emb)


def ncsnv2_levels(size: int) -> dict[str, tuple[int, ...]]:
    """ch_mult, dilations and refine_mult of the published NCSNv2 for images of size x size (appendix B)."""
    if size < 96:
        return dict(ch_mult=(1, 2, 2, 2), dilations=(1, 1, 2, 4), refine_mult=(2, 2, 2, 1))
    if size <= 128:
        return dict(ch_mult=(1, 2, 2, 4, 4), dilations=(1, 1, 1, 2, 4), refine_mult=(4, 2, 2, 1, 1))
    return dict(ch_mult=(1, 2, 2, 2, 4, 4), dilations=(1, 1, 1, 1, 2, 4), refine_mult=(4, 2, 2, 2, 1, 1))
