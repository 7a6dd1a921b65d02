"""Probes from a kernel alone equal those from the features that made it."""

import numpy as np
import pytest

from covjax import gram
from covjax.errors import InputError
from covjax.probes import (
    fit_logistic_path,
    fit_ridge_path,
    kernel_space,
    logistic_path,
    ridge_path,
    row_space,
)
from covjax.probes.coordinates import sample_space

PENALTIES = (1e-3, 1e-1, 1.0)


def problem(rng, n, p, k=3):
    x = (rng.normal(size=(n + 20, p)) * np.linspace(0.1, 3, p) + 2).astype(np.float32)
    y = x @ rng.normal(size=(p, k)) + rng.normal(size=(n + 20, k))
    return x[:n], x[n:], y[:n]


def product(a, b, dtype):
    return (a.astype(np.float64) @ b.T.astype(np.float64)).astype(dtype)


@pytest.mark.parametrize(("n", "p"), [(60, 12), (30, 90)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-4)])
def test_coordinates_equal_those_of_the_features_up_to_sign(rng, n, p, dtype, tolerance):
    x, new, _ = problem(rng, n, p)
    features, kernel = row_space(x), kernel_space(product(x, x, dtype), rank_tolerance=1e-5)
    assert len(kernel.eigenvalues) == len(features.eigenvalues) == min(p, n - 1)
    np.testing.assert_allclose(kernel.eigenvalues, features.eigenvalues, rtol=tolerance, atol=tolerance * 0.01)
    np.testing.assert_allclose(kernel.eigenvalues.sum(), 1)
    np.testing.assert_allclose(kernel.scale, features.scale, rtol=tolerance)
    np.testing.assert_allclose(kernel.sample_coordinates, kernel.coordinates(product(x, x, dtype)), atol=tolerance * 5)
    for rows in (x, new):
        ours, theirs = kernel.coordinates(product(rows, x, dtype)), features.coordinates(rows)
        ours *= np.sign((kernel.coordinates(product(x, x, dtype)) * features.coordinates(x)).sum(0))
        np.testing.assert_allclose(ours, theirs, atol=tolerance * 5)


@pytest.mark.parametrize(("n", "p"), [(60, 12), (30, 90)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 1e-3)])
def test_ridge_from_the_kernel_equals_ridge_on_the_features(rng, n, p, dtype, tolerance):
    x, new, y = problem(rng, n, p)
    features, kernel = row_space(x), kernel_space(product(x, x, dtype))
    wanted = fit_ridge_path(features, features.coordinates(x), y, PENALTIES)
    z = kernel.coordinates(product(x, x, dtype))
    cross = product(new, x, dtype)
    found = fit_ridge_path(kernel, z, y, PENALTIES)
    inner = ridge_path(kernel.eigenvalues, z, y, PENALTIES)
    for probe, dual, fitted in zip(wanted, found, inner):
        expected = probe.scores(new)
        np.testing.assert_allclose(dual.scores(cross), expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(fitted.scores(kernel.coordinates(cross)), dual.scores(cross), rtol=1e-6, atol=1e-8)
        assert dual.alpha.shape == (n, 3)


def test_a_space_of_samples_is_the_row_space_without_its_axes(rng):
    x, new, y = problem(rng, 30, 90)
    rows, samples = row_space(x), sample_space(x)
    np.testing.assert_allclose(samples.samples.T @ samples.dual, rows.axes, atol=1e-12)
    np.testing.assert_allclose(samples.sample_coordinates, samples.coordinates(x), atol=1e-9)
    for others in (new, np.concatenate([new] * 6)):  # of more samples than features the axes are made
        np.testing.assert_allclose(samples.coordinates(others), rows.coordinates(others), atol=1e-9)
    expected, probe = (fit_ridge_path(space, space.coordinates(x), y, [1e-2])[0] for space in (rows, samples))
    np.testing.assert_allclose(probe.scores(new), expected.scores(new), rtol=1e-9)
    with pytest.raises(InputError, match="all 30 training samples are equal"):
        sample_space(np.full((30, 90), 7.1, np.float32))
    with pytest.raises(InputError, match="89"):
        samples.coordinates(new[:, :-1])


@pytest.mark.parametrize("exclusive", [False, True])
def test_logistic_from_the_kernel_equals_logistic_on_the_features(rng, exclusive):
    x, new, y = problem(rng, 80, 10)
    truth = np.eye(3, dtype=bool)[(y - y.mean(0)).argmax(1)] if exclusive else y > y.mean(0)
    features, kernel = row_space(x), kernel_space(product(x, x, np.float64))
    wanted = fit_logistic_path(features, features.coordinates(x), truth, PENALTIES, exclusive)
    z = kernel.coordinates(product(x, x, np.float64))
    found = fit_logistic_path(kernel, z, truth, PENALTIES, exclusive)
    inner = logistic_path(kernel.eigenvalues, z, truth, PENALTIES, exclusive)
    cross = product(new, x, np.float64)
    for probe, dual, fitted in zip(wanted.probes, found.probes, inner.probes):
        np.testing.assert_allclose(dual.scores(cross), probe.scores(new), atol=2e-3 * np.abs(probe.scores(new)).max())
        np.testing.assert_allclose(kernel.probe(fitted).scores(cross), dual.scores(cross))
    assert max(found.gradient) <= 1e-4


def test_the_kernel_of_whole_second_moments_gives_the_probe_on_them(rng):
    sequences = [(rng.normal(size=(t, 5)) + 1).astype(np.float32) for t in rng.integers(4, 30, 40)]
    moments = np.stack([(x.T @ x / len(x)).reshape(-1) for x in sequences])
    y = rng.normal(size=(30, 2))
    k = gram(sequences, sequences[:30])
    kernel, features = kernel_space(k[:30]), row_space(moments[:30])
    dual = fit_ridge_path(kernel, kernel.coordinates(k[:30]), y, PENALTIES)
    primal = fit_ridge_path(features, features.coordinates(moments[:30]), y, PENALTIES)
    for a, b in zip(dual, primal):
        np.testing.assert_allclose(a.scores(k[30:]), b.scores(moments[30:]), atol=2e-3)


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (np.ones((3, 4)), r"shape \(3, 4\) must be \(n, n\)"),
        (np.full((3, 3), 7.1, np.float32), "all 3 training samples are equal"),
        (np.where(np.eye(4) > 0, np.nan, 1.0), "4 of 16 values are NaN"),
        (np.array([[1.0, 0.5], [0.2, 1.0]]), "differ from their mirror image by up to 0.3"),
        (-np.eye(3), "not a kernel: the variance of its samples would be"),
        (np.diag([1.0, 1.0, 1.0, -0.5]), "not a kernel: an eigenvalue is -0.* times the largest"),
    ],
)
def test_bad_kernels_are_refused(kernel, match):
    with pytest.raises(InputError, match=match):
        kernel_space(kernel)
