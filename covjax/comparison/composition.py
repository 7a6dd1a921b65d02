"""The baselines that never see the encoder: how often every k-mer or word occurs in the sequence."""

import re
from collections import Counter
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from covjax.errors import InputError

MIN_COUNT = 2  # training occurrences of a word; one that occurs once can only be remembered


def kmer_frequencies(sequences: tuple[str, ...], k: int) -> Float[np.ndarray, "sequences kmers"]:
    """Share of every k-mer over the letters that occur in the data, each row summing to 1 (0 if shorter than k)."""
    letters = sorted(set().union(*sequences))
    column = {"".join(kmer): j for j, kmer in enumerate(product(letters, repeat=k))}
    table = np.zeros((len(sequences), len(column)), np.float32)
    for i, sequence in enumerate(sequences):
        counts = Counter(sequence[j : j + k] for j in range(len(sequence) - k + 1))
        for kmer, count in counts.items():
            table[i, column[kmer]] = count / max(len(sequence) - k + 1, 1)
    return table


def word_frequencies(
    sequences: tuple[str, ...], train_rows: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "sequences words"]:
    """Share of every known word among all words of the text: the bag of words, without weights.

    A word is a run of letters, digits and underscores, or a single other sign; case does not count. Known are the words
    that occur at least twice in the texts of `train_rows`, in alphabetical order; the others count in the length, so a
    row sums to at most 1.

    Raises InputError where no word occurs twice.
    """
    bags = [Counter(re.findall(r"\w+|[^\w\s]", sequence.lower())) for sequence in sequences]
    total: Counter[str] = Counter()
    for i in train_rows:
        total.update(bags[i])
    column = {word: j for j, word in enumerate(sorted(word for word, n in total.items() if n >= MIN_COUNT))}
    if not column:
        raise InputError(f"sequences: no word occurs {MIN_COUNT} times in the {len(train_rows)} training texts")
    table = np.zeros((len(sequences), len(column)), np.float32)
    for i, bag in enumerate(bags):
        for word, count in bag.items():
            if word in column:
                table[i, column[word]] = count / bag.total()
    return table
