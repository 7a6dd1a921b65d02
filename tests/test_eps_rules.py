"""ε and shrinkage by rule, and the effective number of tokens, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import get_pooler, vech
from covjax.shrinkage import effective_count

RULES = [{"eps": "auto"}, {"eps": 0.02, "shrink": "oas"}, {"eps": "auto", "shrink": "oas"}]


def effective(x, w):
    """By its definition, lag by lag."""
    x, w = x[w > 0], w[w > 0]
    y = (x - w @ x / w.sum()) * np.sqrt(w)[:, None]
    total, n = 0.0, max(w.sum(), 1)
    for lag in range(1, len(y)):
        r = (y[:-lag] * y[lag:]).sum() / (y * y).sum()
        if r <= 0:
            break
        total += r
    return np.clip(n / (1 + 2 * total), 1, n)


def reference(x, w, eps, shrink=None):
    d = x.shape[1]
    deviation = (x - w @ x / w.sum())[w > 0]
    s = (deviation * w[w > 0, None]).T @ deviation / w.sum()
    level, floor = np.trace(s) / d, eps
    if eps == "auto":
        floor = max(3 * level * (np.trace(s) ** 2 / (s * s).sum()) / d, 1e-6)
    if shrink:
        square, trace2, n = (s * s).sum(), np.trace(s) ** 2, effective(x, w)
        rho = min(1, ((1 - 2 / d) * square + trace2) / ((n + 1 - 2 / d) * (square - trace2 / d)))
        s = (1 - rho) * s + rho * level * np.eye(d)
    values, vectors = np.linalg.eigh(s)
    return (vectors * np.log(values + floor)) @ vectors.T


def walk(rng, t, d, memory=0.7):
    """Autocorrelated tokens of unequal deviations, some of them masked."""
    x = rng.normal(size=(t, d))
    for i in range(1, t):
        x[i] = memory * x[i - 1] + (1 - memory**2) ** 0.5 * x[i]
    w = rng.uniform(0.5, 2, t)
    w[[2, 7]] = 0
    return x * np.geomspace(1, 0.1, d) + 3, w


@pytest.mark.parametrize("options", RULES)
@pytest.mark.parametrize(("t", "d"), [(60, 5), (12, 30)])
def test_the_pooler_is_the_rule_of_the_reference(rng, options, t, d):
    x, w = walk(rng, t, d)
    dirty = np.where(w[:, None] > 0, x, np.nan)
    pool = jax.jit(get_pooler("log_covariance", **options))
    with jax.enable_x64(True):
        np.testing.assert_allclose(pool(dirty, w), vech(reference(x, w, **options)), rtol=1e-8, atol=1e-8)
    low = pool(dirty.astype(np.float32), w.astype(np.float32))
    np.testing.assert_allclose(low, vech(reference(x, w, **options)), atol=2e-4)


@pytest.mark.parametrize("options", RULES)
@pytest.mark.parametrize("t", [1, 2, 40])
def test_deficient_rank_never_fails_whatever_the_scale(rng, options, t):
    """Batched, with a derivative; 40 tokens on a line, repeated tokens, and scales over ten orders of magnitude."""
    pool = get_pooler("log_covariance", **options)
    line = rng.normal(size=(t, 1)) * rng.normal(size=(1, 16))
    tokens = np.float32([line, 1e5 * line, 1e-5 * line, np.ones((t, 16)), 0 * line])
    vectors, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pool(x))))))(tokens)
    assert np.isfinite(vectors).all()
    assert np.isfinite(gradients).all()
    assert np.isfinite(jax.jit(jax.vmap(pool))(tokens)).all()


def test_auto_follows_the_scale_of_the_tokens(rng):
    """log Σ of tokens ten times as large is log Σ + log 100·I."""
    x, pool = rng.normal(size=(9, 20)).astype(np.float32), get_pooler("log_covariance", eps="auto")
    expected = pool(x) + np.log(100) * np.asarray(vech(jnp.eye(20)))
    np.testing.assert_allclose(pool(10 * x), expected, atol=1e-4)


@pytest.mark.long
def test_effective_count(rng):
    x, w = walk(rng, 50, 4)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(effective_count)(np.where(w[:, None] > 0, x, np.nan), w), effective(x, w))
        np.testing.assert_allclose(effective_count(x), effective(x, np.ones(50)))
    assert effective_count(np.ones((7, 3), np.float32)) == 7
    assert effective_count(np.ones((1, 3), np.float32)) == 1
    assert effective_count(np.float32([[0.0], [1.0], [0.0], [1.0]])) == 4  # neighbours that differ add no tokens


@pytest.mark.long
def test_effective_count_of_a_first_order_process_is_that_of_theory(rng):
    """n (1 − φ)/(1 + φ) for r_k = φᵏ."""
    with jax.enable_x64(True):
        x, _ = walk(rng, 4000, 30, 0.6)
        np.testing.assert_allclose(effective_count(x), 4000 * 0.4 / 1.6, rtol=0.1)
