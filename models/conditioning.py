"""Conditioning: class labels, vectors, fields such as images, and sequences. All networks share it.

    labels    [B]          ── E[label]  ─┐
    vector    [B, cond_dim] ── W vector ─┴─ + emb [B, F]
    field     [B, *n, c]   ── resized to x's positions ── next to x, along the channels
    sequence  [B, L, d]    ── W token + positions ── keys and values of cross-attention: context [B, L, F]

    cond          meaning
    an array      of the one kind that the network takes; if it takes several, by the array's form (below)
    a dict        name → array, each of a kind by its form. In the order of names, several vectors are concatenated,
                  several fields along the channels (after resizing), several sequences along L
    (l, v)        labels and vector, for a network with both; each may be None
    None          the null of every kind; also for each kind that a dict lacks or has None for

    kind          form                                              network's option    null
    labels        integers [B]: 0 … num_classes − 1                 num_classes         a learned row of E
    vector        real numbers [B] or [B, d]                        cond_dim            0, which adds nothing
    field         as many axes as x; called "field", or no          cond_channels       0
                  sequence is taken
    sequence      [B, L, d]                                         context_dim         one token of 0

With null="learned" the nulls of vector, field and token are learned. Use it with dropout if 0 is an ordinary value:
it is the mean of a standardized condition.

In training, an example's cond is replaced by the nulls with probability `dropout`, and then each kind by its own with
probability `dropout_each`. So one network learns the conditional and the unconditional score (Ho & Salimans 2022, arXiv
2207.12598, algorithm 1), or the score given any of the kinds (Brooks et al. 2023, arXiv 2211.09800, section 3.2).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.layers import Number, check_option, dense, positional_features

Kept = dict[str, Array] | None
NULLS = ("zero", "learned")
OPTIONS = {"labels": "num_classes", "vector": "cond_dim", "field": "cond_channels", "sequence": "context_dim"}
"""Kind → the networks' option that sets its size; 0: the network does not take it."""


class Conditioned(NamedTuple):
    """emb [B, F] with labels and vector, x [B, ...] with the field's channels, context [B, L, F] or None."""

    emb: Array
    x: Any
    context: Array | None


class Conditioning(nn.Module):
    """(emb [B, F], cond, x) → Conditioned, as at the head; without any kind it has no parameters.

    Of the kinds that the network takes, only those of `enters` enter here.

    Errors: ValueError for a cond of another kind, shape or dtype."""

    num_classes: int = 0
    cond_dim: int = 0
    dropout: Number = 0.0
    cond_channels: int = 0
    context_dim: int = 0
    dropout_each: Number = 0.0
    null: str = "zero"
    enters: tuple[str, ...] = tuple(OPTIONS)

    def __post_init__(self) -> None:
        check_option("cond_null", self.null, NULLS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, emb: Float[Array, "B F"], cond: object = None, train: bool = False, x: Any = None
    ) -> Conditioned:
        sizes = {kind: getattr(self, option) for kind, option in OPTIONS.items() if getattr(self, option)}
        batch, width = emb.shape
        given = by_kind(cond, sizes, batch, getattr(x, "ndim", 0))
        sizes = {kind: size for kind, size in sizes.items() if kind in self.enters}
        kept = self._kept(batch, train, list(sizes))
        context = None
        if "labels" in sizes:
            labels = checked_labels(given.get("labels"), batch, self.num_classes)
            labels = labels if kept is None else jnp.where(kept["labels"], labels, self.num_classes)
            emb = emb + nn.Embed(self.num_classes + 1, width, dtype=emb.dtype)(labels)
        if "vector" in sizes:
            vector = checked_vector(given.get("vector"), batch, self.cond_dim)
            vector = self._or_null(vector, (batch, self.cond_dim), emb.dtype, "vector", kept)
            emb = emb + dense(vector, width, use_bias=False)
        if "field" in sizes:
            field = checked_field(given.get("field"), x, self.cond_channels)
            field = self._or_null(field, (*x.shape[:-1], self.cond_channels), x.dtype, "field", kept)
            x = jnp.concatenate([x, field], axis=-1)
        if "sequence" in sizes:
            tokens = checked_sequence(given.get("sequence"), batch, self.context_dim)
            tokens = self._or_null(tokens, (batch, 1, self.context_dim), emb.dtype, "sequence", kept)
            places = positional_features(jnp.arange(tokens.shape[1], dtype=jnp.float32), width)
            context = dense(tokens, width) + places.astype(emb.dtype)[None]
        return Conditioned(emb, x, context)

    @nn.nowrap
    def _or_null(self, value: Array | None, shape: tuple[int, ...], dtype, kind: str, kept: Kept) -> Array:
        """The value where it is given and kept; else the null of its kind, in the form `shape`."""
        null = jnp.zeros(shape[-1:], dtype)
        if self.null == "learned":
            null = self.param(f"null_{kind}", nn.initializers.normal(1.0), shape[-1:], jnp.float32).astype(dtype)
        if value is None:
            return jnp.broadcast_to(null, shape)
        value = value.astype(dtype)
        if kept is None:
            return value
        is_kept = jnp.expand_dims(kept[kind], tuple(range(1, value.ndim)))
        return jnp.where(is_kept, value, jnp.broadcast_to(null, value.shape))

    @nn.nowrap
    def _kept(self, batch: int, train: bool, kinds: list[str]) -> Kept:
        """For each kind [B], false for examples whose cond is dropped; None if none is ever dropped."""
        if not train or not kinds or not (self.dropout or self.dropout_each):
            return None
        draw = lambda rate: jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (batch,))  # noqa: E731
        all_kept = draw(self.dropout)
        return {kind: all_kept & draw(self.dropout_each) if self.dropout_each else all_kept for kind in kinds}


def conditioned(module: Any, emb: Array, cond: object, train: bool, x: Any) -> Conditioned:
    """`Conditioning` with the options of a network that has all of them; all kinds but those that entered before."""
    rest = tuple(kind for kind in OPTIONS if kind not in getattr(module, "cond_at_features", ()))
    return _conditioning(module, rest)(emb, cond, train, x)


def conditioned_features(module: Any, features: Array, cond: object, train: bool, x: Any) -> Array:
    """The features of the noise level with the kinds of `module.cond_at_features` added: before the embedding's maps.

    EDM's networks add labels and augmentation there (Karras et al. 2022, arXiv 2206.00364, appendix F.2). Where both
    entries have kinds, each drops its own in training.
    """
    kinds = tuple(kind for kind in module.cond_at_features if getattr(module, OPTIONS[kind]))
    return _conditioning(module, kinds)(features, cond, train, x).emb if kinds else features


def check_features_kinds(kinds: tuple[str, ...]) -> None:
    """ValueError unless the kinds can enter at the features: labels and vector."""
    for kind in kinds:
        check_option("cond_at_features", kind, ("labels", "vector"))


def _conditioning(module: Any, enters: tuple[str, ...]) -> Conditioning:
    options = {"dropout": "cond_dropout", "dropout_each": "cond_dropout_each", "null": "cond_null"}
    options |= {option: option for option in OPTIONS.values()}
    return Conditioning(**{name: getattr(module, option) for name, option in options.items()}, enters=enters)


def by_kind(cond: Any, sizes: Mapping[str, int], batch: int, ndim: int) -> dict[str, Any]:
    """Kind → array, for the kinds of `sizes` that cond has; x has `ndim` axes. ValueError for anything else."""
    if cond is None:
        return {}
    if not sizes:
        options = ", ".join(f"{option}=0" for option in OPTIONS.values())
        raise ValueError(f"cond: expected None, since the network has {options}, got one")
    if isinstance(cond, tuple | list) and set(sizes) == {"labels", "vector"}:
        if len(cond) != 2:
            raise ValueError(f"cond: expected a pair (labels, vector), got {len(cond)} values")
        return dict(zip(("labels", "vector"), cond, strict=True))
    if not isinstance(cond, Mapping):
        only = next(iter(sizes)) if len(sizes) == 1 else _kind("cond", cond, sizes, ndim)
        return {only: jnp.asarray(cond)[:, None] if only == "vector" and getattr(cond, "ndim", 0) == 1 else cond}
    found: dict[str, list[Any]] = {}
    for name in sorted(cond):
        if cond[name] is not None:
            found.setdefault(_kind(name, cond[name], sizes, ndim), []).append(cond[name])
    return {kind: _together(kind, values, batch) for kind, values in found.items()}


def _together(kind: str, values: list[Any], batch: int) -> Any:
    """The arrays of one kind as one; several fields stay a list, since they are resized first."""
    if kind == "vector":
        values = [value[:, None] if value.ndim == 1 else value for value in values]
        if any(value.ndim != 2 or value.shape[0] != batch for value in values):
            raise ValueError(f"cond: expected vectors of shape [{batch}, d], got {[v.shape for v in values]}")
        return jnp.concatenate(values, axis=1)
    if len(values) == 1:
        return values[0]
    if kind == "field":
        return values
    shapes = [value.shape for value in values]
    if kind == "labels":
        raise ValueError(f"cond: expected one array of labels, got {len(values)}, of shapes {shapes}")
    if len({(rows, size) for rows, _, size in shapes}) > 1:
        raise ValueError(f"cond: expected sequences [{batch}, L, d] of one width d, got {shapes}")
    return jnp.concatenate(values, axis=1)


def options_for(shapes: Mapping[str, tuple[int, ...]], event_ndim: int) -> dict[str, int]:
    """Option → size for conditions of real numbers of these shapes, by name, of events with `event_ndim` axes.

    ValueError for a shape that is none of a vector, a field of such events, and a sequence, and for sequences of
    different widths.
    """
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            found["cond_dim"] = found.get("cond_dim", 0) + (shape[0] if shape else 1)
        elif len(shape) == event_ndim:
            found["cond_channels"] = found.get("cond_channels", 0) + shape[-1]
        elif len(shape) != 2:
            field = f", [L, d] or {event_ndim} axes" if event_ndim > 1 else " or [L, d]"
            raise ValueError(f"{name}: expected numbers of shape [d]{field} for each example, got {shape}")
        elif found.setdefault("context_dim", shape[1]) != shape[1]:
            raise ValueError(f"{name}: expected sequences of one width, {found['context_dim']}, got {shape}")
    return found


def _kind(name: str, value: Any, sizes: Mapping[str, int], ndim: int) -> str:
    """The kind of an array by its name or form, among those of `sizes`; ValueError if it is of none."""
    if name in sizes:
        return name
    rank, dtype = len(getattr(value, "shape", ())), getattr(value, "dtype", None)
    whole = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
    forms = {
        "labels": whole and rank == 1,
        "vector": not whole and rank in (1, 2),
        "field": rank == ndim and rank > 2,
        "sequence": rank == 3,
    }
    for kind, fits in forms.items():
        if fits and kind in sizes:
            return kind
    takes = ", ".join(f"{OPTIONS[kind]}={size}" for kind, size in sizes.items())
    got = type(value).__name__ if dtype is None else f"{dtype} of shape {value.shape}"
    raise ValueError(f"cond: expected what fits {takes}, got {name!r}, {got}")


def checked_labels(labels: object, batch: int, num_classes: int) -> Array:
    """The labels, or for None the null label num_classes everywhere. ValueError unless they are integers [B]."""
    if labels is None:
        return jnp.full(batch, num_classes, jnp.int32)
    shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", None)
    if shape != (batch,) or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        got = type(labels).__name__ if shape is None else f"{dtype} of shape {shape}"
        raise ValueError(f"cond: expected integer labels of shape {(batch,)}, got {got}")
    return jnp.asarray(labels)


def checked_vector(vector: object, batch: int, size: int) -> Array | None:
    """The vector, or None. ValueError unless it is of shape [B, size]."""
    return _checked("a vector", vector, (batch, size))


def checked_field(field: object, x: Array, size: int) -> Array | None:
    """The field [B, *n, size], by linear interpolation at the positions of x [B, *spatial, C]; or None.

    A list of fields is resized each, and concatenated along the channels. ValueError for another number of axes or
    channels.
    """
    if isinstance(field, list):
        each = [checked_field(one, x, jnp.shape(one)[-1]) for one in field]
        field = jnp.concatenate([one.astype(x.dtype) for one in each if one is not None], axis=-1)
    shape = getattr(field, "shape", ())
    positions = shape[1:-1] if len(shape) == x.ndim else x.shape[1:-1]
    field = _checked("a field", field, (x.shape[0], *positions, size))
    if field is None or field.shape[:-1] == x.shape[:-1]:
        return field
    return jax.image.resize(field.astype(x.dtype), (*x.shape[:-1], size), "linear")


def checked_sequence(sequence: object, batch: int, size: int) -> Array | None:
    """The sequence, or None. ValueError unless it is of shape [B, L, size] with L > 0."""
    shape = getattr(sequence, "shape", ())
    return _checked("a sequence", sequence, (batch, max(1, shape[1]) if len(shape) == 3 else "L", size))


def _checked(what: str, value: Any, expected: tuple) -> Array | None:
    if value is None:
        return None
    shape = getattr(value, "shape", None)
    if shape != expected:
        got = type(value).__name__ if shape is None else shape
        raise ValueError(f"cond: expected {what} of shape {expected}, got {got}")
    return jnp.asarray(value)
