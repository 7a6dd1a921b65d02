"""Standardised tokens with dead features, which are said, and masked tokens."""

import numpy as np

from covjax.embedder import Embedder
from covjax.notes import silence
from covjax.standardise import live_deviation, note_dead, standardise


def test_live_deviation():
    np.testing.assert_array_equal(live_deviation(np.array([2.0, 1e-5, 2e-6, 0.0])), [2.0, 1e-5, 1.0, 1.0])


def test_dead_features_are_said_once_and_not_scaled(rng, capsys):
    arrays = [rng.normal(size=(n, 5)).astype(np.float32) for n in (4, 7, 5)]
    for x in arrays:
        x[:, [1, 4]] = [3.0, 1e4]
    embedder = Embedder(recipe="mean").fit(arrays)
    text = "2 of 5 features do not vary and are not scaled: deviation at most 1e-6 of the largest, first feature 1\n"
    assert capsys.readouterr().out == text
    vectors = embedder.transform([x + 2 for x in arrays])
    np.testing.assert_allclose(vectors[:, [1, 4]], 2)
    with silence(True):
        Embedder(recipe="mean").fit(arrays)
    Embedder(recipe="mean").fit([x[:, [0, 2, 3]] for x in arrays])
    assert capsys.readouterr().out == ""
    one = np.array([1.0, 0.0])
    note_dead(one)
    assert capsys.readouterr().out.startswith("1 of 2 features does not vary and is not scaled")


def test_standardise(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    weights = np.array([[1.0, 0, 1], [0, 0.5, 1]])
    mean, deviation = rng.normal(size=4), np.array([2.0, 1, 0.5, 3])
    dirty = np.where(weights[..., None] > 0, x, np.nan)
    expected = np.where(weights[..., None] > 0, (x - mean) / deviation, 0)
    np.testing.assert_allclose(standardise(dirty, weights, mean, deviation), expected, rtol=1e-6, atol=1e-7)
