"""The shuffling control keeps marginals, destroys co-occurrence and does not see padding."""

import jax
import numpy as np
import pytest

from covjax import InputError, moments, shuffle_features


def test_marginals_stay_and_cooccurrence_goes(rng):
    shared = rng.normal(size=(2000, 1))
    x = (shared + 0.1 * rng.normal(size=(2000, 6))).astype(np.float32)
    y = shuffle_features(x, None, jax.random.key(0))
    np.testing.assert_array_equal(np.sort(x, axis=0), np.sort(y, axis=0))
    off = np.array(moments(y).correlation())
    np.fill_diagonal(off, 0)
    assert np.abs(off).max() < 0.12
    assert np.abs(moments(x).correlation()).min() > 0.95


def test_padding_and_mask_do_not_change_the_draw(rng):
    x = rng.normal(size=(9, 3)).astype(np.float32)
    key = jax.random.key(3)
    alone = shuffle_features(x, None, key)
    rows = np.array([1, 2, 3, 5, 6, 7, 8, 11, 12])
    padded, w = np.full((40, 3), np.nan, np.float32), np.zeros(40, np.float32)
    padded[rows], w[rows] = x, 1
    for function in (shuffle_features, jax.jit(shuffle_features)):
        result = np.asarray(function(padded, w, key))
        np.testing.assert_array_equal(result[rows], alone)
        assert np.isnan(np.delete(result, rows, axis=0)).all()
    assert not np.array_equal(alone, shuffle_features(x, None, jax.random.key(4)))


def test_bad_input_names_the_argument(rng):
    with pytest.raises(TypeError, match="x must be"):
        shuffle_features(np.ones((2, 2), np.int32), None, jax.random.key(0))
    with pytest.raises(InputError, match="weights must have shape"):
        shuffle_features(np.ones((2, 2), np.float32), np.ones(3), jax.random.key(0))


@pytest.mark.long
def test_one_token_more_than_the_packed_sort_takes(rng):
    x = rng.normal(size=(2**16 + 1, 2)).astype(np.float32)
    x[:, 1] = x[:, 0]
    w = np.ones(len(x), np.float32)
    w[-1] = 0
    for weights in (None, w):
        y = np.asarray(shuffle_features(x, weights, jax.random.key(0)))
        np.testing.assert_array_equal(np.sort(x, axis=0), np.sort(y, axis=0))
        assert abs(np.corrcoef(y.T)[0, 1]) < 0.02
    packed = np.asarray(shuffle_features(x[:-1], None, jax.random.key(0)))
    np.testing.assert_array_equal(np.sort(x[:-1], axis=0), np.sort(packed, axis=0))
    assert abs(np.corrcoef(packed.T)[0, 1]) < 0.02


@pytest.mark.parametrize("tokens", [100, 2**16 + 8])
def test_masked_tokens_stay_out_where_jax_has_64_bits(tokens):
    x = np.random.default_rng(0).normal(size=(tokens, 2)).astype(np.float32)
    x[-8:] = np.nan
    weights = np.ones(tokens, np.float32)
    weights[-8:] = 0
    plain = np.asarray(shuffle_features(x, weights, jax.random.key(0)))
    with jax.enable_x64(True):
        wide = np.asarray(shuffle_features(x, weights, jax.random.key(0)))
    np.testing.assert_array_equal(wide, plain)
    assert np.isfinite(wide[:-8]).all()
