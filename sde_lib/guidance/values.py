"""Guidance as a value: a function from scores to a score, which a ScoreModel applies to its samples.

    guidance(score_given, cond) → ScoreFn,    score_given(cond) → the score conditioned on cond; None: on nothing    (1)

The equations are those of `sde_lib.guidance.scores`. Values compose: `InInterval(guidance=ByClassifier(…), …)`.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array

from sde_lib.guidance.scores import classifier_free, classifier_guided, guided_by_each, in_interval
from sde_lib.node import PyTreeNode, Scalar, number
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE

ScoreGiven = Callable[[Any], ScoreFn]
"""cond, as the network takes it, or None → the score conditioned on it."""


class Guidance(PyTreeNode, abc.ABC):
    """A function from scores to a score (1). `cond` is not None."""

    @abc.abstractmethod
    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        """The guided score (x, t) → [B, ...]."""

    def unguided(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        """The score where guidance is off: the one conditioned on cond."""
        return score_given(cond)


class ClassifierFree(Guidance):
    """s(x, t) + w [s(x, t | c) − s(x, t)] with w = `scale`: `classifier_free`, at two scores per evaluation."""

    scale: Scalar = number()

    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        return classifier_free(score_given(cond), score_given(None), self.scale)


class ByEach(Guidance):
    """A scale for each of K conditions, by name: `guided_by_each`, at K + 1 scores per evaluation.

    The call raises ValueError for a cond that is not a dict with these names.
    """

    scales: dict[str, Scalar] = number()

    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        if not isinstance(cond, Mapping):
            raise ValueError("guidance: a scale for each condition requires several; for one use a number")
        return guided_by_each(score_given, cond, self.scales)


class Unconditional(Guidance):
    """s(x, t), whatever cond is: the score that a classifier guides, of a network without classes."""

    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        return score_given(None)

    unguided = __call__


class ByClassifier(Guidance):
    """s(x, t) + w ∇log p_t(c | x) with w = `scale`: `classifier_guided`; c are the labels in cond.

    `classifier` maps labels [B] to a function (x, t) → log p_t(c | x) [B]; `NoisyClassifier` is one. s is the score by
    `score`: by default the unconditional one; `ClassifierFree` combines the two. None is the score conditioned on cond,
    of a network with classes (Dhariwal & Nichol 2021, table 4). The call raises ValueError for a cond without labels.
    """

    classifier: Any
    scale: Scalar = number(1.0)
    score: Guidance | None = Unconditional()

    @property
    def num_classes(self) -> int | None:
        """The classifier's number of classes, if it states one."""
        return getattr(self.classifier, "num_classes", None)

    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        score_fn = score_given(cond) if self.score is None else self.score(score_given, cond)
        return classifier_guided(score_fn, self.classifier(whole_labels(cond)), self.scale)

    def unguided(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        return score_given(cond) if self.score is None else self.score.unguided(score_given, cond)


class InInterval(Guidance):
    """`guidance` where low ≤ σ/α ≤ high, and no guidance elsewhere: `in_interval`. `sde` has α and σ.

    Without guidance, the score is the one conditioned on cond, or the unconditional one where a classifier guides that.
    """

    guidance: Guidance
    sde: GaussianSDE
    low: Scalar = number(0.0, at_least=0)
    high: Scalar = number(jnp.inf, at_least="low", finite=False)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `guidance`, if it states one."""
        return getattr(self.guidance, "num_classes", None)

    def __call__(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        guided, plain = self.guidance(score_given, cond), self.unguided(score_given, cond)
        return in_interval(guided, plain, self.sde, self.low, self.high)

    def unguided(self, score_given: ScoreGiven, cond: Any) -> ScoreFn:
        return self.guidance.unguided(score_given, cond)


def as_guidance(guidance: Any) -> Guidance | None:
    """A number as `ClassifierFree`, a dict of numbers as `ByEach`, a Guidance or None as it is."""
    if guidance is None or callable(guidance):
        return cast("Guidance | None", guidance)
    return ByEach(scales=guidance) if isinstance(guidance, dict) else ClassifierFree(scale=guidance)


def labels_of(cond: Any) -> Any:
    """The labels [B] in a cond: the array itself, "label" of a dict, or the first of a pair (labels, vector)."""
    labels = cond[0] if isinstance(cond, list | tuple) else cond
    return labels.get("label") if isinstance(labels, dict) else labels


def whole_labels(cond: Any) -> Array:
    """The labels in a cond. ValueError unless they are integers."""
    labels = labels_of(cond)
    dtype = getattr(labels, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        got = type(cond).__name__ if dtype is None else f"{dtype} of shape {labels.shape}"
        raise ValueError(f"a classifier requires integer labels: expected them as cond, or as its 'label', got {got}")
    return jnp.asarray(labels)
