"""The tokens of a comparison: kept or made anew they are the same, and the model's own special token is found."""

import numpy as np
import pytest

from covjax.activations import EncodedTokens
from covjax.activations.tokens import standardiser
from covjax.data import Dataset
from covjax.encoders import load
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights


@pytest.fixture
def bert(tmp_path):
    write_bert(tmp_path, np.random.default_rng(0))
    return load(tmp_path)


@pytest.fixture
def data(rng):
    sequences = tuple("".join(rng.choice(list("ACDEFG"), n)) for n in (5, 9, 12, 7, 9, 30))
    ids = tuple(map(str, range(6)))
    return Dataset("t", "regression", ids, sequences, np.zeros((6, 1)), ("y",), sequences, None, False)


def whole(tokens):
    """{row: (tokens, CLS)} of one walk."""
    found = {}
    for batch in tokens.walk("test"):
        for place, row in enumerate(batch.rows):
            found[row] = batch.tokens[place][batch.weights[place] > 0], batch.special[place]
        assert not batch.weights[len(batch.rows) :].any()
    return found


@pytest.mark.slow
def test_kept_tokens_are_those_of_every_walk_and_of_the_encoder(bert, data):
    kept, fresh = (EncodedTokens(bert, data.sequences, 1, 64, gib) for gib in (1.0, 0.0))
    assert (kept.fits, fresh.fits) == (True, False)
    assert kept.has_special
    assert kept.median_tokens() == 9  # of 5, 9, 12, 7, 9 and 30 residues
    first, again, made = whole(kept), whole(kept), whole(fresh)
    assert sorted(first) == list(range(6))
    for row, sequence in enumerate(data.sequences):
        ids = bert.encode(sequence)[None]
        alone = np.asarray(bert.apply(ids, np.ones_like(ids, bool), (1,))[1])[0]
        for source in (first, again, made):
            np.testing.assert_allclose(source[row][0], alone[1:-1], atol=1e-5)
            np.testing.assert_allclose(source[row][1], alone[0], atol=1e-5)


def test_a_recurrent_model_has_no_token_that_saw_the_sequence(data):
    assert not EncodedTokens(UniRep(random_weights()), data.sequences, 0, 64, 1.0).has_special


def test_mixed_batches_hold_every_chosen_row_once_and_are_always_the_same(bert, data):
    tokens = EncodedTokens(bert, data.sequences, 1, 64, 1.0)
    every = whole(tokens)
    rows = np.array([0, 2, 3, 5])
    passes = [list(tokens.mixed(rows, 32)) for _ in range(2)]
    for a, b in zip(*passes, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.tokens, b.tokens)
        for place, row in enumerate(a.rows):
            np.testing.assert_array_equal(a.tokens[place][a.weights[place] > 0], every[row][0])
    assert sorted(np.concatenate([batch.rows for batch in passes[0]])) == [0, 2, 3, 5]
    with pytest.raises(InputError, match="max_memory_gib: too little: a pool needs all token activations in memory"):
        EncodedTokens(bert, data.sequences, 1, 64, 0.0).require_kept("a pool")


def test_standardiser(bert, data):
    tokens = EncodedTokens(bert, data.sequences, 1, 64, 1.0)
    every = whole(tokens)
    train = np.array([1, 4])
    together = np.concatenate([every[row][0] for row in train]).astype(np.float64)
    mean, std = standardiser(tokens, train)
    np.testing.assert_allclose(mean, together.mean(0), atol=1e-5)
    np.testing.assert_allclose(std, together.std(0), rtol=1e-4)
