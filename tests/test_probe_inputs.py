"""Features, targets and penalties of probes: every form means the same, and what may not come in is refused by name."""

import numpy as np
import pytest

import covjax
from covjax.errors import InputError
from covjax.inputs import check_penalties
from covjax.probes import (
    fit_logistic_path,
    fit_ridge_blocks,
    fit_ridge_moments,
    fit_ridge_path,
    kernel_space,
    ridge_path,
    row_space,
)
from tests.test_inputs import BINARY


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(40, 5))
    space = row_space(x)
    return x, space, space.coordinates(x)


def test_a_target_vector_is_one_output(problem):
    x, space, z = problem
    vector, column = (fit_ridge_path(space, z, y, [1e-3])[0] for y in (x[:, 0], x[:, :1]))
    np.testing.assert_array_equal(vector.weights, column.weights)
    assert vector.scores(x).shape == (40, 1)
    blocks = fit_ridge_blocks(lambda a, b: x[a:b].astype(np.float32), x[:, 0], [1e-3])[0]
    np.testing.assert_allclose(blocks.scores(x), column.scores(x), atol=1e-5)
    vector, column = (fit_logistic_path(space, z, y > 0, [1e-2], False).probes[0] for y in (x[:, 0], x[:, :1]))
    np.testing.assert_array_equal(vector.weights, column.weights)


def test_logistic_labels_mean_the_same_whatever_their_type(problem):
    x, space, z = problem
    expected = fit_logistic_path(space, z, x[:, :2] > 0, [1e-2], False).probes[0]
    for dtype in BINARY:
        probe = fit_logistic_path(space, z, (x[:, :2] > 0).astype(dtype), [1e-2], False).probes[0]
        np.testing.assert_array_equal(probe.weights, expected.weights)


@pytest.mark.parametrize(
    ("targets", "exclusive", "message"),
    [
        (np.arange(40) % 3, True, r"class numbers y \(n,\) become them by np\.eye\(k, dtype=bool\)\[y\]"),
        ((np.arange(40) % 3)[:, None], True, "class numbers"),
        ((np.arange(40) % 2)[:, None], True, "class numbers"),
        (np.eye(3)[np.arange(40) % 3] + np.eye(3)[1], True, "np.eye"),
        (np.arange(40) % 3, False, "labels are 0 and 1, got 2 at row 2"),
        (np.where(np.arange(40) % 2, 1, -1), False, "labels are 0 and 1, got -1"),
        (np.where(np.arange(40) % 2, np.nan, 1), False, "20 of 40 values are NaN"),
        (np.zeros(39), False, "targets: 39 rows, but 40 are needed"),
        (np.zeros(40), False, "column 0 has one class only in the 40 training rows"),
        (["a"] * 40, False, "targets: numbers or booleans are needed"),
    ],
)
def test_bad_logistic_targets(problem, targets, exclusive, message):
    _, space, z = problem
    with pytest.raises(InputError, match=message):
        fit_logistic_path(space, z, targets, [1e-2], exclusive)


@pytest.mark.parametrize("penalties", [[], 1.0, [0.0], [-1.0], [np.nan], [np.inf], ["1"], [[1.0]]])
def test_bad_penalties(problem, penalties):
    x, space, z = problem
    for fit in (
        lambda: fit_ridge_path(space, z, x[:, 0], penalties),
        lambda: fit_logistic_path(space, z, x[:, 0] > 0, penalties, False),
        lambda: fit_ridge_blocks(lambda a, b: x[a:b], x[:, 0], penalties),
        lambda: fit_ridge_moments(covjax.moments(x), 1, penalties),
    ):
        with pytest.raises(InputError, match="penalties: "):
            fit()
    assert check_penalties((1, np.float32(0.5))) == [1.0, 0.5]


def test_bad_features(problem):
    x, space, z = problem
    probe = fit_ridge_path(space, z, x[:, 0], [1e-3])[0]
    for call in (row_space, space.coordinates, probe.scores):
        with pytest.raises(InputError, match="features: shape"):
            call(x[0])
        with pytest.raises(InputError, match="features: 1 of 10 values are NaN or inf, first at row 0, column 0"):
            call(np.array([[np.nan, 1, 1, 1, 1], [1, 1, 1, 1, 1.0]]))
    for call in (space.coordinates, probe.scores):
        with pytest.raises(InputError, match=r"features: shape \(40, 3\) must be \(samples >= 1, 5\)"):
            call(x[:, :3])
    np.testing.assert_allclose(probe.scores(x.tolist()), probe.scores(x))


def test_small_columns_beside_a_large_one_are_kept(rng):
    for dtype in (np.float32, np.float64):
        x = np.c_[1e4 * rng.normal(size=300), rng.normal(size=(300, 3))].astype(dtype)
        space = row_space(x)
        assert len(space.eigenvalues) == 4
        probe = fit_ridge_path(space, space.coordinates(x), x[:, 1:2], [1e-12])[0]
        assert np.abs(probe.scores(x) - x[:, 1:2]).max() < 1e-3
    kernel = kernel_space(x @ x.T)
    assert len(kernel.eigenvalues) == 4
    wide = np.hstack([x, np.zeros((300, 400))])  # more features than samples: the other Gram matrix
    assert len(row_space(wide).eigenvalues) == 4
    assert len(row_space(np.hstack([x, x])).eigenvalues) == 4  # and a copy of a column adds no direction


def test_kernel_values_within_their_rounding_are_equal_samples(rng):
    noise = 1 + 2e-8 * np.eye(12)
    with pytest.raises(InputError, match="training samples are equal"):
        kernel_space(noise.astype(np.float32))
    assert len(kernel_space(noise).eigenvalues) == 11  # which a float64 kernel can tell apart


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_features_of_any_size_give_the_same_scores(rng, size):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    one, other = (fit_ridge_path(s := row_space(f), s.coordinates(f), y, [0.1])[0].scores(f) for f in (x, x * size))
    np.testing.assert_allclose(other, one, rtol=1e-9)


def test_eigenvalues_tolerances_and_stops(problem):
    x, space, z = problem
    y = x[:, 0]
    expected = ridge_path(space.eigenvalues, z, y, [1.0])[0].weights
    np.testing.assert_allclose(ridge_path(space.eigenvalues.tolist(), z, y, [1.0])[0].weights, expected)
    for bad in (space.eigenvalues * np.nan, -space.eigenvalues, space.eigenvalues[None]):
        with pytest.raises(InputError, match="eigenvalues: shape .* finite and >= 0"):
            ridge_path(bad, z, y, [1.0])
    for tolerance in (0, -1, np.nan, 2, "a"):
        with pytest.raises(InputError, match="rank_tolerance"):
            row_space(z, tolerance)
        with pytest.raises(InputError, match="rank_tolerance"):
            kernel_space(z @ z.T, tolerance)
    labels = np.arange(len(z)) % 2
    for name, value in [("tolerance", np.nan), ("tolerance", np.inf), ("tolerance", -1), ("max_iterations", 0)]:
        with pytest.raises(InputError, match=name):
            fit_logistic_path(space, z, labels, [1.0], False, **{name: value})
    for penalty in (1e-300, 1e300):
        with pytest.raises(InputError, match="penalties: .* for float32"):
            fit_logistic_path(space, z, labels, [penalty], False)
