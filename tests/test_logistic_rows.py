"""Logistic regression on rows spread over devices and processes against the one on all rows."""

import numpy as np
import pytest

from covjax import InputError, moments
from covjax.probes import fit_logistic_path, row_space
from covjax.probes.logistic import space_of_moments
from tests.distributed_worker import classification
from tests.processes import launch


@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 2)])
def test_scores_are_those_of_one_fit(tmp_path, processes, devices):
    launch(["logistic", str(tmp_path / "out.npz")], processes=processes, devices=devices)
    found = np.load(tmp_path / "out.npz")
    x, labels = classification()
    space = row_space(x)
    for name, targets in (("labels", labels), ("classes", np.eye(3, dtype=bool)[labels @ (1, 1)])):
        path = fit_logistic_path(
            space, space.coordinates(x), targets, [1e-3, 1e-1], name == "classes", class_weights="balanced"
        )
        for i, probe in enumerate(path.probes):
            expected = probe.scores(x)
            np.testing.assert_allclose(found[f"{name}{i}"], expected, atol=2e-3 * np.abs(expected).max())
            assert found[f"{name}{i} gradient"] <= 1e-4


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
