"""Bucketed embedding: every sequence once, little padding, few shapes, the same activations as alone."""

import itertools

import numpy as np
import pytest

from covjax.encoders import embed, tokenize
from covjax.encoders.embed import bucket_edges
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from tests.test_unirep import random_weights


def test_every_sequence_once_with_its_own_activations(rng):
    model = UniRep(random_weights())
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.integers(1, 60, 37)]
    seen, shapes = {}, set()
    for rows, layers, pool in embed(model, sequences, (1,), token_budget=200):
        shapes.add(pool.shape)
        assert not pool[len(rows) :].any()
        for b, row in enumerate(rows):
            assert row not in seen
            seen[row] = np.asarray(layers[1])[b][pool[b]]
    assert sorted(seen) == list(range(37))
    assert len(shapes) <= 4
    for row in (0, 17, 36):
        tokens, mask, pool = tokenize(model, [sequences[row]])
        np.testing.assert_allclose(seen[row], np.asarray(model.apply(tokens, mask, (1,))[1])[0][pool[0]], atol=1e-6)


def test_bucket_edges_are_the_best_of_all_choices(rng):
    lengths = rng.integers(1, 30, 25)

    def padded(edges):
        return sum(min(e for e in edges if e >= n) for n in lengths)

    candidates = itertools.combinations(np.unique(lengths)[:-1], 2)
    best = min(padded([*choice, lengths.max()]) for choice in candidates)
    assert padded(bucket_edges(lengths, 3)) == best


def test_one_length_is_one_bucket():
    assert bucket_edges(np.array([7, 7, 7]), 4) == [7]


def test_no_sequences_are_refused():
    with pytest.raises(InputError, match="sequences: empty"):
        next(embed(UniRep(random_weights()), [], (0,)))
