"""PageRank of attention as token weights, against a float64 eigenvector, and the pools that it weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, get_pooler, vech
from covjax.pooling.pagerank import pagerank_weights

T = 12
SEEN = np.arange(T) < 9
POOLED = SEEN & (np.arange(T) > 0) & (np.arange(T) < 8)  # a special token on either side


def stationary(attention, seen, damping=0.85):
    """The left eigenvector of the Google matrix for eigenvalue 1."""
    a = attention[np.ix_(seen, seen)]
    total = a.sum(1, keepdims=True)
    a = np.where(total > 0, a / np.where(total > 0, total, 1), 1 / len(a))
    values, vectors = np.linalg.eig((damping * a + (1 - damping) / len(a)).T)
    vector = vectors[:, values.real.argmax()].real
    full = np.zeros(len(attention))
    full[seen] = vector / vector.sum()
    return full


@pytest.fixture
def attention(rng):
    a = rng.exponential(size=(T, T)) ** 3
    a[4] = 0  # attends to nobody
    return a


@pytest.mark.long
def test_weights_are_the_stationary_distribution_without_the_special_tokens(attention):
    expected = np.where(POOLED, stationary(attention, SEEN), 0)
    dirty = np.where(SEEN[:, None] & SEEN[None], attention, np.nan)
    with jax.enable_x64(True):
        weights = jax.jit(pagerank_weights)(dirty, SEEN, POOLED)
        np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(pagerank_weights(attention), stationary(attention, np.ones(T, bool)), rtol=1e-6)
    low = jax.vmap(pagerank_weights)(np.float32([dirty]), SEEN[None], POOLED[None])[0]
    np.testing.assert_allclose(low, expected / expected.sum(), atol=1e-6)
    np.testing.assert_allclose(pagerank_weights(7 * attention, damping=0.0), np.full(T, 1 / T), rtol=1e-6)


def test_a_sequence_that_is_masked_whole_has_no_weights_under_vmap(attention):
    masks = np.stack([SEEN, 0 * SEEN])
    weights = jax.vmap(pagerank_weights)(np.stack([attention, attention]), masks)
    np.testing.assert_allclose(weights.sum(1), [1, 0], rtol=1e-6)


def test_mean_and_covariance_weighted_by_it(rng, attention):
    x = rng.normal(size=(T, 3))
    w = np.where(POOLED, stationary(attention, SEEN), 0)
    w /= w.sum()
    mean = w @ x
    covariance = ((x - mean) * w[:, None]).T @ (x - mean)
    weights = pagerank_weights(attention, SEEN, POOLED)
    x = x.astype(np.float32)
    np.testing.assert_allclose(get_pooler("mean")(x, weights), mean, atol=1e-5)
    np.testing.assert_allclose(get_pooler("covariance")(x, weights), vech(jnp.asarray(covariance)), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: pagerank_weights(a[:3]), r"attention must be square, \(queries, keys\), got \(3, 12\)"),
        (lambda a: pagerank_weights(-a), "attention must be finite and >= 0"),
        (lambda a: pagerank_weights(a, SEEN[:5]), "weights must have shape"),
        (lambda a: pagerank_weights(a, SEEN, ~SEEN), "pool must have a token of mask"),
        (lambda a: pagerank_weights(a, damping=1.0), r"damping must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_input_names_the_argument(attention, call, match):
    with pytest.raises(InputError, match=match):
        call(attention)
