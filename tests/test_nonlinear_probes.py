"""Radial kernels against scikit-learn, a network against a loop in float64, and both as rows of a comparison."""

import json

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from covjax import Embedder, InputError
from covjax.comparison import command
from covjax.probes.minibatch import Budget
from covjax.probes.nonlinear import DECAYS, fit_networks, radial_space
from covjax.probes.ridge import ridge_path
from covjax.recipes import get_recipe
from tests.test_compare import sequences, write_table  # registers the encoder "tiny"


def ring(rng, n=120):
    x = rng.normal(size=(n, 3)) * [1, 10, 0.1] + 5
    z = (x - x.mean(0)) / x.std(0)
    return x, (z**2).sum(1)


def test_ridge_in_a_radial_space_is_kernel_ridge_regression(rng):
    x, y = ring(rng)
    train, other = x[:80], x[80:]
    space = radial_space(train, 0.5)
    z, others = (each.astype(np.float64) - train.mean(0) for each in (train, other))
    z, others = z / train.std(0), others / train.std(0)
    distances = np.sqrt(((z[:, None] - z[None]) ** 2).sum(2))[np.triu_indices(80, 1)]
    width = 0.5 * np.median(distances)
    kernel = np.exp(-((z[:, None] - z[None]) ** 2).sum(2) / (2 * width**2))
    cross = np.exp(-((others[:, None] - z[None]) ** 2).sum(2) / (2 * width**2))
    centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    cross = cross - cross.mean(1)[:, None] - kernel.mean(0) + kernel.mean()
    square = np.trace(centred) / 80
    penalty = 1e-2
    expected = KernelRidge(alpha=80 * penalty * square, kernel="precomputed").fit(centred, y[:80] - y[:80].mean())
    fitted = ridge_path(space.eigenvalues, space.coordinates(train), y[:80, None], [penalty])[0]
    probe = space.probe(fitted)
    np.testing.assert_allclose(probe.scores(other)[:, 0], expected.predict(cross) + y[:80].mean(), rtol=1e-6)
    np.testing.assert_allclose(probe.scores(other), fitted.scores(space.coordinates(other)), rtol=1e-8, atol=1e-8)
    assert space.eigenvalues.sum() == pytest.approx(1)


def test_with_landmarks_the_kernel_is_nystroms(rng):
    x, _ = ring(rng)
    space = radial_space(x, landmarks=30)
    assert len(space.base.landmarks) == 30
    z = space.coordinates(x)
    assert np.linalg.matrix_rank(z) <= 30
    np.testing.assert_allclose(z.T @ z / len(x), np.diag(space.eigenvalues), atol=1e-6)
    marks = np.unique(np.linspace(0, 119, 30).astype(int))
    base = space.base
    between = np.exp(-((base.landmarks[0] - base.landmarks[1]) ** 2).sum() / (2 * base.width**2))
    raw = np.linalg.norm(z[marks[0]] - z[marks[1]]) ** 2 / np.linalg.norm(z[marks[2]] - z[marks[3]]) ** 2
    other = np.exp(-((base.landmarks[2] - base.landmarks[3]) ** 2).sum() / (2 * base.width**2))
    assert raw == pytest.approx((1 - between) / (1 - other), rel=1e-6)  # |φ_i − φ_j|² = 2 − 2k(i, j), up to one scale


def test_equal_samples_have_no_coordinates_and_bad_input_is_named():
    space = radial_space(np.ones((5, 2)))
    assert space.coordinates(np.zeros((3, 2))).shape == (3, 0)
    with pytest.raises(InputError, match="multiple: -1"):
        radial_space(np.eye(3), -1)
    with pytest.raises(InputError, match="NaN"):
        radial_space(np.full((3, 2), np.nan))


def test_a_network_learns_what_no_linear_probe_can_and_scores_as_in_numpy(rng):
    x, y = ring(rng, 300)
    r2 = lambda scores: 1 - np.mean((scores[:, 0] - y[200:]) ** 2) / y[200:].var()
    path = fit_networks(x[:200], y[:200, None], x[200:], r2, "regression", (1e-2, 1.0), budget=Budget(200, 1e-2, 10))
    assert max(path.validation) > 0.7
    linear = np.linalg.lstsq(np.c_[x[:200], np.ones(200)], y[:200], rcond=None)[0]
    assert r2((np.c_[x[200:], np.ones(100)] @ linear)[:, None]) < 0.2
    for probe, value in zip(path.probes, path.validation):
        z = (x - probe.centre) / probe.deviation
        expected = np.where(z @ probe.hidden + probe.hidden_bias > 0, z @ probe.hidden + probe.hidden_bias, 0)
        expected = expected @ probe.weights + probe.bias
        np.testing.assert_allclose(probe.scores(x), expected, rtol=1e-12)
        assert r2(expected[200:]) == pytest.approx(value, abs=1e-3)  # float32 in training
    again = fit_networks(x[:200], y[:200, None], x[200:], r2, "regression", (1e-2, 1.0), budget=Budget(200, 1e-2, 10))
    assert again.validation == path.validation


def test_a_network_that_was_best_at_its_last_step_has_not_converged(rng):
    x, y = ring(rng, 300)
    steps = []
    rising = lambda scores: float(steps.append(1) or len(steps))
    path = fit_networks(x[:200], y[:200, None], x[200:], rising, "regression", (1e-2,), budget=Budget(20, 1e-3, 10))
    assert path.converged == [False]
    falling = lambda scores: -float(steps.append(1) or len(steps))
    path = fit_networks(x[:200], y[:200, None], x[200:], falling, "regression", (1e-2,), budget=Budget(20, 1e-3, 10))
    assert path.converged == [True]


@pytest.mark.long
def test_rows_of_a_comparison(tmp_path):
    write_table(tmp_path / "t.csv", np.random.default_rng(0))
    options = [
        "--encoder",
        "tiny",
        "--ranks",
        "2",
        "--penalties",
        "1e-3,1e-1,10",
        "--resamples",
        "100",
        "--output",
        str(tmp_path / "run"),
    ]
    rows = ["mean", "covariance", "mean_rbf", "mean_mlp"]
    results = []
    for names in (rows[:2], rows):
        command.main(["--data", str(tmp_path / "t.csv"), *options, "--rows", ",".join(names)])
        results.append(json.loads((tmp_path / "run" / "results.json").read_text()))
    few, all_rows = ({row["label"]: row for row in each["rows"]} for each in results)
    assert set(all_rows) == set(rows)
    for name in few:  # what is there stays as it is
        assert few[name] == all_rows[name]
    for name in rows[2:]:
        assert all_rows[name]["role"] == "baseline"
        assert set(all_rows[name]["probes"]) == {"logistic", "ridge"}
        assert all_rows[name]["num_features"] == all_rows["mean"]["num_features"]
    for fit in all_rows["mean_mlp"]["probes"].values():  # of its own grid
        assert fit["at_edge"] == (fit["penalty"] in (min(DECAYS), max(DECAYS)))
    (tmp_path / "run" / "results.json").unlink()
    command.main(["--data", str(tmp_path / "t.csv"), *options, "--rows", ",".join(rows)])
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["rows"] == results[1]["rows"]  # from the probes' checkpoints


def test_they_are_probes_and_no_embeddings(rng):
    assert [recipe.name for recipe in get_recipe("mean_rbf")] == ["mean", "mean_rbf"]
    with pytest.raises(InputError, match="'mean_rbf' is a probe of 'mean'"):
        Embedder("tiny", recipe="mean_rbf").fit(sequences(rng, 4))
