"""Comparisons through landmarks: exact where all training rows are, the float64 optimum in their span where not."""

import csv
import re

import numpy as np
import pytest

from covjax.activations import ArrayTokens
from covjax.comparison import features
from covjax.data import read_table
from covjax.embedding import landmarks, tables
from covjax.embedding.fitted import fit_recipe
from covjax.embedding.landmarks import draw_landmarks, landmark_tables, plan_landmarks, probe_bytes
from covjax.embedding.passes import pool_tokens
from covjax.embedding.plan import GIB
from covjax.embedding.pools import fit_pools
from covjax.embedding.tables import centred_probe, make_table, side_by_side
from covjax.errors import InputError
from covjax.probes import fit_ridge_path
from covjax.recipes import get_recipe
from tests.test_comparison_api import compare

N, D = 60, 8
TRAIN, VALIDATION = np.arange(0, N, 2), np.arange(1, N, 4)
PENALTIES = (1e-3, 1e-1, 1.0)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    random = np.random.default_rng(0)
    arrays = [
        (random.normal(size=(t, D)) * random.uniform(0.5, 2, D)).astype(np.float32) for t in random.integers(3, 30, N)
    ]
    tokens = ArrayTokens(arrays, token_budget=200)
    recipes = get_recipe("mean+log_covariance")
    fit, pools = fit_pools(recipes, tokens, TRAIN, 0, tmp_path_factory.mktemp("pools"), {})
    return tokens, fit, pools


def made(setting, drawn, name="log_covariance", room=GIB):
    tokens, fit, pools = setting
    return dict(landmark_tables({name: pools[name]}, tokens, fit, 0, drawn, room))[name]


def vectors_of(setting, name="log_covariance"):
    tokens, fit, pools = setting
    return pool_tokens({name: pools[name]}, tokens, fit, 0)[name]


def path_of(table, targets):
    space = table.space(TRAIN)
    return fit_ridge_path(space, space.coordinates(table.values[TRAIN]), targets, PENALTIES)


def test_all_training_rows_as_landmarks_are_the_exact_kernel(setting, rng):
    drawn = draw_landmarks(len(TRAIN), TRAIN, VALIDATION, 0)
    assert drawn.rows.tolist() == TRAIN.tolist()
    table, exact = made(setting, drawn), make_table(vectors_of(setting), TRAIN)
    assert (table.num_features, table.values.shape, exact.is_kernel) == (36, (N, len(TRAIN)), False)
    targets = rng.normal(size=(len(TRAIN), 2))
    for probe, wanted in zip(path_of(table, targets), path_of(exact, targets), strict=True):
        np.testing.assert_allclose(probe.scores(table.values), wanted.scores(exact.values), atol=1e-4)


def test_few_landmarks_give_the_optimum_in_their_span(setting, rng):
    """Against float64: the weights that ridge finds on the projections of the vectors on that span."""
    drawn = draw_landmarks(10, TRAIN, VALIDATION, 0)
    assert set(drawn.rows) < set(TRAIN)
    assert len(drawn.rows) == 10
    assert not set(drawn.fitted) & set(drawn.rows)
    assert set(drawn.fitted) < set(TRAIN)
    assert set(drawn.scored) <= set(VALIDATION)
    table, x = made(setting, drawn), vectors_of(setting).astype(np.float64)
    x -= x[drawn.rows].mean(0)
    x /= np.sqrt((x[drawn.rows] ** 2).sum(1).mean())
    np.testing.assert_allclose(table.values, x @ x[drawn.rows].T, atol=1e-5)
    sample = np.concatenate([drawn.fitted, drawn.scored])
    np.testing.assert_allclose(table.landmarks.kernel, x[sample] @ x[drawn.fitted].T, atol=1e-5)
    basis = np.linalg.svd(x[drawn.rows], full_matrices=False)[2][:9]  # centred: the tenth direction is none
    z = x @ basis.T
    z -= z[TRAIN].mean(0)
    square = (z[TRAIN] ** 2).sum(1).mean()
    targets = rng.normal(size=(len(TRAIN), 2))
    for probe, penalty in zip(path_of(table, targets), PENALTIES, strict=True):
        gram = z[TRAIN].T @ z[TRAIN] / len(TRAIN) + penalty * square * np.eye(9)
        weights = np.linalg.solve(gram, z[TRAIN].T @ (targets - targets.mean(0)) / len(TRAIN))
        np.testing.assert_allclose(probe.scores(table.values), z @ weights + targets.mean(0), atol=1e-4)


def test_the_model_scores_as_the_landmarks_do(setting, rng, tmp_path):
    """Weights on raw vectors, of one matrix and of one beside the mean."""
    tokens = setting[0]
    drawn = draw_landmarks(10, TRAIN, VALIDATION, 0)
    table, targets = made(setting, drawn), rng.normal(size=(len(TRAIN), 2))
    fitted = fit_recipe(get_recipe("log_covariance"), tokens, TRAIN, 0, tmp_path, {})
    probe = path_of(table, targets)[0]
    primal = centred_probe(probe, fitted.sums(tokens, drawn.rows, probe.alpha))
    np.testing.assert_allclose(primal.scores(vectors_of(setting)), probe.scores(table.values), atol=1e-4)

    both = side_by_side([tables.Table(vectors_of(setting, "mean"), D), table], TRAIN)
    assert both.landmarks.kernel.shape == table.landmarks.kernel.shape
    recipes = get_recipe("mean+log_covariance")
    fitted = fit_recipe(recipes, tokens, TRAIN, 0, tmp_path, {}, kernel_rows=drawn.rows)
    probe = path_of(both, targets)[0]
    weights = fitted.sums(tokens, drawn.rows, probe.alpha).weighted
    np.testing.assert_allclose(fitted.transform(tokens) @ weights + probe.bias, probe.scores(both.values), atol=1e-4)


def test_exact_where_it_fits_and_as_many_landmarks_as_do_where_not():
    assert plan_landmarks(None, 5000, 3500, 320, 8 * GIB, 0).count == 0
    assert plan_landmarks(0, 100_000, 70_000, 320, 4 * GIB, 0).count == 0
    assert plan_landmarks(None, 100_000, 70_000, 64, 4 * GIB, 0).count == 0  # 2,080 numbers are no kernel
    counts = []
    for gib in (4, 8, 16):
        plan = plan_landmarks(None, 100_000, 70_000, 320, gib * GIB, 0)
        assert probe_bytes(100_000, plan.count) <= gib * GIB
        assert plan.covers(51_360)
        assert not plan.covers(320)
        counts.append(plan.count)
    assert 0 < counts[0] < counts[1] < counts[2] <= 8192
    assert plan_landmarks(None, 100_000, 70_000, 320, 16 * GIB, 8 * GIB).count < counts[2]
    given = plan_landmarks(500, 9000, 6000, 320, 8 * GIB, 0)
    assert (given.count, given.covers(51_360), given.covers(4096)) == (500, True, False)
    with pytest.raises(InputError, match=r"max_memory_gib: 2 is too little for 10,000,000 sequences of 1,280"):
        plan_landmarks(None, 10_000_000, 7_000_000, 1280, 2 * GIB, 0)


def test_kernels_that_cannot_be_made_are_not_chosen():
    """The table of a row of more columns does not fit, or kernels are not made; narrower rows stay exact."""
    size = 5000, 3500, 320, 8 * GIB, 0
    assert plan_landmarks(None, *size, makes_kernels=lambda: True).count == 0
    plan = plan_landmarks(None, *size, makes_kernels=lambda: False)
    assert (plan.count > 256, plan.covers(51_360), plan.covers(4096)) == (True, True, False)
    assert plan_landmarks(None, *size, "kernel", makes_kernels=lambda: False).count == 0
    many = 100_000, 70_000, 64, 4 * GIB, 0
    plan = plan_landmarks(None, *many, largest=8320)
    assert (plan.count > 256, plan.covers(8320), plan.covers(2080)) == (True, True, False)


def test_the_choice_asks_the_plan_of_kernels_before_the_encoder_runs(tmp_path, monkeypatch):
    """Under 1 GiB no kernel is made: other ways are taken, or the error says how much is needed, which is enough."""
    monkeypatch.setattr(tables, "WIDE", 20)
    options = {"task": "regression", "rows": ["mean", "log_covariance", "signed_sqrt"], "n": 108}
    result = compare(tmp_path, **options, max_memory_gib=1.0, probes=["ridge"])
    assert [row.solver for row in result.results.rows] == ["", "sketch", "sketch"]
    assert any("2 rows are compared through random sketches" in each for each in result.results.warnings)

    monkeypatch.setattr(features, "fit_pools", None)  # the first to ask for tokens
    refusals = []
    for place, more in (("kernel", {"solver": "kernel"}), ("retrieval", {"protocol": "retrieval"})):
        (tmp_path / place).mkdir()
        with pytest.raises(InputError) as error:
            compare(tmp_path / place, **options | {"task": "multiclass"} | more, max_memory_gib=1.0)
        refusals.append(str(error.value))
    assert re.match(
        r"max_memory_gib: 1 is too little for kernels of 108 sequences of 8 features; 1\.\d is", refusals[0]
    )
    remedy = re.search(r"retrieval needs all inner .* give --max-memory-gib (1\.\d), or leave the row out", refusals[1])

    def stop(*_):
        raise InputError("went on")

    monkeypatch.setattr(features, "fit_pools", stop)
    for place, gib in (("kernel", re.search(r"(1\.\d) is needed", refusals[0])[1]), ("retrieval", remedy[1])):
        more = {"solver": "kernel"} if place == "kernel" else {"protocol": "retrieval"}
        with pytest.raises(InputError, match="went on"):
            compare(tmp_path / place, **options | {"task": "multiclass"} | more, max_memory_gib=float(gib))


def test_nan_in_a_sequence_is_named(setting, monkeypatch):
    drawn = draw_landmarks(10, TRAIN, VALIDATION, 0)
    whole = landmarks.each_vector

    def broken(*arguments):
        for rows, vectors in whole(*arguments):
            yield rows, {name: np.where(rows[:, None] == 7, np.nan, block) for name, block in vectors.items()}

    monkeypatch.setattr(landmarks, "each_vector", broken)
    with pytest.raises(InputError, match=r"recipe 'log_covariance': NaN or inf, first in row 7 \(counted from 0\)"):
        made(setting, drawn)


def test_recipes_share_passes_or_not(setting):
    tokens, fit, pools = setting
    drawn = draw_landmarks(10, TRAIN, VALIDATION, 0)
    together = dict(landmark_tables(pools, tokens, fit, 0, drawn, GIB))
    for name in pools:
        alone = made(setting, drawn, name, room=1.0)
        np.testing.assert_allclose(together[name].values, alone.values, atol=1e-5)


@pytest.mark.long
def test_a_comparison_through_landmarks(tmp_path, monkeypatch):
    """The report says so, with the error of every row; the model predicts what the table of predictions says."""
    monkeypatch.setattr(tables, "WIDE", 20)
    rows = ["mean", "log_covariance", "mean_outer", "mean+log_covariance"]
    result = compare(tmp_path, "regression", rows, 150, landmarks=16, probes=["ridge"])
    (warning,) = [each for each in result.results.warnings if "Nyström" in each]
    assert re.match(
        r"3 rows are compared through 16 of \d+ training sequences \(Nyström\), not exactly; R² on", warning
    )
    assert re.search(r"log_covariance -?\d\.\d{3} and -?\d\.\d{3}", warning)
    check_landmark_model(result)
    again = compare(tmp_path, "regression", rows, 150, landmarks=16, probes=["ridge"])
    assert again.results.dump() == result.results.dump()
    with pytest.raises(InputError, match="landmarks: .* was made with 16, this run takes 18"):
        compare(tmp_path, "regression", rows, 150, landmarks=18, probes=["ridge"])


def test_what_needs_all_inner_products_is_refused_before_the_encoder_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WIDE", 20)
    monkeypatch.setattr(features, "fit_pools", None)  # the first to ask for tokens
    (tmp_path / "auto").mkdir()
    rows = ["mean", "log_covariance"]
    with pytest.raises(InputError, match="retrieval needs all .* 'log_covariance', not 16; leave --landmarks out"):
        compare(tmp_path, "multiclass", rows, 150, landmarks=16, protocol="retrieval")
    rows = ["mean", "regional_mean", "sqrt_covariance", "log_covariance", "auto"]
    with pytest.raises(InputError, match="landmarks: 'auto' needs all .* 'regional_mean'; leave --landmarks out"):
        compare(tmp_path / "auto", "multiclass", rows, 150, landmarks=16)


def test_retrieval_goes_on_where_no_row_has_landmarks(tmp_path):
    result = compare(tmp_path, "multiclass", ["mean", "log_covariance"], 150, landmarks=16, protocol="retrieval")
    assert result.results.probes == ("retrieval",)


def check_landmark_model(result):
    with (result.folder / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    data = read_table(result.folder.parent / "t.csv", "regression")
    predictions = result.best().predict(list(data.sequences))
    np.testing.assert_allclose(predictions, [float(row["prediction"]) for row in table], atol=1e-4)
