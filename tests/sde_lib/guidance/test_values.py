"""Guidance as values: the functions' numbers, compositions, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    VP,
    ByClassifier,
    ByEach,
    ClassifierFree,
    InInterval,
    Unconditional,
    classifier_free,
    classifier_guided,
    guided_by_each,
)
from sde_lib.guidance import as_guidance
from sde_lib.node import PyTreeNode
from tests.sde_lib.guidance.test_scores import CLASS, model, score_of

pytestmark = pytest.mark.usefixtures("usual_promotion")

X, T = jnp.linspace(-1, 1, 6).reshape(3, 2), jnp.full(3, 0.3)
LABELS = jnp.asarray([0, 1, 2])


def score_given(cond):
    """−x, shifted by the labels where they are given."""
    shift = 0.0 if cond is None else jnp.asarray(cond, X.dtype)[:, None]
    return lambda x, t: shift - x


class Steep(PyTreeNode):
    """log p_t(c | x) = c Σ x: its gradient is the label."""

    num_classes: int = 3

    def __call__(self, labels):
        return lambda x, t: labels * jnp.sum(x, axis=1)


def test_values_are_the_functions():
    conditional, free = score_given(LABELS), score_given(None)
    for value, expected in (
        (ClassifierFree(scale=3.0), classifier_free(conditional, free, 3.0)),
        (Unconditional(), free),
        (ByClassifier(classifier=Steep(), scale=2.0), classifier_guided(free, Steep()(LABELS), 2.0)),
        (ByClassifier(classifier=Steep(), score=None), classifier_guided(conditional, Steep()(LABELS), 1.0)),
        (
            ByClassifier(classifier=Steep(), score=ClassifierFree(scale=3.0)),
            classifier_guided(classifier_free(conditional, free, 3.0), Steep()(LABELS), 1.0),
        ),
    ):
        np.testing.assert_allclose(value(score_given, LABELS)(X, T), expected(X, T), rtol=1e-9)
    cond = {"b": jnp.full((3, 2), 2.0), "a": jnp.full((3, 2), -1.0)}
    scales = {"a": 3.0, "b": 0.5}
    np.testing.assert_array_equal(
        ByEach(scales=scales)(score_of, cond)(X, T), guided_by_each(score_of, cond, scales)(X, T)
    )


def test_an_interval_of_each():
    """Outside, two scores give the conditional one, and a classifier the score that it guides."""
    sde = VP()
    level = float(sde.sigma(0.3) / sde.alpha(0.3))
    for guidance, plain in (
        (ClassifierFree(scale=3.0), score_given(LABELS)),
        (ByClassifier(classifier=Steep()), score_given(None)),
        (ByClassifier(classifier=Steep(), score=None), score_given(LABELS)),
        (ByClassifier(classifier=Steep(), score=ClassifierFree(scale=2.0)), score_given(LABELS)),
    ):
        inside = InInterval(guidance=guidance, sde=sde, low=0.5 * level, high=2 * level)
        outside = inside.replace(low=1.5 * level)
        guided = guidance(score_given, LABELS)(X, T)
        np.testing.assert_allclose(inside(score_given, LABELS)(X, T), guided, rtol=1e-9)
        np.testing.assert_allclose(outside(score_given, LABELS)(X, T), plain(X, T), rtol=1e-9)
        assert np.max(np.abs(guided - plain(X, T))) > 0.1


def test_numbers_and_dicts_become_values():
    assert as_guidance(None) is None
    assert as_guidance(2.0) == ClassifierFree(scale=2.0)
    assert as_guidance({"a": 1.0}) == ByEach(scales={"a": 1.0})
    assert as_guidance(Unconditional()) == Unconditional()
    cond = jnp.full(3, CLASS)
    found = [model(g).score_given(cond)(X, T) for g in (2.0, ClassifierFree(scale=2.0))]
    np.testing.assert_array_equal(*found)


def test_a_model_of_no_classes_guided_by_a_classifier():
    """The network receives no label, and the labels are the classifier's; likelihoods are not guided."""
    guided = model(ByClassifier(classifier=Steep(), scale=0.5))
    plain = model().score(X, T)
    np.testing.assert_allclose(guided.score_given(LABELS)(X, T), plain + 0.5 * LABELS[:, None], rtol=1e-9)
    np.testing.assert_array_equal(guided.score_given()(X, T), plain)
    with pytest.raises(ValueError, match="cond: expected labels from 0 to 2, or 3 for no class; got 4"):
        guided._rows_of([0, 1, 4], 3)


@pytest.mark.parametrize("cond", [LABELS, {"label": LABELS, "T": jnp.zeros(3)}, (LABELS, jnp.zeros((3, 1)))])
def test_where_labels_are_found(cond):
    found = ByClassifier(classifier=Steep())(lambda cond: score_given(None), cond)(X, T)
    np.testing.assert_allclose(found, LABELS[:, None] - X)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"a classifier requires integer labels: .* got float.* of shape"):
        ByClassifier(classifier=Steep())(score_given, jnp.zeros(3))
    with pytest.raises(ValueError, match="a scale for each condition requires several"):
        ByEach(scales={"a": 1.0})(score_given, LABELS)
    for build, message in (
        (lambda: ByClassifier(classifier=Steep(), scale=jnp.nan), "expected a finite number scale; got scale=nan"),
        (lambda: ClassifierFree(scale=jnp.inf), "expected a finite number scale"),
        (lambda: InInterval(guidance=Unconditional(), sde=VP(), low=-1.0), "low >= 0"),
        (lambda: InInterval(guidance=Unconditional(), sde=VP(), low=2.0, high=1.0), "high >= low"),
        (lambda: model(jnp.nan), "guidance"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
