"""The embedding of classes and vectors: its values, what None stands for, what is kept back in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.conditioning import Conditioning, options_for
from tests.helpers import close

KEY = jax.random.key(0)
LABELS = jnp.array([2, 0, 1])
VECTOR = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
EMB = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)


def made(cond, **options):
    module = Conditioning(**options)
    return module, module.init(KEY, EMB, cond)


def applied(module, variables, *inputs, **options):
    return module.apply(variables, *inputs, **options).emb


def test_labels_and_vector_are_added():
    module, variables = made((LABELS, VECTOR), num_classes=3, cond_dim=5)
    table = np.asarray(variables["params"]["Embed_0"]["embedding"])
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    assert table.shape == (4, 4) and list(variables["params"]["Dense_0"]) == ["kernel"]
    for labels, vector in ((LABELS, VECTOR), (None, VECTOR), (LABELS, None), (None, None)):
        rows = np.full(3, 3) if labels is None else labels
        shift = 0 if vector is None else VECTOR @ kernel
        expected = EMB + table[rows] + shift
        close(applied(module, variables, EMB, (labels, vector)), expected, 1e-5)
    np.testing.assert_array_equal(applied(module, variables, EMB), applied(module, variables, EMB, (None, None)))


def test_one_of_them_stands_alone():
    for cond, null, options in (
        (LABELS, jnp.full(3, 3), {"num_classes": 3}),
        (VECTOR, jnp.zeros_like(VECTOR), {"cond_dim": 5}),
    ):
        module, variables = made(cond, **options)
        out = applied(module, variables, EMB, cond)
        assert float(jnp.min(jnp.max(jnp.abs(out - EMB), axis=1))) > 1e-2
        np.testing.assert_array_equal(applied(module, variables, EMB), applied(module, variables, EMB, null))


def test_without_either_there_is_nothing():
    module, variables = made(None)
    assert variables == {}
    np.testing.assert_array_equal(applied(module, {}, EMB), EMB)


def test_in_training_a_share_of_the_examples_has_no_condition():
    """A share of 0.3 of 4,000, within four standard errors, each whole: labels and vector together."""
    n = 4000
    emb, labels, vector = jnp.zeros((n, 4)), jnp.zeros(n, jnp.int32), jnp.ones((n, 5))
    module = Conditioning(num_classes=3, cond_dim=5, dropout=0.3)
    variables = module.init(KEY, emb[:1], None)
    out = applied(module, variables, emb, (labels, vector), train=True, rngs={"dropout": jax.random.key(1)})
    given = applied(module, variables, emb[:1], (labels[:1], vector[:1]))[0]
    without = applied(module, variables, emb[:1])[0]
    kept_back = np.all(np.isclose(out, without[None]), axis=1)
    assert np.all(kept_back | np.all(np.isclose(out, given[None]), axis=1))
    assert abs(kept_back.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n)
    evaluated = applied(module, variables, emb, (labels, vector))
    np.testing.assert_allclose(evaluated, jnp.broadcast_to(given[None], (n, 4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "cond", "message"),
    [
        ({}, LABELS, "expected None, since the network has num_classes=0, cond_dim=0, cond_channels=0, context_dim=0"),
        ({"num_classes": 3}, VECTOR, r"expected integer labels of shape \(3,\), got float32 of shape \(3, 5\)"),
        ({"num_classes": 3}, LABELS[:2], r"expected integer labels of shape \(3,\), got int.* of shape \(2,\)"),
        ({"num_classes": 3}, 1, r"expected integer labels of shape \(3,\), got int"),
        ({"cond_dim": 4}, VECTOR, r"expected a vector of shape \(3, 4\), got \(3, 5\)"),
        ({"cond_dim": 4}, (LABELS, VECTOR), r"expected a vector of shape \(3, 4\), got tuple"),
        ({"num_classes": 3, "cond_dim": 5}, (LABELS, VECTOR, 1), r"expected a pair \(labels, vector\), got 3 values"),
        ({"num_classes": 3, "cond_dim": 5}, {"a": VECTOR, "b": VECTOR}, r"a vector of shape \(3, 5\), got \(3, 10\)"),
        ({"num_classes": 3}, {"a": LABELS, "b": LABELS}, "expected one array of labels, got 2"),
        (
            {"num_classes": 3, "context_dim": 2},
            VECTOR,
            "expected what fits num_classes=3, context_dim=2, got 'cond'",
        ),
        ({"cond_dim": 5}, {"a": VECTOR[:2]}, r"vectors of shape \[3, d\], got \[\(2, 5\)\]"),
        ({"context_dim": 2}, VECTOR, r"a sequence of shape \(3, 'L', 2\), got \(3, 5\)"),
        ({"num_classes": 3, "cond_dim": 5}, (VECTOR, LABELS), r"expected integer labels of shape \(3,\), got float32"),
    ],
)
def test_what_does_not_fit(options, cond, message):
    with pytest.raises(ValueError, match="cond: expected") as error:
        jax.eval_shape(lambda: Conditioning(**options).init(KEY, EMB, cond))
    assert error.match(message)


# Fields and sequences, dicts, nulls

X = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 6, 2)), jnp.float32)
FIELD = jnp.asarray(np.random.default_rng(3).normal(size=(3, 4, 6, 1)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(4).normal(size=(3, 7, 2)), jnp.float32)
ALL = {"num_classes": 3, "cond_dim": 5, "cond_channels": 1, "context_dim": 2}


def all_kinds(cond, train=False, **options):
    module = Conditioning(**ALL, **options)
    variables = module.init(KEY, EMB, None, x=X)
    out = module.apply(variables, EMB, cond, train, X, rngs={"dropout": jax.random.key(1)})
    return jax.tree.map(np.asarray, variables["params"]), out


def test_a_field_is_concatenated_with_x_and_a_sequence_becomes_a_context():
    params, out = all_kinds({"digit": LABELS, "v": VECTOR, "image": FIELD, "tokens": TOKENS})
    np.testing.assert_array_equal(out.x, np.concatenate([X, FIELD], axis=-1))
    dense = params["Dense_1"]
    places = np.arange(7)[:, None] * np.array([1.0, 1e-4])  # the frequencies of 4 features
    expected = (
        np.asarray(TOKENS) @ dense["kernel"] + dense["bias"] + np.concatenate([np.sin(places), np.cos(places)], axis=1)
    )
    close(out.context, expected, 1e-5)
    close(
        out.emb,
        np.asarray(EMB)
        + params["Embed_0"]["embedding"][np.asarray(LABELS)]
        + np.asarray(VECTOR) @ params["Dense_0"]["kernel"],
        1e-5,
    )


def test_a_field_of_another_size_is_resized():
    """Linear interpolation leaves a constant as it is, and doubles a ramp's positions."""
    ramp = jnp.broadcast_to(jnp.arange(3.0)[None, None, :, None], (3, 2, 3, 1))
    out = all_kinds({"image": ramp})[1].x[..., 2]
    np.testing.assert_allclose(out[0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], rtol=1e-6)
    np.testing.assert_array_equal(out, jnp.broadcast_to(out[:1, :1], out.shape))


def test_several_vectors_are_one_in_the_order_of_their_names():
    whole = all_kinds({"v": VECTOR})[1].emb
    parts = {"b": VECTOR[:, 1:], "a": VECTOR[:, 0]}
    np.testing.assert_array_equal(all_kinds(parts)[1].emb, whole)


def test_a_signal_has_a_field_unless_only_a_sequence_is_taken_or_it_is_named():
    x = TOKENS
    module = Conditioning(cond_channels=2, context_dim=2)
    variables = module.init(KEY, EMB, None, x=x)
    assert module.apply(variables, EMB, TOKENS, x=x).x.shape == (3, 7, 4)
    named = module.apply(variables, EMB, {"sequence": TOKENS}, x=x)
    np.testing.assert_array_equal(named.x[..., 2:], 0)
    np.testing.assert_array_equal(module.apply(variables, EMB, {"field": TOKENS}, x=x).x[..., 2:], TOKENS)
    alone = Conditioning(context_dim=2)
    assert alone.apply(alone.init(KEY, EMB, None, x=x), EMB, TOKENS, x=x).context.shape == (3, 7, 4)


@pytest.mark.parametrize("null", ["zero", "learned"])
def test_the_null_of_each_kind(null):
    params, out = all_kinds(None, null=null)
    row = {
        kind: params[f"null_{kind}"] if null == "learned" else np.zeros(size, np.float32)
        for kind, size in SIZES.items()
    }
    np.testing.assert_array_equal(out.x[..., 2:], np.broadcast_to(row["field"], FIELD.shape))
    close(
        out.emb, np.asarray(EMB) + params["Embed_0"]["embedding"][3] + row["vector"] @ params["Dense_0"]["kernel"], 1e-5
    )
    token = row["sequence"] @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"] + np.array([0, 0, 1, 1])
    close(out.context, np.broadcast_to(token, (3, 1, 4)), 1e-5)
    if null == "learned":
        assert min(float(jnp.max(jnp.abs(row[kind]))) for kind in row) > 0.1
    given = {"digit": LABELS, "v": VECTOR, "image": FIELD, "tokens": TOKENS}
    dropped = all_kinds(given, train=True, null=null, dropout=1.0)[1]
    np.testing.assert_array_equal(dropped.x, out.x)
    np.testing.assert_array_equal(dropped.emb, out.emb)
    assert all_kinds(given, train=False, null=null, dropout=1.0)[1].x[0, 0, 0, 2] == FIELD[0, 0, 0, 0]


SIZES = {"vector": 5, "field": 1, "sequence": 2}


def test_each_kind_is_dropped_on_its_own_too():
    """P(label kept) = P(field kept) = 0.8 · 0.5, P(both) = 0.8 · 0.25: independent given that not all are dropped."""
    n = 4000
    module = Conditioning(num_classes=1, cond_channels=1, dropout=0.2, dropout_each=0.5)
    x, emb = jnp.zeros((n, 2, 1), jnp.float32), jnp.zeros((n, 3), jnp.float32)
    variables = module.init(KEY, emb, None, x=x)
    cond = {"label": jnp.zeros(n, jnp.int32), "field": jnp.ones((n, 2, 1), jnp.float32)}
    out = module.apply(variables, emb, cond, True, x, rngs={"dropout": jax.random.key(3)})
    row = np.asarray(variables["params"]["Embed_0"]["embedding"])[0]
    label, field = np.all(np.asarray(out.emb) == row, axis=1), np.asarray(out.x[:, 0, 1]) == 1
    for kept, share in ((label, 0.4), (field, 0.4), (label & field, 0.2)):
        assert abs(kept.mean() - share) < 4 * np.sqrt(share * (1 - share) / n)


def test_two_fields_and_two_sequences_in_one_dict():
    """Fields: their channels in the order of names, each resized. Sequences of one width: one after the other."""
    generator = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)  # noqa: E731
    x, emb = draw(3, 4, 4, 1), EMB
    fine, coarse = draw(3, 4, 4, 2), draw(3, 2, 2, 1)
    module = Conditioning(cond_channels=3)
    out = module.apply({}, emb, {"b": coarse, "a": fine}, x=x).x
    close(out[..., :3], jnp.concatenate([x, fine], -1), 1e-6)
    close(out[..., 3:], jax.image.resize(coarse, (3, 4, 4, 1), "linear"), 1e-6)
    with pytest.raises(ValueError, match=r"a field of shape \(3, 4, 4, 3\), got \(3, 4, 4, 4\)"):
        module.apply({}, emb, {"b": fine, "a": fine}, x=x)

    first, second = draw(3, 5, 6), draw(3, 2, 6)
    module = Conditioning(context_dim=6)
    both = {"one": first, "two": second}
    variables = module.init(KEY, emb, both)
    joined = module.apply(variables, emb, jnp.concatenate([first, second], 1)).context
    np.testing.assert_array_equal(module.apply(variables, emb, both).context, joined)
    with pytest.raises(ValueError, match=r"sequences \[3, L, d\] of one width"):
        module.apply(variables, emb, {"one": first, "two": draw(3, 2, 4)})


def test_the_options_for_conditions_of_these_shapes():
    assert options_for({"a": (), "b": (2,), "m": (8, 8, 1), "n": (4, 4, 3), "s": (9, 5), "t": (7, 5)}, 3) == {
        "cond_dim": 3, "cond_channels": 4, "context_dim": 5,
    }  # fmt: skip
    assert options_for({"trend": (16, 2)}, 2) == {"cond_channels": 2}  # events are signals: a field
    with pytest.raises(
        ValueError, match=r"m: expected numbers of shape \[d\] or \[L, d\] for each example, got \(8, 8, 1\)"
    ):
        options_for({"m": (8, 8, 1)}, 1)
    with pytest.raises(ValueError, match=r"t: expected sequences of one width, 5, got \(7, 4\)"):
        options_for({"s": (9, 5), "t": (7, 4)}, 3)
