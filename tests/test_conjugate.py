"""Ridge by conjugate gradients on streamed vectors, and sketches: float64 optima, refusals, whole comparisons."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.comparison import features
from covjax.comparison.config import CompareConfig
from covjax.embedding import conjugate, tables
from covjax.embedding.conjugate import conjugate_table, described, sample_directions, solved_residuals
from covjax.embedding.fitted import fit_recipe, load_fitted
from covjax.embedding.landmarks import draw_landmarks, plan_landmarks, sketch_tables
from covjax.embedding.passes import pool_tokens
from covjax.embedding.plan import GIB, cg_pays
from covjax.embedding.tables import Directions, Table, centred_probe, direction_space, landmark_space, side_by_side
from covjax.explanation.blocks import make_blocks
from covjax.probes import LinearProbe, fit_ridge_path
from covjax.probes.ridge_conjugate import RESIDUAL, System, conjugate_directions
from covjax.recipes import get_recipe
from covjax.sketch import count_sketch
from tests import test_compare_activations, test_compare_layers
from tests.processes import launch
from tests.test_comparison_api import compare
from tests.test_landmarks import TRAIN, VALIDATION, N, check_landmark_model, made, setting, vectors_of  # noqa: F401

PENALTIES = (1e-6, 1e-4, 1e-2, 1.0)


def exact_scores(x, train, targets, penalty):
    """Ridge of all rows in float64, penalised relative to the mean squared norm of the centred training rows."""
    x = x.astype(np.float64) - x[train].mean(0, dtype=np.float64)
    gram = x[train] @ x[train].T
    strength = penalty * np.trace(gram)  # n λ s²
    alpha = np.linalg.solve(gram + strength * np.eye(len(train)), targets - targets.mean(0))
    return x @ (x[train].T @ alpha) + targets.mean(0)


def solve(solver, kernel):
    """The directions of a solver whose products are made here."""
    try:
        block = next(solver)
        while True:
            block = solver.send(kernel @ block)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("landmarks", [0, 30])
def test_one_span_solves_all_penalties_outputs_and_systems(rng, landmarks):
    n, train = 160, np.arange(120)
    x = (rng.normal(size=(n, 300)) * np.geomspace(1, 1e-2, 300)).astype(np.float32)
    x -= x[train].mean(0)
    x /= np.sqrt((x[train].astype(np.float64) ** 2).sum(1).mean())
    beside = tables.scaled(rng.normal(size=(n, 5)).astype(np.float32), train)
    targets = np.stack([x[train] @ rng.normal(size=300), rng.normal(size=120), np.ones(120)], axis=1)
    kernel = x @ x[train].T
    systems = []
    for own in (kernel, kernel + beside @ beside[train].T):
        rows = train[:landmarks]
        pair = (landmark_space(own[:, rows], rows, train), own[train][:, rows]) if landmarks else None
        systems.append(System(1.0 + len(systems), beside[train] if systems else None, pair))
    solved = solve(conjugate_directions(systems, targets, PENALTIES, 16, 40), kernel[train])
    assert solved.residuals.max() <= RESIDUAL
    v = solved.directions
    np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), atol=1e-5)
    joint = np.concatenate([x, beside], axis=1)
    for features_, values, square in ((x, kernel @ v, 1.0), (joint, kernel @ v + beside @ (beside[train].T @ v), 2.0)):
        directions = Directions(v, square, solved.steps)
        space = direction_space(values[train], directions)
        path = fit_ridge_path(space, space.coordinates(values[train]), targets, PENALTIES)
        for probe, penalty in zip(path, PENALTIES, strict=True):
            wanted = exact_scores(features_, train, targets, penalty)
            np.testing.assert_allclose(probe.scores(values), wanted, atol=1e-4 * np.abs(wanted).max())


def test_what_is_not_solved_says_so(rng):
    x = rng.normal(size=(80, 200)).astype(np.float32)
    kernel = (x - x.mean(0)) @ (x - x.mean(0)).T
    kernel /= np.trace(kernel) / 80
    solved = solve(conjugate_directions([System(1.0)], rng.normal(size=(80, 2)), PENALTIES, 4, 2), kernel)
    assert solved.steps == 2
    assert solved.directions.shape == (80, 8)
    text = described(solved.residuals[0], PENALTIES)
    assert re.match(r"NOT CONVERGED at \d of 4 penalties: relative residual \de[-+]\d+ at 1e-06", text)
    assert text.endswith(
        ", above the tolerance of 3e-05; give more --landmarks or --max-memory-gib, or leave these penalties out"
    )
    table = Table(kernel @ solved.directions, 200, True, directions=Directions(solved.directions, 1.0, 2))
    again = solved_residuals(table, np.arange(80), np.asarray(rng.normal(size=(80, 2))), PENALTIES)
    assert min(again[:2]) > 0.01
    assert solve(conjugate_directions([System(1.0)], np.ones((80, 1)), PENALTIES, 4, 9), kernel).steps == 1
    assert described([1e-6, 2e-5], (1e-3, 1.0)) == "relative residual at most 2e-05"
    assert "NOT CONVERGED" in described([np.nan], (1.0,))


def streamed(given, targets, **changes):
    tokens, fit, pools = given
    drawn = draw_landmarks(10, TRAIN, VALIDATION, 0)
    arguments = {"landmarks": made(given, drawn), "beside": {"both": Table(vectors_of(given, "mean"), 8)}, "room": GIB}
    arguments |= changes
    pool = pools["log_covariance"]
    return conjugate_table("log_covariance", pool, tokens, fit, 0, TRAIN, targets, PENALTIES, **arguments)


@pytest.mark.long
def test_streamed_ridge_is_that_of_all_vectors_in_float64(setting, rng, tmp_path):  # noqa: F811
    """Alone and beside the mean; so are the weights of a model on raw vectors."""
    tokens, targets = setting[0], rng.normal(size=(len(TRAIN), 2))
    table = streamed(setting, targets)
    mean, x = vectors_of(setting, "mean"), vectors_of(setting)
    assert (table.solver, table.values.shape[0], table.num_features) == ("cg", N, 36)
    both = side_by_side([Table(mean, 8), table], TRAIN)
    joint = np.concatenate([tables.scaled(mean, TRAIN), tables.scaled(x, TRAIN)], axis=1)
    assert both.directions.square == pytest.approx(2)
    for own, features_ in ((table, x), (both, joint)):
        space = own.space(TRAIN)
        path = fit_ridge_path(space, space.coordinates(own.values[TRAIN]), targets, PENALTIES)
        for probe, penalty in zip(path, PENALTIES, strict=True):
            wanted = exact_scores(features_, TRAIN, targets, penalty)
            np.testing.assert_allclose(probe.scores(own.values), wanted, atol=1e-4 * np.abs(wanted).max())
        assert max(solved_residuals(own, TRAIN, targets, PENALTIES)) < 2 * RESIDUAL
    fitted = fit_recipe(get_recipe("log_covariance"), tokens, TRAIN, 0, tmp_path, {})
    space = table.space(TRAIN)
    probe = fit_ridge_path(space, space.coordinates(table.values[TRAIN]), targets, [1e-2])[0]
    raw = type(probe)(table.row_weights(probe.alpha), probe.bias)
    primal = centred_probe(raw, fitted.sums(tokens, TRAIN, raw.alpha))
    np.testing.assert_allclose(primal.scores(x), probe.scores(table.values), atol=1e-4)


def test_steps_end_by_memory_and_it_is_said(setting, rng, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(conjugate, "_COLUMNS", (2, 2))
    table = streamed(setting, rng.normal(size=(len(TRAIN), 2)), room=1.0)
    assert table.directions.steps == 1
    assert "log_covariance: 1 steps of conjugate gradients, NOT CONVERGED at" in capsys.readouterr().out


def test_equal_training_vectors_are_refused(setting, rng):  # noqa: F811
    equal = Table(np.zeros((N, 10), np.float32), 36, True, draw_landmarks(10, TRAIN, VALIDATION, 0))
    with pytest.raises(InputError, match="recipe 'log_covariance': gram_train: all 10 training samples are equal"):
        streamed(setting, rng.normal(size=(len(TRAIN), 1)), landmarks=equal)


def test_the_sample_is_solved_as_the_whole_is(rng):
    x = rng.normal(size=(50, 90)).astype(np.float32)
    targets = rng.normal(size=(30, 1))
    kernel, train = x @ x[:30].T, np.arange(30)
    values, space = sample_directions(kernel, targets, PENALTIES)
    for probe, penalty in zip(fit_ridge_path(space, space.coordinates(values[:30]), targets, PENALTIES), PENALTIES):
        wanted = exact_scores(x, train, targets, penalty)
        np.testing.assert_allclose(probe.scores(values), wanted, atol=2e-4 * np.abs(wanted).max())


def test_count_sketches_are_linear_and_unbiased(rng):
    x, y = jnp.asarray(rng.normal(size=(2, 40)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    pairs = jax.jit(jax.vmap(lambda key: count_sketch(x, 16, key) @ count_sketch(y, 16, key)))(keys)
    assert float(pairs.mean()) == pytest.approx(float(x @ y), abs=4 * float(pairs.std()) / 4000**0.5)
    both = count_sketch(2 * x - y, 16, keys[0])
    np.testing.assert_allclose(both, 2 * count_sketch(x, 16, keys[0]) - count_sketch(y, 16, keys[0]), atol=1e-5)
    with pytest.raises(InputError, match="size must be >= 1, got 0"):
        count_sketch(x, 0, keys[0])


def test_a_sketch_is_that_of_the_vectors_with_the_exact_kernel_of_a_sample(setting, tmp_path):  # noqa: F811
    tokens, fit, pools = setting
    drawn = draw_landmarks(0, TRAIN, VALIDATION, 0, 12)
    assert (len(drawn.rows), len(drawn.fitted), len(drawn.scored)) == (0, 12, 12)
    table = dict(sketch_tables({"log_covariance": pools["log_covariance"]}, tokens, fit, 0, 20, drawn))[
        "log_covariance"
    ]
    x = vectors_of(setting)
    wanted = np.stack([count_sketch(jnp.asarray(row), 20, jax.random.key(0)) for row in x])
    np.testing.assert_allclose(table.values, wanted, atol=1e-4)
    assert (table.solver, table.num_features, table.is_kernel) == ("sketch", 20, False)
    x = x.astype(np.float64) - x[drawn.fitted].mean(0, dtype=np.float64)
    x /= np.sqrt((x[drawn.fitted] ** 2).sum(1).mean())
    sample = np.concatenate([drawn.fitted, drawn.scored])
    np.testing.assert_allclose(table.landmarks.kernel, x[sample] @ x[drawn.fitted].T, atol=1e-5)
    both = side_by_side([Table(pool_tokens({"mean": pools["mean"]}, tokens, fit, 0)["mean"], 8), table], TRAIN)
    assert (both.solver, both.values.shape) == ("sketch", (N, 28))
    recipes = get_recipe("mean+log_covariance")
    fitted = fit_recipe(recipes, tokens, TRAIN, 0, tmp_path, {}, sketches={"log_covariance": 20})
    np.testing.assert_allclose(fitted.transform(tokens), both.values, atol=1e-4)
    with pytest.raises(InputError, match="cannot be explained: log_covariance is a random sketch of its numbers"):
        make_blocks(fitted, LinearProbe(np.zeros((28, 1)), np.zeros(1)))
    fitted.save(tmp_path / "saved")
    np.testing.assert_array_equal(load_fitted(tmp_path / "saved")[0].transform(tokens), fitted.transform(tokens))


def test_the_plan_chooses_by_memory_and_work():
    size = 100_000, 70_000, 320, 4 * GIB, 0
    assert plan_landmarks(None, *size).solver == "landmarks"
    assert plan_landmarks(None, *size, cg_pays=lambda: True).solver == "cg"
    assert plan_landmarks(None, *size, "kernel").count == 0
    assert plan_landmarks(None, 5000, 3500, 320, 8 * GIB, 0, "cg").count == 2048
    assert plan_landmarks(500, *size, "cg").solver == "cg"
    wide = plan_landmarks(None, 100_000, 70_000, 4096, 4 * GIB, 0)  # 8,390,656 numbers: few landmarks fit
    assert (wide.solver, wide.covers(8_390_656), wide.covers(4096)) == ("sketch", True, False)
    assert 1000 < wide.count <= 4096
    assert 10 < wide.sample < 100
    assert plan_landmarks(None, 3000, 2100, 96, 4 * GIB, 0, "sketch").covers(4656)  # more than training sequences
    assert plan_landmarks(None, 90, 60, 320, 4 * GIB, 0, "cg").count == 0
    assert cg_pays(np.full(100_000, 30.0), 320, 70_000)
    assert not cg_pays(np.full(2000, 250.0), 320, 1400)


ROWS = ["mean", "log_covariance", "mean_outer", "mean+log_covariance"]


@pytest.mark.long
@pytest.mark.parametrize("solver", ["cg", "sketch"])
def test_a_comparison_says_what_served(tmp_path, monkeypatch, solver):
    monkeypatch.setattr(tables, "WIDE", 20)
    options = {"solver": solver, "probes": ["ridge"]} | ({"landmarks": 16} if solver == "cg" else {})
    result = compare(tmp_path, "regression", ROWS, 150, **options)
    assert {row.label: row.solver for row in result.results.rows} == dict.fromkeys(ROWS[1:], solver) | {"mean": ""}
    (warning,) = [each for each in result.results.warnings if "exactly and so" in each]
    pairs = re.findall(r"(-?\d\.\d{3}) and (-?\d\.\d{3})", warning)
    assert len(pairs) == 3
    if solver == "cg":
        assert "3 rows are compared by ridge that conjugate gradients solved on streamed features" in warning
        assert len(re.findall(r"\d+ steps, relative residual at most \de-\d+", warning)) == 3
        assert all(abs(float(exact) - float(so)) <= 1e-3 for exact, so in pairs)
        (tmp_path / "exact").mkdir()
        whole = compare(tmp_path / "exact", "regression", ROWS, 150, solver="kernel", probes=["ridge"])
        for row in ROWS:
            served, wanted = (each.results.by_label[row].probes["ridge"] for each in (result, whole))
            np.testing.assert_allclose(served.validation_path, wanted.validation_path, atol=1e-4)
            assert served.test["r2"].value == pytest.approx(wanted.test["r2"].value, abs=1e-4)
    else:
        assert "3 rows are compared through random sketches of their numbers, not exactly" in warning
    check_landmark_model(result)
    again = compare(tmp_path, "regression", ROWS, 150, **options)
    assert again.results.dump() == result.results.dump()
    with pytest.raises(InputError, match=r"landmarks: .* was made with \d+ \((cg|sketch)\), this run takes 18, by its"):
        compare(tmp_path, "regression", ROWS, 150, landmarks=18, probes=["ridge"])


def stop(*_):
    raise InputError("went on")


@pytest.mark.long
def test_a_row_that_an_earlier_run_did_not_solve_is_refused(tmp_path, monkeypatch):
    """In the directions of log Σ alone, ridge on it beside the mean is not exact."""
    monkeypatch.setattr(tables, "WIDE", 20)
    options = {"n": 150, "solver": "cg", "landmarks": 16, "probes": ["ridge"]}
    first = compare(tmp_path, "regression", ["mean", "log_covariance"], **options)
    with pytest.raises(InputError, match="rows: 'log_covariance' in .* without 'mean.log_covariance'; leave the row"):
        compare(tmp_path, "regression", ["mean", "log_covariance", "mean+log_covariance"], **options)
    again = compare(tmp_path, "regression", ["mean", "log_covariance"], **options)
    assert again.results.dump() == first.results.dump()


@pytest.mark.long
def test_exact_tables_of_an_earlier_run_stay_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "WIDE", 20)
    rows, options = ["mean", "log_covariance"], {"n": 150, "probes": ["ridge"]}
    compare(tmp_path, "regression", rows, solver="kernel", **options)
    assert "an earlier run" not in capsys.readouterr().out
    again = compare(tmp_path, "regression", rows, solver="sketch", **options)
    assert re.search(r"plan: log_covariance: exact in .*features, where an earlier run", capsys.readouterr().out)
    assert again.results.by_label["log_covariance"].solver == ""


def test_why_no_row_goes_through_landmarks(tmp_path, monkeypatch, capsys):
    for module in (tables, features):
        monkeypatch.setattr(module, "WIDE", 20)
    compare(tmp_path, "regression", ["mean", "covariance"], 150, landmarks=40, probes=["ridge"])  # 36 numbers
    assert "plan: no recipe through landmarks: none has more than 40 numbers" in capsys.readouterr().out


def test_what_a_solver_cannot_do_is_refused_before_the_encoder_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WIDE", 20)
    monkeypatch.setattr(features, "fit_pools", None)
    with pytest.raises(InputError, match="solver: cg fits ridge alone, not logistic; add --probes ridge"):
        compare(tmp_path, "multiclass", ROWS, 150, solver="cg", landmarks=16)
    monkeypatch.setattr(features, "fit_pools", stop)
    with pytest.raises(InputError, match="went on"):  # the remedy, in the same folder
        compare(tmp_path, "multiclass", ROWS, 150, solver="cg", landmarks=16, probes=["ridge"])
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="retrieval needs all .*; leave --solver sketch out"):
        compare(
            tmp_path / "other", "multiclass", ["mean", "log_covariance"], 150, solver="sketch", protocol="retrieval"
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"solver": "lsqr"}, "solver: 'lsqr' is not allowed; auto, kernel, landmarks, sketch, cg"),
        ({"solver": "sketch", "landmarks": 16}, "landmarks: 16 beside solver 'sketch'"),
        ({"solver": "cg", "landmarks": 0}, "landmarks: 0 is the exact kernel, but solver is 'cg'"),
        ({"solver": "cg", "folds": 3}, "folds: they need all inner products"),
    ],
)
def test_settings_that_contradict_each_other(options, text):
    with pytest.raises(InputError, match=re.escape(text)):
        CompareConfig(data="t.csv", **options).check()


@pytest.mark.long
def test_two_processes_make_the_tables_of_one(tmp_path):
    made_of = []
    for count in (1, 2):
        lines = launch(["wide_routes", str(tmp_path / f"{count}.npz")], processes=count)
        assert [line.split()[-1] for line in lines] == ["True", "False"][:count]
        made_of.append(np.load(tmp_path / f"{count}.npz"))
    for name in ("landmarks", "cg", "sketch", "sample", "exact", "memory", "disk", "again"):
        one, two = (each[name] for each in made_of)
        np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max(), err_msg=name)


@pytest.mark.long
def test_layers_choose_as_with_exact_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WIDE", 10)
    table = test_compare_layers.write_table(tmp_path / "t.csv")
    options = test_compare_layers.OPTIONS | {"rows": ["mean", "sqrt_covariance"], "probes": ["ridge"], "layers": "0,2"}
    cg, exact = (
        covjax.compare(table, output=tmp_path / solver, solver=solver, landmarks=landmarks, **options)
        for solver, landmarks in (("cg", 16), ("kernel", None))
    )
    row, wanted = (each.results.by_label["sqrt_covariance"] for each in (cg, exact))
    assert (row.solver, row.layer, wanted.solver) == ("cg", wanted.layer, "")
    np.testing.assert_allclose(row.layer_validation, wanted.layer_validation, atol=1e-4)


@pytest.mark.long
def test_activations_from_a_file_go_through_landmarks(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WIDE", 10)
    given = test_compare_activations.encoded(test_compare_activations.write_table(tmp_path / "t.csv"))
    np.savez(tmp_path / "x.npz", **given)
    options = test_compare_activations.OPTIONS | {
        "rows": ["mean", "covariance"],
        "activations": str(tmp_path / "x.npz"),
    }
    result = covjax.compare(tmp_path / "t.csv", output=tmp_path / "run", solver="landmarks", landmarks=16, **options)
    assert result.results.by_label["covariance"].solver == "landmarks"
    predictions = [line.split(",")[3] for line in (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]]
    assert result.best().predict(list(given.values())).tolist() == predictions
