"""Tables of the comparison: a kernel in place of wide features changes no score."""

import numpy as np
import pytest

from covjax.comparison import probing
from covjax.comparison.config import CompareConfig
from covjax.comparison.probing import TASKS, fit_at, fit_row
from covjax.data import Dataset
from covjax.embedding import tables
from covjax.embedding.tables import Table, TrainingSums, make_table, principal_components, side_by_side
from covjax.errors import InputError
from covjax.probes import fit_ridge_path
from covjax.probes.ridge_blocks import factored_path

TRAIN = np.arange(20)


@pytest.fixture
def features(rng):
    return (rng.normal(size=(30, 50)) * np.geomspace(1, 1e-2, 50) + 5).astype(np.float32)


def wide(monkeypatch, features):
    monkeypatch.setattr(tables, "WIDE", 10)
    return make_table(features.copy(), TRAIN)


def scores(table, y):
    space = table.space(TRAIN)
    return [p.scores(table.values) for p in fit_ridge_path(space, space.coordinates(table.values[TRAIN]), y, [1e-3, 1])]


def test_make_table(monkeypatch, rng, features):
    plain, kernel = make_table(features.copy(), TRAIN), wide(monkeypatch, features)
    assert (plain.is_kernel, kernel.is_kernel) == (False, True)
    assert plain.num_features == kernel.num_features == 50
    assert kernel.values.shape == (30, 20)
    assert np.trace(kernel.values[TRAIN]) / 20 == pytest.approx(1, rel=1e-5)
    y = rng.normal(size=(20, 2))
    for ours, theirs in zip(scores(kernel, y), scores(plain, y)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("case", ["factored", "small penalty", "many outputs", "indefinite", "constant"])
def test_ridge_alone_on_a_kernel_is_ridge_on_its_features(monkeypatch, rng, features, case):
    """By factorisations where that is less work and possible, else by the eigendecomposition, with the same scores."""
    ids, splits = tuple(map(str, range(30))), np.array(["train"] * 20 + ["validation"] * 5 + ["test"] * 5)
    y = rng.normal(size=(30, 200 if case == "many outputs" else 2))
    data = Dataset("t", "regression", ids, (), y, tuple(map(str, range(y.shape[1]))), ids, splits, True)
    config = CompareConfig(data="t.csv", penalties=(1e-9 if case == "small penalty" else 1e-4, 1e-2, 1.0))
    kernel, calls, path = wide(monkeypatch, features), [], probing.factored_path

    def factored(*given):
        calls.append(given)
        return None if case == "indefinite" else path(*given)

    monkeypatch.setattr(probing, "factored_path", factored)
    if case == "constant":
        same = Table(np.ones((30, 20), np.float32), 50, is_kernel=True)
        with pytest.raises(InputError, match="all 20 training samples are equal"):
            fit_row(config, data, ("ridge",), same)
        return
    fit, expected = (fit_row(config, data, ("ridge",), table)["ridge"] for table in (kernel, Table(features, 50)))
    assert len(calls) == (case in ("factored", "indefinite"))
    assert (fit.penalty, fit.converged) == (expected.penalty, True)
    np.testing.assert_allclose(fit.validation, expected.validation, atol=2e-4)
    np.testing.assert_allclose(fit.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(fit.probe.scores(kernel.values), fit.scores, atol=1e-9)
    again = fit_at(TASKS["regression"], "ridge", kernel, data, fit.penalty)
    np.testing.assert_allclose(again.scores, fit.scores, atol=1e-5)


def test_a_factor_that_rounding_made_indefinite_is_none():
    indefinite = np.diag([1.0, 1.0, 1.0, -1.0]).astype(np.float32)
    assert factored_path(indefinite, np.eye(4)[:, :1], [1e-3]) is None
    alpha = factored_path(indefinite, np.eye(4)[:, :1], [10.0])[0]
    centring = np.eye(4) - 0.25
    shifted = centring @ indefinite @ centring
    expected = np.linalg.solve(shifted + 10 * np.trace(shifted) * np.eye(4), centring[:, :1])
    np.testing.assert_allclose(alpha, expected, atol=1e-12)


def test_more_features_than_rows_but_few_stay_features(features):
    assert not make_table(features, TRAIN).is_kernel


def test_side_by_side_gives_every_block_the_same_weight(rng):
    blocks = [rng.normal(size=(30, 3)) * 100, rng.normal(size=(30, 5)) + 7]
    both = side_by_side([Table(block, block.shape[1]) for block in blocks], TRAIN).values
    for part in (both[TRAIN, :3], both[TRAIN, 3:]):
        np.testing.assert_allclose((part**2).sum(1).mean(), 1, rtol=1e-5)
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-6)


def test_side_by_side_of_kernels_is_that_of_features(monkeypatch, rng, features):
    other = Table(rng.normal(size=(30, 4)), 4)
    plain = side_by_side([make_table(features.copy(), TRAIN), other], TRAIN)
    mixed = side_by_side([wide(monkeypatch, features), other], TRAIN)
    assert (plain.num_features, mixed.num_features) == (54, 54)
    assert mixed.is_kernel
    y = rng.normal(size=(20, 2))
    for ours, theirs in zip(scores(mixed, y), scores(plain, y)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_principal_components(monkeypatch, features):
    centred = features - features[TRAIN].mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred[TRAIN].T @ centred[TRAIN])
    expected = centred @ vectors[:, np.argsort(-values)[:4]] / np.sqrt((centred[TRAIN] ** 2).sum() / 20)
    for table in (make_table(features.copy(), TRAIN), wide(monkeypatch, features)):
        short, shorter = principal_components(table, [4, 2], TRAIN)
        assert (short.num_features, short.is_kernel) == (4, False)
        np.testing.assert_allclose(np.abs(short.values), np.abs(expected), atol=1e-4)
        np.testing.assert_allclose(shorter.values, short.values[:, :2], atol=1e-6)


@pytest.mark.parametrize(("outputs", "large"), [(2, 2**30), (2, 0), (0, 2**30)])
def test_sums_of_training_vectors_are_those_of_numpy(monkeypatch, rng, features, outputs, large):
    """In any batches, with rows that do not count among them, and with float32 sums where there are many."""
    monkeypatch.setattr(tables, "_COLUMNS", 16)
    monkeypatch.setattr(tables, "_LARGE", large)
    alpha, order, known = rng.normal(size=(20, outputs)), rng.permutation(30), features[TRAIN].astype(np.float64)
    running = TrainingSums(TRAIN, alpha, 50)
    for rows in np.split(order, [1, 12, 13]):
        running.add(rows, features[rows])
    sums, mean = running.total(), known.mean(0)
    assert sums.weighted.dtype == (np.float64 if large or not outputs else np.float32)
    np.testing.assert_allclose(sums.weighted, known.T @ alpha, atol=2e-5 if large == 0 else 1e-12)
    np.testing.assert_allclose(sums.mean, mean, rtol=1e-12)
    assert sums.square == pytest.approx(np.mean(np.sum((known - mean) ** 2, axis=1)), rel=1e-10)


def test_equal_training_vectors_have_no_variance():
    rows = np.arange(5000)
    running = TrainingSums(rows, np.zeros((5000, 0)), 300)
    running.add(rows, np.tile(np.linspace(0.1, 7.3, 300, dtype=np.float32), (5000, 1)))
    assert running.total().square == 0


def test_equal_training_rows_have_no_coordinates():
    table = Table(np.ones((5, 3), np.float32), 3)
    space = table.space(np.arange(3))
    assert space.coordinates(table.values).shape == (5, 0)
    probe = fit_ridge_path(space, np.empty((3, 0)), np.array([[1.0], [2.0], [6.0]]), [0.1])[0]
    np.testing.assert_allclose(probe.scores(table.values), 3.0)
