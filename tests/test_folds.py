"""Repeated grouped folds, and the interval of a mean over them: by hand, by SciPy, and on data without an effect."""

import numpy as np
import pytest
from scipy import stats

from covjax.data.splits import SPLITS, assign_folds, check_splits
from covjax.errors import InputError
from covjax.metrics import corrected_interval
from tests.test_splits import draw, table


def grouped(tmp_path, rng, n=120, groups=30):
    rows = [f"{draw(rng)},{'ab'[i % 2]},g{i % groups}" for i in range(n)]
    return table(tmp_path, rows, "sequence,label,group")


def test_every_group_is_tested_once_a_repeat_and_stands_on_one_side(tmp_path, rng):
    data = grouped(tmp_path, rng)
    parts = assign_folds(data, 5, 3)
    assert len(parts) == 15
    for repeat in range(3):
        tested = np.concatenate([part.rows("test") for part in parts[5 * repeat : 5 * repeat + 5]])
        np.testing.assert_array_equal(np.sort(tested), np.arange(120))
    for part in parts:
        check_splits(part)  # no group and no sequence on two sides, both classes on each
        sizes = [len(part.rows(split)) for split in SPLITS]
        assert sizes[2] == 24
        assert abs(sizes[1] - 96 * 0.15 / 0.85) <= 4
    assert any((a.splits != b.splits).any() for a, b in zip(parts[:5], parts[5:10]))
    for a, b in zip(parts, assign_folds(data, 5, 3)):
        np.testing.assert_array_equal(a.splits, b.splits)
    assert any((a.splits != b.splits).any() for a, b in zip(parts, assign_folds(data, 5, 3, seed=7)))


def test_what_cannot_be_folded_is_refused(tmp_path, rng):
    data = grouped(tmp_path, rng, groups=4)
    with pytest.raises(InputError, match="folds: 5 are more than the 4 groups"):
        assign_folds(data, 5)
    with pytest.raises(InputError, match="folds: 1 x 1"):
        assign_folds(data, 1)
    with pytest.raises(InputError, match="column 'split'"):
        assign_folds(assign_folds(data, 2)[0], 2)
    with pytest.raises(InputError, match="folds: 2 leave one group"):
        assign_folds(grouped(tmp_path, rng, n=30, groups=3), 2)


def test_the_interval_is_students_with_the_corrected_variance(rng):
    d = rng.normal(0.1, 1, 15)
    low, high, p = corrected_interval(d, 0.25, 0.9)
    error = d.std(ddof=1) * np.sqrt(1 / 15 + 0.25)
    np.testing.assert_allclose([low, high], stats.t.interval(0.9, 14, d.mean(), error), rtol=1e-12)
    assert p == pytest.approx(2 * stats.t.sf(abs(d.mean() / error), 14))
    # As the ratio goes to 0 it is the t-test of one sample.
    assert corrected_interval(d, 1e-12)[2] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert corrected_interval([0.0, 0.0], 0.3) == (0, 0, 1)
    assert corrected_interval([0.1] * 15, 0.3) == (pytest.approx(0.1), pytest.approx(0.1), 0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([1.0], 0.2), "differences"),
        (([1.0, np.nan], 0.2), "differences"),
        (([[1.0, 2.0]], 0.2), "differences"),
        (([1.0, 2.0], 0), "ratio"),
        (([1.0, 2.0], 0.2, 1.0), "level"),
    ],
)
def test_bad_values_are_named(arguments, name):
    with pytest.raises(InputError, match=name):
        corrected_interval(*arguments)


def test_without_an_effect_the_corrected_interval_holds_0_and_the_plain_one_does_not(tmp_path, rng):
    """Two feature sets of equal worth; the difference of their errors has a mean of 0 over data sets."""
    data = grouped(tmp_path, rng, n=60, groups=60)
    parts = [(part.rows("train"), part.rows("test")) for part in assign_folds(data, 5, 3)]
    ratio = np.mean([len(test) / len(train) for train, test in parts])
    wrong = np.zeros(2)
    for _ in range(300):
        features, y = rng.normal(size=(2, 60, 3)), rng.normal(size=60)
        y = y + 0.5 * features.sum((0, 2))
        differences = []
        for train, test in parts:
            fits = [np.linalg.lstsq(x[train], y[train], rcond=None)[0] for x in features]
            errors = [np.mean((y[test] - x[test] @ fit) ** 2) for x, fit in zip(features, fits)]
            differences.append(errors[0] - errors[1])
        for i, each in enumerate((ratio, 1e-9)):
            low, high, _ = corrected_interval(differences, each)
            wrong[i] += not low <= 0 <= high
    assert wrong[0] / 300 < 0.09  # 0.05, and three standard errors
    assert wrong[1] / 300 > 0.2
