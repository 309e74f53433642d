"""Speed of data loading: images/s from memory, and from a folder of 32×32 PNG files decoded once or at each use.

    python -m benchmarks.data

For comparison: a plain loop over shuffled examples, and grain's own shuffle and batch over examples, where ours gives
grain whole batches. The folder is temporary. The last lines are from training the digits network: its images per second
and the fraction of time that it waits for data.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from data_lib import ArraySource, Batches, Scale, from_folder, prefetch
from data_lib.sources import Batch

BATCH, REPEATS = 128, 3


def rate(run: Callable[[], None], count: int) -> float:
    """Items per second, the best of REPEATS runs."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def write_folder(folder: Path, count: int) -> None:
    """Writes images of coarse noise, whose PNG files are about as large as those of small photographs."""
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = np.kron(generator.normal(128, 40, (8, 8, 3)), np.ones((4, 4, 1)))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")


def measure(count: int = 10_000, steps: int = 40) -> Iterator[tuple[str, float]]:
    """Yields (description, images/s)."""
    images = np.random.default_rng(0).integers(0, 256, (max(count, BATCH), 32, 32, 3), np.uint8)
    memory = ArraySource(images)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), count)
        yield "a folder decoded once into memory", rate(lambda: from_folder(folder, on_error="raise"), count)
        disk = from_folder(folder, in_memory=False).train
        cached = from_folder(folder).train
        for name, source in (("arrays", memory), ("folder in memory", cached), ("folder at each use", disk)):
            batches = Batches(source, Scale(), BATCH, seed=0)
            yield f"batches of {name}", rate(partial(exhaust, map, batches.batch, range(steps)), steps * BATCH)
            feed = partial(exhaust, prefetch, batches, 0, steps, dict)
            yield f"batches of {name}, prefetched", rate(feed, steps * BATCH)
        yield "plain loop: arrays", rate(partial(plain, lambda i: images[i], len(images), steps), steps * BATCH)
        decode = lambda i: np.asarray(Image.open(disk.paths[i]))  # noqa: E731
        yield "plain loop: folder at each use", rate(partial(plain, decode, len(disk), steps), steps * BATCH)
        yield from measure_grain({"arrays": memory, "folder at each use": disk}, steps)


def plain(load: Callable[[int], np.ndarray], count: int, steps: int) -> None:
    """A loop without a library: examples in a random order, loaded one by one, stacked and scaled."""
    order = np.random.default_rng(0).integers(0, count, (steps, BATCH))
    for indices in order:
        np.stack([load(i) for i in indices]).astype(np.float32) / 127.5 - 1


def measure_grain(sources: dict, steps: int) -> Iterator[tuple[str, float]]:
    import grain

    for name, source in sources.items():
        dataset = grain.MapDataset.source(source).seed(0).shuffle().repeat().batch(BATCH).map(scaled)
        yield f"grain: {name}", rate(partial(exhaust, map, dataset.__getitem__, range(steps)), steps * BATCH)
        stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
        yield f"grain: {name}, two threads", rate(partial(exhaust, islice, stream, steps), steps * BATCH)


def exhaust(make: Callable, *arguments) -> None:
    for _ in make(*arguments):
        pass


def scaled(batch: Batch) -> Batch:
    return {**batch, "x": Scale().forward(batch["x"])}


def train_digits(steps: int = 150) -> None:
    """Trains the digits network; the training loop prints data_wait."""
    import run_lib
    from configs.digits import get_config

    config = get_config()
    config.training.update(num_steps=steps, eval_every=0, sample_every=0, checkpoint_every=0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_lib.train(config, folder)
        trained = steps * config.training.batch_size / (time.perf_counter() - start)
        print(f"{trained:10.0f}  images/s trained, compiling included")


if __name__ == "__main__":
    for what, images_per_second in measure():
        print(f"{images_per_second:10.0f}  {what}", flush=True)
    train_digits()
