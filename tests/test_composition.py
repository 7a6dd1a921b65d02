"""k-mer and word shares: by hand, against scikit-learn, and blind to everything but the training vocabulary."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from covjax.comparison.features import kmer_frequencies, word_frequencies
from covjax.errors import InputError

TEXTS = ("The cat saw the Dog .", "a dog , a cat", "the bird and the bee", "a bird ?", "bird")


def test_kmers_by_hand():
    table = kmer_frequencies(("AAC", "C"), 2)  # AA, AC, CA, CC
    np.testing.assert_allclose(table, [[0.5, 0.5, 0, 0], [0, 0, 0, 0]])


def test_words_by_hand():
    table = word_frequencies(TEXTS, np.array([0, 1]))  # a, cat, dog, the: twice each; saw, "." and "," once
    expected = [[0, 1 / 6, 1 / 6, 2 / 6], [2 / 5, 1 / 5, 1 / 5, 0], [0, 0, 0, 2 / 5], [1 / 3, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_words_against_scikit_learn(rng):
    texts = tuple(" ".join(rng.choice(list("abcdefgh?!"), rng.integers(1, 12))) for _ in range(40))
    train = np.arange(25)
    counter = CountVectorizer(token_pattern=r"\w+|[^\w\s]").fit(texts)
    counts = counter.transform(texts).toarray()
    known = counts[train].sum(0) >= 2
    np.testing.assert_allclose(
        word_frequencies(texts, train), counts[:, known] / counts.sum(1, keepdims=True), rtol=1e-6
    )


def test_texts_outside_train_do_not_change_the_vocabulary():
    one = word_frequencies(TEXTS, np.array([0, 1]))
    other = word_frequencies((*TEXTS[:2], "new new new words words", *TEXTS[3:]), np.array([0, 1]))
    np.testing.assert_array_equal(one[[0, 1, 3, 4]], other[[0, 1, 3, 4]])


def test_no_word_twice():
    with pytest.raises(InputError, match="no word occurs 2 times in the 2 training texts"):
        word_frequencies(("a b", "c", "a"), np.array([0, 1]))
