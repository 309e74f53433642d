"""Conditions of examples: flat in a batch, standardized by the training data, mirrored with x, part of the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_lib import (
    ArraySource,
    Batches,
    Condition,
    Conditions,
    Dataset,
    Identity,
    Scale,
    Standardize,
    describe,
    from_arrays,
    gather,
    remarks,
    split,
)
from data_lib.conditions import measured
from data_lib.identity import digest
from tests.helpers import close

RNG = np.random.default_rng(0)
N = 50
X = RNG.normal(size=(N, 3))
VECTOR = RNG.normal([1000.0, 0.002], [300.0, 0.001], (N, 2))
IMAGE = RNG.integers(0, 256, (N, 4, 4, 1)).astype(np.uint8)
TOKENS = RNG.integers(0, 9, (N, 5))


def source(**cond):
    return ArraySource(X, cond=cond or VECTOR)


def test_the_entries_of_a_dict_are_flat_in_a_batch_and_may_be_read_one_by_one():
    whole = source(v=VECTOR, image=IMAGE)
    rows = [{"x": x, "cond": {"v": v, "image": i}} for x, v, i in zip(X, VECTOR, IMAGE, strict=True)]
    for each in (whole, rows):
        batch = gather(each, [7, 3])
        assert sorted(batch) == ["cond.image", "cond.v", "x"]
        np.testing.assert_array_equal(batch["cond.v"], VECTOR[[7, 3]])
        np.testing.assert_array_equal(batch["cond.image"], IMAGE[[7, 3]])
    assert remarks(Dataset(rows, rows)) == ()
    np.testing.assert_array_equal(gather(source(), [2])["cond"], VECTOR[[2]])


def test_splits_keep_conditions_with_their_examples():
    for dataset in (from_arrays(X, cond={"v": X, "w": 2 * X}), split(ArraySource(X, cond={"v": X, "w": 2 * X}))):
        for part in dataset:
            np.testing.assert_array_equal(part.cond["v"], part.x)
            np.testing.assert_array_equal(part.cond["w"], 2 * part.x)


def test_what_is_no_condition():
    with pytest.raises(ValueError, match=r"data: x has 50 examples, cond.v must have as many, got \(49, 2\)"):
        source(v=VECTOR[:-1])
    with pytest.raises(ValueError, match=r"data: cond\.v: expected an array of real numbers, got dtype <U1"):
        source(v=np.full(N, "a"))
    with pytest.raises(ValueError, match="a condition cannot have the name 'label'"):
        measured(source(label=VECTOR), ["cond.label"])


def test_a_description_has_a_line_for_each_condition():
    data = source(v=np.array([[0.5, 2.0]] * N), image=IMAGE * 0 + 7)
    text = str(describe(Dataset(data, data), Identity()))
    assert "cond.v float64 [2] range 0.5 to 2" in text and "cond.image uint8 [4, 4, 1] range 7 to 7" in text


def test_other_conditions_are_other_data():
    assert digest(source()) != digest(ArraySource(X)) != digest(source(v=VECTOR)) != digest(source(v=VECTOR + 1))
    assert digest(source(v=VECTOR)) == digest(source(v=VECTOR.copy()))


def test_real_numbers_are_standardized_and_integers_are_not():
    found = measured(source(v=VECTOR, image=IMAGE, tokens=TOKENS), ["cond.v", "cond.image", "cond.tokens"])
    assert found["tokens"] == Condition(shape=(5,), integers=True)
    assert found["image"] == Condition(shape=(4, 4, 1), transform=Scale(0.0, 255.0))
    np.testing.assert_allclose(found["v"].transform.mean, VECTOR.mean(0))
    np.testing.assert_allclose(found["v"].transform.std, VECTOR.std(0))
    cond = Conditions(tuple(sorted(found.items()))).of_batch(
        gather(source(v=VECTOR, image=IMAGE, tokens=TOKENS), [0, 1])
    )
    close(cond["v"], (VECTOR[:2] - VECTOR.mean(0)) / VECTOR.std(0), 1e-6)
    close(cond["image"], IMAGE[:2] / 127.5 - 1, 1e-6)
    np.testing.assert_array_equal(cond["tokens"], TOKENS[:2])
    assert {k: v.dtype.name for k, v in cond.items()} == {"v": "float32", "image": "float32", "tokens": "int32"}


def test_numbers_are_measured_on_many_rows_of_a_source_that_is_not_in_memory():
    """Of evenly spaced examples: the mean of a ramp is exact."""
    rows = [{"x": np.zeros(1), "cond": np.array([float(i)])} for i in range(200)]
    transform = measured(rows, ["cond"])["cond"].transform
    np.testing.assert_allclose(transform.mean, (99.5,))


CONDITIONS = Conditions((("label", Condition((), True)), ("v", Condition((2,), transform=Standardize(1.0, 2.0)))))
ONE = Conditions((("cond", Condition((2,), transform=Standardize((1.0, 2.0), (2.0, 4.0)))),))


def test_a_cond_in_the_units_of_the_data():
    found = CONDITIONS.forward({"label": [1, 0], "v": np.array([[3.0, 1.0], [5.0, -1.0]])}, 2)
    np.testing.assert_array_equal(found["v"], [[1, 0], [2, -1]])
    assert found["label"].dtype == np.int32
    assert CONDITIONS.forward({"label": None, "v": np.ones((2, 2))}, 2)["label"] is None
    assert CONDITIONS.forward(None) is None
    np.testing.assert_array_equal(ONE.forward([[3.0, 2.0]]), [[1, 0]])
    np.testing.assert_array_equal(ONE.forward({"cond": np.array([[3.0, 6.0]])}), [[1, 1]])
    np.testing.assert_allclose(jax.jit(ONE.forward)(jnp.array([[3.0, 6.0]])), [[1, 1]])


@pytest.mark.parametrize(
    ("conditions", "cond", "message"),
    [
        (CONDITIONS, np.zeros((2, 2)), "cond: expected a dict with label, v, got ndarray"),
        (CONDITIONS, {"v": np.zeros((2, 2))}, "cond: expected label, v, got v"),
        (ONE, {"w": np.zeros((2, 2))}, "cond: expected cond, got w"),
        (ONE, np.zeros((3, 2)), r"cond: expected cond of shape \[2, 2\], got \(3, 2\)"),
        (ONE, np.zeros((2, 3)), r"cond: expected cond of shape \[2, 2\], got \(2, 3\)"),
        (ONE, 1.0, r"cond: expected cond of shape \[2, 2\], got None"),
    ],
)
def test_a_cond_that_does_not_fit(conditions, cond, message):
    with pytest.raises(ValueError, match=message):
        conditions.forward(cond, 2)


def test_an_image_is_mirrored_with_x():
    x = RNG.normal(size=(8, 4, 6, 1)).astype(np.float32)
    batches = Batches(ArraySource(x, cond={"image": x, "v": VECTOR[:8]}), Identity(), 8, 0, flip=True)
    batch = batches.batch(3)
    np.testing.assert_array_equal(batch["cond.image"], batch["x"])
    plain = Batches(ArraySource(x, cond={"image": x, "v": VECTOR[:8]}), Identity(), 8, 0).batch(3)
    mirrored = np.any(batch["x"] != plain["x"], axis=(1, 2, 3))
    assert 0 < mirrored.sum() < 8
    np.testing.assert_array_equal(batch["x"][mirrored], plain["x"][mirrored, :, ::-1])
    np.testing.assert_array_equal(batch["cond.v"], plain["cond.v"])


def test_integers_are_whole_numbers_and_scalars_are_vectors_of_one():
    label, one = Condition((), True), Conditions((("cond", Condition((1,))),))
    np.testing.assert_array_equal(label.forward(np.array([0.0, 2.0])), [0, 2])
    for wrong in ([0.9, 1.7], [3e9, 1], [np.nan, 0]):
        with pytest.raises(ValueError, match="cond: expected whole numbers"):
            label.forward(np.array(wrong))
    np.testing.assert_array_equal(one.forward(np.array([1.0, 2.0]), 2), [[1], [2]])
    ages = measured(ArraySource(X, cond=TOKENS), ["cond"], real=True)["cond"]
    np.testing.assert_allclose(ages.transform.mean, TOKENS.mean(0))


def test_a_tracer_of_values_far_from_0_is_refused():
    far = Condition((), transform=Standardize(1.7e9, 60.0))
    np.testing.assert_allclose(far.forward(np.array([1.7e9 + 90])), [1.5])
    with pytest.raises(ValueError, match="lose digits in float32"):
        jax.jit(far.forward)(jnp.ones(2))
