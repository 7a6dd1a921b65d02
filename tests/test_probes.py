"""Both probes against closed forms and scikit-learn."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from covjax import moments
from covjax.comparison.probing import only_features_differ
from covjax.errors import InputError
from covjax.probes import fit_logistic_path, fit_ridge_path, row_space
from covjax.probes.logistic import probabilities, space_of_moments, width_of
from tests.distributed_worker import classification

PENALTIES = (1e-3, 1e-1, 1.0)


def problem(rng, n, p, k):
    x = (rng.normal(size=(n, p)) * np.linspace(0.1, 3, p) + 5).astype(np.float32)
    y = x @ rng.normal(size=(p, k)) + rng.normal(size=(n, k)) * 3
    return x, y


@pytest.mark.parametrize(("n", "p"), [(50, 8), (30, 90), (40, 40)])
def test_ridge_equals_the_normal_equations(rng, n, p):
    x, y = problem(rng, n, p, 3)
    space = row_space(x)
    path = fit_ridge_path(space, space.coordinates(x), y, PENALTIES)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    scale = np.sqrt((centred**2).sum() / n)
    for penalty, probe in zip(PENALTIES, path):
        gram = centred.T @ centred / n / scale**2 + penalty * np.eye(p)
        weights = np.linalg.solve(gram, centred.T @ (y - y.mean(0)) / n / scale) / scale
        np.testing.assert_allclose(probe.weights, weights, atol=1e-6 * np.abs(weights).max())
        np.testing.assert_allclose(probe.scores(x).mean(0), y.mean(0), rtol=1e-9)


def test_primal_and_dual_agree(rng):
    x, y = problem(rng, 60, 40, 2)
    wide = np.concatenate([x, np.zeros((60, 40), np.float32)], axis=1)  # the same problem, past the switch
    primal, dual = row_space(x), row_space(wide)
    a = fit_ridge_path(primal, primal.coordinates(x), y, PENALTIES)
    b = fit_ridge_path(dual, dual.coordinates(wide), y, PENALTIES)
    for p, d in zip(a, b):
        np.testing.assert_allclose(d.weights[:40], p.weights, atol=1e-8 * np.abs(p.weights).max())


def test_scaling_the_features_changes_nothing(rng):
    x, y = problem(rng, 50, 8, 1)
    first, second = row_space(x), row_space(1024 * x)
    a = fit_ridge_path(first, first.coordinates(x), y, PENALTIES)[1].scores(x)
    b = fit_ridge_path(second, second.coordinates(1024 * x), y, PENALTIES)[1].scores(1024 * x)
    np.testing.assert_allclose(a, b, rtol=1e-9)


def scaled(x):
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    return centred / np.sqrt((centred**2).sum() / len(x))


@pytest.mark.parametrize(("n", "p"), [(120, 10), (60, 150)])
def test_multilabel_logistic_equals_scikit_learn(rng, n, p):
    x, y = problem(rng, n, p, 3)
    truth = y > np.median(y, axis=0)
    space = row_space(x)
    path = fit_logistic_path(space, space.coordinates(x), truth, PENALTIES, exclusive=False)
    for penalty, probe in zip(PENALTIES, path.probes):
        ours = probabilities(probe.scores(x), exclusive=False)
        for j in range(3):
            peer = LogisticRegression(C=1 / (n * penalty), tol=1e-8, max_iter=5000).fit(scaled(x), truth[:, j])
            np.testing.assert_allclose(ours[:, j], peer.predict_proba(scaled(x))[:, 1], atol=1e-3)
    assert max(path.gradient) <= 1e-4


def test_a_very_rare_label_ends_at_its_optimum_too(rng):
    x, y = rng.normal(size=(20_000, 6)).astype(np.float32), np.zeros((20_000, 1), bool)
    y[7] = True
    space, penalty = row_space(x), 1e-6
    (probe,) = fit_logistic_path(space, space.coordinates(x), y, [penalty], exclusive=False).probes
    z, sign = scaled(x), np.where(y[:, 0], 1, -1)

    def loss(v):
        margin = sign * (z @ v[:-1] + v[-1])
        slope = -sign / (1 + np.exp(margin)) / len(z)
        value = np.logaddexp(0, -margin).mean() + penalty * (v[:-1] ** 2).sum() / 2
        return value, np.append(z.T @ slope + penalty * v[:-1], slope.sum())

    best = minimize(loss, np.zeros(7), jac=True, options={"gtol": 1e-12, "maxiter": 10_000})
    own = np.linalg.lstsq(np.c_[z, np.ones(len(z))], probe.scores(x)[:, 0].astype(np.float64))[0]
    assert best.fun <= loss(own)[0] < 1.001 * best.fun


def test_softmax_logistic_equals_scikit_learn(rng):
    x, y = problem(rng, 150, 10, 3)
    classes = ((y - y.mean(0)) / y.std(0)).argmax(1)
    space = row_space(x)
    path = fit_logistic_path(space, space.coordinates(x), np.eye(3, dtype=bool)[classes], PENALTIES, exclusive=True)
    for penalty, probe in zip(PENALTIES, path.probes):
        peer = LogisticRegression(C=1 / (150 * penalty), tol=1e-8, max_iter=5000).fit(scaled(x), classes)
        ours = probabilities(probe.scores(x), exclusive=True)
        np.testing.assert_allclose(ours, peer.predict_proba(scaled(x)), atol=1e-3)


@pytest.mark.parametrize("exclusive", [False, True])
def test_class_weights_equal_scikit_learn(rng, exclusive):
    x, y = problem(rng, 150, 10, 3)
    z = (y - y.mean(0)) / y.std(0)
    classes = (z + np.array([0.0, 1.0, -0.5])).argmax(1)  # uneven classes
    truth = np.eye(3, dtype=bool)[classes] if exclusive else z > 1
    space, vector = row_space(x), np.array([3.0, 1.0, 0.5])
    for given in ("balanced", vector):
        path = fit_logistic_path(
            space, space.coordinates(x), truth, (1e-2,), exclusive, max_iterations=500, class_weights=given
        )
        ours = probabilities(path.probes[0].scores(x), exclusive)
        options = {"C": 1 / (150 * 1e-2), "tol": 1e-8, "max_iter": 5000}
        for j in range(1 if exclusive else 3):
            weight = given if isinstance(given, str) else dict(enumerate(vector)) if exclusive else {1: vector[j], 0: 1}
            labels = classes if exclusive else truth[:, j]
            peer = LogisticRegression(class_weight=weight, **options).fit(scaled(x), labels).predict_proba(scaled(x))
            np.testing.assert_allclose(ours if exclusive else ours[:, j], peer if exclusive else peer[:, 1], atol=1e-3)
    with pytest.raises(InputError, match=r"class_weights: shape \(2,\) must be \(3,\)"):
        fit_logistic_path(space, space.coordinates(x), truth, (1.0,), exclusive, class_weights=np.ones(2))


def test_few_samples_are_padded_to_one_width_and_many_to_several():
    assert {width_of(rank, 40) for rank in (1, 39)} == {64}
    assert {width_of(rank, 210) for rank in (3, 40, 209)} == {256}
    assert [width_of(rank, 1600) for rank in (10, 65, 512, 1599)] == [64, 256, 1024, 1600]
    assert [width_of(rank, 3000) for rank in (10, 20, 1100, 2999)] == [16, 64, 2048, 3000]


@pytest.mark.parametrize("exclusive", [False, True])
def test_folds_of_about_one_size_share_a_program(rng, caplog, exclusive):
    def fit(n):
        x, y = problem(rng, n, 9, 3)
        truth = np.eye(3, dtype=bool)[((y - y.mean(0)) / y.std(0)).argmax(1)] if exclusive else y > np.median(y, axis=0)
        space = row_space(x)
        return fit_logistic_path(space, space.coordinates(x), truth, PENALTIES, exclusive=exclusive)

    fit(101)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        fit(117)
    assert not [text for text in caplog.messages if text.startswith("Compiling") and "solve_path" in text]


def test_path_order_does_not_matter(rng):
    x, y = problem(rng, 80, 10, 2)
    space = row_space(x)
    z, truth = space.coordinates(x), y > y.mean(0)
    forward = fit_logistic_path(space, z, truth, PENALTIES, exclusive=False)
    backward = fit_logistic_path(space, z, truth, PENALTIES[::-1], exclusive=False)
    for a, b in zip(forward.probes, backward.probes[::-1]):
        np.testing.assert_array_equal(a.weights, b.weights)


def test_bad_input_is_named(rng):
    x, y = problem(rng, 20, 4, 2)
    with pytest.raises(InputError, match="all 20 training samples are equal"):
        row_space(np.ones((20, 4), np.float32))
    with pytest.raises(InputError, match="1 of 80 values are NaN"):
        row_space(np.where(np.arange(80).reshape(20, 4) == 7, np.nan, x))
    space = row_space(x)
    z = space.coordinates(x)
    with pytest.raises(InputError, match="penalties: 0.0 must be > 0"):
        fit_ridge_path(space, z, y, (0.0, 1.0))
    with pytest.raises(InputError, match="column 1 has one class"):
        fit_logistic_path(space, z, np.stack([y[:, 0] > 0, y[:, 0] > -1e9], 1), PENALTIES, exclusive=False)
    with pytest.raises(InputError, match="targets: 19 rows, but 20"):
        fit_logistic_path(space, z, y[:19] > 0, PENALTIES, exclusive=False)


def test_the_space_of_moments_is_that_of_the_rows():
    x, _ = classification()
    space, exact = space_of_moments(moments(x)), row_space(x)
    np.testing.assert_allclose(space.eigenvalues, exact.eigenvalues, rtol=1e-4)
    assert space.axes.shape == exact.axes.shape == (13, 12)
    np.testing.assert_allclose(space.coordinates(x).std(0), exact.coordinates(x).std(0), rtol=1e-3)
    with pytest.raises(InputError, match="all 5 training samples are equal"):
        space_of_moments(moments(np.ones((5, 3), np.float32)))
    with pytest.raises(InputError, match="NaN or inf"):
        space_of_moments(moments(np.full((5, 3), np.nan, np.float32)))


def test_probes_of_features_that_were_made_again_are_fitted_again_and_of_other_settings_refused():
    saved = {"features_digest": "a", "penalties": [0.1], "probes": ["ridge"], "chosen": {}}
    settings = {"features_digest": "b", "penalties": [0.1], "probes": ("ridge",)}
    assert only_features_differ(saved, settings)
    assert not only_features_differ(saved, settings | {"penalties": [0.2]})
    assert not only_features_differ(saved, settings | {"features_digest": "a"})
    assert not only_features_differ(None, settings)
