"""The Inception score: Salimans et al. 2016, arXiv:1606.03498.

    IS = exp E_x KL(p(y|x) ‖ p(y)),     p(y) = E_x p(y|x)                                                           (1)

It ranges from 1, where the classifier gives all images the same p(y|x), to the number of classes.
"""

from itertools import pairwise

import numpy as np


def inception_score(logits: np.ndarray, splits: int = 10, seed: int | None = None) -> tuple[float, float]:
    """Mean and standard deviation of (1) over `splits` equal parts of logits [N, classes], in float64.

    The parts are consecutive, as in the published code; with a `seed` the logits are shuffled first. Each part has its
    own p(y). ValueError for fewer logits than splits.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(f"expected logits [N, classes] with N of at least splits={splits}, got shape {logits.shape}")
    if seed is not None:
        logits = np.random.default_rng(seed).permutation(logits)
    edges = np.arange(splits + 1) * len(logits) // splits
    scores = [_score(logits[a:b]) for a, b in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray) -> float:
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(0)
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))  # a class of probability 0 contributes p log p = 0
    return float(np.exp(np.mean(np.sum(p * (log_p - log_marginal), axis=1))))
