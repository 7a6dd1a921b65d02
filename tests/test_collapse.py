"""Second-order collapse against float64 NumPy and SciPy, and the page that puts gains beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from covjax import InputError, second_order_collapse
from covjax.collapse import token_cloud


def normalised(x, w):
    """Mean and covariance of tokens over the norm of their mean."""
    mean = w @ x / w.sum()
    deviation = (x - mean) / np.linalg.norm(mean)
    return mean / np.linalg.norm(mean), (deviation * w[:, None]).T @ deviation / w.sum()


def reference(x1, x2, w1=None, w2=None):
    """d_μ, d_Σ and SOCM with roots of matrices, as they are defined."""
    (m1, s1), (m2, s2) = (normalised(x, np.ones(len(x)) if w is None else w) for x, w in ((x1, w1), (x2, w2)))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    apart = ((m1 - m2) ** 2).sum() / 4
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    spread = (np.trace(s1 + s2) - 2 * overlap) / 4
    return apart, spread, (1 - apart) * spread


def tokens(rng, t, d):
    return rng.normal(size=(t, d)) * np.geomspace(2, 0.1, d) + rng.normal(size=d)


@pytest.mark.parametrize(("t1", "t2", "d"), [(40, 50, 6), (5, 7, 30), (1, 9, 12), (60, 4, 16), (3, 3, 3)])
def test_the_measure_is_its_definition(rng, t1, t2, d):
    x1, x2 = tokens(rng, t1, d), tokens(rng, t2, d)
    low = second_order_collapse(x1.astype(np.float32), x2.astype(np.float32))
    np.testing.assert_allclose(low, reference(x1, x2), rtol=2e-5, atol=2e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(second_order_collapse(x1, x2), reference(x1, x2), rtol=1e-6, atol=1e-6)


def test_the_distance_of_covariances_agrees_with_scipy(rng):
    x1, x2 = tokens(rng, 50, 5), tokens(rng, 60, 5)
    (_, s1), (_, s2) = normalised(x1, np.ones(50)), normalised(x2, np.ones(60))
    root = sqrtm(s1)
    expected = np.trace(s1 + s2 - 2 * sqrtm(root @ s2 @ root)).real / 4
    with jax.enable_x64(True):
        np.testing.assert_allclose(second_order_collapse(x1, x2).covariance_distance, expected, rtol=1e-9)


@pytest.mark.parametrize("d", [4, 40])
def test_masked_tokens_do_not_count_and_batches_are_pairs_one_by_one(rng, d):
    x, w = rng.normal(size=(3, 2, 12, d)) + 1, rng.uniform(0.5, 2, (3, 2, 12))
    w[:, 0, 9:] = 0
    expected = [reference(*pair, *weights) for pair, weights in zip(x, w)]
    x[w == 0] = np.nan
    x, w = x.astype(np.float32), w.astype(np.float32)
    batch = jax.jit(jax.vmap(second_order_collapse))(x[:, 0], x[:, 1], w[:, 0], w[:, 1])
    np.testing.assert_allclose(np.transpose(batch), expected, rtol=1e-4, atol=1e-5)


def test_scale_and_order_of_the_sequences_do_not_matter(rng):
    x1, x2 = (tokens(rng, t, 8).astype(np.float32) for t in (20, 5))
    first = second_order_collapse(x1, x2)
    np.testing.assert_allclose(second_order_collapse(1000 * x2, x1), first, rtol=1e-4)
    np.testing.assert_allclose(second_order_collapse(x1, x1[::-1]), (0, 0, 0), atol=1e-5)


def test_the_ends_of_the_range():
    """No shared direction: d_Σ is a quarter of both traces, above 1 for wide clouds. Opposite means: SOCM is 0."""
    mean, spread = np.float32([[1, 0, 0]]), np.float32([[0, 3, 0]])
    turned = spread[:, [0, 2, 1]]
    wide = second_order_collapse(np.concatenate([mean + spread, mean - spread]), mean + [[1], [-1]] * turned)
    np.testing.assert_allclose(wide, (0, (9 + 9) / 4, (9 + 9) / 4), rtol=1e-6)
    opposite = second_order_collapse(np.concatenate([mean + spread, mean - spread]), -mean + [[1], [-1]] * turned)
    np.testing.assert_allclose(opposite, (1, (9 + 9) / 4, 0), atol=1e-5)


def test_concentration_is_the_spread_of_tokens_over_their_squared_mean(rng):
    for t in (4, 90):
        x = tokens(rng, t, 10)
        expected = x.var(0).sum() / (x.mean(0) ** 2).sum()
        np.testing.assert_allclose(token_cloud(x.astype(np.float32)).concentration, expected, rtol=1e-5)


def test_bad_pairs_are_refused():
    with pytest.raises(InputError, match="x2 has 3 features, x1 has 2; give tokens of one encoder"):
        second_order_collapse(jnp.ones((4, 2)), jnp.ones((4, 3)))
    with pytest.raises(InputError, match="shape"):
        second_order_collapse(jnp.ones(4), jnp.ones((4, 3)))
