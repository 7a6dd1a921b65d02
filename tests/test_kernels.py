"""Sketches are unbiased, kernels equal their definition, shrinkage equals its papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from covjax import InputError, gram, random_maclaurin, random_projection, shrink, tensor_sketch


@pytest.mark.parametrize(
    ("function", "degree"),
    [(random_projection, 1), (random_maclaurin, 2), (random_maclaurin, 3), (tensor_sketch, 2), (tensor_sketch, 3)],
)
def test_sketch_inner_products_are_unbiased(rng, function, degree):
    x = rng.normal(size=(3, 8)).astype(np.float32)
    exact = (x.astype(np.float64) @ x.T) ** degree
    options = {} if degree == 1 else {"degree": degree}
    keys = jax.random.split(jax.random.key(1), 4000)
    sketches = jax.jit(jax.vmap(lambda key: function(x, 16, key, **options)))(keys)
    assert sketches.shape == (4000, 3, 16)
    products = np.asarray(jnp.einsum("nik,njk->nij", sketches, sketches), np.float64)
    error = products.std(0) / np.sqrt(len(keys))
    assert (np.abs(products.mean(0) - exact) < 4.5 * error + 1e-3).all()
    assert (error < 0.1 * np.abs(np.diag(exact)).max()).all()


def test_bad_sketches_name_the_argument(rng):
    x, key = np.ones((2, 3), np.float32), jax.random.key(0)
    for function in (random_maclaurin, tensor_sketch, random_projection):
        with pytest.raises(InputError, match="size must be >= 1, got 0"):
            function(x, 0, key)
        with pytest.raises(TypeError, match="x must be a floating-point"):
            function(x.astype(int), 4, key)
    with pytest.raises(InputError, match="degree must be >= 1"):
        tensor_sketch(x, 4, key, degree=0)


def clouds(rng, n, d=6):
    sequences = [(rng.normal(size=(t, d)) + 0.5).astype(np.float32) for t in rng.integers(1, 40, n)]
    weights = [rng.uniform(0.1, 1, len(x)).astype(np.float32) for x in sequences]
    weights[0] = None
    weights[1][1:] = 0
    masks = [np.ones(len(x)) if w is None else w for x, w in zip(sequences, weights)]
    return [np.where(m[:, None] > 0, x, np.nan) for x, m in zip(sequences, masks)], weights


def pairwise(function, left, right):
    return np.array([[function(*a, *b) for b in right] for a in left])


def normalised(sequences, weights, centred=False):
    pairs = []
    for x, w in zip(sequences, weights):
        keep = np.ones(len(x), bool) if w is None else w > 0
        w = np.ones(len(x)) if w is None else w[keep].astype(np.float64)
        x, w = x[keep].astype(np.float64), w / w.sum()
        pairs.append((x - w @ x if centred else x, w))
    return pairs


@pytest.mark.parametrize(
    ("kernel", "options", "degree"),
    [
        ("second_moment", {}, 2),
        ("covariance", {}, 2),
        ("polynomial", {}, 2),
        ("polynomial", {"degree": 3}, 3),
    ],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gram_equals_the_mean_power_of_token_products(rng, kernel, options, degree, symmetric):
    sequences, weights = clouds(rng, 11)
    others, other_weights = (None, None) if symmetric else clouds(rng, 5)
    k = gram(sequences, others, kernel=kernel, weights=weights, other_weights=other_weights, block_size=4, **options)
    left = normalised(sequences, weights, kernel == "covariance")
    right = left if symmetric else normalised(others, other_weights, kernel == "covariance")
    expected = pairwise(lambda x, w, y, v: w @ (x @ y.T) ** degree @ v, left, right)
    np.testing.assert_allclose(k, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_gram_with_random_fourier_features_approaches_the_rbf_kernel(rng):
    sequences, weights = clouds(rng, 7)
    options = {"kernel": "rbf", "bandwidth": 2.0, "weights": weights, "num_features": 8192}
    k = gram(sequences, key=jax.random.key(0), block_size=3, **options)
    pairs = normalised(sequences, weights)

    def kernel(x, w, y, v):
        return w @ np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 8) @ v

    expected = pairwise(kernel, pairs, pairs)
    np.testing.assert_allclose(k, expected, atol=0.05)
    assert np.abs(k - gram(sequences, key=jax.random.key(1), **options)).max() > 1e-4


X = [np.ones((3, 2), np.float32)]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: gram(X, kernel="cosine"), InputError, "kernel must be one of second_moment, .*'cosine'"),
        (lambda: gram(X, kernel="rbf"), InputError, "key is needed"),
        (lambda: gram([]), InputError, "sequences must not be empty"),
        (lambda: gram(X, weights=[]), InputError, "weights must have one entry"),
        (lambda: gram(X, weights=[-np.ones(3)]), InputError, "weights must be finite"),
        (lambda: gram(X, [np.ones((3, 4), np.float32)]), InputError, "others must have 2 features"),
        (lambda: gram([*X, np.ones((3, 4), np.float32)]), InputError, "sequences must have equal features"),
        (lambda: gram([X[0].astype(int)]), TypeError, "sequences must be a floating-point"),
        (lambda: gram(X, block_size=0), InputError, "block_size must be > 0"),
    ],
)
def test_bad_gram_input_names_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


def covariance(x):
    return np.cov(x.T.astype(np.float64), bias=True).astype(np.float32)


def test_ledoit_wolf_agrees_with_scikit_learn_and_weights_repeat(rng):
    x = (rng.normal(size=(60, 20)) * np.arange(1, 21) + 3).astype(np.float32)
    np.testing.assert_allclose(shrink(covariance(x), x=x), LedoitWolf().fit(x).covariance_, rtol=1e-4, atol=1e-3)
    w = rng.integers(0, 3, 60)
    repeated = np.repeat(x, w, axis=0)
    s = covariance(repeated)
    np.testing.assert_allclose(shrink(s, x=x, weights=w), shrink(s, x=repeated), rtol=1e-4, atol=1e-3)


def test_oas_is_the_papers_formula_and_numbers_mix(rng):
    x = (rng.normal(size=(40, 10)) * np.arange(1, 11)).astype(np.float32)
    s = covariance(x).astype(np.float64)
    square, trace2, d, n = (s * s).sum(), np.trace(s) ** 2, 10, 40
    rho = min(1, ((1 - 2 / d) * square + trace2) / ((n + 1 - 2 / d) * (square - trace2 / d)))
    assert 0.01 < rho < 0.9
    target = np.trace(s) / d * np.eye(d)
    np.testing.assert_allclose(shrink(s, "oas", count=40), (1 - rho) * s + rho * target, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shrink(s, 0.25), 0.75 * s + 0.25 * target, rtol=1e-5, atol=1e-4)
    assert np.isfinite(shrink(np.zeros((3, 3), np.float32), "oas", count=1)).all()


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("oas", {}, "count is needed"),
        ("ledoit_wolf", {}, "x is needed"),
        ("lw", {}, "method must be 'ledoit_wolf', 'oas' or a number"),
        (1.5, {}, r"method as a number must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_shrinkage_names_the_argument(method, options, match):
    with pytest.raises(InputError, match=match):
        shrink(np.eye(3, dtype=np.float32), method, **options)
    with pytest.raises(InputError, match="s must be symmetric"):
        shrink(np.array([[1.0, 0.5], [0.0, 1.0]], np.float32), 0.1)


@pytest.mark.parametrize("scale", [1e-21, 1.0, 1e19])
def test_shrinkage_does_not_depend_on_the_scale(scale):
    s = np.diag([1.0, 100.0])
    found = np.asarray(shrink((scale * s).astype(np.float32), "oas", count=1000)) / scale
    np.testing.assert_allclose(found, shrink(s.astype(np.float32), "oas", count=1000), rtol=1e-5)
    assert found[0, 0] < 2
