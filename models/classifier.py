"""Classifiers of noisy data: logits [B, K] of x at the noise level c_noise, for guidance.

    WideResNet     x ── conv ── level 0: blocks ── level 1: half, blocks ── … ── norm, act ── mean over positions ─┐
                                                                                                      dense ► logits
    UNetEncoder    x ── conv ── level 0: blocks ── half ── level 1 ── … ── block, attention, block ── norm, act ───┐
                                                                        attention to the mean over positions ► logits

    emb            c_noise ── features ── dense ── act ── dense ──►, which enters every block

WideResNet is the wide residual network of Zagoruyko & Komodakis (2016, arXiv 1605.07146), conditioned on the noise
level as in Song et al. (2021, arXiv 2011.13456, appendix I). Each level but the first starts with a block that halves
the size, by means where the original has a stride of 2. UNetEncoder is the first half of ADM with attention pooling
(Dhariwal & Nichol 2021, arXiv 2105.05233, section 4.2). The mean over positions is one more token, and all tokens have
learned positions. Logits are this token's output, so the network takes x of the shape that it was initialized with.

    CIFAR-10, WRN-28-10      WideResNet(nf=160, ch_mult=(1, 2, 4), num_res_blocks=4, dropout=0)
    ImageNet 64^2, ADM       UNetEncoder(nf=128, ch_mult=(1, 2, 3, 4), num_res_blocks=4, attn_resolutions=(32, 16, 8))

Everything computes as in `layers`: in `dtype` or the dtype of x, the last norm and the logits in at least float32. The
logits start at nearly 0: all classes have the same probability.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.adm import ADMBlock
from models.blocks import ResidualBlock
from models.layers import (
    EMBEDDINGS,
    NONLINEARITIES,
    GroupNorm,
    Number,
    activation,
    at_least_float32,
    attention,
    check_dtype,
    check_numbers,
    check_option,
    compute_dtype,
    conv3x3,
    dense,
    noise_features,
    rematerialized,
)


class WideResNet(nn.Module):
    """F(x, c_noise): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] → logits [B, num_classes].

    Level k has `num_res_blocks` blocks of nf · ch_mult[k] channels. Errors: ValueError for an invalid option or rank of
    x."""

    nf: int = 160
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 4
    dropout: Number = 0.0
    nonlinearity: str = "swish"
    embedding: str = "fourier"
    fourier_scale: Number = 16.0
    num_classes: int = 10
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_option("nonlinearity", self.nonlinearity, NONLINEARITIES)
        check_classifier(self)
        super().__post_init__()

    @nn.nowrap
    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the logits, for x of this shape."""
        return (shape[0], self.num_classes)

    @nn.compact
    def __call__(self, x: Float[Array, "..."], c_noise: Float[Array, " B"], train: bool = False) -> Float[Array, "B K"]:
        check_rank(self, x)
        emb = noise_embedding(self, c_noise)
        h = conv3x3(x.astype(compute_dtype(self.dtype, x)), self.nf)
        for level, mult in enumerate(self.ch_mult):
            for k in range(self.num_res_blocks):
                h = self._block(h, emb, self.nf * mult, "down" if level > 0 and k == 0 else "none", train)
        h = activation(self.nonlinearity)(GroupNorm()(at_least_float32(h)))
        return dense(jnp.mean(h, axis=tuple(range(1, h.ndim - 1))), self.num_classes, 0.0).astype(x.dtype)

    @nn.nowrap
    def _block(self, h: Array, emb: Array, features: int, resample: str, train: bool) -> Array:
        def block(_, h: Array, emb: Array) -> Array:
            options = {"dropout": self.dropout, "nonlinearity": self.nonlinearity}
            return ResidualBlock(features, resample, (), skip_rescale=False, **options)(h, emb, train)

        return rematerialized(self.remat, block)(self, h, emb)


class UNetEncoder(nn.Module):
    """F(x, c_noise): x [B, *spatial, C] with 1 to 3 spatial axes, c_noise [B] → logits [B, num_classes].

    Options are those of ADM. Errors: ValueError for an invalid option or rank of x."""

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    attn_levels: tuple[int, ...] = ()
    head_features: int = 64
    dropout: Number = 0.0
    embedding: str = "positional"
    fourier_scale: Number = 16.0
    num_classes: int = 10
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_classifier(self)
        super().__post_init__()

    @nn.nowrap
    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the logits, for x of this shape."""
        return (shape[0], self.num_classes)

    @nn.compact
    def __call__(self, x: Float[Array, "..."], c_noise: Float[Array, " B"], train: bool = False) -> Float[Array, "B K"]:
        check_rank(self, x)
        emb = nn.swish(noise_embedding(self, c_noise))
        h = conv3x3(x.astype(compute_dtype(self.dtype, x)), self.nf * self.ch_mult[0])
        for level, mult in enumerate(self.ch_mult):
            if level > 0:
                h = self._block(h, emb, h.shape[-1], "down", False, train)
            for _ in range(self.num_res_blocks):
                attend = h.shape[1] in self.attn_resolutions or level in self.attn_levels
                h = self._block(h, emb, self.nf * mult, "none", attend, train)
        h = self._block(h, emb, h.shape[-1], "none", True, train)
        h = self._block(h, emb, h.shape[-1], "none", False, train)
        h = nn.swish(GroupNorm()(at_least_float32(h)))
        return AttentionPooling(self.num_classes, self.head_features)(h).astype(x.dtype)

    @nn.nowrap
    def _block(self, h: Array, emb: Array, features: int, resample: str, attend: bool, train: bool) -> Array:
        def block(_, h: Array, emb: Array) -> Array:
            return ADMBlock(features, resample, attend, self.head_features, self.dropout)(h, emb, train)

        return rematerialized(self.remat, block)(self, h, emb)


class AttentionPooling(nn.Module):
    """The output at the mean of h [B, *spatial, C], as one more token, of attention over all tokens: [B, features].

    Positions are learned; there are heads of `head_features` channels (Dhariwal & Nichol 2021, section 4.2)."""

    features: int
    head_features: int = 64

    @nn.compact
    def __call__(self, h: Float[Array, "B *spatial C"]) -> Float[Array, "B K"]:
        batch, *_, channels = h.shape
        heads = max(1, channels // self.head_features)
        if channels % heads:
            raise ValueError(f"head_features: expected to divide the {channels} channels, got {self.head_features}")
        tokens = h.reshape(batch, -1, channels)
        tokens = jnp.concatenate([jnp.mean(tokens, axis=1, keepdims=True), tokens], axis=1)
        spread = nn.initializers.normal(channels**-0.5)
        tokens = tokens + self.param("positions", spread, tokens.shape[1:], jnp.float32).astype(h.dtype)[None]
        of_heads = lambda x: dense(x, channels).reshape(batch, -1, heads, channels // heads)  # noqa: E731
        pooled = attention(of_heads(tokens[:, :1]), of_heads(tokens), of_heads(tokens))
        return dense(pooled.reshape(batch, channels), self.features, 0.0)


def noise_embedding(module: WideResNet | UNetEncoder, c_noise: Float[Array, " B"]) -> Float[Array, "B F"]:
    """emb of the head, of 4 nf features."""
    emb = noise_features(c_noise, module.nf, module.embedding, module.fourier_scale)
    return dense(nn.swish(dense(emb, 4 * module.nf)), 4 * module.nf)


def check_classifier(module: WideResNet | UNetEncoder) -> None:
    """Raises ValueError for an invalid option, and for fewer than two classes."""
    check_option("embedding", module.embedding, EMBEDDINGS)
    check_dtype(module.dtype)
    check_numbers(module)
    if module.num_classes < 2:
        raise ValueError(f"{type(module).__name__}: expected num_classes >= 2; got num_classes={module.num_classes:g}")


def check_rank(module: nn.Module, x: Array) -> None:
    """Raises ValueError unless x has 1 to 3 spatial axes."""
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"{type(module).__name__}: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
