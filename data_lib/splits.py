"""Two disjoint sources from one source without a split: the hash rule of `files` chooses the test examples."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_lib import files
from data_lib.sources import ArraySource, Dataset, Source


class Subset:
    """The examples `indices` of a source, as a source."""

    def __init__(self, source: Source, indices: np.ndarray, name: str):
        self.source, self.indices, self.name = source, indices, name
        self.classes = getattr(source, "classes", ())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        return self.source[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, np.ndarray]]:
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
    """Training and test examples of any source, by the hash of (seed, `names`[i]); without names, of the index i.

    `test` is a share of the examples, below 1, or their number: 1.0 is one example. With a share, adding examples
    moves no other example to the other split, as long as names or indices do not change. ValueError unless both splits
    have at least one example.
    """
    names = [str(i) for i in range(len(source))] if names is None else list(names)
    if len(names) != len(source):
        raise ValueError(f"{name}: expected a name for each of {len(source)} examples, got {len(names)}")
    mask = files.split_mask(names, test, seed, name)
    return Dataset(*(_subset(source, np.flatnonzero(m), f"{name} {k}") for m, k in ((~mask, "train"), (mask, "test"))))


def _subset(source: Source, indices: np.ndarray, name: str) -> Source:
    if isinstance(source, ArraySource):
        return source.part(indices, name)
    return Subset(source, indices, name)
