"""Standardised tokens with dead features and masked tokens."""

import numpy as np

from covjax.standardise import live_deviation, standardise


def test_live_deviation():
    np.testing.assert_array_equal(live_deviation(np.array([2.0, 1e-5, 2e-6, 0.0])), [2.0, 1e-5, 1.0, 1.0])


def test_standardise(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    weights = np.array([[1.0, 0, 1], [0, 0.5, 1]])
    mean, deviation = rng.normal(size=4), np.array([2.0, 1, 0.5, 3])
    dirty = np.where(weights[..., None] > 0, x, np.nan)
    expected = np.where(weights[..., None] > 0, (x - mean) / deviation, 0)
    np.testing.assert_allclose(standardise(dirty, weights, mean, deviation), expected, rtol=1e-6, atol=1e-7)
