"""Ranks and tests over tasks against SciPy and Demšar's published table."""

import numpy as np
import pytest
from scipy import stats

from covjax.errors import InputError
from covjax.tasks.summary import cliques, mean_ranks, nemenyi_q


def test_q_is_that_of_demsars_table_5_and_of_scipy():
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    np.testing.assert_allclose([nemenyi_q(k) for k in range(2, 11)], published, atol=1e-3)
    np.testing.assert_allclose(nemenyi_q(25), stats.studentized_range.ppf(0.95, 25, np.inf) / 2**0.5, atol=1e-6)
    np.testing.assert_allclose(nemenyi_q(4, 0.10), 2.291, atol=1e-3)


@pytest.mark.parametrize("digits", [1, 6])
def test_statistics_are_scipys_with_and_without_ties(rng, digits):
    x = np.round(rng.normal(size=(11, 8)) + np.arange(8) * 0.3, digits)
    found = mean_ranks(x)
    np.testing.assert_allclose(found.ranks, stats.rankdata(-x, axis=1).mean(0))
    chi, p = stats.friedmanchisquare(*x.T)
    np.testing.assert_allclose([found.chi_square, found.p_chi_square], [chi, p], rtol=1e-4)
    f = 10 * chi / (11 * 7 - chi)
    np.testing.assert_allclose([found.f, found.p_f], [f, stats.f.sf(f, 7, 70)], rtol=1e-4)
    np.testing.assert_allclose(found.critical_difference, nemenyi_q(8) * (8 * 9 / 66) ** 0.5)


def test_hand_computed_ranks():
    found = mean_ranks(np.array([[0.9, 0.5, 0.5], [0.8, 0.7, 0.1]]))
    np.testing.assert_allclose(found.ranks, [1, 2.25, 2.75])
    # Σ R² − k (k + 1)² / 4 = 13.625 − 12 with N = 2, k = 3; one tie of two: divisor 1 − 6/48.
    np.testing.assert_allclose(found.chi_square, 12 * 2 / 12 * 1.625 / 0.875)


def test_methods_in_the_same_order_everywhere_have_infinite_f():
    found = mean_ranks(np.tile([3.0, 2.0, 1.0], (5, 1)))
    assert found.f == np.inf
    assert found.p_f == 0
    np.testing.assert_allclose(found.ranks, [1, 2, 3])


def test_cliques_are_the_widest_spans_below_the_critical_difference():
    ranks = np.array([1.0, 5.0, 1.5, 2.6, 4.9])
    assert cliques(ranks, 1.2) == [(1.0, 1.5), (1.5, 2.6), (4.9, 5.0)]
    assert cliques(ranks, 4.0) == [(1.0, 5.0)]
    assert cliques(ranks, 0.05) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((1, 3)), "tasks >= 2"),
        (np.ones((3, 1)), "methods >= 2"),
        (np.ones((3, 2)), "all methods tie"),
        (np.array([[1, np.nan], [1, 2]]), "1 are not finite"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        mean_ranks(values)
