"""The thin form of √ and log against float64 NumPy and the features × features form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import get_pooler, vech
from covjax.moments import prepared_moments
from covjax.spectral import psd_function, thin_spectral

T, D = 9, 24


def reference(x, w, statistic, kind, floor):
    mean = w @ x / w.sum() if statistic == "covariance" else 0
    s, v = np.linalg.eigh(((x - mean) * w[:, None]).T @ (x - mean) / w.sum())
    s = np.maximum(s, 0) + floor
    return (v * (np.sqrt(s) if kind == "sqrt" else np.log(s))) @ v.T


@pytest.fixture
def tokens(rng):
    x = rng.normal(size=(T, D)) * np.geomspace(1, 1e-2, D) + 3
    w = rng.uniform(0.5, 2, size=T)
    w[[2, 7]] = 0
    return np.where(w[:, None] > 0, x, 0), w


@pytest.mark.parametrize("statistic", ["covariance", "second_moment"])
@pytest.mark.parametrize(("kind", "floor"), [("sqrt", 1e-6), ("sqrt", 0.0), ("log", 0.01), ("log", 10.0)])
def test_thin_spectral(tokens, statistic, kind, floor):
    x, w = tokens
    expected = reference(x, w, statistic, kind, floor)
    with jax.enable_x64(True):
        value = jax.jit(thin_spectral, static_argnums=(2, 3, 4))(jnp.asarray(x), jnp.asarray(w), statistic, kind, floor)
        # without a floor √ is not smooth at 0: eigenvalues of rounding, 1e-16, become 1e-8
        assert np.abs(value - expected).max() < (1e-10 if floor else 1e-7) * np.abs(expected).max()
    low = thin_spectral(jnp.float32(x), jnp.float32(w), statistic, kind, floor)
    assert np.abs(low - expected).max() < (1e-4 if floor else 2e-3) * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["sqrt", "log"])
def test_every_size_of_eigenvalue_beside_the_floor(kind):
    """From rounding to far above it; log1p(r)/r changes its formula at 1e-4."""
    ratio = np.array([1e-7, 1e-5, 9e-5, 1.1e-4, 5e-3, 0.3, 10.0])
    with jax.enable_x64(True):
        x, w = jnp.diag(jnp.sqrt(len(ratio) * ratio)), jnp.ones(len(ratio))  # second moment diag(ratio)
        value = np.diagonal(thin_spectral(x, w, "second_moment", kind, 1.0))
    expected = np.log1p(ratio) if kind == "log" else np.expm1(np.log1p(ratio) / 2)
    np.testing.assert_allclose(value - (kind == "sqrt"), expected, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize(("kind", "floor", "at_zero"), [("sqrt", 0.0, 0), ("sqrt", 4.0, 2), ("log", 1.0, 0)])
def test_tokens_that_do_not_vary(kind, floor, at_zero):
    value = thin_spectral(jnp.full((3, 4), 0.25), jnp.ones(3), "covariance", kind, floor)
    np.testing.assert_array_equal(value, at_zero * np.eye(4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqrt_covariance", "log_second_moment"])
def test_the_pooler_switches_and_keeps_its_gradient(tokens, name):
    pooler = get_pooler(name)
    options = dict(pooler.options)
    with jax.enable_x64(True):
        x, w = map(jnp.asarray, tokens)
        whole = lambda x: vech(
            psd_function(
                getattr(prepared_moments(x, w), options["statistic"])(), options["spectral"], options["floor"], 0.5
            )
        )
        np.testing.assert_allclose(pooler(x, w), whole(x), atol=1e-9)
        upstream = jnp.cos(jnp.arange(D * (D + 1) // 2))
        ours, theirs = (jax.grad(lambda x, f=f: jnp.vdot(f(x), upstream))(x) for f in (lambda x: pooler(x, w), whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_no_eigenvectors_of_the_features_are_computed():
    from covjax.pooling import get_pooler

    x = jax.ShapeDtypeStruct((16, 64), jnp.float32)
    text = jax.jit(lambda x: get_pooler("log_covariance")(x)).lower(x).as_text()
    assert "16x16" in text
    assert "eigh" in text or "syevd" in text
    assert not [line for line in text.splitlines() if "syevd" in line and "64x64" in line]
