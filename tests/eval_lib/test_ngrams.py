import itertools

import numpy as np
import pytest

from eval_lib.ngrams import ngram_bits


def test_probabilities_sum_to_one_over_all_texts():
    train = np.random.default_rng(0).integers(0, 3, (4, 9))
    every = np.array(list(itertools.product(range(3), repeat=4)))
    for order in (1, 2, 3, 6):
        p = 2.0 ** -(4 * ngram_bits(train, every, order, 3))
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)


def test_the_bigram_of_a_markov_chain_tends_to_its_entropy_rate():
    draw, chain = np.random.default_rng(1), np.array([[0.9, 0.1], [0.4, 0.6]])
    x = np.zeros((400, 200), int)
    for t in range(1, 200):
        x[:, t] = draw.random(400) > chain[x[:, t - 1], 0]
    rate = -sum(w * np.sum(row * np.log2(row)) for w, row in zip((0.8, 0.2), chain, strict=True))
    found = [ngram_bits(x[:200], x[200:], order, 2) for order in (1, 2, 3)]
    assert abs(found[1].mean() - rate) < 4 * found[1].std() / np.sqrt(200) + 0.005
    assert found[0].mean() > rate + 0.1 and abs(found[2].mean() - rate) < 0.02


def test_by_hand():
    """a b a: p(a) = (2 + 2/2)/(3 + 2) = 0.6, p(b | a) = (1 + 1·0.4)/(1 + 1) = 0.7."""
    bits = ngram_bits(np.array([[0, 1, 0]]), np.array([[0, 1]]), 2, 2)
    np.testing.assert_allclose(bits, -np.log2([0.6, 0.7]).mean())
    with pytest.raises(ValueError, match="expected order >= 1, got 0"):
        ngram_bits(np.zeros((1, 2)), np.zeros((1, 2)), 0, 2)
