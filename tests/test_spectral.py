"""Functions of PSD matrices and their derivatives against float64 NumPy, at ties, at zero and at condition 1e4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, newton_schulz_sqrt, psd_log, psd_power, psd_sqrt, spectral_compression
from covjax.spectral import psd_function


def matrix(rng, spectrum, function=lambda s: s):
    q, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return (q * function(np.asarray(spectrum))) @ q.T, q


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def divided_sqrt(s):
    return 1 / (np.sqrt(s)[:, None] + np.sqrt(s)[None, :])


def divided(function, derivative):
    def table(s):
        difference = s[:, None] - s[None, :]
        tie = np.abs(difference) < 1e-12
        quotient = (function(s)[:, None] - function(s)[None, :]) / np.where(tie, 1, difference)
        return np.where(tie, derivative(s)[:, None], quotient)

    return table


TIES = [1.0] * 4 + [0.1] * 3 + [0.01, 0.001] + [1e-4] * 3  # condition 1e4, repeated eigenvalues
CASES = {
    "sqrt": (psd_sqrt, np.sqrt, divided_sqrt),
    "log": (
        lambda a: psd_log(a, 1e-3),
        lambda s: np.log(s + 1e-3),
        lambda s: divided(np.log, lambda s: 1 / s)(s + 1e-3),
    ),
    "power 1/3": (
        lambda a: psd_power(a, 1 / 3),
        lambda s: s ** (1 / 3),
        divided(lambda s: s ** (1 / 3), lambda s: s ** (-2 / 3) / 3),
    ),
    "power -1/2": (
        lambda a: psd_power(a, -0.5, ridge=1e-2),
        lambda s: (s + 1e-2) ** -0.5,
        lambda s: divided(lambda s: s**-0.5, lambda s: -0.5 * s**-1.5)(s + 1e-2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_at_condition_1e4_with_ties(rng, name):
    function, reference, table = CASES[name]
    s = np.array(TIES)
    a, q = matrix(rng, s)
    upstream = rng.normal(size=a.shape)
    upstream += upstream.T
    value, pullback = jax.vjp(function, jnp.asarray(a, jnp.float32))
    assert relative(value, (q * reference(s)) @ q.T) < 5e-5  # float32 knows eigenvalue 1e-4 to 1e-3
    expected = q @ (table(s) * (q.T @ upstream @ q)) @ q.T
    assert relative(pullback(jnp.asarray(upstream, jnp.float32))[0], expected) < 2e-3  # (sqrt is held to 1e-5 below)


@pytest.mark.parametrize("seed", range(5))
def test_sqrt_gradient_at_condition_1e4_with_repeated_eigenvalues(seed):
    rng = np.random.default_rng(seed)
    s = np.array(TIES)
    a, q = matrix(rng, s)
    upstream = rng.normal(size=a.shape)
    upstream += upstream.T
    a = a.astype(np.float32).astype(np.float64)  # the same input for both: its own rounding is up to 4e-5 here
    s, q = np.linalg.eigh(a)
    expected = q @ (divided_sqrt(s) * (q.T @ upstream @ q)) @ q.T
    gradient = jax.grad(lambda a: jnp.vdot(psd_sqrt(a), jnp.asarray(upstream, a.dtype)))
    assert relative(gradient(jnp.asarray(a, jnp.float32)), expected) < 1e-5
    with jax.enable_x64(True):
        assert relative(gradient(jnp.asarray(a)), expected) < 1e-9


@pytest.mark.parametrize("kind", ["sqrt", "log", "power"])
def test_forward_and_reverse_mode_match_finite_differences(rng, kind):
    with jax.enable_x64(True):
        a = jnp.asarray(matrix(rng, [2.0, 2.0, 1.0, 0.5, 0.1])[0])
        step = rng.normal(size=a.shape)
        step = jnp.asarray(step + step.T)

        def function(a):
            return psd_function(a, kind, 1e-2, 0.7)

        difference = (function(a + 1e-6 * step) - function(a - 1e-6 * step)) / 2e-6
        np.testing.assert_allclose(jax.jvp(function, (a,), (step,))[1], difference, rtol=1e-6, atol=1e-8)
        weight = jnp.asarray(rng.normal(size=a.shape))
        gradient = jax.grad(lambda a: jnp.vdot(function(a), weight))(a)
        np.testing.assert_allclose(jnp.vdot(gradient, step), jnp.vdot(difference, weight), rtol=1e-6)


@pytest.mark.parametrize("function", [lambda a: psd_sqrt(a), lambda a: psd_sqrt(a, 1e-6), lambda a: psd_power(a, 0.3)])
@pytest.mark.parametrize("spectrum", [[0.0] * 4, [1.0, 0, 0, 0], [1.0] * 4])
def test_finite_at_zero_and_equal_eigenvalues(rng, function, spectrum):
    a = jnp.asarray(np.diag(spectrum), jnp.float32)
    value, gradient = function(a), jax.grad(lambda a: jnp.sum(function(a)))(a)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    rounded = jnp.asarray(matrix(rng, spectrum)[0], jnp.float32)  # eigenvalues a little below 0
    assert np.isfinite(jax.grad(lambda a: jnp.sum(function(a)))(rounded)).all()


@pytest.mark.parametrize("d", [8, 64, 256])
def test_newton_schulz_at_15_iterations_and_condition_1e4(rng, d):
    s = np.logspace(0, -4, d)
    a, q = matrix(rng, s)
    root, residual = newton_schulz_sqrt(jnp.asarray(a, jnp.float32), 15)
    assert relative(root, (q * np.sqrt(s)) @ q.T) < 1e-3
    assert residual < 1e-3
    np.testing.assert_allclose(residual, relative(np.asarray(root, np.float64) @ root, a), rtol=0.5, atol=1e-6)


def test_few_newton_schulz_iterations_report_a_large_residual(rng):
    a, q = matrix(rng, np.logspace(0, -4, 32))
    root, residual = newton_schulz_sqrt(jnp.asarray(a, jnp.float32), 3)
    assert residual > 0.02
    assert relative(root, (q * np.logspace(0, -2, 32)) @ q.T) > 0.02


def test_newton_schulz_degenerate_input(rng):
    zero = jnp.zeros((3, 3))
    assert not np.any(newton_schulz_sqrt(zero)[0])
    assert np.isfinite(jax.grad(lambda a: jnp.sum(newton_schulz_sqrt(a)[0]))(zero)).all()
    deficient, q = matrix(rng, [1.0, 0.5, 0.1] + [0.0] * 13)
    for num_iters, ridge in ((15, 0.0), (40, 1e-5)):
        root, _ = newton_schulz_sqrt(jnp.asarray(deficient, jnp.float32), num_iters, ridge)
        assert relative(root, (q * np.sqrt([1.0, 0.5, 0.1] + [0.0] * 13)) @ q.T) < 2e-2


def test_newton_schulz_gradient_is_that_of_the_square_root(rng):
    a = jnp.asarray(matrix(rng, [1.0, 1.0, 0.5, 0.2])[0], jnp.float32)
    w = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    fast = jax.grad(lambda a: jnp.vdot(newton_schulz_sqrt(a, 12)[0], w))(a)
    np.testing.assert_allclose(fast, jax.grad(lambda a: jnp.vdot(psd_sqrt(a), w))(a), rtol=1e-3, atol=1e-4)


def test_spectral_compression_is_the_stated_iteration_on_a_cross_moment(rng):
    c = rng.normal(size=(5, 5)) + 4 * np.eye(5)
    shifted = c + 0.1 * np.eye(5)
    norm = np.linalg.norm(shifted)
    y, z = shifted / norm, np.eye(5)
    for _ in range(4):
        t = (3 * np.eye(5) - z @ y) / 2
        y, z = y @ t, t @ z
    np.testing.assert_allclose(
        spectral_compression(jnp.asarray(c, jnp.float32), 4, 0.1), y * norm**0.5, rtol=1e-4, atol=1e-5
    )
    assert np.isfinite(spectral_compression(jnp.zeros((5, 5)), 5, 0.0)).all()


BAD = np.array([[1.0, 0.5], [0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: psd_sqrt(BAD), "a must be symmetric, got max"),
        (lambda: psd_log(BAD, 0.1), "a must be symmetric"),
        (lambda: psd_power(BAD, 0.5), "a must be symmetric"),
        (lambda: newton_schulz_sqrt(BAD), "a must be symmetric"),
        (lambda: psd_sqrt(np.ones((2, 3), np.float32)), r"a must be a square matrix, got shape \(2, 3\)"),
        (lambda: spectral_compression(np.ones((2, 3), np.float32), 3, 0.0), "c must be a square"),
        (lambda: spectral_compression(BAD, 3, -1.0), "eps must be >= 0"),
        (lambda: spectral_compression(BAD, 0, 0.0), "num_iters must be >= 1"),
        (lambda: newton_schulz_sqrt(np.eye(2, dtype=np.float32), ridge=-1.0), "ridge must be >= 0"),
        (lambda: psd_sqrt(np.eye(2, dtype=np.float32), ridge=-1.0), "ridge must be >= 0"),
        (lambda: psd_log(np.eye(2, dtype=np.float32), eps=0.0), "eps must be > 0"),
        (lambda: psd_power(np.eye(2, dtype=np.float32), -1.0), "power must be > 0 unless ridge > 0"),
    ],
)
def test_bad_input_names_the_argument(call, match):
    with pytest.raises(InputError, match=match):
        call()


@pytest.mark.parametrize("function", [psd_sqrt, lambda a: psd_power(a, 0.5)], ids=["sqrt", "power"])
def test_the_null_space_has_gradient_0_without_a_ridge(function):
    v = np.array([1, 2, -0.5, 0.7, 1.3], np.float32)
    gradient = np.asarray(jax.grad(lambda a: jnp.trace(function(a)))(np.outer(v, v)))
    u = v / np.linalg.norm(v)
    null = np.eye(5) - np.outer(u, u)
    assert np.abs(null @ gradient @ null).max() < 1e-3
    np.testing.assert_allclose(u @ gradient @ u, 0.5 / np.linalg.norm(v), rtol=1e-4)


def test_small_eigenvalues_of_a_large_matrix_keep_their_gradient_without_a_ridge():
    rng = np.random.default_rng(0)
    v = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    s = np.logspace(0, -4.6, 200)
    gradient = jax.grad(lambda a: jnp.trace(psd_sqrt(a)))((v * s @ v.T).astype(np.float32))
    expected = v / (2 * np.sqrt(s)) @ v.T
    assert np.linalg.norm(gradient - expected) < 1e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e20, 2e37])
def test_newton_schulz_of_any_scale(rng, scale):
    x = rng.normal(size=(40, 5))
    a = x.T @ x / 40
    root, residual = newton_schulz_sqrt((scale * a).astype(np.float32))
    s, u = np.linalg.eigh(a)
    np.testing.assert_allclose(root / scale**0.5, u * np.sqrt(s) @ u.T, atol=1e-4)
    assert float(residual) < 1e-5
