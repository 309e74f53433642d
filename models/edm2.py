"""EDM2, a U-Net that preserves magnitudes (Karras et al. 2024, arXiv 2312.02696, configuration G).

    x, and a channel of ones ── conv ── level 0 ────────── all activations ───────── level 0 ── conv · gain ──► F
                                           └ half ── level 1 ─ all activations ─ level 1 ── twice ┘
                                                        └ half ── … ── block, block ── … ┘
    c_noise ── Fourier ── dense ── ⊕ dense(label) ── act ──► emb, which enters every block

    encoder's block   x ── resample ── 1x1 ── pixel norm ─┬─────────── branch ─────────── ⊕ ── attention ── clip ──►
                                                          └───────────────────────────────┘
    decoder's block   x ── resample ─┬── branch ──────── ⊕ ── attention ── clip ──►
                                     └── 1x1 ────────────┘
    branch            act ── conv ── · (1 + gain · dense(emb)) ── act ── dropout ── conv
    attention         x ⊕ 1x1(softmax(q kᵀ / sqrt D) v), with q, k and v of each head normalized

There are no biases, no group norms, and no learned scales but the gains. With a balance t, n the fan-in, and means over
the axes that are normalized,

    normalize(x) = x / (10⁻⁴ + sqrt(mean x²))                                                        (1)
    weights      = normalize(w) gain / sqrt n, for each output channel, at each use                  (2)
    a ⊕ b        = ((1 − t) a + t b) / sqrt((1 − t)² + t²)                                           (3)
    cat(a, b)    = (c (1 − t)/sqrt A · a, c t/sqrt B · b), c = sqrt((A + B)/((1 − t)² + t²))         (4)
    act(x)       = silu(x)/0.596                                                                     (5)
    Fourier(c)   = sqrt 2 cos(frequencies c + phases)                                                (6)

(1) to (6) are their eq. 66, 47, 88, 103, 81 and 75; A and B in (4) are the channels of a and b. So activations have
variance near 1 throughout. Their training also normalizes the stored weights after each step, which (2) makes
immaterial for F. `log_variance` is the uncertainty u(c_noise) of their training loss.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.conditioning import checked_labels
from models.layers import Dropout, Number, at_least_float32, attention, check_dtype, check_numbers, compute_dtype
from models.resampling import crop_like, fir_downsample, fir_upsample, spatial_axes


def normalize(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """(1) over these axes, in at least float32."""
    wide = at_least_float32(x)
    return (wide / (1e-4 + jnp.sqrt(jnp.mean(wide**2, axis=axes, keepdims=True)))).astype(x.dtype)


def balanced_sum(a: Float[Array, "..."], b: Float[Array, "..."], t: Number) -> Float[Array, "..."]:
    """a ⊕ b (3)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def balanced_cat(a: Float[Array, "..."], b: Float[Array, "..."], t: Number) -> Float[Array, "..."]:
    """cat(a, b) (4), along the channels."""
    c = math.sqrt(a.shape[-1] + b.shape[-1]) / math.hypot(1 - t, t)
    return jnp.concatenate([c * (1 - t) / math.sqrt(a.shape[-1]) * a, c * t / math.sqrt(b.shape[-1]) * b], axis=-1)


def act(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """(5)."""
    return nn.silu(x) / 0.596


class NormalizedConv(nn.Module):
    """A convolution of `size` along every spatial axis, or for size 0 a linear map, with the weights (2)."""

    features: int
    size: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "..."], gain: Float[Array, ""] | float = 1.0) -> Float[Array, "..."]:
        axes = 0 if self.size == 0 else x.ndim - 2
        shape = (*(self.size,) * axes, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32))
        inputs = tuple(range(kernel.ndim - 1))
        weights = normalize(kernel, inputs) * (gain / math.sqrt(math.prod(shape[:-1])))
        weights = weights.astype(x.dtype)
        if not axes:
            return jnp.matmul(x, weights)
        numbers = jax.lax.conv_dimension_numbers(x.shape, shape, _layout(x.ndim))
        return jax.lax.conv_general_dilated(x, weights, (1,) * axes, "SAME", dimension_numbers=numbers)


def _layout(ndim: int) -> tuple[str, str, str]:
    axes = "DHW"[-(ndim - 2) :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


class Fourier(nn.Module):
    """(6), with frequencies and phases drawn once and not trained: [B] -> [B, features]."""

    features: int

    @nn.compact
    def __call__(self, c: Float[Array, " B"]) -> Float[Array, "B features"]:
        drawn = {"frequencies": nn.initializers.normal(2 * math.pi), "phases": nn.initializers.uniform(2 * math.pi)}
        frequencies, phases = (
            jax.lax.stop_gradient(jnp.asarray(self.param(name, made, (self.features,), jnp.float32))).astype(c.dtype)
            for name, made in drawn.items()
        )
        return math.sqrt(2) * jnp.cos(c[:, None] * frequencies[None] + phases[None])


class EDM2Block(nn.Module):
    """A block above, of the encoder or the decoder; with `heads`, attention follows."""

    features: int
    encoder: bool
    resample: str = "none"
    heads: int = 0
    dropout: Number = 0.0
    fir_taps: tuple[Number, ...] = (1, 1)
    res_balance: Number = 0.3
    attn_balance: Number = 0.3
    clip: Number = 256.0

    @nn.compact
    def __call__(self, x: Float[Array, "..."], emb: Float[Array, "B E"], train: bool = False) -> Float[Array, "..."]:
        if self.resample != "none":
            x = (fir_upsample if self.resample == "up" else fir_downsample)(x, self.fir_taps)
        changes = x.shape[-1] != self.features
        if self.encoder:
            x = NormalizedConv(self.features, 1, name="conv_skip")(x) if changes else x
            x = normalize(x, (-1,))
        y = NormalizedConv(self.features, 3, name="conv_res0")(act(x))
        gain = self.param("emb_gain", nn.initializers.zeros, (), jnp.float32)
        factor = NormalizedConv(self.features, name="emb_linear")(emb, gain.astype(emb.dtype)) + 1
        y = act(y * jnp.expand_dims(factor.astype(y.dtype), tuple(spatial_axes(y))))
        y = NormalizedConv(self.features, 3, name="conv_res1")(Dropout(self.dropout)(y, train))
        if changes and not self.encoder:
            x = NormalizedConv(self.features, 1, name="conv_skip")(x)
        x = balanced_sum(x, y, self.res_balance)
        x = balanced_sum(x, self._attended(x), self.attn_balance) if self.heads else x
        return jnp.clip(x, -self.clip, self.clip)

    @nn.nowrap
    def _attended(self, x: Array) -> Array:
        """[q, k, v][head][channel] are the channels of its first map."""
        batch, features = x.shape[0], x.shape[-1]
        y = NormalizedConv(3 * features, 1, name="attn_qkv")(x)
        y = normalize(y.reshape(batch, -1, 3, self.heads, features // self.heads), (-1,))
        y = attention(*(y[:, :, kind] for kind in range(3)))
        return NormalizedConv(features, 1, name="attn_proj")(y.reshape(x.shape))


class EDM2(nn.Module):
    """F(x, c_noise, cond): x [B, *spatial, C] with 1 to 3 spatial axes of any size, c_noise [B] -> x's shape.

    Level i has nf · ch_mult[i] channels. Attention is on the levels whose first spatial size is in `attn_resolutions`,
    in heads of `head_features` channels; a block with fewer channels has none. `noise_mult` and `embedding_mult` set
    the widths of the features of the noise level and of the embedding, in units of nf (0: those of level 0, and the
    widest). cond: labels [B], of `num_classes` classes; `num_classes` or None is no class, a vector of zeros. Errors:
    ValueError for an invalid option, rank of x, or cond."""

    nf: int = 192
    ch_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    head_features: int = 64
    dropout: Number = 0.0
    num_classes: int = 0
    cond_dropout: Number = 0.0
    noise_mult: int = 0
    embedding_mult: int = 0
    label_balance: Number = 0.5
    concat_balance: Number = 0.5
    res_balance: Number = 0.3
    attn_balance: Number = 0.3
    fir_taps: tuple[Number, ...] = (1, 1)
    clip: Number = 256.0
    log_variance_features: int = 128
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        check_numbers(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        if not 3 <= x.ndim <= 5:
            raise ValueError(f"EDM2: expected x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
        emb = self._embedded(c_noise, cond, train)
        LogVariance(self.log_variance_features)(c_noise)  # makes its parameters; the value is for the loss
        h = x.astype(compute_dtype(self.dtype, x))
        h = NormalizedConv(self._width(0), 3)(jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1))
        skips = [h]
        for level in range(len(self.ch_mult)):
            if level:
                skips.append(self._block(skips[-1], emb, train, self._width(level - 1), True, "down"))
            for _ in range(self.num_res_blocks):
                skips.append(self._block(skips[-1], emb, train, self._width(level), True))
        h = self._block(skips[-1], emb, train, skips[-1].shape[-1], False, attend=True)
        h = self._block(h, emb, train, h.shape[-1], False, attend=False)
        for level in reversed(range(len(self.ch_mult))):
            if level < len(self.ch_mult) - 1:
                h = crop_like(self._block(h, emb, train, h.shape[-1], False, "up"), skips[-1])
            for _ in range(self.num_res_blocks + 1):
                h = balanced_cat(h, skips.pop(), self.concat_balance)
                h = self._block(h, emb, train, self._width(level), False)
        gain = self.param("out_gain", nn.initializers.zeros, (), jnp.float32)
        h = at_least_float32(h)
        return NormalizedConv(x.shape[-1], 3)(h, gain.astype(h.dtype)).astype(x.dtype)

    @nn.nowrap
    def _width(self, level: int) -> int:
        return self.nf * self.ch_mult[level]

    @nn.nowrap
    def _embedded(self, c_noise: Array, cond: object, train: bool) -> Array:
        features = self.nf * self.embedding_mult or self.nf * max(self.ch_mult)
        emb = NormalizedConv(features)(Fourier(self.nf * self.noise_mult or self._width(0))(c_noise))
        if not self.num_classes:
            if cond is not None:
                raise ValueError("cond: expected None, since the network has num_classes=0, got one")
            return act(emb)
        labels = checked_labels(cond, emb.shape[0], self.num_classes)
        if train and self.cond_dropout:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.cond_dropout, labels.shape)
            labels = jnp.where(keep, labels, self.num_classes)
        one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=emb.dtype) * math.sqrt(self.num_classes)
        return act(balanced_sum(emb, NormalizedConv(features)(one_hot), self.label_balance))

    @nn.nowrap
    def _block(
        self,
        h: Array,
        emb: Array,
        train: bool,
        features: int,
        encoder: bool,
        resample: str = "none",
        attend: bool | None = None,
    ) -> Array:
        if attend is None:
            attend = resample == "none" and h.shape[1] in self.attn_resolutions
        heads = features // self.head_features if attend else 0
        options = (self.dropout, self.fir_taps, self.res_balance, self.attn_balance, self.clip)
        return EDM2Block(features, encoder, resample, heads, *options)(h, emb, train)


class LogVariance(nn.Module):
    """u(c_noise) [B], the log variance of the loss at each noise level (their section 2.2)."""

    features: int = 128

    @nn.compact
    def __call__(self, c_noise: Float[Array, " B"]) -> Float[Array, " B"]:
        return NormalizedConv(1)(Fourier(self.features)(c_noise))[:, 0]


def log_variance(module: EDM2, params, c_noise: Float[Array, " B"]) -> Float[Array, " B"]:
    """u(c_noise) [B] of a network with these parameters: its training loss is E e^(−u) loss + u."""
    return LogVariance(module.log_variance_features).apply({"params": params["LogVariance_0"]}, c_noise)  # pyright: ignore
