"""The embedding of classes and vectors: its values, what None stands for, what is kept back in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.conditioning import Conditioning
from tests.helpers import close

KEY = jax.random.key(0)
LABELS = jnp.array([2, 0, 1])
VECTOR = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
EMB = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)


def made(cond, **options):
    module = Conditioning(**options)
    return module, module.init(KEY, EMB, cond)


def test_labels_and_vector_are_added():
    module, variables = made((LABELS, VECTOR), num_classes=3, cond_dim=5)
    table = np.asarray(variables["params"]["Embed_0"]["embedding"])
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    assert table.shape == (4, 4) and list(variables["params"]["Dense_0"]) == ["kernel"]
    for labels, vector in ((LABELS, VECTOR), (None, VECTOR), (LABELS, None), (None, None)):
        rows = np.full(3, 3) if labels is None else labels
        shift = 0 if vector is None else VECTOR @ kernel
        expected = EMB + table[rows] + shift
        close(module.apply(variables, EMB, (labels, vector)), expected, 1e-5)
    np.testing.assert_array_equal(module.apply(variables, EMB), module.apply(variables, EMB, (None, None)))


def test_one_of_them_stands_alone():
    for cond, null, options in (
        (LABELS, jnp.full(3, 3), {"num_classes": 3}),
        (VECTOR, jnp.zeros_like(VECTOR), {"cond_dim": 5}),
    ):
        module, variables = made(cond, **options)
        out = module.apply(variables, EMB, cond)
        assert float(jnp.min(jnp.max(jnp.abs(out - EMB), axis=1))) > 1e-2
        np.testing.assert_array_equal(module.apply(variables, EMB), module.apply(variables, EMB, null))


def test_without_either_there_is_nothing():
    module, variables = made(None)
    assert variables == {}
    np.testing.assert_array_equal(module.apply({}, EMB), EMB)


def test_in_training_a_share_of_the_examples_is_told_nothing():
    """A share of 0.3 of 4,000, within four standard errors, each whole: labels and vector together."""
    n = 4000
    emb, labels, vector = jnp.zeros((n, 4)), jnp.zeros(n, jnp.int32), jnp.ones((n, 5))
    module = Conditioning(num_classes=3, cond_dim=5, dropout=0.3)
    variables = module.init(KEY, emb[:1], None)
    out = module.apply(variables, emb, (labels, vector), train=True, rngs={"dropout": jax.random.key(1)})
    told = module.apply(variables, emb[:1], (labels[:1], vector[:1]))[0]
    untold = module.apply(variables, emb[:1])[0]
    kept_back = np.all(np.isclose(out, untold[None]), axis=1)
    assert np.all(kept_back | np.all(np.isclose(out, told[None]), axis=1))
    assert abs(kept_back.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n)
    evaluated = module.apply(variables, emb, (labels, vector))
    np.testing.assert_allclose(evaluated, jnp.broadcast_to(told[None], (n, 4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "cond", "message"),
    [
        ({}, LABELS, "cond: expected None, since the network has num_classes=0 and cond_dim=0, got one"),
        ({"num_classes": 3}, VECTOR, r"expected integer labels of shape \(3,\), got float32 of shape \(3, 5\)"),
        ({"num_classes": 3}, LABELS[:2], r"expected integer labels of shape \(3,\), got int.* of shape \(2,\)"),
        ({"num_classes": 3}, 1, r"expected integer labels of shape \(3,\), got int"),
        ({"cond_dim": 4}, VECTOR, r"expected a vector of shape \(3, 4\), got \(3, 5\)"),
        ({"cond_dim": 4}, (LABELS, VECTOR), r"expected a vector of shape \(3, 4\), got tuple"),
        ({"num_classes": 3, "cond_dim": 5}, (LABELS, VECTOR, 1), r"expected a pair \(labels, vector\), got 3 values"),
        ({"num_classes": 3, "cond_dim": 5}, VECTOR, r"expected integer labels of shape \(3,\), got float32"),
        ({"num_classes": 3, "cond_dim": 5}, (VECTOR, LABELS), r"expected integer labels of shape \(3,\), got float32"),
    ],
)
def test_what_does_not_fit(options, cond, message):
    with pytest.raises(ValueError, match="cond: expected") as error:
        jax.eval_shape(lambda: Conditioning(**options).init(KEY, EMB, cond))
    assert error.match(message)
