import pickle
import threading
import time

import numpy as np
import pytest

from data_lib import ArraySource, Batches, Identity, Scale, StallTimer, as_grain, eval_batches, gather, prefetch

NUMBERS = ArraySource(np.arange(10)[:, None], np.arange(10))


def stream(batches, steps):
    return np.concatenate([batches.batch(step)["label"] for step in range(steps)])


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def image_batches(**options):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 3), np.uint8)
    return Batches(ArraySource(images, np.arange(50)), Scale(), 24, **{"seed": 1, "flip": True, **options})


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 10, 25])
def test_every_epoch_holds_every_example_once(batch_size):
    epochs = stream(Batches(NUMBERS, Identity(), batch_size, seed=0), 150 // batch_size).reshape(15, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 15


def test_the_stream_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(
        stream(Batches(NUMBERS, Identity(), 25, seed=0), 6), stream(Batches(NUMBERS, Identity(), 3, seed=0), 50)
    )


def test_x_and_label_stay_together():
    batch = Batches(NUMBERS, Identity(), 7, seed=0).batch(4)
    np.testing.assert_array_equal(batch["x"][:, 0], batch["label"])
    assert batch["x"].dtype == np.float32


def test_the_seed_changes_the_order():
    assert (
        stream(Batches(NUMBERS, Identity(), 10, seed=0), 4) != stream(Batches(NUMBERS, Identity(), 10, seed=1), 4)
    ).any()


def test_a_resumed_run_sees_the_same_batches():
    straight = [image_batches().batch(step) for step in range(9)]
    resumed = image_batches()
    for step in (8, 3, 5):
        same(resumed.batch(step), straight[step])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_one_global_batch(count):
    parts = [image_batches(process_index=i, process_count=count) for i in range(count)]
    for step in (0, 2, 7):
        whole = image_batches().batch(step)
        pieces = [part.batch(step) for part in parts]
        assert all(len(piece["x"]) == 24 // count for piece in pieces)
        same(whole, {key: np.concatenate([piece[key] for piece in pieces]) for key in whole})


def test_flips_mirror_half_of_the_images_left_to_right():
    plain, flipped = image_batches(flip=False), image_batches()
    mirrored = []
    for step in range(50):
        for a, b in zip(plain.batch(step)["x"], flipped.batch(step)["x"], strict=True):
            mirrored.append(not np.array_equal(a, b))
            np.testing.assert_array_equal(b, a[:, ::-1] if mirrored[-1] else a)
    assert abs(np.mean(mirrored) - 0.5) < 4 * 0.5 / np.sqrt(len(mirrored))


def test_flips_leave_the_source_as_it_was():
    batches = image_batches()
    before = batches.source.x.copy()
    batches.batch(0)
    np.testing.assert_array_equal(batches.source.x, before)


def test_flips_change_from_step_to_step_and_with_the_seed():
    source = ArraySource(np.tile(np.arange(2.0), (64, 1, 1))[..., None])
    batches = Batches(source, Identity(), 64, seed=0, flip=True)
    assert (batches.batch(0)["x"] != batches.batch(1)["x"]).any()
    other = Batches(source, Identity(), 64, seed=1, flip=True)  # all images are alike: the order does not show
    assert (batches.batch(0)["x"] != other.batch(0)["x"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive multiple .* batch_size=0, process_count=1"),
        ({"batch_size": -4}, "batch_size=-4"),
        ({"batch_size": 6, "process_count": 4}, "batch_size=6, process_count=4"),
        ({"process_index": 2, "process_count": 2}, r"process_index must be in 0\.\.1, got 2"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"flip": True}, r"flip=True requires images \[H, W, C\], got events of shape \(1,\)"),
        ({"source": []}, "the source of batches is empty"),
    ],
)
def test_what_batches_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(**{"source": NUMBERS, "transform": Identity(), "batch_size": 4, "seed": 0, **options})


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        Batches(NUMBERS, Identity(), 4, seed=0).batch(-1)


def test_prefetch_gives_the_batches_themselves():
    batches = image_batches()
    fetched = list(prefetch(batches, 3, 8, put=lambda batch: {**batch, "put": np.ones(1)}))
    assert len(fetched) == 5
    for step, batch in zip(range(3, 8), fetched, strict=True):
        assert batch.pop("put") == 1
        same(batch, batches.batch(step))
    assert list(prefetch(batches, 3, 3, put=dict)) == []


def test_prefetch_prepares_the_next_batch_while_one_is_used():
    threads, prepared = set(), threading.Semaphore(0)

    def put(batch):
        threads.add(threading.current_thread())
        prepared.release()
        return batch

    running = prefetch(image_batches(), 0, 10, put)
    next(running)
    # the consumer asks for no second batch, yet it is prepared; a third is not
    assert prepared.acquire(timeout=10) and prepared.acquire(timeout=10)
    time.sleep(0.05)
    assert not prepared.acquire(blocking=False)
    running.close()
    assert len(threads) == 1 and threading.current_thread() not in threads
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_grain_maps_steps_to_batches_and_shares_and_resumes_them():
    import grain

    halves = [as_grain(image_batches(process_index=i, process_count=2)) for i in range(2)]
    same(image_batches().batch(7), {k: np.concatenate([half[7][k] for half in halves]) for k in ("x", "label")})
    feed = iter(as_grain(image_batches(), 2).map(lambda batch: batch["label"]).to_iter_dataset())
    np.testing.assert_array_equal(next(feed), image_batches().batch(2)["label"])
    state = feed.get_state()
    assert len(str(state)) < 100  # the number of the step
    following = next(feed)
    feed.set_state(state)
    np.testing.assert_array_equal(next(feed), following)
    assert isinstance(as_grain(image_batches()), grain.MapDataset)


def test_a_dataset_of_grain_is_a_source():
    import grain

    squares = grain.MapDataset.range(10).map(lambda i: {"x": np.full(3, i**2), "label": i})
    batch = Batches(squares, Identity(), 5, seed=0).batch(3)
    np.testing.assert_array_equal(batch["x"][:, 0], batch["label"] ** 2)
    with pytest.raises(ValueError, match="example 4: expected a dict of arrays, got NoneType"):
        gather(grain.MapDataset.range(10).filter(lambda i: i != 4).map(lambda i: {"x": np.ones(2)}), [0, 4])


def test_an_exception_reaches_the_step_that_it_belongs_to():
    class Broken:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            if index == 7:
                raise OSError("disk on fire at example 7")
            return {"x": np.full(2, index)}

    batches = Batches(Broken(), Identity(), 1, seed=0)
    bad = [int(batches.indices(step)[0]) for step in range(10)].index(7)
    running = prefetch(batches, 0, 10, put=dict)
    assert [next(running)["x"][0, 0] for _ in range(bad)] == [batches.indices(step)[0] for step in range(bad)]
    with pytest.raises(OSError, match="disk on fire at example 7"):
        next(running)
    with pytest.raises(StopIteration):
        next(running)


def test_the_order_is_grains():
    """Shuffle, repeat, batch and the shares of the processes; a seed is not the next one's order an epoch earlier."""
    import grain

    assert isinstance(Batches(NUMBERS, Identity(), 4, seed=0).order, grain.MapDataset)
    orders = [stream(Batches(NUMBERS, Identity(), 10, seed=seed), 3).reshape(3, 10) for seed in range(3)]
    assert len({tuple(epoch) for order in orders for epoch in order}) == 9


def test_the_order_stays_what_it_is():
    """Across versions of grain and NumPy: a run would else resume in another one."""
    assert Batches(NUMBERS, Identity(), 10, seed=0).indices(0).tolist() == [5, 4, 9, 1, 3, 0, 7, 6, 2, 8]


def test_batches_are_pickled():
    """As grain does for processes of its own."""
    batches = image_batches()
    batches.batch(0)
    same(pickle.loads(pickle.dumps(batches)).batch(3), batches.batch(3))
    same(pickle.loads(pickle.dumps(as_grain(batches)))[3], batches.batch(3))


def test_every_place_of_an_epoch_is_each_examples_alike():
    """χ² of the counts of (place, example) over 500 epochs: 81 degrees of freedom."""
    epochs = stream(Batches(NUMBERS, Identity(), 10, seed=3), 500).reshape(500, 10)
    counts = np.stack([np.bincount(places, minlength=10) for places in epochs.T])
    assert 81 - 4 * np.sqrt(162) < np.sum((counts - 50.0) ** 2 / 50) < 81 + 4 * np.sqrt(162)


@pytest.mark.parametrize("size", [1, 3, 5, 10, 16])
def test_eval_batches_hold_every_example_once(size):
    batches = list(eval_batches(NUMBERS, Scale(0, 9), size))
    assert all(len(batch[key]) == size for batch in batches for key in ("x", "label", "mask"))
    mask = np.concatenate([batch["mask"] for batch in batches])
    label = np.concatenate([batch["label"] for batch in batches])
    x = np.concatenate([batch["x"] for batch in batches])
    assert set(mask) <= {0, 1}
    np.testing.assert_array_equal(label[mask == 1], np.arange(10))
    np.testing.assert_allclose(x[mask == 1, 0], np.linspace(-1, 1, 10), atol=1e-6)


def test_eval_batches_refuse_no_size():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        next(eval_batches(NUMBERS, Identity(), 0))


def test_batches_are_faster_than_any_network():
    source = ArraySource(np.random.default_rng(0).integers(0, 17, (1500, 8, 8, 1), np.uint8))
    batches = Batches(source, Scale(0, 16), 128, seed=0)
    batches.batch(0)

    def rate():
        start = time.perf_counter()
        for step in range(100):
            batches.batch(step)
        return 12_800 / (time.perf_counter() - start)

    assert max(rate() for _ in range(5)) > 200_000


def test_waits_are_a_share_of_the_time_since_they_were_asked_for():
    now = [0.0]

    def slow():
        for i in range(3):
            now[0] += 2.0
            yield i

    feed = StallTimer(slow(), clock=lambda: now[0])
    assert next(feed) == 0
    now[0] += 6.0
    assert feed.share() == 0.25 and feed.share() == 0
    now[0] += 2.0
    assert list(feed) == [1, 2]
    assert feed.share() == 4 / 6
    hidden = StallTimer(slow(), busy=lambda: True, clock=lambda: now[0])
    assert next(hidden) == 0 and hidden.share() == 0
