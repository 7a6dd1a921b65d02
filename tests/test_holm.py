"""Holm's correction against the step-down procedure itself."""

import numpy as np
import pytest

from covjax.errors import InputError
from covjax.metrics import holm


def rejected(p, alpha):
    """The procedure as published: test the smallest at α/m, the next at α/(m − 1), … and stop at the first failure."""
    result = np.zeros(len(p), bool)
    for i, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] > alpha / (len(p) - i):
            break
        result[index] = True
    return result


@pytest.mark.parametrize("alpha", [0.003, 0.01, 0.05, 0.2, 0.7])
def test_rejects_what_the_procedure_rejects(rng, alpha):
    for m in (1, 2, 7, 40):
        p = np.round(rng.random(m) ** 3, 3)  # skewed to 0, with ties
        np.testing.assert_array_equal(holm(p) <= alpha, rejected(p, alpha))


def test_published_example():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 1.0, 0.0]), [1, 1, 0])


@pytest.mark.parametrize("bad", [[], [[0.1]], [0.2, 1.5], [0.2, -0.1], [0.2, np.nan]])
def test_bad_values_are_refused(bad):
    with pytest.raises(InputError, match="p_values"):
        holm(bad)
