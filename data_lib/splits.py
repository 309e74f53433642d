"""Two disjoint sources of one that has no split: an example is kept for testing by the hash rule of `files`."""

from collections.abc import Sequence

import numpy as np

from data_lib import files
from data_lib.sources import ArraySource, Batch, Dataset, Source


class Part:
    """The examples `indices` of a source, as a source."""

    def __init__(self, source: Source, indices: np.ndarray, name: str):
        self.source, self.indices, self.name = source, indices, name
        self.classes = getattr(source, "classes", ())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Batch:
        return self.source[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        own = [int(i) for i in self.indices[np.asarray(indices, int)]]
        many = getattr(self.source, "__getitems__", None)
        return [self.source[i] for i in own] if many is None else many(own)


def split(
    source: Source,
    test: float | int = 0.1,
    seed: int = 0,
    names: Sequence[str] | None = None,
    name: str = "source",
) -> Dataset:
    """The two sides of any source, by the hash of (seed, `names`[i]); without names, of the number i.

    `test` is a share (a float below 1) or a number of examples (an int). Examples that are added move no other, as
    long as names, or numbers, stay. ValueError unless at least one example is on either side.
    """
    names = [str(i) for i in range(len(source))] if names is None else list(names)
    if len(names) != len(source):
        raise ValueError(f"{name}: expected a name for each of {len(source)} examples, got {len(names)}")
    mask = files.split_mask(names, test, seed, name)
    return Dataset(*(_part(source, np.flatnonzero(m), f"{name} {k}") for m, k in ((~mask, "train"), (mask, "test"))))


def _part(source: Source, indices: np.ndarray, name: str) -> Source:
    if isinstance(source, ArraySource):
        return ArraySource(**source.batch(indices), name=name, classes=source.classes, unreadable=source.unreadable)
    return Part(source, indices, name)
