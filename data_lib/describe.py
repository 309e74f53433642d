"""A data set in numbers: counts, shapes, range, labels, σ_data, unreadable files, examples in both splits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_lib.sources import ArraySource, Dataset, Source, gather
from data_lib.transform import Transform

SAMPLE = 10_000
SHOWN = 20


@dataclass(frozen=True)
class SplitDescription:
    """One split. Range, σ_data and labels are those of `seen` examples: all of them if they are in memory."""

    count: int
    seen: int
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    sigma_data: float
    labels: tuple[tuple[str, int], ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """Both splits. `shared` test examples are also training examples; None if that was not checked."""

    train: SplitDescription
    test: SplitDescription
    shared: int | None

    def __str__(self) -> str:
        return "\n".join([*_lines("train", self.train), *_lines("test", self.test), _split(self)])


def describe(dataset: Dataset, transform: Transform) -> Description:
    """The numbers of both splits. σ_data is the standard deviation of all values in model space.

    Use it for `EDMPreconditioning(sigma_data)`.
    """
    train, test = (_describe_split(source, transform) for source in dataset)
    return Description(train, test, shared_examples(dataset))


def shared_examples(dataset: Dataset) -> int | None:
    """How many test examples equal a training example, byte for byte.

    None if the splits are two sources that are not both in memory.
    """
    train, test = dataset
    if train is test:
        return len(test)
    if not (isinstance(train, ArraySource) and isinstance(test, ArraySource)):
        return None
    known = set(_keys(train.x))
    return sum(key in known for key in _keys(test.x))


def _describe_split(source: Source, transform: Transform) -> SplitDescription:
    count = len(source)
    whole = isinstance(source, ArraySource)
    seen = np.arange(count) if whole else np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)
    low, high, moments, size = np.inf, -np.inf, np.zeros(2), 0
    shape: tuple[int, ...] = ()
    dtype = ""
    labels: dict[int, int] = {}
    for start in range(0, len(seen), 1000):
        batch = gather(source, seen[start : start + 1000])
        x = batch["x"]
        shape, dtype = x.shape[1:], str(x.dtype)
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        x = transform.forward(x).astype(np.float64)
        moments += x.sum(), (x**2).sum()
        size += x.size
        label = batch.get("label")
        if label is not None and label.ndim == 1 and label.dtype.kind == "i":
            for value, n in zip(*np.unique(label, return_counts=True), strict=True):
                labels[int(value)] = labels.get(int(value), 0) + int(n)
    mean, square = moments / size
    names = getattr(source, "classes", ())
    named = [(names[k] if 0 <= k < len(names) else str(k), n) for k, n in sorted(labels.items())]
    bad = tuple(map(str, getattr(source, "unreadable", ())))
    sigma = float(np.sqrt(max(square - mean**2, 0.0)))
    return SplitDescription(count, len(seen), shape, dtype, low, high, sigma, tuple(named), bad)


def _lines(name: str, part: SplitDescription) -> Iterator[str]:
    seen = "" if part.seen == part.count else f" (of {part.seen} of them)"
    yield f"{name:8} {part.count} examples {part.dtype} {list(part.shape)}"
    yield f"{'':8} range {part.low:.6g} to {part.high:.6g}, sigma_data {part.sigma_data:.4g} in model space{seen}"
    if part.labels:
        shown = ", ".join(f"{label}: {count}" for label, count in part.labels[:SHOWN])
        more = f", and {len(part.labels) - SHOWN} more" if len(part.labels) > SHOWN else ""
        one = "; there is one class only" if len(part.labels) == 1 else ""
        below = "; labels below 0 are out of range" if part.labels[0][0].startswith("-") else ""
        yield f"{'':8} labels {shown}{more}{one}{below}"
    if part.unreadable:
        yield f"{'':8} {len(part.unreadable)} files cannot be read:"
        yield from (f"{'':10}{line}" for line in part.unreadable[:SHOWN])
        if len(part.unreadable) > SHOWN:
            yield f"{'':10}and {len(part.unreadable) - SHOWN} more"


def _split(found: Description) -> str:
    if found.shared is None:
        return "split    read by index: not checked whether test examples are also training examples"
    if found.shared == 0:
        return "split    no test example is also a training example"
    return f"split    {found.shared} of {found.test.count} test examples are also training examples"


def _keys(x: np.ndarray) -> Iterator[int]:
    return (hash(row.tobytes()) for row in x)
