"""NaN labels: refused with the remedy, or left out label by label, as fits and metrics of every label's own rows."""

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression, Ridge

from covjax import get_pooler, metrics
from covjax.errors import InputError
from covjax.inputs import by_output
from covjax.probes import (
    Budget,
    fit_logistic_path,
    fit_logistic_rows,
    fit_logistic_stream,
    fit_ridge_blocks,
    fit_ridge_path,
    fit_token_probe,
    kernel_space,
    row_space,
)

PENALTIES = [1e-3, 1e-1]


def holes(rng, table, share=0.4):
    """The table with NaN, none in the last column."""
    out = np.where(rng.random(table.shape) < share, np.nan, table)
    out[:, -1] = table[:, -1]
    return out


def numbers(rng, n, p):
    x = rng.normal(size=(n, p)) * np.linspace(1, 5, p) + 3
    y = x[:, :4] @ rng.normal(size=(4, 3)) + rng.normal(size=(n, 3))
    return x, y, holes(rng, y)


def labels(rng, n=200, k=3):
    x = rng.normal(size=(n, 5))
    y = (2 * x[:, :k] + rng.normal(size=(n, k)) > 0).astype(float)
    return x, y, holes(rng, y)


def scores_of_own_rows(x, targets, penalty, scale):
    """Scikit-learn's ridge on the rows that each output has; λ is in units of the whole training set's scale."""
    out = []
    for y in targets.T:
        rows = ~np.isnan(y)
        out.append(Ridge(alpha=penalty * rows.sum() * scale**2).fit(x[rows], y[rows]).predict(x))
    return np.stack(out, 1)


@pytest.mark.parametrize(("n", "p"), [(120, 6), (50, 80)])
def test_ridge_fits_every_output_exactly_on_the_rows_it_has(rng, n, p):
    x, y, missing = numbers(rng, n, p)
    space = row_space(x)
    path = fit_ridge_path(space, space.coordinates(x), missing, PENALTIES, missing="ignore")
    complete = fit_ridge_path(space, space.coordinates(x), y, PENALTIES)
    for probe, all_rows, penalty in zip(path, complete, PENALTIES):
        expected = scores_of_own_rows(x, missing, penalty, float(space.scale))
        np.testing.assert_allclose(probe.scores(x), expected, atol=1e-9)
        np.testing.assert_allclose(probe.weights[:, -1], all_rows.weights[:, -1], rtol=1e-12)


def test_ridge_in_a_kernel_space(rng):
    x, _, missing = numbers(rng, 50, 80)
    space = kernel_space(x @ x.T)
    probe = fit_ridge_path(space, space.coordinates(x @ x.T), missing, [0.1], missing="ignore")[0]
    expected = scores_of_own_rows(x, missing, 0.1, float(space.scale))
    np.testing.assert_allclose(probe.scores(x @ x.T), expected, atol=1e-8)


@pytest.mark.parametrize("route", ["primal", "eigen", "cholesky"])
def test_ridge_by_blocks(rng, route):
    x, _, missing = numbers(rng, 60, 20)
    x = x.astype(np.float32)
    path = fit_ridge_blocks(
        lambda start, stop: x[start:stop], missing, PENALTIES, route=route, block_size=25, missing="ignore"
    )
    for probe, penalty in zip(path, PENALTIES):
        expected = scores_of_own_rows(x.astype(float), missing, penalty, float(row_space(x).scale))
        np.testing.assert_allclose(probe.scores(x), expected, atol=1e-3)


@pytest.mark.parametrize("class_weights", [None, "balanced", [2.0, 3.0, 1.0]])
def test_logistic_fits_every_label_on_the_rows_it_has(rng, class_weights):
    x, _, missing = labels(rng)
    space = row_space(x)
    path = fit_logistic_path(
        space, space.coordinates(x), missing, [1e-2], False, class_weights=class_weights, missing="ignore"
    )
    for j, y in enumerate(missing.T):
        rows = ~np.isnan(y)
        weights = {1.0: class_weights[j], 0.0: 1.0} if isinstance(class_weights, list) else class_weights
        strength = 1 / (1e-2 * rows.sum() * space.scale**2)
        expected = LogisticRegression(C=strength, class_weight=weights, tol=1e-8, max_iter=1000).fit(x[rows], y[rows])
        np.testing.assert_allclose(path.probes[0].scores(x)[:, j], expected.decision_function(x), atol=2e-3)


@pytest.mark.long
def test_spread_and_streamed_fits_have_the_same_optimum(rng):
    x, _, missing = labels(rng)
    space = row_space(x)
    expected = fit_logistic_path(space, space.coordinates(x), missing, [1e-1], False, missing="ignore").probes[0]
    mesh = jax.make_mesh((1,), ("rows",))
    rows = fit_logistic_rows(x, missing, [1e-1], False, mesh=mesh, axis="rows", missing="ignore").probes[0]
    np.testing.assert_allclose(rows.scores(x), expected.scores(x), atol=1e-4)

    def stream():
        yield x[:100], missing[:100]
        yield x[100:], missing[100:]

    budget = Budget(steps=600, learning_rate=3e-2, evaluate_every=100)
    streamed = fit_logistic_stream(stream, stream, [1e-1], False, budget, missing="ignore")
    assert np.corrcoef(streamed.probes[0].scores(x).ravel(), expected.scores(x).ravel())[0, 1] > 0.999
    np.testing.assert_allclose(streamed.probes[0].bias, expected.bias, atol=0.1)
    loss = np.nanmean(np.logaddexp(0, np.where(missing > 0, -1, 1) * streamed.probes[0].scores(x)) + 0 * missing, 0)
    assert streamed.validation.max() == pytest.approx(-loss.sum(), rel=1e-3)


def test_exclusive_classes_are_missing_row_by_row(rng):
    x = rng.normal(size=(150, 4))
    y = np.eye(3)[x[:, :3].argmax(1)]
    gone = rng.random(150) < 0.3
    missing = np.where(gone[:, None], np.nan, y)
    space = row_space(x)
    z = space.coordinates(x)
    for weights in (None, "balanced"):
        got = fit_logistic_path(space, z, missing, [1e-2], True, class_weights=weights, missing="ignore").probes[0]
        alone = fit_logistic_path(space, z[~gone], y[~gone], [1e-2], True, class_weights=weights).probes[0]
        np.testing.assert_allclose(got.scores(x), alone.scores(x), atol=5e-3)
    missing[np.argmin(gone), 0] = np.nan
    with pytest.raises(InputError, match="partly NaN; exclusive classes are missing row by row"):
        fit_logistic_path(space, z, missing, [1e-2], True, missing="ignore")


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_token_probes_do_not_see_what_stands_in_a_missing_place(rng, task):
    tokens = rng.normal(size=(24, 6, 3)).astype(np.float32)
    y = tokens.mean(1)[:, :2] if task == "regression" else (tokens.mean(1)[:, :2] > 0).astype(float)
    missing = holes(rng, y)

    def walk(rows):
        for start in (0, 12):
            yield np.arange(start, start + 12), tokens[start : start + 12], np.ones((12, 6), np.float32)

    def fit(targets, **settings):
        pool = get_pooler("attention", features=3, heads=1)
        rows = np.arange(16), np.arange(16, 24)
        return fit_token_probe(
            pool, walk, targets, *rows, task, [1e-2], Budget(steps=20, evaluate_every=10), **settings
        )

    probe = fit(missing, missing="ignore")
    assert np.isfinite(probe.validation).all()
    assert np.isfinite(probe.weights).all()
    seen = []
    fit(missing, missing="ignore", metric=lambda truth, scores: seen.append(truth) or 0.0)
    np.testing.assert_array_equal(seen[0], missing[16:])  # a metric of one's own gets NaN where a target is missing
    if task == "regression":
        present = ~np.isnan(missing[:16])
        start = fit(missing, missing="ignore", class_weights=None).bias
        means = np.array([missing[:16][present[:, j], j].mean() for j in range(2)])
        assert np.abs(start - means).max() < 0.2
    with pytest.raises(InputError, match='missing="ignore"'):
        fit(missing)


LABELS = [metrics.auroc, metrics.average_precision]
NUMBERS = [metrics.r2, metrics.pearson, metrics.spearman]


@pytest.mark.parametrize("metric", [*LABELS, *NUMBERS])
def test_metrics_are_of_every_outputs_own_rows(rng, metric):
    y = (rng.random((60, 4)) < 0.4).astype(float) if metric in LABELS else np.round(rng.normal(size=(60, 4)), 1)
    scores = np.round(y + rng.normal(size=y.shape), 1)
    missing = holes(rng, y)
    missing[:, 1] = np.nan
    counts = metrics.resample_counts([str(i // 3) for i in range(60)], 5, seed=0)
    value, drawn = metric(missing, scores, missing="ignore"), metric(missing, scores, counts, missing="ignore")
    reference = {
        metrics.auroc: sk.roc_auc_score,
        metrics.average_precision: sk.average_precision_score,
        metrics.r2: sk.r2_score,
        metrics.pearson: lambda a, b: stats.pearsonr(a, b)[0],
        metrics.spearman: lambda a, b: stats.spearmanr(a, b)[0],
    }[metric]
    assert np.isnan(value[1])
    assert np.isnan(drawn[:, 1]).all()
    for j in (0, 2, 3):
        rows = ~np.isnan(missing[:, j])
        assert value[j] == pytest.approx(reference(y[rows, j], scores[rows, j]))
        for r, count in enumerate(counts):
            index = np.repeat(np.arange(60), count * rows)
            assert drawn[r, j] == pytest.approx(reference(y[index, j], scores[index, j]))
    with pytest.raises(InputError, match='truth: .* values are NaN or inf, first at row .*missing="ignore"'):
        metric(missing, scores)


def test_a_resample_without_any_row_of_an_output_is_undefined():
    truth, scores = np.array([[1.0], [0.0], [np.nan], [np.nan]]), np.array([[0.9], [0.1], [0.5], [0.6]])
    counts = np.array([[0, 0, 2, 2], [1, 1, 1, 1]])
    for metric in (*LABELS, *NUMBERS):
        value = metric(truth, scores, counts, missing="ignore")[:, 0]
        assert np.isnan(value[0])
        assert np.isfinite(value[1])


def test_fmax_counts_a_missing_label_as_neither_true_nor_predicted():
    truth = np.array([[1, np.nan, 0], [0, 1, np.nan]])
    scores = np.array([[0.9, 0.8, 0.2], [0.1, 0.7, 0.95]])
    assert metrics.fmax(truth, scores, missing="ignore") == 1
    assert metrics.fmax(np.nan_to_num(truth), scores) < 1
    with pytest.raises(InputError, match='missing="ignore"'):
        metrics.fmax(truth, scores)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.matthews])
def test_classes_are_missing_row_by_row(rng, metric):
    truth = np.eye(3)[rng.integers(0, 3, 40)]
    scores = rng.normal(size=(40, 3)) + truth
    gone = np.arange(40) % 3 == 0
    missing = np.where(gone[:, None], np.nan, truth)
    assert metric(missing, scores, missing="ignore") == pytest.approx(metric(truth[~gone], scores[~gone]))
    counts = metrics.resample_counts([str(i) for i in range(40)], 4, seed=0)
    drawn = metric(missing, scores, counts, missing="ignore")
    np.testing.assert_allclose(drawn, metric(truth[~gone], scores[~gone], counts[:, ~gone]))
    assert np.isnan(metric(np.full((2, 2), np.nan), np.ones((2, 2)), missing="ignore"))
    missing[1, 0] = np.nan
    with pytest.raises(InputError, match="row 1 is partly NaN"):
        metric(missing, scores, missing="ignore")


def test_outputs_without_missing_values_take_the_usual_path(rng):
    truth, scores = rng.random((9, 2)), rng.random((9, 2))
    seen = []
    by_output(lambda *arguments: seen.append(arguments) or np.zeros(2), truth, scores, None, None)
    assert seen[0][0] is truth


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.full((6, 1), np.nan), "column 0 has 0 values"),
        (np.array([[1.0], *[[np.nan]] * 5]), "column 0 has 1 values that are not NaN; a fit needs at least 2"),
        (np.array([[1.0], [np.inf], *[[np.nan]] * 4]), "NaN or inf, first at row 1"),
    ],
)
def test_too_few_values_for_a_fit(rng, targets, message):
    x = rng.normal(size=(6, 2))
    space = row_space(x)
    with pytest.raises(InputError, match=message):
        fit_ridge_path(space, space.coordinates(x), targets, [1.0], missing="ignore")


def test_missing_is_refuse_or_ignore(rng):
    with pytest.raises(InputError, match="missing: 'drop' is not one of refuse, ignore"):
        metrics.auroc(np.array([True, False]), np.array([0.1, 0.2]), missing="drop")
