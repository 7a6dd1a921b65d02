"""The baseline that never sees the encoder: how often every k-mer occurs in the sequence."""

from collections import Counter
from itertools import product

import numpy as np
from jaxtyping import Float


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
