"""A source of examples: any object with `__len__` and `__getitem__`.

An example is a dict of numpy arrays with the canonical keys

    "x"       the event, of any shape; an image is [H, W, C]
    "label"   optional: a class, or a vector
    "cond"    optional: what the network is conditioned on, an array or a dict of arrays of any shapes (`conditions`)

A source may call its event "image", as TFDS and Hugging Face do: the key becomes "x". A two-dimensional event that is
called "image" or is uint8 is an image, and gets a channel axis. Other keys are dropped, so that strings never reach a
device; a line of the log names them. In a batch the entries of a dict are flat: "cond.NAME".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]
COND = "cond."
"""What the key of an entry of a dict "cond" starts with."""


class Source(Protocol):
    """Examples by index. If a source also has `__getitems__(indices)`, which returns a list of dicts, it is used."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]: ...


class Dataset(NamedTuple):
    """Two disjoint sources: training and test examples."""

    train: Source
    test: Source

    @property
    def heldout(self) -> Source:
        """The test split, under its earlier name."""
        return self.test


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in memory: x [N, ...], label [N] or [N, ...], cond [N, ...] or a dict of such arrays; all read-only.

    `name` is used in messages. `classes` names the labels 0, 1, …; `unreadable` lists files that could not be read.
    Integer labels become int32, floating-point labels float32. ValueError for an empty set, different lengths, anything
    but finite real numbers, and integer labels [N] below 0 or without a name in `classes`.
    """

    x: np.ndarray
    label: np.ndarray | None = None
    name: str = "data"
    classes: tuple[str, ...] = ()
    unreadable: tuple[Any, ...] = ()
    cond: np.ndarray | Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        x = _numbers(self.x, f"{self.name}: x")
        if x.ndim == 0 or x.size == 0:
            raise ValueError(f"{self.name}: x must be [N, ...] with N > 0 examples, got shape {x.shape}")
        object.__setattr__(self, "x", _frozen(_with_channel(x, x.ndim - 1, named_image=False)))
        if self.label is not None:
            label = _label_dtype(_numbers(self.label, f"{self.name}: label"))
            if label.ndim == 0 or len(label) != len(x):
                raise ValueError(
                    f"{self.name}: x has {len(x)} examples, label must have as many, got shape {label.shape}"
                )
            _require_classes(label, self.classes, self.name)
            object.__setattr__(self, "label", _frozen(label))
        conditions = {key: _frozen(array) for key, array in flat(self.cond, self.name).items()}
        for key, array in conditions.items():
            if array.ndim == 0 or len(array) != len(x):
                raise ValueError(f"{self.name}: x has {len(x)} examples, {key} must have as many, got {array.shape}")
        if self.cond is not None:
            single = conditions.get("cond")
            kept = {key[len(COND) :]: array for key, array in conditions.items()} if single is None else single
            object.__setattr__(self, "cond", kept)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{key} {a.dtype}[{', '.join(map(str, a.shape))}]" for key, a in self.arrays().items())
        return f"ArraySource({self.name!r}: {arrays})"

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Batch:
        return {key: value[index] for key, value in self.arrays().items()}

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """A copy of the examples `indices` [B], stacked: {"x": [B, ...], "label": [B, ...], "cond": [B, ...]}."""
        return {key: value.take(indices, axis=0) for key, value in self.arrays().items()}

    def part(self, indices: Sequence[int] | np.ndarray, name: str) -> "ArraySource":
        """The examples `indices` as a source of this name."""
        found = {key: value.take(indices, axis=0) for key, value in self.arrays().items()}
        cond = {key[len(COND) :]: value for key, value in found.items() if key.startswith(COND)}
        cond = found.get("cond", cond or None)
        return ArraySource(found["x"], found.get("label"), name, self.classes, self.unreadable, cond)

    def arrays(self) -> Batch:
        """All examples under their flat keys."""
        label = {} if self.label is None else {"label": self.label}
        return {"x": self.x, **label, **flat(self.cond, self.name)}


def flat(cond: Any, where: str) -> Batch:
    """ "cond" → array, or "cond.NAME" → array of a dict; {} for None. ValueError for anything but real numbers."""
    if cond is None:
        return {}
    entries = {COND + str(key): value for key, value in cond.items()} if isinstance(cond, Mapping) else {"cond": cond}
    return {key: _numbers(value, f"{where}: {key}") for key, value in entries.items()}


def canonical(example: Mapping[str, np.ndarray], where: str = "example") -> Batch:
    """The example with only the keys "x", "label", "cond" or "cond.NAME", as arrays of numbers; see the head.

    ValueError, starting with `where`, if it has no event or holds anything but finite real numbers.
    """
    if not isinstance(example, Mapping):
        raise ValueError(f"{where}: expected a dict of arrays, got {type(example).__name__}")
    key = "x" if "x" in example else "image"
    if key not in example:
        raise ValueError(f"{where}: expected a key 'x' or 'image', got {sorted(example)}")
    x = _numbers(example[key], f"{where}: {key}")
    out = {"x": _with_channel(x, x.ndim, named_image=key == "image")}
    if example.get("label") is not None:
        out["label"] = _label_dtype(_numbers(example["label"], f"{where}: label"))
    return out | flat(example.get("cond"), where)


def spread(source: Source, count: int) -> np.ndarray:
    """Indices of at most `count` examples, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, len(source) - 1, count).astype(int))


def gather(source: Source, indices: Sequence[int] | np.ndarray) -> Batch:
    """Examples `indices` [B] of any source, stacked under the canonical keys.

    ValueError if their keys, shapes or dtypes differ, and as in `canonical`.
    """
    if isinstance(source, ArraySource):
        return source.batch(indices)
    indices = [int(i) for i in indices]
    many = getattr(source, "__getitems__", None)
    found = [source[i] for i in indices] if many is None else many(indices)
    examples = [canonical(e, f"example {i}") for i, e in zip(indices, found, strict=True)]
    for i, example in zip(indices, examples, strict=True):
        _expect_like(example, i, examples[0], indices[0])
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _expect_like(example: Batch, index: int, first: Batch, first_index: int) -> None:
    got, expected = ({k: (v.shape, str(v.dtype)) for k, v in e.items()} for e in (example, first))
    if got != expected:
        raise ValueError(f"examples must be alike: example {index} is {got}, example {first_index} is {expected}")


def _numbers(values: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what}: expected an array of real numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{what}: {np.count_nonzero(~np.isfinite(array))} of {array.size} values are not finite")
    return array


def _with_channel(x: np.ndarray, event_ndim: int, named_image: bool) -> np.ndarray:
    is_image = named_image or x.dtype == np.uint8
    return x[..., None] if is_image and event_ndim == 2 else x


def _label_dtype(label: np.ndarray) -> np.ndarray:
    """int32 or float32, to which JAX would convert silently. ValueError for an integer beyond int32."""
    if label.dtype.kind == "f":
        return label.astype(np.float32)
    small = label.astype(np.int32)
    if not np.array_equal(small, label):
        raise ValueError(f"labels must fit into int32, got a maximum of {label.max()}")
    return small


def _require_classes(label: np.ndarray, classes: Sequence[str], name: str) -> None:
    if label.ndim != 1 or label.dtype.kind == "f":
        return
    end = len(classes) or np.inf
    wrong = (label < 0) | (label >= end)
    if wrong.any():
        expected = f"0 to {end - 1}" if classes else "0, 1, …"
        raise ValueError(
            f"{name}: labels out of range: expected {expected}, but {wrong.sum()} of {len(label)} are not, "
            f"first {label[wrong][0]} of example {np.argmax(wrong)}"
        )


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
