"""Labels, scores and counts of metrics: they mean the same in every form, and what may not is refused by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from covjax import metrics
from covjax.errors import InputError
from tests.test_inputs import BINARY


@pytest.fixture
def labelled(rng):
    truth = rng.random((60, 3)) < 0.3
    return truth, np.round(rng.normal(size=(60, 3)) + truth, 1)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.fmax])
def test_labels_mean_the_same_whatever_their_type(labelled, metric):
    truth, scores = labelled
    counts = metrics.resample_counts([str(i // 2) for i in range(60)], 3, seed=0)
    expected, drawn = metric(truth, scores), metric(truth, scores, counts)
    forms = [truth.astype(dtype) for dtype in BINARY] + [
        truth.tolist(),
        jnp.asarray(truth),
        jnp.asarray(truth, jnp.bfloat16),
    ]
    for form in forms:
        np.testing.assert_array_equal(metric(form, scores), expected)
        np.testing.assert_array_equal(metric(form, scores.tolist(), counts.tolist()), drawn)


def test_a_vector_is_one_output(labelled):
    truth, scores = labelled
    for metric in (metrics.auroc, metrics.r2, metrics.pearson, metrics.spearman):
        one = metric(truth[:, 0].astype(float), scores[:, 0])
        np.testing.assert_array_equal(one, metric(truth[:, :1].astype(float), scores[:, :1]))
        assert one.shape == (1,)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([0, 1, 2], "labels are 0 and 1, got 2 at row 2, column 0"),
        ([0, 1, -1], "labels are 0 and 1, got -1 at row 2"),
        ([0, 1, 0.5], "labels are 0 and 1, got 0.5 at row 2"),
        ([0, 1, np.inf], "truth: 1 of 3 values are NaN or inf"),
        ([0, 1, np.nan], '1 of 3 values are NaN .*missing="ignore" leaves NaN out'),
        ([0, 1, None], "1 of 3 values are NaN"),
        (["no", "yes", "no"], "truth: numbers or booleans are needed, got <U3, such as"),
        ([0, 1, "1"], "truth: numbers or booleans are needed"),
        (np.array([True, "x", None], object), "truth: numbers or booleans are needed, got 'x'"),
        ([1j, 0, 1], "truth: numbers or booleans are needed, got complex128"),
        (np.array(["2020-01-01"] * 3, "M8[D]"), "truth: numbers or booleans are needed, got datetime64"),
        ([[0], [1, 0], [1]], "truth: a list of 3 entries of different lengths"),
        (np.zeros((3, 1, 1)), "truth: shape .3, 1, 1. must be"),
        (np.zeros((0, 1)), "truth: shape .0, 1. must be"),
        (1, "truth: shape .. must be"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.fmax])
def test_truth_that_is_no_label(metric, truth, message):
    with pytest.raises(InputError, match=message):
        metric(truth, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("scores", "counts", "message"),
    [
        ([0.1, 0.2], None, "scores: shape"),
        ([0.1, 0.2, np.nan], None, "scores: 1 of 3 values are NaN or inf"),
        ([[0.1, 0.2], [0.3, 0.4]], None, "scores: shape"),
        ([0.1, 0.2, 0.3], [[1, 1]], "counts: shape .1, 2. must be .resamples, 3."),
        ([0.1, 0.2, 0.3], [1, 1, 1], "counts: shape"),
        ([0.1, 0.2, 0.3], [[1, -1, 1]], "counts: -1 is not a whole number >= 0"),
        ([0.1, 0.2, 0.3], [[1, 0.5, 1]], "counts: 0.5 is not"),
        ([0.1, 0.2, 0.3], [[1, np.nan, 1]], "counts: nan is not"),
        (["a", "b", "c"], None, "scores: numbers or booleans are needed"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.r2, metrics.spearman, metrics.average_precision])
def test_bad_scores_and_counts(metric, scores, counts, message):
    truth = [0, 1, 0]
    with pytest.raises(InputError, match=message):
        metric(truth, scores, counts)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.matthews])
@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([0, 2, 1], r"np\.eye\(k, dtype=bool\)\[y\]"),
        ([[0], [2], [1]], r"np\.eye"),
        ([[0, 2], [1, 0], [1, 0]], r"np\.eye"),
        ([[1, 1], [1, 0], [0, 1]], "row 0 has 2 classes"),
        ([[1, 0], [0, 0], [0, 1]], "row 1 has 0 classes"),
        ([[0.5, 0.5], [0, 1], [0, 1]], "labels are 0 and 1, got 0.5"),
    ],
)
def test_classes_are_one_hot(metric, truth, message):
    with pytest.raises(InputError, match=message):
        metric(truth, np.ones(np.shape(truth)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fmax_thresholds_are_decimals_in_the_type_of_the_scores(dtype):
    for hundredths in range(2, 100):
        scores = np.array([[0.995, hundredths / 100, (hundredths - 1) / 100]], dtype)
        assert metrics.fmax([[1, 1, 0]], scores) == 1


def test_fmax_equals_the_evaluator_of_cafa(rng):
    """Given decimals as thresholds: its own, 0.01 + 34 · 0.01 > 0.35 among them, miss some scores by a rounding."""
    evaluation = pytest.importorskip("cafaeval.evaluation")

    class Table:
        def __init__(self, matrix):
            self.matrix = matrix

    decimals = np.arange(1, 100) / 100
    for _ in range(50):
        truth = rng.random((20, 6)) < 0.3
        truth[np.arange(20), rng.integers(0, 6, 20)] = True
        scores = np.round(np.clip(rng.random((20, 6)) * 0.6 + truth * 0.3, 0, 1), 2)
        table = evaluation.compute_metrics(Table(scores), Table(truth), decimals, np.arange(6), None, 1)
        table = evaluation.normalize(table, "all", decimals, np.full(99, 20), "cafa")
        assert metrics.fmax(truth, scores) == pytest.approx(table["f"].max(), abs=1e-12)
