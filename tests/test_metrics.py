"""Metrics against scikit-learn and SciPy where they define the value, resamples against repeated rows, edge cases."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from covjax import metrics
from covjax.errors import InputError


@pytest.fixture
def labelled(rng):
    truth = rng.random((60, 7)) < 0.3
    scores = np.round(rng.normal(size=(60, 7)) + truth, 1)  # rounding makes many ties
    return truth, scores


def test_auroc_equals_scikit_learn_with_ties(labelled):
    truth, scores = labelled
    np.testing.assert_allclose(metrics.auroc(truth, scores), sk.roc_auc_score(truth, scores, average=None), atol=1e-12)


def test_average_precision_equals_scikit_learn_with_ties(labelled):
    truth, scores = labelled
    expected = sk.average_precision_score(truth, scores, average=None)
    np.testing.assert_allclose(metrics.average_precision(truth, scores), expected, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_accuracy_and_matthews_equal_scikit_learn(rng, classes):
    truth = rng.integers(0, classes, 80)
    scores = rng.normal(size=(80, classes)) + 1.5 * np.eye(classes)[truth]
    one_hot = np.eye(classes, dtype=bool)[truth]
    assert metrics.accuracy(one_hot, scores) == pytest.approx(sk.accuracy_score(truth, scores.argmax(1)))
    assert metrics.matthews(one_hot, scores) == pytest.approx(sk.matthews_corrcoef(truth, scores.argmax(1)))


def test_regression_metrics_equal_scikit_learn_and_scipy(rng):
    truth = np.round(rng.normal(size=(50, 2)), 1)
    scores = np.round(truth + rng.normal(size=(50, 2)), 1)
    np.testing.assert_allclose(metrics.r2(truth, scores), sk.r2_score(truth, scores, multioutput="raw_values"))
    for j in range(2):
        assert metrics.pearson(truth, scores)[j] == pytest.approx(stats.pearsonr(truth[:, j], scores[:, j])[0])
        assert metrics.spearman(truth, scores)[j] == pytest.approx(stats.spearmanr(truth[:, j], scores[:, j])[0])


def test_fmax_by_hand():
    # At 0.5: protein 1 predicts {a, b}, true {a}: pr 1/2, rc 1. Protein 2 predicts nothing, true {b}: rc 0.
    # So pr = 1/2 over one protein, rc = 1/2: F = 1/2. At 0.3 protein 2 predicts {b}: pr = (1/2 + 1)/2, rc = 1: F = 6/7.
    truth = np.array([[True, False], [False, True]])
    probabilities = np.array([[0.9, 0.6], [0.1, 0.3]])
    assert metrics.fmax(truth, probabilities) == pytest.approx(6 / 7)


METRICS = {
    "auroc": (metrics.auroc, "labels"),
    "average_precision": (metrics.average_precision, "labels"),
    "fmax": (metrics.fmax, "labels"),
    "accuracy": (metrics.accuracy, "classes"),
    "matthews": (metrics.matthews, "classes"),
    "r2": (metrics.r2, "numbers"),
    "pearson": (metrics.pearson, "numbers"),
    "spearman": (metrics.spearman, "numbers"),
}


@pytest.mark.parametrize("name", METRICS)
def test_resample_counts_equal_repeated_rows(rng, name):
    metric, kind = METRICS[name]
    if kind == "labels":
        truth, scores = rng.random((40, 3)) < 0.4, np.round(rng.random((40, 3)), 1)
    elif kind == "classes":
        truth, scores = np.eye(3, dtype=bool)[rng.integers(0, 3, 40)], rng.normal(size=(40, 3))
    else:
        truth, scores = np.round(rng.normal(size=(40, 2)), 1), np.round(rng.normal(size=(40, 2)), 1)
    counts = metrics.resample_counts([str(i // 2) for i in range(40)], 20, seed=1)
    drawn = metric(truth, scores, counts)
    for row, count in zip(drawn, counts):
        index = np.repeat(np.arange(40), count)
        np.testing.assert_allclose(row, metric(truth[index], scores[index]), atol=1e-12)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision])
@pytest.mark.parametrize("times", [900, 60_000_000])  # sums above 2¹⁵, and above 2³¹
def test_sums_of_any_size_are_exact(rng, metric, times):
    """A resample in which every example occurs as many times as often has the same value."""
    truth, scores = rng.random((41, 3)) < 0.4, np.round(rng.random((41, 3)), 1)
    counts = metrics.resample_counts([str(i) for i in range(41)], 20, seed=1)
    np.testing.assert_allclose(metric(truth, scores, counts * times), metric(truth, scores, counts), rtol=1e-12)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision])
def test_the_scores_given_are_left_as_they_are(labelled, metric):
    """Of one label, or of columns that lie in memory one after the other, a block is no copy by itself."""
    truth, scores = labelled
    expected = metric(truth, scores)
    for form in (np.asfortranarray(scores), scores[:, :1].copy()):
        before = form.copy()
        form.flags.writeable = False
        np.testing.assert_array_equal(metric(truth[:, : form.shape[1]], form), expected[: form.shape[1]])
        np.testing.assert_array_equal(form, before)


def test_one_class_is_undefined_not_half():
    truth = np.array([[True, False], [True, True]])
    scores = np.array([[0.1, 0.2], [0.3, 0.4]])
    with np.errstate(all="raise"):
        assert np.isnan(metrics.auroc(truth, scores)).tolist() == [True, False]
    assert np.isnan(metrics.average_precision(~truth[:, :1], scores[:, :1]))[0]


def test_constant_predictions():
    truth = np.array([[1.0], [2.0], [4.0]])
    flat = np.full((3, 1), 0.1)  # whose mean is not exactly 0.1
    assert metrics.pearson(truth, flat)[0] == 0
    assert metrics.spearman(truth, flat)[0] == 0
    assert metrics.r2(truth, np.full((3, 1), truth.mean()))[0] == pytest.approx(0)
    assert np.isnan(metrics.pearson(flat, truth)[0])
    assert np.isnan(metrics.r2(flat, truth)[0])
    labels = np.array([[True], [False], [True]])
    assert metrics.auroc(labels, flat)[0] == 0.5
    assert metrics.matthews(np.eye(2, dtype=bool)[[0, 1, 0]], np.array([[1.0, 0.0]] * 3)) == 0


def test_fmax_at_its_edges():
    truth = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    assert np.isnan(metrics.fmax(np.zeros((3, 3), bool), np.full((3, 3), 0.5)))
    # One value for all: every label is called or none. Precisions 1/3, 2/3, 0; both labelled examples recalled whole.
    precision = (1 / 3 + 2 / 3 + 0) / 3
    assert metrics.fmax(truth, np.full((3, 3), 0.5)) == pytest.approx(2 * precision / (precision + 1))
    assert metrics.fmax(truth, np.zeros((3, 3))) == 0  # nothing is ever called
    tied = np.where(truth, 0.7, 0.2)  # ties within both levels: the higher one calls exactly the labels
    assert metrics.fmax(truth, tied) == 1
    assert metrics.fmax(truth, 0.9 - tied) < 0.6


def test_classification_with_one_class_or_one_answer():
    one_hot = np.eye(3, dtype=bool)
    classes, single = np.array([0, 1, 1, 2]), np.array([1, 1, 1])
    ties = np.full((4, 3), 0.2)  # the first class wins all of them
    assert metrics.accuracy(one_hot[classes], ties) == 0.25
    assert metrics.matthews(one_hot[classes], ties) == sk.matthews_corrcoef(classes, np.zeros(4)) == 0
    assert metrics.accuracy(one_hot[single], one_hot[single].astype(float)) == 1
    answers = np.array([1, 0, 1])
    found = metrics.matthews(one_hot[single], one_hot[answers].astype(float))
    assert found == sk.matthews_corrcoef(single, answers) == 0


def test_average_precision_of_a_constant_and_of_positives_alone():
    truth = np.array([[1, 1], [0, 1], [0, 1], [1, 1]], bool)
    np.testing.assert_allclose(metrics.average_precision(truth, np.full((4, 2), 0.3)), [0.5, 1])


def test_groups_are_drawn_whole_and_the_draw_is_seeded():
    groups = ["a", "b", "a", "c", "c", "c"]
    counts = metrics.resample_counts(groups, 50, seed=0)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()  # as many groups as there are
    assert (counts == metrics.resample_counts(groups, 50, seed=0)).all()
    assert (counts != metrics.resample_counts(groups, 50, seed=1)).any()


def test_interval_covers_the_mean_of_a_normal_sample(rng):
    """Of 200 experiments the 95 % interval of the mean must hold the truth in 180 to 199 (binomial, 3 deviations)."""
    held = 0
    for seed in range(200):
        sample = rng.normal(size=(60, 1))
        counts = metrics.resample_counts([str(i) for i in range(60)], 300, seed)
        low, high = metrics.interval((counts @ sample)[:, 0] / 60)
        held += low <= 0 <= high
    assert 176 <= held <= 199


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        (np.ones((2, 1), bool), np.ones((3, 1)), "scores: shape"),
        (np.ones((2, 1), bool), np.array([[1.0], [np.nan]]), "1 of 2 values are NaN"),
    ],
)
def test_bad_tables_are_refused(truth, scores, message):
    with pytest.raises(InputError, match=message):
        metrics.auroc(truth, scores)


def test_too_few_groups_are_refused():
    with pytest.raises(InputError, match="1 group"):
        metrics.resample_counts(["a", "a"], 10, 0)


def test_bootstrap_p_value():
    assert metrics.bootstrap_p_value(np.arange(1.0, 1001), 100) == pytest.approx(2 / 1001)
    assert metrics.bootstrap_p_value(-np.arange(1.0, 1001), 100) == pytest.approx(2 / 1001)
    assert metrics.bootstrap_p_value(np.zeros(10), 100) == 1
    assert metrics.bootstrap_p_value(np.arange(1.0, 1001), 6) == 2 / 2**6
    draws = np.array([-1.0] * 25 + [1.0] * 974 + [np.nan] * 3)
    assert metrics.bootstrap_p_value(draws, 100) == pytest.approx(2 * 26 / 1000)


@pytest.mark.parametrize("size", [1e-170, 1e-100, 1e100, 1e160])
def test_numbers_of_any_size_correlate_as_they_do_near_one(rng, size):
    truth = rng.normal(size=(30, 2))
    scores = truth + rng.normal(size=(30, 2))
    for metric in (metrics.r2, metrics.pearson, metrics.spearman):
        np.testing.assert_allclose(metric(truth * size, scores * size), metric(truth, scores), rtol=1e-10)
    np.testing.assert_allclose(metrics.pearson(truth * size, scores), metrics.pearson(truth, scores), rtol=1e-10)


def test_groups_may_be_numbers_of_any_array():
    expected = metrics.resample_counts(["a", "b", "a", "c"], 5, 0)
    for groups in (np.array([1, 2, 1, 3]), jnp.array([1, 2, 1, 3]), [1.0, 2.0, 1.0, 3.0]):
        np.testing.assert_array_equal(metrics.resample_counts(groups, 5, 0), expected)


@pytest.mark.parametrize(
    ("groups", "resamples", "seed", "message"),
    [
        (["a", "b"], 2.5, 0, "resamples: 2.5 must be a whole number >= 1"),
        (["a", "b"], 2, -1, "seed: -1 must be a whole number >= 0"),
        (["a", 1], 2, 0, "groups: 1: they are texts or numbers, all of one kind"),
        ([np.nan, 1.0, np.nan], 2, 0, "groups: nan: .*a missing one needs its own name"),
        (["a", None], 2, 0, "groups: None"),
        ("abab", 2, 0, "groups: 'abab' must be a sequence"),
    ],
)
def test_bad_draws_are_refused(groups, resamples, seed, message):
    with pytest.raises(InputError, match=message):
        metrics.resample_counts(groups, resamples, seed)


def test_bad_resamples_are_refused():
    for call in (metrics.interval, lambda values: metrics.bootstrap_p_value(values, 5)):
        bad = [(0.5, r"shape \(\)"), ([[1.0]], r"shape \(1, 1\)"), ([1, 2, np.inf], "1 of 3 .* infinite")]
        for values, message in bad:
            with pytest.raises(InputError, match=message):
                call(values)
    for level in ("0.95", None, np.nan, 1):
        with pytest.raises(InputError, match="level: .* must be between 0 and 1"):
            metrics.interval([1.0, 2.0], level)
    for groups in (2.5, None, True):
        with pytest.raises(InputError, match="groups: .* must be a whole number >= 2"):
            metrics.bootstrap_p_value([1.0, 2.0], groups)


def test_a_label_next_to_one_is_shown_in_full():
    with pytest.raises(InputError, match="got 0.9999999 at row 0"):
        metrics.auroc([0.9999999, 0, 1], [1.0, 2, 3])
    with pytest.raises(InputError, match="counts: 1.0000001 is not a whole number"):
        metrics.auroc([1, 0], [1.0, 2], [[1.0000001, 1]])


def test_regression_on_resamples_that_lose_digits(rng):
    """Against scikit-learn and SciPy on repeated rows: groups a million apart, a mean of 1e8, constant resamples."""
    groups = np.repeat(np.arange(6), 5)
    far = groups[:, None] * 1e6 + rng.normal(size=(30, 1))
    large = 1e8 + rng.normal(size=(30, 1))
    often_constant = (groups == 0)[:, None] * rng.normal(size=(30, 1))
    truth = np.concatenate([far, large, often_constant], axis=1)
    scores = truth + rng.normal(size=truth.shape)
    counts = metrics.resample_counts([str(group) for group in groups], 200, seed=2)
    counts[0] = (groups == 3) * 2  # one group alone
    drawn = {name: getattr(metrics, name)(truth, scores, counts) for name in ("r2", "pearson", "spearman")}
    constant = counts[:, groups == 0].max(1) == 0
    assert 0 < constant.sum() < 200
    for values in drawn.values():
        np.testing.assert_array_equal(np.isnan(values), np.stack([0 * constant, 0 * constant, constant], 1))
    for r, count in enumerate(counts):
        index = np.repeat(np.arange(30), count)
        for j in range(2 if constant[r] else 3):
            y, p = truth[index, j], scores[index, j]
            assert drawn["r2"][r, j] == pytest.approx(sk.r2_score(y, p), abs=1e-9)
            assert drawn["pearson"][r, j] == pytest.approx(stats.pearsonr(y, p)[0], abs=1e-9)
            assert drawn["spearman"][r, j] == pytest.approx(stats.spearmanr(y, p)[0], abs=1e-9)


def test_regression_with_many_outputs_stays_small(rng):
    """No (resamples, rows, outputs) array: that would be 200 times the counts here."""
    truth = rng.normal(size=(500, 200))
    counts = metrics.resample_counts([str(i) for i in range(500)], 400, seed=0).astype(np.float64)
    for name in ("r2", "pearson", "spearman"):
        tracemalloc.start()
        getattr(metrics, name)(truth, truth + 1, counts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 15 * counts.nbytes
