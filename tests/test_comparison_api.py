"""`covjax.compare` and what it leaves: typed result, predictions, and a model that predicts the same for every row."""

import csv
import shutil

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.activations import EncodedTokens
from covjax.comparison import model
from covjax.comparison.api import Comparison
from covjax.comparison.config import CompareConfig, choose_recipes
from covjax.comparison.model import Model, fit_winner, make_model
from covjax.comparison.probing import TASKS, FittedProbe, predictions
from covjax.data import assign_splits, read_table
from covjax.embedder import Embedder
from covjax.embedding import tables
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from covjax.jobs import checkpoint
from covjax.jobs.disk import cell_text
from covjax.probes import DualProbe, LinearProbe
from covjax.recipes import standard
from tests.test_compare import write_table
from tests.test_unirep import random_weights

register_encoder("small-unirep", lambda dtype: UniRep(random_weights()))
ROWS = ["mean", "max", "covariance", "sqrt_covariance", "log_covariance", "pca_covariance_2", "mean+sqrt_covariance"]
ROWS += ["mean_outer", "shuffled_log_covariance", "composition"]
OPTIONS = {"encoder": "small-unirep", "ranks": [2], "penalties": [1e-3, 1e-1, 1.0], "resamples": 100, "trained": []}
TABLES = {
    "multiclass": ("sequence,label,split", None),
    "multilabel": ("sequence,labels,split", lambda s: ";".join(c for c in "AC" if s.count(c) > 1)),
    "regression": ("sequence,label,split", lambda s: f"{s.count('A') / len(s):.5f}"),
}


def compare(folder, task="multiclass", rows=ROWS, n=150, **options):
    header, label = TABLES[task]
    table = write_table(folder / "t.csv", np.random.default_rng(0), n, header, label)
    return covjax.compare(table, output=folder / "run", **OPTIONS | {"rows": rows, "task": task} | options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("api"))


@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done.folder, tmp_path / "run")
    return Comparison(done.results, tmp_path / "run")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_of(result, name):
    folder = result.folder / "features" / name
    manifest = checkpoint.read_manifest(folder)
    values = checkpoint.load(folder, {"values": 0})["values"]
    return tables.Table(values, manifest["num_features"], manifest["is_kernel"])


def probe_of(result, name, kind):
    empty = (DualProbe if table_of(result, name).is_kernel else LinearProbe)(np.empty(0), np.empty(0))
    like = {each: {"probe": empty, "scores": 0} for each in result.results.probes}
    state = checkpoint.load(result.folder / "probes" / name, like)[kind]
    return FittedProbe(**state, penalty=1.0, validation=[], converged=True)


def check_predictions(result, atol=2e-5):
    """The model, read again, gives the scores of the comparison's own probe and the rows of `predictions.csv`."""
    rows, task = read(result.folder / "predictions.csv"), result.results.task
    data = read_table(result.folder.parent / "t.csv", task)
    assert [cell_text(row["id"]) for row in rows] == list(data.ids)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    kind = result.results.probes[0]
    best = result.best()
    scores = best.scores(list(data.sequences))
    own = probe_of(result, result.results.best_second_order, kind).scores
    np.testing.assert_allclose(scores, predictions(TASKS[task], kind, own), atol=atol)
    cells = model.cells(best.decide(scores), task, data.target_names)
    if task == "regression":
        theirs = [float(row["prediction"]) for row in rows]
        np.testing.assert_allclose([float(cell) for cell in cells], theirs, atol=atol)
        assert [float(row["truth"]) for row in rows] == pytest.approx(data.targets[:, 0])
    else:
        assert cells == [row["prediction"] for row in rows]
    return best, data, rows


def check_every_row(result, atol):
    """Every row's model gives the scores that the comparison had: {row: whether it was compared through a kernel}."""
    saved = result.results.manifest["config"]
    settings = CompareConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    data = assign_splits(read_table(result.folder.parent / "t.csv", settings.task))
    tokens = EncodedTokens(UniRep(random_weights()), data.sequences, 1, settings.token_budget)
    recipes = choose_recipes(settings, 8, False)
    identity = {key: result.results.manifest[key] for key in ("data", "encoder")}
    every = {recipe.name: table_of(result, recipe.name) for recipe in recipes}
    rows = [recipe.name for recipe in recipes if recipe.name != "composition" and "seed" not in recipe.name]
    for name in rows:
        fitted = fit_winner(settings, data, tokens, recipes, name, result.folder / "pools", identity, every)
        vectors = fitted.transform(tokens)
        probe = probe_of(result, name, "ridge")
        sums = fitted.sums(tokens, data.rows("train"), probe.probe.alpha) if every[name].is_kernel else None
        made = make_model(settings, data, tokens, fitted, probe, "ridge", every, sums)
        np.testing.assert_allclose(made.probe.scores(vectors), probe.scores, atol=atol, err_msg=name)
    return {name: every[name].is_kernel for name in rows}


@pytest.mark.long
def test_the_model_predicts_what_predictions_csv_says(done):
    best, data, rows = check_predictions(done)
    assert set(best.labels) == {"0", "1"}
    np.testing.assert_allclose(best.predict_proba(list(data.sequences)).sum(1), 1, atol=1e-6)
    assert [row["truth"] for row in rows] == [data.target_names[i] for i in data.targets.argmax(1)]
    assert {row["prediction_of_mean"] for row in rows} <= {"0", "1"}


@pytest.mark.long
def test_every_row_can_be_the_model(done):
    assert not any(check_every_row(done, 1e-4).values())


@pytest.mark.parametrize("name", ["mean", "log_covariance", "mean+sqrt_covariance", "pca_covariance_2"])
def test_embedder_gives_the_row_of_the_report(done, name):
    data = read_table(done.folder.parent / "t.csv")
    train = [sequence for sequence, split in zip(data.sequences, data.splits) if split == "train"]
    vectors = Embedder("small-unirep", name).fit(train).transform(list(data.sequences))
    np.testing.assert_allclose(vectors, table_of(done, name).values, atol=1e-6)


@pytest.mark.slow
def test_wide_rows_components_and_trained_pools_can_be_the_model(tmp_path, monkeypatch):
    """Kernels of one matrix, of blocks side by side before and after they were wide, components, and seeds."""
    monkeypatch.setattr(standard, "WIDE", 30)
    rows = ["mean", "covariance", "sqrt_covariance", "log_covariance", "sqrt_covariance_5_components", "projected"]
    rows += ["mean+sqrt_covariance", "mean_outer", "mean+mean_outer"]
    more = {"components": [5], "trained": ["projected"], "steps": 8, "seeds": [0, 1], "probes": ["ridge"]}
    for wide, kernels in ((20, {"covariance", "sqrt_covariance", "log_covariance", "mean_outer"}), (40, set())):
        monkeypatch.setattr(tables, "WIDE", wide)
        (tmp_path / str(wide)).mkdir()
        result = compare(tmp_path / str(wide), rows=rows, n=100, **more)  # 20 training rows
        kinds = check_every_row(result, 2e-3)
        assert {name for name, is_kernel in kinds.items() if is_kernel} >= kernels | {"mean+sqrt_covariance"}
        assert not kinds["sqrt_covariance_5_components"]
        assert not kinds["mean"]
        check_predictions(result, 2e-3)
    data = read_table(tmp_path / "40" / "t.csv")
    train = [sequence for sequence, split in zip(data.sequences, data.splits) if split == "train"]
    vectors = Embedder("small-unirep", "sqrt_covariance_5_components").fit(train).transform(list(data.sequences))
    values = table_of(result, "sqrt_covariance_5_components").values
    np.testing.assert_allclose(vectors, values, atol=1e-4)  # eigenvectors of nearly equal eigenvalues turn


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_predict_what_their_table_says(tmp_path, task):
    best, data, rows = check_predictions(compare(tmp_path, task, ["mean", "covariance"]))
    predicted = best.predict(list(data.sequences))
    if task == "multilabel":
        assert best.labels == ("A", "C")
        assert predicted.dtype == bool
        truth = [";".join(name for name, there in zip("AC", row) if there) for row in data.targets]
        assert [row["truth"] for row in rows] == truth
        np.testing.assert_array_equal(predicted, best.predict_proba(list(data.sequences)) >= 0.5)
    else:
        assert predicted.shape == (150,)
        with pytest.raises(InputError, match="predict_proba: the probe is ridge"):
            best.predict_proba(list(data.sequences))


def test_frame_and_records_have_a_row_for_every_recipe_and_probe(done):
    records = done.records()
    assert [(each["recipe"], each["probe"]) for each in records] == [
        (row.label, probe) for row in done.results.rows for probe in ("logistic", "ridge")
    ]
    first = done.results.rows[2].probes["logistic"].test["mcc"]
    assert records[4]["mcc"] == first.value
    assert (records[4]["mcc_low"], records[4]["mcc_high"]) == first.interval
    assert records[4]["mcc_minus_mean"] == first.difference
    assert records[4]["mcc_minus_mean_low"] == first.difference_interval[0]
    frame = done.frame()
    if isinstance(frame, list):  # no pandas here
        assert frame == records
    else:
        assert list(frame["recipe"]) == [each["recipe"] for each in records]
        assert frame["mcc"].dtype == float


def test_the_report_is_copied_and_begins_with_the_verdict(copy, tmp_path):
    page = copy.report(tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    text = page.read_text()
    assert text.index("<p class='answer") < text.index("<table") < text.index(copy.verdict) < text.index("<h2>")
    assert copy.report(copy.folder) == copy.folder / "report.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        copy.report(tmp_path / "file")


class Frame:
    """What covjax needs of a pandas DataFrame."""

    def __init__(self, text):
        self.text = text

    def to_csv(self, index):
        assert index is False
        return self.text


def test_a_data_frame_is_a_table(done, tmp_path):
    text = (done.folder.parent / "t.csv").read_text()
    options = OPTIONS | {"rows": ["mean", "covariance"], "probes": ["ridge"]}
    result = covjax.compare(Frame(text), output=tmp_path, **options)
    same = {each["recipe"]: each["mcc"] for each in done.records() if each["probe"] == "ridge"}
    for each in result.records():
        assert each["mcc"] == pytest.approx(same[each["recipe"]], abs=1e-9)
    (first,) = tmp_path.glob("table-*.csv")
    content = first.read_bytes()
    with pytest.raises(InputError, match="holds another run"):
        covjax.compare(Frame(text.replace(",1,train", ",0,train", 1)), output=tmp_path, **options)
    assert first.read_bytes() == content
    assert result.best().predict(["MKVACD"]).shape == (1,)


@pytest.mark.long
def test_a_rerun_keeps_the_model_and_makes_a_damaged_one_again(copy, capsys):
    table = copy.folder.parent / "t.csv"
    shutil.copy(_original(copy), table)
    again = lambda: covjax.compare(table, output=copy.folder, **OPTIONS | {"rows": ROWS, "task": "multiclass"})
    before = {path: path.stat().st_mtime_ns for path in (copy.folder / "model").rglob("*")}
    again()
    assert "model: " not in capsys.readouterr().out.replace("   model: ", "")
    assert before == {path: path.stat().st_mtime_ns for path in (copy.folder / "model").rglob("*")}
    for path in (copy.folder / "model" / "probe" / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    with pytest.raises(InputError, match="damaged|cannot be read"):
        Model.load(copy.folder / "model")
    again()
    out = capsys.readouterr().out
    assert "MiB; covjax predict " in out
    check_predictions(copy)


def _original(copy):
    return copy.results.manifest["config"]["data"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: shutil.rmtree(path), "no model is saved there"),
        (lambda path: shutil.rmtree(path / "embedder"), "no fitted recipe is saved there"),
        (lambda path: Embedder(recipe="mean").fit([np.ones((2, 8))]).save(path / "embedder"), "of two models"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(copy, harm, message):
    harm(copy.folder / "model")
    with pytest.raises(InputError, match=message):
        Model.load(copy.folder / "model")
    assert Model.made_of(copy.folder / "model") is None


def test_an_encoder_that_is_gone_or_changed_is_named_with_the_remedy(copy):
    best = Model.load(copy.folder / "model", "encoders/elsewhere/x")
    with pytest.raises(InputError, match="say where that encoder is now"):
        best.predict(["MKV"])
    other = UniRep(random_weights(seed=1))
    with pytest.raises(InputError, match="not those that were fitted on"):
        copy.best(other).predict(["MKV"])


def test_weights_over_the_limit_are_kept_in_half_precision(copy, monkeypatch, tmp_path):
    best = copy.best()
    sequences = list(read_table(_original(copy)).sequences)
    monkeypatch.setattr(model, "HALF", 8)
    best.save(tmp_path / "half")
    names = checkpoint.read_manifest(tmp_path / "half" / "probe")["digests"]
    state = checkpoint.load(tmp_path / "half" / "probe", {name[2:-2]: 0 for name in names})
    assert state["weights"].dtype == np.float16
    again = Model.load(tmp_path / "half")
    np.testing.assert_allclose(again.scores(sequences), best.scores(sequences), atol=5e-3)
    assert np.mean(again.predict(sequences) == best.predict(sequences)) > 0.98


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("t.csv", {"colour": 1}, "no option 'colour'"),
        ("t.csv", {"encodr": "x"}, "no option 'encodr'; did you mean encoder"),
        ("t.csv", {"rows": "mean,covariance"}, "rows: 'mean,covariance' is str, a tuple of text is needed"),
        ("t.csv", {"resamples": "many"}, "resamples: 'many' is str, a whole number is needed"),
        ("t.csv", {"resamples": 1e3}, "resamples: 1000.0 is float, a whole number is needed"),
        ("t.csv", {"eps": float("nan")}, "eps: nan is float, a finite number is needed"),
        ("t.csv", {"penalties": [1.0, None]}, "penalties: .* is tuple, a tuple of a finite number is needed"),
        ("t.csv", {"encoder": object}, "encoder: .* is type, text is needed"),
        (["MKV"], {}, "data: list is neither a path of a table"),
        (None, {}, "data: NoneType is neither a path"),
    ],
)
def test_bad_arguments_are_named(tmp_path, data, options, message):
    with pytest.raises(InputError, match=message):
        covjax.compare(data, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
