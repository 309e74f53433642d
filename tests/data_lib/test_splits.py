import numpy as np
import pytest

from data_lib import ArraySource, gather, split
from data_lib.files import split_mask


class Numbers:
    """A source of one's own, without a split."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        assert type(index) is int
        return {"x": np.float32([index]), "label": index}


class Fetching(Numbers):
    def __getitems__(self, indices):
        return [{"x": np.float32([i + 1000])} for i in indices]


def numbers(part):
    return gather(part, np.arange(len(part)))["x"][:, 0].astype(int)


@pytest.mark.parametrize("source", [Numbers(300), ArraySource(np.arange(300)[:, None], np.arange(300))])
def test_a_split_is_disjoint_complete_and_by_the_hash(source):
    train, test = split(source, 0.2, seed=3)
    expected = split_mask([str(i) for i in range(300)], 0.2, 3, "")
    np.testing.assert_array_equal(numbers(test), np.flatnonzero(expected))
    np.testing.assert_array_equal(numbers(train), np.flatnonzero(~expected))
    np.testing.assert_array_equal(gather(test, [0, 2])["label"], np.flatnonzero(expected)[[0, 2]])
    assert train.name == "source train"
    assert set(numbers(split(source, 0.2, seed=4).test)) != set(numbers(test))


def test_examples_that_are_added_move_no_other():
    before, after = split(Numbers(200), 0.1), split(Numbers(230), 0.1)
    assert set(numbers(before.test)) == {i for i in numbers(after.test) if i < 200}
    names = [f"patient {i // 10}" for i in range(200)]  # those of one name stay together
    sides = [{names[i] for i in numbers(part)} for part in split(Numbers(200), 0.3, names=names)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(names)
    assert [len(part) for part in split(Numbers(20), 1e-9, names=["a", "b"] * 10)] == [10, 10]  # of a few names, too


def test_many_are_fetched_at_once_where_the_source_can():
    part = split(Fetching(50), 5).test
    np.testing.assert_array_equal(numbers(part), np.asarray(part.indices) + 1000)


def test_what_a_split_refuses():
    with pytest.raises(ValueError, match=r"mine: test=0 of 5 gives 0 for testing: expected at least one"):
        split(Numbers(5), 0, name="mine")
    with pytest.raises(ValueError, match=r"expected a name for each of 5 examples, got 2"):
        split(Numbers(5), names=["a", "b"])
