"""Entropies of n-gram models: what text costs whose characters are predicted from the n − 1 before.

The models are interpolated with those of shorter contexts by the rule of Witten & Bell,

    p(c | h) = (N(h c) + T(h) p(c | h')) / (N(h) + T(h)),                                              (1)

N(h c) how often c followed h in training, N(h) = Σ_c N(h c), T(h) the number of different characters that did, h' the
context without its first character, and p(c) = 1/V without any count. Contexts do not reach beyond a window: its first
character is predicted without one. So the numbers are those of a model that is given the same windows.

I. Witten, T. Bell 1991, IEEE Transactions on Information Theory 37 (4), method C; S. Chen, J. Goodman 1999, Computer
Speech & Language 13 (4), section 2.6.
"""

from collections import Counter

import numpy as np


def ngram_bits(train: np.ndarray, test: np.ndarray, order: int, num_tokens: int) -> np.ndarray:
    """−log₂ p per character of each test window [N], for tokens [N, L] and n = `order`. ValueError for an order < 1.

    >>> x = np.array([[0, 1] * 32])
    >>> [round(float(ngram_bits(x, x, n, 2)[0]), 2) for n in (1, 2)]
    [1.0, 0.04]
    """
    if order < 1:
        raise ValueError(f"ngram_bits: expected order >= 1, got {order}")
    probability = np.full(test.shape, 1 / num_tokens)
    for n in range(1, order + 1):
        probability = _interpolated(train, test, n, num_tokens, probability)
    return -np.log2(probability).mean(axis=1)


def _interpolated(train: np.ndarray, test: np.ndarray, n: int, num_tokens: int, shorter: np.ndarray) -> np.ndarray:
    """(1) for n-grams, given p(c | h') of every character; the first n − 1 of a window keep it."""
    if n > test.shape[1]:
        return shorter
    grams = Counter(_codes(train, n, num_tokens).ravel().tolist())
    total, kinds = Counter(), Counter()
    for gram, count in grams.items():
        total[gram // num_tokens] += count
        kinds[gram // num_tokens] += 1
    codes = _codes(test, n, num_tokens)
    count, seen, types = (
        np.array([table[code] for code in keys.ravel().tolist()], float).reshape(codes.shape)
        for table, keys in ((grams, codes), (total, codes // num_tokens), (kinds, codes // num_tokens))
    )
    known = seen > 0
    mixed = (count + types * shorter[:, n - 1 :]) / np.where(known, seen + types, 1.0)
    return np.concatenate([shorter[:, : n - 1], np.where(known, mixed, shorter[:, n - 1 :])], axis=1)


def _codes(x: np.ndarray, n: int, num_tokens: int) -> np.ndarray:
    """The n-grams of each row as numbers [N, L − n + 1]."""
    x = np.asarray(x, np.int64)
    found = np.zeros((len(x), x.shape[1] - n + 1), np.int64)
    for i in range(n):
        found = found * num_tokens + x[:, i : i + found.shape[1]]
    return found
