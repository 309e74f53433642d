"""The order of training: batch k is a function of (seed, k), so the step number is enough to resume a run.

Grain maps steps to indices of examples. Epoch e is a permutation of 0 … n − 1, by grain's seeded `random_map`. The
stream is one epoch after another: position p is entry p % n of epoch p // n. Step k takes positions k B … k B + B − 1.
So a batch may extend beyond the end of an epoch, and be larger than the data set. Of P processes, process i takes the
i-th B / P of these positions; together they process the batch of a single process.

(Grain's own `shuffle` computes one index at a time: 4 µs each for n = 50,000, 23 µs for n = 1,300, 3 ms for n = 10,
against 0.1 µs here.)

Examples are then read a whole batch at a time. Flipping, transforming, placing on devices and preparing ahead are maps
of the same grain `MapDataset` (`as_grain`, `prefetch`); benchmarks/data.py compares this with reading one by one.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data_lib.conditions import keys_in
from data_lib.sources import Batch, Source, gather
from data_lib.transform import Transform

if TYPE_CHECKING:
    import grain


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches {"x": float32 [B, ...], "label": [B, ...]} in model space, by step; B is this process's share.

    `batch_size` counts all processes; a step's examples do not depend on their number. `flip` mirrors each image left
    to right with probability 1/2, drawn again in each step, and with it each "cond" of the form [H, W, C]. The length
    of the source must not change. ValueError for an empty source, an impossible batch size, process or seed, and for
    `flip` of events that are not images.
    """

    source: Source
    transform: Transform
    batch_size: int
    seed: int
    flip: bool = False
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise ValueError("the source of batches is empty")
        if self.batch_size <= 0 or self.process_count <= 0 or self.batch_size % self.process_count:
            raise ValueError(
                f"batch_size must be a positive multiple of the number of processes, "
                f"got batch_size={self.batch_size}, process_count={self.process_count}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(f"process_index must be in 0..{self.process_count - 1}, got {self.process_index}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.flip and gather(self.source, [0])["x"].ndim != 4:
            shape = gather(self.source, [0])["x"].shape[1:]
            raise ValueError(f"flip=True requires images [H, W, C], got events of shape {shape}")

    def batch(self, step: int) -> Batch:
        """This process's part of batch `step` ≥ 0."""
        return self.read(step, self.indices(step))

    def indices(self, step: int) -> np.ndarray:
        """Indices [B] of the examples in this process's part of batch `step` ≥ 0."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        found = self.order[step]
        assert found is not None  # grain's type: only a filtered map lacks elements
        return found

    @cached_property
    def order(self) -> "grain.MapDataset[np.ndarray]":
        """Step → indices [B] of this process's examples, as a grain MapDataset."""
        import grain  # here, since it imports JAX, which reading data does not need

        seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])  # grain's seeds are below 2³²
        part = partial(_part, seed, len(self.source), self.batch_size // self.process_count)
        return grain.MapDataset.range(sys.maxsize).map(part)[self.process_index :: self.process_count]

    def read(self, step: int, indices: np.ndarray) -> Batch:
        """The examples `indices` [B] in model space, flipped as this process flips them in step `step`."""
        batch = gather(self.source, indices)
        if self.flip:
            mirrored = self._flips(step)
            images = [key for key, value in batch.items() if key == "x" or (key in keys_in(batch) and value.ndim == 4)]
            for key in images:
                batch[key][mirrored] = batch[key][mirrored, :, ::-1]
        return {**batch, "x": self.transform.forward(batch["x"])}

    def _flips(self, step: int) -> np.ndarray:
        """Drawn for the global batch, then cut to this process's part."""
        flips = np.random.default_rng((self.seed, step, 1)).random(self.batch_size) < 0.5
        return np.split(flips, self.process_count)[self.process_index]


def as_grain(batches: Batches, start: int = 0, stop: int = sys.maxsize) -> "grain.MapDataset[Batch]":
    """batches.batch(step) for step in start..stop − 1 as a grain MapDataset, for `.map`, threads and iterators."""
    return batches.order.map_with_index(batches.read)[start:stop]


def prefetch(batches: Batches, start: int, stop: int, put: Callable[[Batch], Any], ahead: int = 1) -> Iterator[Any]:
    """put(batches.batch(step)) for step in start..stop − 1; one thread of grain prepares the next `ahead`.

    `put` places a batch on the devices. An exception in reading or in `put` is raised at its own step. Closing the
    generator ends the thread after its current batch.
    """
    import grain  # at the call, so that the wait for the first batch does not include the import

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
    return _until_closed(as_grain(batches, start, max(start, stop)).map(put).to_iter_dataset(options))


def _until_closed(dataset: "grain.IterDataset") -> Iterator[Any]:
    with contextlib.closing(iter(dataset)) as feed:
        yield from feed


class StallTimer:
    """Iterates over `feed`, and measures the time spent waiting for it while the devices were idle.

    A wait does not count if the devices are still `busy()` with the previous step when the item arrives.
    """

    def __init__(
        self,
        feed: Iterator[Any],
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._feed, self._busy, self._clock = feed, busy, clock
        self._since, self._waited = clock(), 0.0

    def __iter__(self) -> "StallTimer":
        return self

    def __next__(self) -> Any:
        start = self._clock()
        try:
            return next(self._feed)
        finally:
            self._waited += 0.0 if self._busy() else self._clock() - start

    def share(self) -> float:
        """The fraction of the time since the previous call that was spent waiting."""
        now = self._clock()
        share = self._waited / max(now - self._since, 1e-9)
        self._since, self._waited = now, 0.0
        return share


def eval_batches(source: Source, transform: Transform, batch_size: int) -> Iterator[Batch]:
    """Every example once, in order, with "mask" float32 [B]: 1 for an example, 0 for padding at the end.

    The padding repeats the last example, so that everything computed from it stays finite.
    """
    if batch_size <= 0:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    for first in range(0, len(source), batch_size):
        positions = np.arange(first, first + batch_size)
        batch = gather(source, np.minimum(positions, len(source) - 1))
        mask = (positions < len(source)).astype(np.float32)
        yield {**batch, "x": transform.forward(batch["x"]), "mask": mask}


def _part(seed: int, n: int, size: int, number: int) -> np.ndarray:
    """Indices [size] of the stream of n examples, from position number · size."""
    epochs, places = np.divmod(np.arange(number * size, (number + 1) * size), n)
    return np.concatenate([_epoch(seed, n, int(e))[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)])


@lru_cache(maxsize=4)
def _epoch(seed: int, n: int, epoch: int) -> np.ndarray:
    found = _epochs(seed, n)[epoch]
    assert found is not None
    return found


@lru_cache(maxsize=4)
def _epochs(seed: int, n: int) -> "grain.MapDataset[np.ndarray]":
    import grain

    return grain.MapDataset.range(1).repeat().random_map(lambda _, rng: rng.permutation(n), seed=seed)
